//! Where commands go, how long they wait, and what crosses between nodes.

use std::time::Duration;

use perennial_persistence::command::{ReplyTo, Request};
use perennial_persistence::command_error::{Applied, CommandError};
use perennial_persistence::engine::EntityState;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_sharding::region::RegionSettings;
use tokio::time::{Instant, timeout};

use crate::fixture::{Command, SOON, World, add, entity_in, is_unavailable, request, texts};

#[tokio::test(start_paused = true)]
async fn a_command_finds_its_entity_on_another_node() {
    let world = World::new(2).await;
    world.assign([0], 0);
    world.assign([1], 1);
    let [here, there] = [entity_in(0, 0), entity_in(1, 0)];
    let node = &world.nodes[0];
    assert_eq!(texts(node.ask(&here, &add("a")).await), ["a"]);
    assert_eq!(texts(node.ask(&there, &add("b")).await), ["b"]);
    assert_eq!(
        texts(world.nodes[1].ask(&there, &Command::List).await),
        ["b"]
    );
    assert_eq!(node.engine.live_entities(), 1);
    assert_eq!(world.nodes[1].engine.live_entities(), 1);
    let state = node.region.ask(there.clone(), Request::State, None).await;
    assert_eq!(state.unwrap().sequence_nr, SequenceNr::new(1));
}

#[tokio::test(start_paused = true)]
async fn errors_keep_their_type_between_nodes() {
    let world = World::new(2).await;
    world.assign([1], 1);
    let refused = world.nodes[0].ask(&entity_in(1, 0), &Command::Refuse).await;
    let expected = CommandError::Rejected {
        reason: "REFUSED".into(),
        message: "it is always refused".into(),
    };
    assert_eq!(refused, Err(expected));
}

