//! Nodes are killed under load and come back: nothing acknowledged is lost, nothing
//! happens twice, and the others take over.

#![allow(clippy::unwrap_used)]

use perennial_tests::cluster_load::ClusterLoad;
use perennial_tests::database::TestDatabase;
use perennial_tests::local_cluster::LocalCluster;
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
