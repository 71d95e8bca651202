//! Nodes are killed under load and come back: nothing acknowledged is lost, nothing
//! happens twice, and the others take over.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use perennial::proto::v1::get_cluster_response::{Member, Shard};
use perennial_tests::client::Client;
use perennial_tests::cluster_load::ClusterLoad;
use perennial_tests::database::TestDatabase;
use perennial_tests::eventually::eventually;
use perennial_tests::local_cluster::LocalCluster;
use perennial_tests::node_process::{NodeOptions, NodeProcess};
use perennial_tests::seed::Random;

const COUNTERS: u64 = 100;
const KILLS: usize = 3;
/// Commands between two events.
const STEP: u64 = 200;

/// I-5, I-8.
#[tokio::test]
async fn acknowledged_commands_survive_kills_exactly_once() {
    let mut random = Random::from_environment();
    let database = TestDatabase::new().await;
    let cluster = LocalCluster::of_processes(3)
        .postgres(&database)
        .await
        .unwrap();
    let mut cluster = cluster.start().await.unwrap();
    let load = ClusterLoad::start(&cluster.addresses(), "k", 12, COUNTERS);
    load.progress(STEP).await.unwrap();
    for _ in 0..KILLS {
        let victim = random.below(3) as usize;
        cluster.kill(victim);
        // The others have taken over.
        load.progress(STEP).await.unwrap();
        cluster.restart(victim).await.unwrap();
        load.progress(STEP).await.unwrap();
    }
    let mut book = load.stop_and_check(&cluster.address(0)).await.unwrap();
    println!(
        "{} commands, the slowest took {:?}, {} attempts failed",
        book.total(),
        book.latency(1.0),
        book.failures.len()
    );
    cluster.settled().await.unwrap();
}

/// I-5, I-8, with settings by which silence alone would not count for a minute: a
/// connection that is refused does, where reads do not rest on leases.
#[tokio::test]
async fn where_reads_ask_the_journal_a_process_that_is_gone_is_replaced_at_once() {
    const DOWN_AFTER: Duration = Duration::from_secs(60);
    let database = TestDatabase::new().await;
    let mut options = NodeOptions::default().journal(database.url_text());
    for (key, value) in [
        ("cluster.reads", "journal"),
        ("cluster.lease", "50s"),
        ("cluster.down_after", "60s"),
        ("cluster.raft.heartbeat", "200ms"),
        ("cluster.raft.election_min", "2s"),
        ("cluster.raft.election_max", "4s"),
        ("sharding.homeless_max", "90s"),
        ("sharding.number_of_shards", "60"),
    ] {
        options = options.setting(key, value);
    }
    // Without proxies between them, which would accept what nobody listens for.
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(NodeProcess::start(options.clone()).await.unwrap());
    }
    let client = Client::connect(&nodes[0].address()).await.unwrap();
    let everybody = eventually("three nodes to share the shards", DOWN_AFTER, async || {
        let cluster = client.cluster().await.ok()?;
        let at_rest = cluster.shards.iter().all(|shard| shard.state == "owned");
        let share = |member: &Member| (19..=21).contains(&member.shards_owned);
        let members = &cluster.members;
        (members.len() == 3 && members.iter().all(share) && at_rest).then_some(cluster)
    });
    let cluster = everybody.await.unwrap();
    let does_not_lead = |member: &&Member| member.node_id != cluster.leader_node_id;
    let victim_id = &cluster.members.iter().rfind(does_not_lead).unwrap().node_id;
    let address = &cluster.members.iter().rfind(does_not_lead).unwrap().address;
    let is_victim = |node: &NodeProcess| node.address().ends_with(address);
    let victim = nodes.iter().position(is_victim).unwrap();

    let addresses: Vec<String> = nodes.iter().map(NodeProcess::address).collect();
    let load = ClusterLoad::start(&addresses, "j", 12, COUNTERS);
    load.progress(STEP).await.unwrap();
    let killed = Instant::now();
    nodes[victim].kill9();
    let other = usize::from(victim == 0);
    let client = Client::connect(&addresses[other]).await.unwrap();
    let replaced = eventually("others to have all shards", DOWN_AFTER, async || {
        let shards = client.cluster().await.ok()?.shards;
        let served = |shard: &Shard| shard.state == "owned" && shard.node_id != *victim_id;
        shards.iter().all(served).then_some(())
    });
    replaced.await.unwrap();
    let took = killed.elapsed();
    println!("the shards have new owners after {took:?}");
    assert!(took < DOWN_AFTER / 2, "{took:?}: nobody was asked");
    load.progress(STEP).await.unwrap();
    nodes[victim].restart().await.unwrap();
    load.progress(STEP).await.unwrap();
    load.stop_and_check(&addresses[victim]).await.unwrap();
}
