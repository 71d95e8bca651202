//! Planned movement: nothing is lost, nothing fails, nothing is handled twice or out
//! of order (I-9).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::Either;
use perennial_persistence::journal::memory::faults::{Fault, Operation};
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::writer::ShardNr;
use perennial_sharding::cluster_state::{ClusterCommand, DrainedBy, Home};
use perennial_sharding::region::{Region, RegionSettings};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::fixture::{Command, SHARDS, SOON, World, add, entity_in, request, texts};

/// Sends numbered commands to an entity, several at a time, until told to stop; each
/// has to succeed. Returns how many were sent.
async fn keep_adding(
    region: Region,
    id: PersistenceId,
    sender: String,
    stop: Arc<AtomicBool>,
    ids: bool,
) -> usize {
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let pipelined = (0..5).map(|n| {
            let text = format!("{sender}:{}", sent + n);
            let command_id = ids.then_some(text.as_str());
            let put = Command::Put(text.clone());
            region.ask(id.clone(), request(&put, command_id), None)
        });
        let answers = futures::future::join_all(pipelined);
        for answer in timeout(SOON, answers).await.unwrap() {
            answer.unwrap_or_else(|error| panic!("I-9: {sender}: {error}"));
        }
        sent += 5;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    sent
}

#[tokio::test(start_paused = true)]
async fn nothing_fails_while_shards_move_about() {
    let world = World::new(3).await;
    world.assign(0..SHARDS, 0);
    let stop = Arc::new(AtomicBool::new(false));
    let mut senders = JoinSet::new();
    for (index, node) in world.nodes.iter().enumerate() {
        for shard in 0..SHARDS {
            let id = entity_in(shard, 0);
            let name = format!("{index}/{shard}");
            let sending = keep_adding(
                node.region.clone(),
                id.clone(),
                name.clone(),
                Arc::clone(&stop),
                shard % 2 == 0,
            );
            senders.spawn(async move { (id, name, sending.await) });
        }
    }
    for round in 0..12_u32 {
        let shards: Vec<u32> = (0..SHARDS)
            .filter(|shard| (shard + round) % 3 != 0)
            .collect();
        let to = (round as usize + 1) % 3;
        world.begin_handoff(shards.clone(), to);
        world
            .until(|state| {
                let is_handing_off = |shard: &u32| {
                    matches!(state.shards[*shard as usize].home, Home::HandingOff { .. })
                };
                !shards.iter().any(is_handing_off)
            })
            .await;
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut total = 0;
    while let Some(ended) = senders.join_next().await {
        let (id, name, sent) = ended.unwrap();
        total += sent;
        let stored = world.stored(&id).await;
        let prefix = format!("{name}:");
        let of_sender = stored.iter().filter_map(|text| text.strip_prefix(&prefix));
        let of_sender: Vec<usize> = of_sender.map(|n| n.parse().unwrap()).collect();
        let expected: Vec<usize> = (0..sent).collect();
        assert_eq!(of_sender, expected, "of {name}: each once and in order");
    }
    assert!(total > 1_000, "only {total} commands were sent");
}

#[tokio::test(start_paused = true)]
async fn what_an_entity_has_put_aside_moves_along() {
    let world = World::new(2).await;
    world.assign([1], 0);
    let id = entity_in(1, 0);
    for sender in [0, 1] {
        let put_aside = Command::AddWhenNotEmpty(format!("late-{sender}"));
        let asked = world.nodes[sender].ask(&id, &put_aside);
        tokio::pin!(asked);
        let early = timeout(Duration::from_millis(50), &mut asked).await;
        assert!(early.is_err(), "{early:?}");
        let epoch = world.epoch(1);
        let (from, to) = (sender, 1 - sender);
        world.begin_handoff([1], to);
        world.owned([1], to).await;
        assert!(world.epoch(1) > epoch);
        if sender == 0 {
            world.begin_handoff([1], from);
            world.owned([1], from).await;
        }
        texts(
            world.nodes[0]
                .ask(&id, &add(format!("first-{sender}")))
                .await,
        );
        let answer = timeout(SOON, asked).await.unwrap();
        assert_eq!(texts(answer).last(), Some(&format!("late-{sender}")));
        if sender == 0 {
            // The second time the entity must be empty again: take another.
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_entity_starts_afresh_when_its_shard_comes_back() {
    let world = World::new(2).await;
    world.assign([1], 0);
    let id = entity_in(1, 0);
    texts(world.nodes[0].ask(&id, &add("a")).await);
    world.begin_handoff([1], 1);
    world.owned([1], 1).await;
    assert_eq!(world.nodes[0].engine.live_entities(), 0);
    texts(world.nodes[0].ask(&id, &add("b")).await);
    world.begin_handoff([1], 0);
    world.owned([1], 0).await;
    let listed = world.nodes[0].ask(&id, &Command::List).await;
    assert_eq!(texts(listed), ["a", "b"]);
    assert_eq!(
        texts(world.nodes[1].ask(&id, &add("c")).await),
        ["a", "b", "c"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_shard_comes_back_when_its_next_owner_dies() {
    let world = World::new(2).await;
    world.assign([1], 0);
    let id = entity_in(1, 0);
    texts(world.nodes[0].ask(&id, &add("a")).await);
    // It is drained after the next owner was declared dead.
    world.cluster.set_follows(world.nodes[0].nr, false);
    world.begin_handoff([1], 1);
    world.down(1);
    world.cluster.set_follows(world.nodes[0].nr, true);
    world
        .until(|state| !matches!(state.shards[1].home, Home::HandingOff { .. }))
        .await;
    if world.cluster.state().shards[1].home == Home::Unassigned {
        world.assign([1], 0);
    }
    world.owned([1], 0).await;
    assert_eq!(texts(world.nodes[0].ask(&id, &add("b")).await), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_will_not_drain_is_fenced_and_its_commands_go_on() {
    let settings = RegionSettings {
        handoff_timeout: Duration::from_secs(2),
        homeless_max: Duration::from_secs(120),
        ..RegionSettings::default()
    };
    let world = World::with(2, settings, false).await;
    world.assign([1, 2], 0);
    let id = entity_in(1, 0);
    texts(world.nodes[0].ask(&id, &add("a")).await);
    texts(world.nodes[0].ask(&entity_in(2, 0), &add("x")).await);
    // An append that takes far too long, and one command of each node behind it.
    let delay = Fault::Delay(Duration::from_secs(30));
    world.memory.faults().at(Operation::Write, 1, delay);
    let commands = [add("b"), add("c")];
    let mine = world.nodes[0].ask(&id, &commands[0]);
    let theirs = world.nodes[1].ask(&id, &commands[1]);
    let asked = futures::future::join(mine, theirs);
    tokio::pin!(asked);
    assert!(
        timeout(Duration::from_millis(50), &mut asked)
            .await
            .is_err()
    );
    world.begin_handoff([1], 1);
    let moved = timeout(Duration::from_secs(10), world.owned([1], 1));
    let first = futures::future::select(Box::pin(moved), &mut asked).await;
    assert!(
        matches!(first, Either::Left((Ok(()), _))),
        "the shard moves before the append ends"
    );
    // The append is refused when it comes, and both are handled by the new owner.
    let (mine, theirs) = timeout(SOON, asked).await.unwrap();
    mine.unwrap();
    theirs.unwrap();
    let mut stored = world.stored(&id).await;
    stored.sort();
    assert_eq!(stored, ["a", "b", "c"], "each is stored once");
    // Its neighbours stayed, and so did the session.
    let neighbour = world.nodes[0].ask(&entity_in(2, 0), &add("y")).await;
    assert_eq!(texts(neighbour), ["x", "y"]);
    let fenced = timeout(Duration::from_secs(5), world.nodes[0].engine.fenced()).await;
    assert!(fenced.is_err(), "only the shard is fenced");
}

#[tokio::test(start_paused = true)]
async fn being_drained_twice_or_too_late_changes_nothing() {
    let world = World::new(2).await;
    world.assign([1], 0);
    let epoch = world.epoch(1);
    world.begin_handoff([1], 1);
    world.owned([1], 1).await;
    let after = world.cluster.state();
    world.cluster.commit(&ClusterCommand::Drained {
        shard: ShardNr(1),
        session: world.nodes[0].session,
        epoch,
        by: DrainedBy::Owner,
        at: 0,
    });
    assert_eq!(world.cluster.state().shards, after.shards);
    texts(world.nodes[0].ask(&entity_in(1, 0), &add("a")).await);
}

/// Wherever the handoff has got to, the deletion comes between two commands, and the
/// next life has nothing of the one before.
#[tokio::test(start_paused = true)]
async fn a_deletion_that_races_with_a_handoff_is_done_once_by_somebody() {
    let world = World::new(3).await;
    world.assign([1], 0);
    let id = entity_in(1, 0);
    let mut last = 0;
    for round in 0_u32..60 {
        let (from, to) = ((round % 2) as usize, 1 - (round % 2) as usize);
        for text in ["a", "b"] {
            texts(world.nodes[2].ask(&id, &add(text)).await);
        }
        world.begin_handoff([1], to);
        // From before the owner knows of the handoff to after its end.
        let after = Duration::from_micros(100 * u64::from(round));
        let deleting = async {
            tokio::time::sleep(after).await;
            let asked = [2, from, to][round as usize % 3];
            world.nodes[asked].region.delete(&id).await
        };
        let deleted = timeout(SOON, deleting).await.unwrap();
        let next_life = deleted.unwrap_or_else(|error| panic!("{after:?}: {error}"));
        assert!(next_life.get() >= last + 2, "{after:?}: {next_life}");
        last = next_life.get();
        let first = world.nodes[2].ask(&id, &add("c")).await;
        assert_eq!(texts(first), ["c"], "{after:?}");
        world.owned([1], to).await;
        last += 1;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_waits_for_senders_that_learn_late_of_it() {
    let world = World::new(3).await;
    world.assign([1], 0);
    let id = entity_in(1, 0);
    texts(world.nodes[1].ask(&id, &add("a")).await);
    world.cluster.set_follows(world.nodes[1].nr, false);
    world.leave(0);
    world.begin_handoff([1], 2);
    world.owned([1], 2).await;
    let stops = async {
        assert!(world.nodes[0].region.part().await, "all have gone");
        world.kill(0);
    };
    tokio::pin!(stops);
    let early = timeout(Duration::from_millis(500), &mut stops).await;
    assert!(early.is_err(), "a sender does not know yet");
    // It has no id: nobody could send it again, were it lost.
    let command = add("b");
    let asked = world.nodes[1].ask(&id, &command);
    let learns = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.cluster.set_follows(world.nodes[1].nr, true);
    };
    let all = futures::future::join3(stops, asked, learns);
    let ((), answer, ()) = timeout(SOON, all).await.unwrap();
    assert_eq!(texts(answer), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_waits_for_the_answers_of_what_it_has_begun() {
    let world = World::new(2).await;
    world.assign([1], 0);
    let id = entity_in(1, 0);
    texts(world.nodes[1].ask(&id, &add("a")).await);
    // Answers take their time to get through.
    let [from, to] = [0, 1].map(|index: usize| world.nodes[index].nr);
    world
        .network
        .faults()
        .delay(from, to, Duration::from_millis(300));
    let command = add("b");
    let asked = world.nodes[1].ask(&id, &command);
    let stops = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        world.leave(0);
        world.begin_handoff([1], 1);
        world.owned([1], 1).await;
        assert!(world.nodes[0].region.part().await, "all have gone");
        world.kill(0);
    };
    let (answer, ()) = timeout(SOON, futures::future::join(asked, stops))
        .await
        .unwrap();
    assert_eq!(texts(answer), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_does_not_wait_for_ever() {
    let world = World::new(2).await;
    world.assign([1], 0);
    let id = entity_in(1, 0);
    texts(world.nodes[1].ask(&id, &add("a")).await);
    world.cluster.set_follows(world.nodes[1].nr, false);
    world.leave(0);
    world.begin_handoff([1], 1);
    world.owned([1], 1).await;
    let parted = timeout(SOON, world.nodes[0].region.part()).await;
    assert!(!parted.unwrap(), "a sender never learns of it");
}

/// I-2: who gets a shard back that it was about to hand off begins anew only when
/// nothing that it wrote before can land any more.
#[tokio::test(start_paused = true)]
async fn i2_a_shard_that_comes_back_is_fenced_before_it_begins() {
    let settings = RegionSettings {
        handoff_timeout: Duration::from_secs(2),
        homeless_max: Duration::from_secs(120),
        ..RegionSettings::default()
    };
    let world = World::with(2, settings, false).await;
    world.assign([1], 0);
    let before = world.epoch(1);
    let (id, neighbour) = (entity_in(1, 0), entity_in(1, 1));
    texts(world.nodes[0].ask(&id, &add("a")).await);
    texts(world.nodes[0].ask(&neighbour, &add("x")).await);
    // An append that takes far too long.
    let delay = Fault::Delay(Duration::from_secs(30));
    world.memory.faults().at(Operation::Write, 1, delay);
    let command = add("b");
    let asked = world.nodes[0].ask(&id, &command);
    tokio::pin!(asked);
    let early = timeout(Duration::from_millis(50), &mut asked).await;
    assert!(early.is_err());
    world.begin_handoff([1], 1);
    world.kill(1);
    world.down(1);
    world.owned([1], 0).await;
    assert!(world.epoch(1) > before);
    let command = add("y");
    let begins = world.nodes[0].ask(&neighbour, &command);
    assert_eq!(texts(timeout(SOON, begins).await.unwrap()), ["x", "y"]);
    let journal = world.memory.storage().journal;
    let earlier = [(ShardNr(1), before)];
    let may_write = journal.may_write(world.nodes[0].session, &earlier).await;
    assert_eq!(may_write.unwrap(), [false], "an earlier append could land");
    timeout(SOON, asked).await.unwrap().unwrap();
    assert_eq!(world.stored(&id).await, ["a", "b"]);
}
