//! Members that come late, die or leave, and who votes then.

use super::*;

/// So much later a leader hears that its entries have arrived; less than an election
/// takes.
const ACK_DELAY: Duration = Duration::from_millis(50);

#[tokio::test(start_paused = true)]
async fn a_late_learner_gets_the_snapshot() {
    let mut world = World::of_three().await;
    // More than the log keeps, so that its beginning is gone.
    for hundred in 0..6 {
        let proposed = (1..=100).map(|number| numbered(hundred * 100 + number));
        let proposed = proposed.map(|command| world.node(1).propose(command));
        for committed in futures::future::join_all(proposed).await {
            committed.unwrap();
        }
    }
    eventually("the log is cut", || {
        let leader = world.disks[&NodeNr(1)].image().purged;
        leader.is_some()
    })
    .await;
    world.start(4).await;
    world.join(4).await;
    let index = world.node(1).propose(numbered(601)).await.unwrap();
    let state = wait_for_index(world.node(4).state(), index).await;
    let expected = wait_for_index(world.node(1).state(), index).await;
    assert_eq!(effects(&state), effects(&expected));
    assert!(world.disks[&NodeNr(4)].image().snapshot.is_some());
    world.wait_for_voters(&[1, 2, 3]).await;

    // It starts from the snapshot again.
    world.kill(4).await;
    world.start(4).await;
    assert!(world.node(4).state().borrow().index > 400);
}

