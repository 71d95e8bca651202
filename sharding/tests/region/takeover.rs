//! Unplanned movement: owners that die, hang, or do not know that they are owners no
//! more.

use std::time::Duration;

use perennial_persistence::command::{Answer, ReplyTo};
use perennial_persistence::command_error::CommandError;
use perennial_persistence::journal::memory::faults::{Fault, Operation};
use perennial_sharding::cluster_state::MemberStatus;
use perennial_sharding::region::RegionSettings;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::fixture::{Command, SOON, World, add, entity_in, is_unavailable, request, texts};

/// Delivers without waiting.
fn tell(
    world: &World,
    node: usize,
    shard: u32,
    text: &str,
    command_id: Option<&str>,
) -> oneshot::Receiver<Answer> {
    let (reply_to, answer) = ReplyTo::ask();
    let region = &world.nodes[node].region;
    region.deliver(
        entity_in(shard, 0),
        request(&add(text), command_id),
        None,
        reply_to,
    );
    answer
}

#[tokio::test(start_paused = true)]
async fn commands_with_ids_survive_their_owner_and_are_stored_once() {
    let world = World::new(3).await;
    world.assign([1], 1);
    let id = entity_in(1, 0);
    texts(world.nodes[0].ask(&id, &add("a")).await);
    let mut with_id = Vec::new();
    let mut without = Vec::new();
    for n in 0..20 {
        let text = format!("with-{n}");
        with_id.push(tell(&world, 0, 1, &text, Some(&text)));
        without.push(tell(&world, 0, 1, &format!("without-{n}"), None));
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    world.kill(1);
    world.down(1);
    tokio::time::sleep(Duration::from_millis(5)).await;
    let after = tell(&world, 0, 1, "after", None);
    world.assign([1], 2);
    let answers = futures::future::join_all(with_id);
    for answer in timeout(SOON, answers).await.unwrap() {
        answer.unwrap().unwrap();
    }
    timeout(SOON, after).await.unwrap().unwrap().unwrap();
    let stored = world.stored(&id).await;
    for n in 0..20 {
        let count = |text: String| stored.iter().filter(|s| **s == text).count();
        assert_eq!(count(format!("with-{n}")), 1, "I-8: {stored:?}");
        assert!(count(format!("without-{n}")) <= 1, "{stored:?}");
    }
    for (n, answer) in without.into_iter().enumerate() {
        match timeout(SOON, answer).await.unwrap().unwrap() {
            Ok(_) => assert!(stored.contains(&format!("without-{n}")), "I-5: {stored:?}"),
            Err(error) => assert_eq!(error, CommandError::OwnerLost),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_stream_costs_only_what_may_have_been_handled() {
    let world = World::new(2).await;
    world.assign([1], 1);
    let id = entity_in(1, 0);
    texts(world.nodes[0].ask(&id, &add("a")).await);
    let answers: Vec<_> = (0..30)
        .map(|n| {
            tell(
                &world,
                0,
                1,
                &n.to_string(),
                (n % 2 == 0).then_some(format!("id-{n}")).as_deref(),
            )
        })
        .collect();
    tokio::task::yield_now().await;
    let (one, other) = (world.nodes[0].nr, world.nodes[1].nr);
    world.network.faults().break_streams(one, other);
    for (n, answer) in answers.into_iter().enumerate() {
        match timeout(SOON, answer).await.unwrap().unwrap() {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error, CommandError::OwnerLost);
                assert!(n % 2 == 1, "a command with an id is sent again");
            }
        }
    }
    let stored = world.stored(&id).await;
    let mut once = stored.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), stored.len(), "each at most once: {stored:?}");
    let listed = world.nodes[0].ask(&id, &Command::List).await;
    assert_eq!(texts(listed), stored);
}

