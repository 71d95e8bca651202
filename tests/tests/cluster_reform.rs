//! A cluster whose nodes have all lost what they agreed on, with the journal kept:
//! `cluster reform` begins a new generation of it, and no event is lost.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use perennial_tests::cli;
use perennial_tests::client::Client;
use perennial_tests::cluster_load::ClusterLoad;
use perennial_tests::database::TestDatabase;
use perennial_tests::eventually::eventually;
use perennial_tests::local_cluster::LocalCluster;

const NODES: usize = 3;
const COUNTERS: u64 = 40;
const STEP: u64 = 150;
const SOON: Duration = Duration::from_secs(60);

/// I-1 and I-5, across generations.
#[tokio::test]
async fn a_cluster_that_lost_its_raft_state_is_reformed_over_its_journal() {
    let database = TestDatabase::new().await;
    let cluster = LocalCluster::of_processes(NODES)
        .postgres(&database)
        .await
        .unwrap();
    let mut cluster = cluster.start().await.unwrap();
    let load = ClusterLoad::start(&cluster.addresses(), "f", 9, COUNTERS);
    load.progress(STEP).await.unwrap();
    // Of a cluster that lives nothing is given up.
    let refused = reform(&database).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("alive"), "{refused:?}");
    let before = load.stop_and_check(&cluster.address(0)).await.unwrap();
    let epochs = epochs(&cluster).await;

    for node in 0..NODES {
        cluster.kill(node);
        let raft = cluster.process(node).unwrap().data_dir().join("raft");
        std::fs::remove_dir_all(raft).unwrap();
    }
    let reformed = eventually("the nodes to be found gone", SOON, async || {
        let reformed = reform(&database).await;
        (reformed.code == Some(0)).then_some(())
    });
    reformed.await.unwrap();

    cluster.restart_all().await.unwrap();
    let client = Client::connect(&cluster.address(1)).await.unwrap();
    for (counter, acknowledged) in &before.acknowledged {
        let (state, events) = client
            .state("counter", &format!("f{counter}"))
            .await
            .unwrap();
        let value = state["value"].as_i64().unwrap();
        assert_eq!(value, *acknowledged, "I-5: counter f{counter}");
        assert_eq!(events, value.unsigned_abs(), "I-3: counter f{counter}");
    }
    for (shard, epoch) in self::epochs(&cluster).await.into_iter().enumerate() {
        assert!(epoch > epochs[shard], "I-1: the epoch of shard {shard}");
    }
    let load = ClusterLoad::start(&cluster.addresses(), "g", 9, COUNTERS);
    load.progress(STEP).await.unwrap();
    load.stop_and_check(&cluster.address(2)).await.unwrap();
}

async fn reform(database: &TestDatabase) -> cli::Outcome {
    let url = database.url_text();
    let reform = cli::run(["cluster", "reform", "--journal", &url]);
    reform.await.unwrap()
}

/// By shard.
async fn epochs(cluster: &LocalCluster) -> Vec<u64> {
    let cluster = cluster.client(0).await.unwrap().cluster().await.unwrap();
    cluster.shards.iter().map(|shard| shard.epoch).collect()
}
