//! Links break between nodes and to the database: who can go on does, who cannot
//! stops, and what was acknowledged stays.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use perennial_tests::client::Client;
use perennial_tests::cluster_load::ClusterLoad;
use perennial_tests::database::TestDatabase;
use perennial_tests::eventually::eventually;
use perennial_tests::local_cluster::LocalCluster;
use perennial_tests::proxy::Flow;

const COUNTERS: u64 = 60;
const STEP: u64 = 100;
const SOON: Duration = Duration::from_secs(60);

async fn cluster(database: &TestDatabase) -> LocalCluster {
    let cluster = LocalCluster::of_processes(3)
        .postgres(database)
        .await
        .unwrap();
    cluster.start().await.unwrap()
}

/// The status of a member, as another node sees it.
async fn status_of(client: &Client, node_id: &str) -> Option<String> {
    let members = client.cluster().await.ok()?.members;
    let member = members.into_iter().find(|member| member.node_id == node_id);
    Some(member?.status)
}

/// What the leader says does not arrive at one node: it is taken for dead or not,
/// but in the end everybody is there and nothing is lost.
#[tokio::test]
async fn a_partition_in_one_direction_loses_nothing() {
    let database = TestDatabase::new().await;
    let cluster = cluster(&database).await;
    let leader = cluster.leader(0).await.unwrap().unwrap();
    let other = (leader + 1) % 3;
    let load = ClusterLoad::start(&cluster.addresses(), "o", 9, COUNTERS);
    load.progress(STEP).await.unwrap();
    cluster.block(other, leader);
    load.progress(3 * STEP).await.unwrap();
    cluster.heal();
    load.progress(STEP).await.unwrap();
    cluster.block(leader, other);
    load.progress(3 * STEP).await.unwrap();
    cluster.heal();
    cluster.settled().await.unwrap();
    let book = load.stop_and_check(&cluster.address(other)).await.unwrap();
    println!("{} failed attempts", book.failures.len());
}

/// A leader that nobody hears is replaced; it stops serving, and comes back.
#[tokio::test]
async fn a_leader_cut_off_is_replaced_and_comes_back() {
    let database = TestDatabase::new().await;
    let cluster = cluster(&database).await;
    let leader = cluster.leader(0).await.unwrap().unwrap();
    let leader_id = cluster.node_id(leader, leader).await.unwrap();
    let other = (leader + 1) % 3;
    let load = ClusterLoad::start(&cluster.addresses(), "l", 9, COUNTERS);
    load.progress(STEP).await.unwrap();
    cluster.isolate(leader);
    let client = cluster.client(other).await.unwrap();
    let replaced = eventually("another leader, and the former down", SOON, async || {
        let new = cluster.leader(other).await.ok()??;
        let status = status_of(&client, &leader_id).await?;
        (new != leader && status == "down").then_some(())
    });
    replaced.await.unwrap();
    load.progress(STEP).await.unwrap();
    cluster.heal();
    cluster.settled().await.unwrap();
    load.stop_and_check(&cluster.address(leader)).await.unwrap();
}

/// A node that alone cannot reach the journal hands its shards to others.
#[tokio::test]
async fn a_node_without_its_database_gives_its_shards_away() {
    let database = TestDatabase::new().await;
    let cluster = cluster(&database).await;
    let cut_off = (cluster.leader(0).await.unwrap().unwrap() + 1) % 3;
    let other = (cut_off + 1) % 3;
    let node_id = cluster.node_id(cut_off, other).await.unwrap();
    let load = ClusterLoad::start(&cluster.addresses(), "d", 9, COUNTERS);
    load.progress(STEP).await.unwrap();
    cluster.database_link(cut_off).unwrap().set(Flow::Cut);
    let client = cluster.client(other).await.unwrap();
    let without = eventually("the others to have all shards", SOON, async || {
        let cluster = client.cluster().await.ok()?;
        let has = cluster.shards.iter().any(|shard| shard.node_id == node_id);
        (!has).then_some(())
    });
    without.await.unwrap();
    // Clients of the node are served by the others.
    load.progress(STEP).await.unwrap();
    cluster.database_link(cut_off).unwrap().set(Flow::Open);
    cluster.settled().await.unwrap();
    load.stop_and_check(&cluster.address(cut_off))
        .await
        .unwrap();
}