#[tokio::test(start_paused = true)]
async fn a_dead_voter_is_replaced_when_it_has_been_down_for_long() {
    let mut world = World::of_three().await;
    world.start(4).await;
    world.join(4).await;
    let leader = world.leader().await;
    let dead = (1..=3).find(|node| *node != leader).unwrap();
    let session = world.node(leader).state().borrow().members[&NodeNr(dead)].session;
    world.kill(dead).await;
    let down = ClusterCommand::Down {
        node: NodeNr(dead),
        session,
        at: 0,
    };
    world.node(leader).propose(down).await.unwrap();
    tokio::time::sleep(world.settings.voter_replacement_after / 2).await;
    assert!(world.node(leader).voters().contains(&NodeNr(dead)));

    tokio::time::sleep(world.settings.voter_replacement_after / 2).await;
    let expected: Vec<u64> = (1..=4).filter(|node| *node != dead).collect();
    world.wait_for_voters(&expected).await;
    // Without the dead one there is again one to lose.
    let other = world.another(leader);
    world.kill(other).await;
    let leader = world.leader().await;
    world.node(leader).propose(numbered(1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_removed_voter_is_replaced_at_once() {
    let mut world = World::of_three().await;
    world.start(4).await;
    world.join(4).await;
    let leader = world.leader().await;
    let gone = (1..=3).find(|node| *node != leader).unwrap();
    let session = world.node(leader).state().borrow().members[&NodeNr(gone)].session;
    world.kill(gone).await;
    for command in [
        ClusterCommand::Down {
            node: NodeNr(gone),
            session,
            at: 0,
        },
        ClusterCommand::Remove {
            node: NodeNr(gone),
            at: 0,
        },
    ] {
        world.node(leader).propose(command).await.unwrap();
    }
    let expected: Vec<u64> = (1..=4).filter(|node| *node != gone).collect();
    world.wait_for_voters(&expected).await;
}

/// Also when what is said takes a while to get to it.
#[tokio::test(start_paused = true)]
async fn a_removed_node_hears_that_it_was_removed() {
    let mut world = World::of_three().await;
    world.start(4).await;
    world.join(4).await;
    let removed = NodeNr(4);
    let leader = NodeNr(world.leader().await);
    let delay = Duration::from_millis(40);
    world.network.faults().delay(leader, removed, delay);
    let state = world.node(removed.0).state();
    let session = state.borrow().members[&removed].session;
    let leave = ClusterCommand::Leave {
        node: removed,
        session,
        remove: true,
        at: 0,
    };
    let remove = ClusterCommand::Remove {
        node: removed,
        at: 0,
    };
    for command in [leave, remove] {
        world.node(leader.0).propose(command).await.unwrap();
    }
    let heard = || state.borrow().member(removed).is_none();
    eventually("the removed node hears of it", heard).await;
}

/// Of more than two nodes three go on voting; of two the other one does, alone.
#[tokio::test(start_paused = true)]
async fn a_leader_that_is_to_be_removed_leaves_its_vote_and_leadership_to_others() {
    for nodes in [2, 4] {
        let mut world = World::new();
        world.form(1).await;
        for node in 2..=nodes {
            world.start(node).await;
            world.join(node).await;
        }
        let leader = world.leader().await;
        let session = world.node(leader).state().borrow().members[&NodeNr(leader)].session;
        let leave = ClusterCommand::Leave {
            node: NodeNr(leader),
            session,
            remove: true,
            at: 0,
        };
        world.node(leader).propose(leave).await.unwrap();
        let staying: Vec<u64> = (1..=nodes).filter(|node| *node != leader).collect();
        world.wait_for_voters(&staying).await;
        assert!(world.node(leader).hand_over_leadership(PATIENCE).await);
        let successor = world.leader().await;
        assert_ne!(successor, leader);
        let remove = ClusterCommand::Remove {
            node: NodeNr(leader),
            at: 0,
        };
        world.node(successor).propose(remove).await.unwrap();
        world.kill(leader).await;
        world.node(successor).propose(numbered(1)).await.unwrap();
        assert_eq!(world.leader().await, successor);
        world.wait_for_voters(&staying).await;
    }
}

/// The entry by which the successor votes alone may be in nobody's log but the leader's,
/// who is no voter by it. Should another then stand for election, one of the two must be
/// elected: the successor, by the entry before.
#[tokio::test(start_paused = true)]
async fn a_leader_that_has_taken_its_own_vote_can_be_succeeded_at_once() {
    let mut world = World::new();
    world.form(1).await;
    world.start(2).await;
    world.join(2).await;
    let (old, successor) = (NodeNr(1), NodeNr(2));
    let faults = world.network.faults();
    faults.delay(successor, old, ACK_DELAY);
    propose_to_remove(&world, old, old).await;
    eventually("the successor is to agree", || {
        world.node(2).voters() == [old, successor]
    })
    .await;
    faults.cut_one_way(old, successor);
    eventually("the leader does not vote", || {
        world.node(1).voters() == [successor]
    })
    .await;
    eventually("the successor stands for election", || {
        world.node(2).leadership().borrow().leader.is_none()
    })
    .await;
    faults.heal_all();
    let leader = world.leader().await;
    world.node(leader).propose(numbered(1)).await.unwrap();
    world.wait_for_voters(&[2]).await;
}

/// Three of four nodes are left, of whom one does not vote by its own log and one not
/// yet: no more than one has been lost, so they go on.
#[tokio::test(start_paused = true)]
async fn a_leader_may_be_lost_that_told_only_a_voter_that_goes_of_the_new_ones() {
    let mut world = World::of_three().await;
    world.start(4).await;
    world.join(4).await;
    let old = NodeNr(world.leader().await);
    let mut others = (1..=4).map(NodeNr).filter(|node| *node != old);
    let going = others.next().unwrap();
    let staying: Vec<NodeNr> = others.collect();
    let left = |node: &&NodeNr| **node != going;
    let voters: Vec<NodeNr> = world.running.keys().filter(left).copied().collect();

    let faults = world.network.faults();
    for node in &staying {
        faults.delay(*node, old, ACK_DELAY);
    }
    propose_to_remove(&world, old, going).await;
    for node in &staying {
        let told = || world.node(node.0).voters().len() == 4;
        eventually("those that stay are to agree", told).await;
        faults.cut_one_way(old, *node);
    }
    let parted = || world.node(going.0).voters() == voters;
    eventually("the one that goes does not vote", parted).await;
    for node in &staying {
        assert_eq!(world.node(node.0).voters().len(), 4, "node {}", node.0);
    }
    world.kill(old.0).await;
    world.network.faults().heal_all();

    let leader = world.leader().await;
    world.node(leader).propose(numbered(1)).await.unwrap();
    let voters: Vec<u64> = voters.iter().map(|node| node.0).collect();
    world.wait_for_voters(&voters).await;
}

/// It asks the leader it remembers, which is gone, and then the others.
#[tokio::test(start_paused = true)]
async fn a_removed_node_joins_again_when_the_leader_it_remembers_is_gone() {
    let mut world = World::of_three().await;
    world.start(4).await;
    world.join(4).await;
    let removed = NodeNr(4);
    let remembered = NodeNr(world.leader().await);
    propose_to_remove(&world, remembered, removed).await;
    let remove = ClusterCommand::Remove {
        node: removed,
        at: 0,
    };
    world.node(remembered.0).propose(remove).await.unwrap();
    let state = world.node(removed.0).state();
    let heard = || state.borrow().member(removed).is_none();
    eventually("the removed node hears of it", heard).await;
    world.kill(removed.0).await;
    eventually("the removed node is in no group", || {
        let raft = &world.node(remembered.0).shared.raft;
        let metrics = raft.metrics();
        let metrics = metrics.borrow();
        let mut group = metrics.membership_config.nodes();
        !group.any(|(node, _)| *node == removed.0)
    })
    .await;
    world.kill(remembered.0).await;
    world.leader().await;

    world.start(removed.0).await;
    eventually("it remembers the one that is gone", || {
        let leadership = world.node(removed.0).leadership();
        let leader = leadership.borrow().leader;
        leader == Some(remembered)
    })
    .await;
    world.join(removed.0).await;
    let state = world.node(removed.0).state();
    assert!(state.borrow().member(removed).is_some());
}

/// It asks around, and does not begin with the same ones at each attempt.
#[tokio::test(start_paused = true)]
async fn a_newcomer_joins_also_when_those_before_it_are_gone() {
    let mut world = World::of_three().await;
    let newcomer = NodeNr(14);
    world.start(newcomer.0).await;
    for gone in (4..newcomer.0).map(NodeNr) {
        let addresses = world.node(newcomer.0).addresses();
        addresses.insert(gone, 1, &loopback_address(gone));
        world.network.faults().cut(newcomer, gone);
    }
    let deadline = Instant::now() + 2 * PATIENCE;
    let member = world.member(newcomer.0);
    while let Err(error) = world.node(newcomer.0).join(member.clone(), 0).await {
        assert!(Instant::now() < deadline, "not in time: {error}");
    }
}

/// Has a node leave for good, as far as its leader is concerned.
async fn propose_to_remove(world: &World, leader: NodeNr, node: NodeNr) {
    let control = world.node(leader.0);
    let session = control.state().borrow().members[&node].session;
    let leave = ClusterCommand::Leave {
        node,
        session,
        remove: true,
        at: 0,
    };
    control.propose(leave).await.unwrap();
}
