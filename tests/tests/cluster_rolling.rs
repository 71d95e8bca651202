//! Planned movement is invisible: every node is restarted with SIGTERM, one after
//! the other, one comes and one goes, and no command fails.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

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

/// I-9, from three nodes to four and back.
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

    // A leader does not take itself out: that waits for another one.
    let leader = cluster.leader(added).await.unwrap().unwrap();
    let removed = usize::from(leader == 0);
    let node_id = cluster.node_id(removed, added).await.unwrap();
    let client = cluster.client(added).await.unwrap();
    client.drain(&node_id, true).await.unwrap();
    let gone = eventually("the node to be removed", SOON, async || {
        let members = client.cluster().await.unwrap().members;
        let is_there = members.iter().any(|member| member.node_id == node_id);
        (!is_there).then_some(())
    });
    gone.await.unwrap();
    // It still forwards what clients send to it.
    load.progress(STEP).await.unwrap();
    cluster.terminate(removed).await.unwrap();
    cluster.settled_without(&[removed]).await.unwrap();
    let book = load.stop_and_check(&cluster.address(added)).await.unwrap();
    assert_eq!(book.failures, [], "I-9: {}", cluster.outputs());
}

/// A peer that hangs must not keep a node from stopping in its time, and a second
/// SIGTERM ends it at once.
#[tokio::test]
async fn a_node_stops_in_time_even_if_its_peers_hang() {
    let database = TestDatabase::new().await;
    let cluster = LocalCluster::of_processes(3)
        .postgres(&database)
        .await
        .unwrap();
    let cluster = cluster.setting("node.drain_timeout", "2s");
    let mut cluster = cluster.start().await.unwrap();
    cluster.pause(1).unwrap();
    cluster.pause(2).unwrap();
    // Waits no longer than the drain time-out and what ending takes.
    cluster.terminate(0).await.unwrap();
    cluster.resume(1).unwrap();
    cluster.resume(2).unwrap();
}