#[tokio::test(start_paused = true)]
async fn commands_wait_for_a_home_and_go_in_their_order() {
    let world = World::new(2).await;
    let id = entity_in(1, 0);
    let node = &world.nodes[0];
    let answers: Vec<_> = (0..50)
        .map(|n| {
            let (reply_to, answer) = ReplyTo::ask();
            let request = request(&add(n.to_string()), None);
            node.region.deliver(id.clone(), request, None, reply_to);
            answer
        })
        .collect();
    assert_eq!(node.region.waiting(), 50);
    world.assign([1], 1);
    for answer in answers {
        timeout(SOON, answer).await.unwrap().unwrap().unwrap();
    }
    assert_eq!(node.region.waiting(), 0);
    let expected: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    assert_eq!(world.stored(&id).await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_full_buffer_says_so() {
    let settings = RegionSettings {
        buffer_size: 3,
        buffer_total: 5,
        ..RegionSettings::default()
    };
    let world = World::with(1, settings, false).await;
    let node = &world.nodes[0];
    let mut answers = Vec::new();
    for (shard, fits) in [
        (0, true),
        (0, true),
        (0, true),
        (0, false),
        (1, true),
        (2, true),
        (2, false),
    ] {
        let (reply_to, mut answer) = ReplyTo::ask();
        let request = request(&add("x"), None);
        node.region
            .deliver(entity_in(shard, 0), request, None, reply_to);
        match answer.try_recv() {
            Ok(Err(CommandError::BufferFull { shard: full, .. })) => {
                assert!(!fits && full == shard, "shard {full} is full too early");
            }
            Ok(answer) => panic!("{answer:?}"),
            Err(_) => {
                assert!(fits, "shard {shard} takes more than its limit");
                answers.push(answer);
            }
        }
    }
    world.assign([0, 1, 2], 0);
    for answer in answers {
        timeout(SOON, answer).await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_answered_at_its_deadline_or_when_no_home_comes() {
    let world = World::new(1).await;
    let node = &world.nodes[0];
    let began = Instant::now();
    let deadline = began.into_std() + Duration::from_secs(1);
    let ask = |deadline| {
        node.region
            .ask(entity_in(0, 0), request(&add("x"), None), deadline)
    };
    let late = ask(Some(deadline)).await;
    let applied = Applied::No;
    assert_eq!(late, Err(CommandError::DeadlineExceeded { applied }));
    let waited = began.elapsed();
    assert!(
        (Duration::from_secs(1)..Duration::from_millis(1100)).contains(&waited),
        "{waited:?}"
    );
    let began = Instant::now();
    let homeless = ask(None).await;
    assert!(is_unavailable(&homeless), "{homeless:?}");
    let waited = began.elapsed();
    let longest = RegionSettings::default().homeless_max;
    assert!(waited >= longest && waited < longest * 2, "{waited:?}");
    assert_eq!(node.region.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn callers_that_go_away_leave_nothing_behind() {
    let world = World::new(1).await;
    let node = &world.nodes[0];
    for _ in 0..100 {
        let (reply_to, answer) = ReplyTo::ask();
        let request = request(&add("x"), None);
        node.region
            .deliver(entity_in(0, 0), request, None, reply_to);
        drop(answer);
    }
    let emptied = async {
        while node.region.waiting() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(1), emptied).await.unwrap();
    world.assign([0], 0);
    assert_eq!(
        texts(node.ask(&entity_in(0, 0), &Command::List).await),
        [""; 0]
    );
}

/// More of them than a link has places for answers: what was sent runs on, is
/// answered, and the answer is dropped.
#[tokio::test(start_paused = true)]
async fn callers_that_go_away_leave_nothing_behind_on_either_node() {
    const CALLS: usize = 3 * 4_096;
    let world = World::new(2).await;
    world.assign([1], 1);
    let (node, id) = (&world.nodes[0], entity_in(1, 0));
    texts(node.ask(&id, &Command::List).await);
    for call in 0..CALLS {
        let (reply_to, answer) = ReplyTo::ask();
        let request = request(&Command::Put(call.to_string()), None);
        node.region.deliver(id.clone(), request, None, reply_to);
        drop(answer);
        if call % 1_000 == 0 {
            // Time for the link, whose queue is bounded too.
            let asked = node.ask(&id, &Command::List);
            assert!(timeout(SOON, asked).await.unwrap().is_ok());
        }
    }
    let asked = node.ask(&id, &Command::List);
    assert_eq!(texts(timeout(SOON, asked).await.unwrap()).len(), CALLS);
    assert_eq!(node.region.waiting(), 0);
    assert_eq!(world.nodes[1].region.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_is_behind_catches_up_first() {
    let world = World::new(2).await;
    world.cluster.set_follows(world.nodes[1].nr, false);
    world.assign([1], 1);
    let id = entity_in(1, 0);
    let command = add("a");
    let asked = world.nodes[0].ask(&id, &command);
    tokio::pin!(asked);
    // It may take long where raft is patient.
    let early = timeout(Duration::from_secs(10), &mut asked).await;
    assert!(early.is_err(), "{early:?}");
    world.cluster.set_follows(world.nodes[1].nr, true);
    assert_eq!(texts(timeout(SOON, asked).await.unwrap()), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_is_behind_gets_its_command_back_and_finds_the_owner() {
    let world = World::new(3).await;
    world.assign([1], 1);
    let id = entity_in(1, 0);
    let node = &world.nodes[0];
    texts(node.ask(&id, &add("a")).await);
    world.cluster.set_follows(node.nr, false);
    world.begin_handoff([1], 2);
    world.owned([1], 2).await;
    let command = add("b");
    let asked = node.ask(&id, &command);
    tokio::pin!(asked);
    let early = timeout(Duration::from_millis(500), &mut asked).await;
    assert!(early.is_err(), "{early:?}");
    world.cluster.set_follows(node.nr, true);
    assert_eq!(texts(timeout(SOON, asked).await.unwrap()), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn entities_are_described_and_passivated_wherever_they_are() {
    let world = World::new(2).await;
    world.assign([1], 1);
    let id = entity_in(1, 0);
    let region = &world.nodes[0].region;
    texts(world.nodes[0].ask(&id, &add("a")).await);
    let placement = region.describe(&id).await.unwrap();
    assert_eq!(placement.node, Some(world.nodes[1].nr));
    assert_eq!(placement.epoch, world.epoch(1));
    assert_eq!(placement.entity.state, EntityState::Live);
    region.passivate(&id).await.unwrap();
    assert_eq!(world.nodes[1].engine.live_entities(), 0);
    let placement = region.describe(&id).await.unwrap();
    assert_eq!(placement.entity.state, EntityState::Passive);
    let next_life = region.delete(&entity_in(1, 1)).await.unwrap();
    assert_eq!(next_life, SequenceNr::ZERO);
    let past = region.state_at(&id, SequenceNr::new(1)).await;
    assert_eq!(texts(past), ["a"]);
    let homeless = region.describe(&entity_in(5, 0)).await.unwrap();
    assert_eq!(homeless.node, None);
}
