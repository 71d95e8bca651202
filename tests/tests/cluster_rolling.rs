//! Planned movement is invisible: every node is restarted with SIGTERM, one after
//! the other, one comes and one goes, and no command fails.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use perennial_tests::cluster_load::ClusterLoad;
use perennial_tests::database::TestDatabase;
use perennial_tests::eventually::eventually;
use perennial_tests::local_cluster::LocalCluster;

const COUNTERS: u64 = 100;
/// Commands between two events.
const STEP: u64 = 150;
const SOON: Duration = Duration::from_secs(60);

/// I-9.
#[tokio::test]
async fn a_rolling_restart_fails_no_command() {
    let database = TestDatabase::new().await;
    let cluster = LocalCluster::of_processes(3)
        .postgres(&database)
        .await
        .unwrap();
    let mut cluster = cluster.start().await.unwrap();
    let load = ClusterLoad::start(&cluster.addresses(), "r", 12, COUNTERS);
    load.progress(STEP).await.unwrap();
    for node in 0..3 {
        cluster.terminate(node).await.unwrap();
        load.progress(STEP).await.unwrap();
        cluster.restart(node).await.unwrap();
        load.progress(STEP).await.unwrap();
    }
    let mut book = load.stop_and_check(&cluster.address(0)).await.unwrap();
    println!(
        "{} commands, p99.9 {:?}, the slowest took {:?}",
        book.total(),
        book.latency(0.999),
        book.latency(1.0)
    );
    assert_eq!(book.failures, [], "I-9: {}", cluster.outputs());
}

/// I-9, from three nodes to four and back to two. The leader does not remove itself:
/// it lets another one lead first.
#[tokio::test]
async fn a_node_that_comes_or_is_removed_fails_no_command() {
    let database = TestDatabase::new().await;
    let cluster = LocalCluster::of_processes(3)
        .postgres(&database)
        .await
        .unwrap();
    let mut cluster = cluster.start().await.unwrap();
    let load = ClusterLoad::start(&cluster.addresses(), "s", 12, COUNTERS);
    load.progress(STEP).await.unwrap();
    let added = cluster.add().await.unwrap();
    cluster.settled().await.unwrap();
    load.progress(STEP).await.unwrap();

    let first = cluster.leader(added).await.unwrap().unwrap();
    remove(&mut cluster, &load, first, &[]).await;
    let leader = cluster.leader_of(&[first]).await.unwrap();
    let others = (0..4).filter(|node| ![first, leader].contains(node));
    let second = others.min().unwrap();
    remove(&mut cluster, &load, second, &[first]).await;
    let book = load.stop_and_check(&cluster.address(leader)).await.unwrap();
    assert_eq!(book.failures, [], "I-9: {}", cluster.outputs());
}

/// Takes a node out of the cluster for good, of which some are gone already.
async fn remove(cluster: &mut LocalCluster, load: &ClusterLoad, removed: usize, gone: &[usize]) {
    let is_gone = |node: &usize| *node == removed || gone.contains(node);
    let staying: Vec<usize> = (0..cluster.len()).filter(|node| !is_gone(node)).collect();
    let node_id = cluster.node_id(removed, staying[0]).await.unwrap();
    let client = cluster.client(staying[0]).await.unwrap();
    client.drain(&node_id, true).await.unwrap();
    // Three go on voting, if there are so many: a learner takes the place of a voter.
    let voters_wanted = if staying.len() < 3 { 1 } else { 3 };
    let left = eventually("the node to be removed", SOON, async || {
        let members = client.cluster().await.unwrap().members;
        let voters = members.iter().filter(|member| member.voter).count();
        let is_there = members.iter().any(|member| member.node_id == node_id);
        (!is_there && voters == voters_wanted).then_some(())
    });
    left.await.unwrap();
    // What clients send to it goes on, as long as it is there.
    load.progress(STEP).await.unwrap();
    cluster.terminate(removed).await.unwrap();
    let gone = [gone, &[removed]].concat();
    cluster.settled_without(&gone).await.unwrap();
}

/// Nothing is decided any more when the other two hang.
#[tokio::test]
async fn a_node_stops_in_time_even_if_its_peers_hang() {
    const DRAIN_TIMEOUT: Duration = Duration::from_secs(8);
    let database = TestDatabase::new().await;
    let cluster = LocalCluster::of_processes(3)
        .postgres(&database)
        .await
        .unwrap();
    let cluster = cluster.setting(
        "node.drain_timeout",
        &format!("{}s", DRAIN_TIMEOUT.as_secs()),
    );
    let mut cluster = cluster.start().await.unwrap();
    cluster.pause(1).unwrap();
    cluster.pause(2).unwrap();
    let began = Instant::now();
    // Which includes that it says that all went well.
    cluster.terminate(0).await.unwrap();
    let took = began.elapsed();
    // A second for a machine that does something else as well.
    assert!(
        took < DRAIN_TIMEOUT + Duration::from_secs(1),
        "{took:?}; {}",
        cluster.outputs()
    );
    cluster.resume(1).unwrap();
    cluster.resume(2).unwrap();
}

/// Who asks twice does not want to wait.
#[tokio::test]
async fn a_second_sigterm_ends_a_node_that_waits_for_its_peers() {
    let database = TestDatabase::new().await;
    let cluster = LocalCluster::of_processes(3)
        .postgres(&database)
        .await
        .unwrap();
    // Longer than anybody waits for the process to end.
    let cluster = cluster.setting("node.drain_timeout", "600s");
    let mut cluster = cluster.start().await.unwrap();
    cluster.pause(1).unwrap();
    cluster.pause(2).unwrap();
    let node = cluster.process_mut(0).unwrap();
    node.signal("TERM").unwrap();
    let said = eventually("the node stops", Duration::from_secs(60), async || {
        node.output().contains("stopping").then_some(())
    });
    said.await.unwrap();
    assert_eq!(node.has_ended(), None, "it waits for those that hang");
    node.signal("TERM").unwrap();
    assert_eq!(node.ended().await.unwrap().code(), Some(1));
    cluster.resume(1).unwrap();
    cluster.resume(2).unwrap();
}