/// The owner hangs, is replaced, and wakes up with old beliefs.
async fn zombie(reads_by_journal: bool) {
    let settings = RegionSettings {
        homeless_max: Duration::from_secs(60),
        ..RegionSettings::default()
    };
    let world = World::with(2, settings, reads_by_journal).await;
    world.assign([1], 0);
    let id = entity_in(1, 0);
    let zombie = &world.nodes[0];
    texts(zombie.ask(&id, &add("a")).await);
    world.cluster.set_follows(zombie.nr, false);
    if !reads_by_journal {
        // This is what its clock is for.
        zombie.lease.end();
    }
    world.down(0);
    world.assign([1], 1);
    world.owned([1], 1).await;
    assert_eq!(texts(world.nodes[1].ask(&id, &add("b")).await), ["a", "b"]);
    // It still believes that it owns the shard.
    if !reads_by_journal {
        let now = tokio::time::Instant::now().into_std();
        zombie.lease.extend(now + Duration::from_secs(3600));
    }
    let write = add("c");
    let written = zombie.ask_with_id(&id, &write, "c");
    tokio::pin!(written);
    let early = timeout(Duration::from_secs(1), &mut written).await;
    assert!(early.is_err(), "I-2: {early:?}");
    timeout(SOON, zombie.engine.fenced()).await.unwrap();
    assert_eq!(world.stored(&id).await, ["a", "b"], "I-2");
    let listed = zombie.ask(&id, &Command::List);
    tokio::pin!(listed);
    if reads_by_journal {
        let early = timeout(Duration::from_secs(1), &mut listed).await;
        assert!(early.is_err(), "I-12: {early:?}");
    }
    // It learns what has happened, and its clients are served by the new owner.
    world.cluster.set_follows(zombie.nr, true);
    let written = timeout(SOON, written).await.unwrap();
    assert_eq!(texts(written), ["a", "b", "c"]);
    let listed = timeout(SOON, listed).await.unwrap();
    assert_eq!(texts(listed), ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_zombie_stores_nothing_and_its_clients_are_routed_anew() {
    zombie(false).await;
}

#[tokio::test(start_paused = true)]
async fn a_zombie_answers_no_read_when_reads_are_confirmed_by_the_journal() {
    zombie(true).await;
}

#[tokio::test(start_paused = true)]
async fn reads_confirmed_by_the_journal_see_what_was_written() {
    let world = World::with(2, RegionSettings::default(), true).await;
    world.assign([1], 0);
    let id = entity_in(1, 0);
    for n in 1..20_usize {
        let commands = [add(n.to_string()), Command::List, Command::Refuse];
        let [written, listed, refused] = commands
            .each_ref()
            .map(|command| world.nodes[n % 2].ask(&id, command));
        let (written, listed, refused) = tokio::join!(written, listed, refused);
        assert_eq!(texts(written).len(), n);
        assert_eq!(texts(listed).len(), n);
        assert!(
            matches!(refused, Err(CommandError::Rejected { .. })),
            "{refused:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_lease_a_node_does_not_serve() {
    let world = World::new(2).await;
    world.assign([1], 0);
    let id = entity_in(1, 0);
    let node = &world.nodes[0];
    texts(node.ask(&id, &add("a")).await);
    // A short gap is waited out.
    node.lease.end();
    let command = add("b");
    let asked = node.ask(&id, &command);
    tokio::pin!(asked);
    assert!(
        timeout(Duration::from_millis(500), &mut asked)
            .await
            .is_err()
    );
    let now = || tokio::time::Instant::now().into_std();
    node.lease.extend(now() + Duration::from_secs(5));
    assert_eq!(texts(timeout(SOON, asked).await.unwrap()), ["a", "b"]);
    assert_eq!(node.engine.live_entities(), 1);
    // A long one costs the entities.
    node.lease.end();
    let refused = timeout(SOON, node.ask(&id, &Command::List)).await.unwrap();
    assert!(is_unavailable(&refused), "{refused:?}");
    let stopped = async {
        while node.engine.live_entities() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, stopped).await.unwrap();
    let forwarded = timeout(SOON, world.nodes[1].ask(&id, &Command::List))
        .await
        .unwrap();
    assert!(is_unavailable(&forwarded), "{forwarded:?}");
    node.lease.extend(now() + Duration::from_secs(3600));
    let back = async {
        loop {
            let listed = node.ask(&id, &Command::List).await;
            if !is_unavailable(&listed) {
                return listed;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert_eq!(texts(timeout(SOON, back).await.unwrap()), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_fenced_node_comes_back_with_a_new_session() {
    let mut world = World::new(2).await;
    world.assign([1], 0);
    let id = entity_in(1, 0);
    texts(world.nodes[0].ask(&id, &add("a")).await);
    world.down(0);
    assert_eq!(
        world.cluster.state().members[&world.nodes[0].nr].status,
        MemberStatus::Down
    );
    world.assign([1], 1);
    world.owned([1], 1).await;
    let waiting = tell(&world, 0, 1, "b", None);
    world.rejoin(0).await;
    timeout(SOON, waiting).await.unwrap().unwrap().unwrap();
    world.begin_handoff([1], 0);
    world.owned([1], 0).await;
    let listed = world.nodes[1].ask(&id, &Command::List).await;
    assert_eq!(texts(listed), ["a", "b"]);
    assert_eq!(world.nodes[0].engine.live_entities(), 1);
}

/// I-9: what comes when a session is over waits for what that had begun, although its
/// engine takes nothing in any more.
#[tokio::test(start_paused = true)]
async fn i9_nothing_overtakes_what_an_engine_that_stops_has_begun() {
    let mut world = World::new(2).await;
    world.assign([1], 0);
    let id = entity_in(1, 0);
    texts(world.nodes[0].ask(&id, &add("a")).await);
    // An append that reaches the journal when another node owns the shard.
    let delay = Fault::Delay(Duration::from_secs(3));
    world.memory.faults().at(Operation::Write, 1, delay);
    let first = tell(&world, 0, 1, "b", Some("b"));
    tokio::time::sleep(Duration::from_millis(1)).await;
    let sender = world.nodes[0].nr;
    world.cluster.set_follows(sender, false);
    world.down(0);
    world.assign([1], 1);
    world.owned([1], 1).await;
    // It learns of the new owner and ends its session, at once.
    world.cluster.set_follows(sender, true);
    let region = world.nodes[0].region.clone();
    let second = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let command = request(&add("c"), Some("c"));
        region.ask(id.clone(), command, None).await
    };
    let ((), second) = futures::future::join(world.rejoin(0), second).await;
    assert_eq!(texts(first.await.unwrap()), ["a", "b"]);
    assert_eq!(texts(second), ["a", "b", "c"]);
}
