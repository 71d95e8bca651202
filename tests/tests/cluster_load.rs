//! Three processes as one service: whichever node a client asks, each command is
//! answered, each counter adds up, and each entity lives on one node.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use perennial_tests::client::Client;
use perennial_tests::cluster_load::ClusterLoad;
use perennial_tests::database::TestDatabase;
use perennial_tests::eventually::eventually;
use perennial_tests::local_cluster::LocalCluster;

const COUNTERS: u64 = 150;
const COMMANDS: u64 = 1_500;

/// I-1, I-3, I-8.
#[tokio::test]
async fn any_node_serves_every_entity_and_each_lives_on_one() {
    let database = TestDatabase::new().await;
    let cluster = LocalCluster::of_processes(3)
        .postgres(&database)
        .await
        .unwrap();
    let cluster = cluster.start().await.unwrap();

    let load = ClusterLoad::start(&cluster.addresses(), "c", 48, COUNTERS);
    load.progress(COMMANDS).await.unwrap();
    let mut book = load.stop_and_check(&cluster.address(1)).await.unwrap();
    assert_eq!(book.failures, [], "I-8: nothing went wrong here");
    println!(
        "{} commands, p50 {:?}, p99 {:?}",
        book.total(),
        book.latency(0.5),
        book.latency(0.99)
    );

    let clients: Vec<Client> = cluster
        .addresses()
        .iter()
        .map(|address| Client::lazy(address).unwrap())
        .collect();
    let mut nodes = std::collections::BTreeSet::new();
    for counter in book.acknowledged.keys() {
        let mut places = Vec::new();
        for client in &clients {
            let described = client.describe("counter", &format!("c{counter}")).await;
            let described = described.unwrap();
            assert_eq!(described.state, "live");
            places.push((described.node_id, described.shard_id, described.epoch));
        }
        places.dedup();
        assert_eq!(places.len(), 1, "I-1: counter c{counter} has several homes");
        nodes.insert(places.remove(0).0);
    }
    assert_eq!(nodes.len(), 3, "all nodes have entities");

    let live = book.acknowledged.len() as u64;
    let counted = eventually("live entities", Duration::from_secs(20), async || {
        let members = clients[0].cluster().await.unwrap().members;
        let sum: u64 = members.iter().map(|member| member.live_entities).sum();
        (sum == live).then_some(())
    });
    counted.await.unwrap();
}
