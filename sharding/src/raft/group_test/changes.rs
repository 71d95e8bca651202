//! What was committed is there, once and in order, whatever befalls members and
//! messages.

use super::*;

#[tokio::test(start_paused = true)]
async fn changes_proposed_anywhere_are_applied_everywhere() {
    let world = World::of_three().await;
    let mut last = 0;
    for number in 1..=30 {
        let through = world.node(number % 3 + 1);
        let index = through.propose(numbered(number)).await.unwrap();
        assert!(index > last);
        last = index;
    }
    let expected = effects(&wait_for_index(world.node(1).state(), last).await);
    assert_eq!(expected, (1..=30).collect::<Vec<u64>>());
    for node in [2, 3] {
        let state = wait_for_index(world.node(node).state(), last).await;
        assert_eq!(effects(&state), expected);
    }
}

/// The leader is killed again and again while changes are proposed: each that was
/// acknowledged is there once, in order, and those of unknown outcome at most once.
#[tokio::test(start_paused = true)]
async fn a_killed_leader_loses_and_repeats_nothing() {
    let mut world = World::of_three().await;
    let mut acknowledged = Vec::new();
    let mut number = 0;
    for _ in 0..6 {
        let leader = world.leader().await;
        let follower = world.another(leader);
        for _ in 0..4 {
            number += 1;
            world
                .node(follower)
                .propose(numbered(number))
                .await
                .unwrap();
            acknowledged.push(number);
        }
        // One is under way when the leader dies.
        number += 1;
        let through = world.node(follower).clone();
        let proposing =
            tokio::spawn(async move { through.propose(numbered(number)).await.is_ok() });
        tokio::task::yield_now().await;
        world.kill(leader).await;
        if proposing.await.unwrap() {
            acknowledged.push(number);
        }
        world.start(leader).await;
        world.join(leader).await;
    }
    world.leader().await;
    let last = world.node(1).propose(numbered(number + 1)).await.unwrap();
    acknowledged.push(number + 1);
    for control in world.running.values() {
        let effects = effects(&wait_for_index(control.state(), last).await);
        assert!(effects.is_sorted_by(|a, b| a < b), "repeated: {effects:?}");
        let lost: Vec<_> = acknowledged
            .iter()
            .filter(|n| !effects.contains(n))
            .collect();
        assert!(lost.is_empty(), "lost {lost:?} of {effects:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn messages_get_lost_and_nothing_else_does() {
    let world = World::of_three().await;
    for from in [1, 2, 3] {
        for to in [1, 2, 3] {
            world.network.faults().lose(NodeNr(from), NodeNr(to), 0.1);
        }
    }
    let mut acknowledged = Vec::new();
    for number in 1..=60 {
        let through = world.node(number % 3 + 1);
        if through.propose(numbered(number)).await.is_ok() {
            acknowledged.push(number);
        }
    }
    assert!(acknowledged.len() > 30, "{acknowledged:?}");
    world.network.faults().heal_all();
    world.leader().await;
    let last = world.node(1).propose(numbered(61)).await.unwrap();
    for control in world.running.values() {
        let effects = effects(&wait_for_index(control.state(), last).await);
        assert!(effects.is_sorted_by(|a, b| a < b), "repeated: {effects:?}");
        let lost: Vec<_> = acknowledged
            .iter()
            .filter(|n| !effects.contains(n))
            .collect();
        assert!(lost.is_empty(), "lost {lost:?} of {effects:?}");
    }
}

/// With real disks, threads and time: leaders are killed, and then everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_on_disk_forgets_nothing() {
    let mut world = World::new();
    world.folder = Some(tempfile::tempdir().unwrap());
    // Tests share the machine, and its disk is slow then.
    world.settings.heartbeat = Duration::from_millis(200);
    world.settings.election_min = Duration::from_secs(1);
    world.settings.election_max = Duration::from_secs(2);
    world.grow_to_three().await;
    let mut expected = Vec::new();
    for number in 1..=3 {
        let leader = world.leader().await;
        world.node(leader).propose(numbered(number)).await.unwrap();
        expected.push(number);
        world.kill(leader).await;
        let next = world.leader().await;
        let state = world.node(next).state().borrow().clone();
        assert_eq!(effects(&state), expected);
        world.start(leader).await;
        world.join(leader).await;
    }
    for node in [1, 2, 3] {
        world.kill(node).await;
    }
    for node in [1, 2, 3] {
        world.start(node).await;
    }
    let leader = world.leader().await;
    let state = world.node(leader).state().borrow().clone();
    assert_eq!(effects(&state), expected);
}

/// All are killed and come back: nothing is forgotten.
#[tokio::test(start_paused = true)]
async fn a_group_that_was_killed_as_a_whole_goes_on() {
    let mut world = World::of_three().await;
    for round in 1..=3 {
        world.node(1).propose(numbered(round)).await.unwrap();
        for node in [1, 2, 3] {
            world.kill(node).await;
        }
        for node in [1, 2, 3] {
            world.start(node).await;
        }
        let leader = world.leader().await;
        let state = world.node(leader).state().borrow().clone();
        assert_eq!(effects(&state), (1..=round).collect::<Vec<u64>>());
    }
}
