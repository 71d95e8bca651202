//! Leaders, heartbeats and leases over a network that fails, in paused time.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::test_cluster::{SHARDS, TestCluster, TestNode};
use crate::cluster_state::{ClusterCommand, MemberStatus};
use crate::control_plane::ControlPlane;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// How long the lease goes on holding.
async fn until_out(node: &TestNode) -> Duration {
    let began = Instant::now();
    while node.lease.holds() {
        sleep(Duration::from_millis(1)).await;
        assert!(began.elapsed() < seconds(60), "the lease never ends");
    }
    began.elapsed()
}

async fn until_holds(node: &TestNode) {
    let began = Instant::now();
    while !node.lease.holds() {
        sleep(Duration::from_millis(1)).await;
        assert!(began.elapsed() < seconds(60), "the lease never holds");
    }
}

/// Asserts at every millisecond that nobody else owns a shard while its former
/// owner's lease holds: what I-12 rests on.
async fn never_served_twice(cluster: &TestCluster, nodes: &[TestNode], time: Duration) {
    let until = Instant::now() + time;
    let before = cluster.state();
    while Instant::now() < until {
        let state = cluster.state();
        for (shard, _) in state.shards() {
            let was = before.owner_of(shard).map(|owner| owner.session);
            let is = state.owner_of(shard).map(|owner| owner.session);
            let former = nodes.iter().find(|node| Some(node.session) == was);
            if let Some(former) = former
                && is.is_some()
                && is != was
            {
                assert!(!former.lease.holds(), "shard {shard} has a new owner");
            }
        }
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn members_are_up_and_hold_leases() {
    let cluster = TestCluster::new().await;
    let nodes = cluster.start(3).await;
    for node in &nodes {
        until_holds(node).await;
    }
    let until = Instant::now() + seconds(20);
    while Instant::now() < until {
        assert!(nodes.iter().all(|node| node.lease.holds()));
        sleep(Duration::from_millis(7)).await;
    }
    assert_eq!(cluster.state().members_up().count(), 3);
    for node in &nodes {
        let live = node.leader.live_entities().await;
        let expected: Vec<_> = nodes.iter().map(|node| (node.nr, node.nr.0 * 10)).collect();
        assert_eq!(live, expected, "as the leader knows it");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_node_is_replaced_after_down_after() {
    let cluster = TestCluster::new().await;
    let mut nodes = cluster.start(3).await;
    let dead = nodes.remove(2);
    let nr = dead.nr;
    cluster.kill(dead);
    let took = cluster
        .until("its shards have new owners that may recover", |state| {
            state.shards.iter().all(|shard| {
                shard.home.owner().is_some_and(|node| node != nr) && shard.unfenced.is_empty()
            })
        })
        .await;
    assert!(
        (seconds(1)..Duration::from_millis(2500)).contains(&took),
        "{took:?}"
    );
    assert!(nodes.iter().all(|node| node.lease.holds()));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_cut_off_is_out_of_its_lease_before_its_shards_move() {
    let cluster = TestCluster::new().await;
    let nodes = cluster.start(3).await;
    cluster.isolate(nodes[1].nr);
    never_served_twice(&cluster, &nodes, seconds(6)).await;
    assert_eq!(cluster.shards_of(nodes[1].nr), 0);
}

/// It still takes itself for the leader, and hears of nobody who says otherwise.
#[tokio::test(start_paused = true)]
async fn an_isolated_leader_extends_no_lease() {
    let cluster = TestCluster::new().await;
    let nodes = cluster.start(3).await;
    cluster.isolate(nodes[0].nr);
    cluster.elect(nodes[1].nr);
    never_served_twice(&cluster, &nodes, seconds(6)).await;
    assert!(!nodes[0].lease.holds());
    assert_eq!(cluster.shards_of(nodes[0].nr), 0);
    assert!(nodes[1].lease.holds() && nodes[2].lease.holds());
}

/// One direction is enough to cut a node off: heartbeats arrive, acknowledgements do
/// not. The leader sees nothing wrong, and its shards stay.
#[tokio::test(start_paused = true)]
async fn acknowledgements_that_are_lost_end_the_lease() {
    let cluster = TestCluster::new().await;
    let nodes = cluster.start(3).await;
    let faults = cluster.network.faults();
    faults.cut_one_way(nodes[0].nr, nodes[1].nr);
    assert!(until_out(&nodes[1]).await <= Duration::from_millis(1500));
    sleep(seconds(5)).await;
    assert!(cluster.shards_of(nodes[1].nr) > 0);
    faults.heal_all();
    until_holds(&nodes[1]).await;
}

#[tokio::test(start_paused = true)]
async fn lost_messages_do_not_end_a_lease() {
    let cluster = TestCluster::new().await;
    let nodes = cluster.start(2).await;
    until_holds(&nodes[1]).await;
    cluster.network.faults().lose(nodes[1].nr, nodes[0].nr, 0.2);
    let until = Instant::now() + seconds(30);
    while Instant::now() < until {
        assert!(nodes[1].lease.holds());
        sleep(Duration::from_millis(7)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_takes_nobody_for_dead_at_once() {
    let cluster = TestCluster::new().await;
    let nodes = cluster.start(3).await;
    for term in 0..8 {
        cluster.elect(nodes[term % 3].nr);
        sleep(seconds(1)).await;
    }
    let state = cluster.state();
    assert_eq!(state.members_up().count(), 3);
    assert!(
        nodes
            .iter()
            .all(|node| node.beating.load(Ordering::Relaxed))
    );
}

/// Leases have run without one for a while, so they must not wait for the next
/// heartbeat, or the one after it.
#[tokio::test(start_paused = true)]
async fn a_new_leader_extends_leases_at_once() {
    let cluster = TestCluster::new().await;
    let nodes = cluster.start(3).await;
    for term in 0..10 {
        sleep(Duration::from_millis(317)).await;
        cluster.elect(nodes[term % 3].nr);
        sleep(Duration::from_millis(80)).await;
        let soon = Instant::now() + Duration::from_millis(1420);
        for node in &nodes {
            assert!(node.lease.holds_at(soon.into_std()), "in term {term}");
        }
    }
}

/// Heartbeats that were held back say that a node lives; the leader says that it
/// must begin anew.
#[tokio::test(start_paused = true)]
async fn a_node_that_was_taken_for_dead_is_told_so_and_comes_back() {
    let cluster = TestCluster::new().await;
    let mut nodes = cluster.start(3).await;
    let zombie = nodes.remove(1);
    cluster.isolate(zombie.nr);
    cluster
        .until("it is down", |state| {
            state.member(zombie.nr).unwrap().status == MemberStatus::Down
        })
        .await;
    cluster.heal(zombie.nr);
    let began = Instant::now();
    while zombie.beating.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(10)).await;
        assert!(began.elapsed() < seconds(5), "it was not told");
    }
    assert!(!zombie.lease.holds());
    let nr = zombie.nr;
    cluster.kill(zombie);
    let again = cluster.start_node(nr).await;
    cluster
        .until("it has shards again", |state| {
            state.shards_of(nr).count() == SHARDS as usize / 3 && state.handoffs().count() == 0
        })
        .await;
    until_holds(&again).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_connection_is_death_at_once_where_it_may_be() {
    let cluster = TestCluster::new().await.with_refused_means_dead();
    let mut nodes = cluster.start(3).await;
    let dead = nodes.remove(2);
    let nr = dead.nr;
    cluster.kill(dead);
    let took = cluster
        .until("its shards have new owners that may recover", |state| {
            state.shards.iter().all(|shard| {
                shard.home.owner().is_some_and(|node| node != nr) && shard.unfenced.is_empty()
            })
        })
        .await;
    assert!(took < Duration::from_millis(900), "{took:?}");
    // Silence alone is no refusal.
    cluster.network.faults().cut(nodes[0].nr, nodes[1].nr);
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(cluster.state().members_up().count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_leaving_node_is_drained_in_waves_and_removed() {
    let cluster = TestCluster::new().await;
    let nodes = cluster.start(3).await;
    let leaving = &nodes[1];
    let leave = ClusterCommand::Leave {
        node: leaving.nr,
        session: leaving.session,
        remove: true,
        at: 0,
    };
    leaving.control.propose(leave).await.unwrap();
    let took = cluster
        .until("it is no member", |state| {
            state.member(leaving.nr).is_none()
        })
        .await;
    assert!(took < seconds(1), "{took:?} for four shards, two at a time");
    let began = Instant::now();
    while leaving.beating.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(10)).await;
        assert!(began.elapsed() < seconds(5), "it was not told");
    }
}

/// It cannot remove itself: another one leads first, as soon as one can.
#[tokio::test(start_paused = true)]
async fn a_leader_that_is_to_be_removed_lets_another_one_lead() {
    let cluster = TestCluster::new().await;
    let nodes = cluster.start(3).await;
    let leading = &nodes[0];
    let leave = ClusterCommand::Leave {
        node: leading.nr,
        session: leading.session,
        remove: true,
        at: 0,
    };
    leading.control.propose(leave).await.unwrap();
    cluster
        .until("it is no member", |state| {
            state.member(leading.nr).is_none()
        })
        .await;
    assert_ne!(
        nodes[1].control.leadership().borrow().leader,
        Some(leading.nr)
    );
    assert_eq!(cluster.state().members_up().count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_handoff_that_takes_too_long_is_ended_by_force() {
    let cluster = TestCluster::new().await.with_owners_that_never_drain();
    let node = cluster.start(1).await.remove(0);
    let nr = cluster
        .storage
        .storage()
        .registry
        .mint_node()
        .await
        .unwrap();
    let other = cluster.start_node(nr).await;
    let began = cluster
        .until("handoffs begin", |state| state.handoffs().count() == 2)
        .await;
    assert!(began < seconds(3));
    sleep(Duration::from_millis(10_800)).await;
    assert_eq!(cluster.shards_of(other.nr), 0);
    cluster
        .until("they end", |state| state.shards_of(other.nr).count() == 2)
        .await;
    assert!(node.lease.holds(), "its neighbours stay");
}

#[tokio::test(start_paused = true)]
async fn who_alone_cannot_reach_the_journal_is_replaced() {
    let cluster = TestCluster::new().await;
    let nodes = cluster.start(3).await;
    nodes[2].journal_in_reach.store(false, Ordering::Relaxed);
    never_served_twice(&cluster, &nodes, seconds(10)).await;
    assert_eq!(cluster.shards_of(nodes[2].nr), 0);
    assert!(!nodes[2].beating.load(Ordering::Relaxed), "it was told");
}

/// The database is away for everybody: nobody is declared down, nothing moves.
#[tokio::test(start_paused = true)]
async fn if_nobody_reaches_the_journal_nothing_moves() {
    let cluster = TestCluster::new().await;
    let nodes = cluster.start(3).await;
    let before = cluster.state();
    for node in &nodes {
        node.journal_in_reach.store(false, Ordering::Relaxed);
    }
    sleep(seconds(30)).await;
    assert_eq!(cluster.state().shards, before.shards);
    assert!(nodes.iter().all(|node| node.lease.holds()));
}
