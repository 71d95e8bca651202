//! A node that is stopped where it stands, and goes on after others have taken its
//! shards over: nothing it had on its way becomes visible any more.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use perennial_tests::client::{Client, command};
use perennial_tests::database::TestDatabase;
use perennial_tests::eventually::eventually;
use perennial_tests::local_cluster::LocalCluster;
use serde_json::json;
use tokio::task::JoinSet;

const COUNTERS: u64 = 60;
const SOON: Duration = Duration::from_secs(60);

/// I-2, I-5.
#[tokio::test]
async fn i2_what_a_zombie_had_buffered_is_never_seen() {
    let database = TestDatabase::new().await;
    let cluster = LocalCluster::of_processes(3)
        .postgres(&database)
        .await
        .unwrap();
    let mut cluster = cluster.start().await.unwrap();
    let clients: Vec<Client> = (0..3)
        .map(|node| Client::lazy(&cluster.address(node)).unwrap())
        .collect();
    let zombie = (cluster.leader(0).await.unwrap().unwrap() + 1) % 3;
    let healthy = (zombie + 1) % 3;
    let zombie_id = cluster.node_id(zombie, healthy).await.unwrap();

    // Every counter is at 1, and the zombie has some of them in memory.
    let mut owned = Vec::new();
    for counter in 0..COUNTERS {
        let id = format!("z{counter}");
        let add = command("counter", &id, &json!({"add": 1}));
        clients[healthy].send(add).await.unwrap();
        let described = clients[healthy].describe("counter", &id).await.unwrap();
        if described.node_id == zombie_id {
            owned.push(id);
        }
    }
    assert!(!owned.is_empty(), "the zombie has no entity");

    // Its way to the database is slow, so that appends are on their way when it stops.
    let link = cluster.database_link(zombie).unwrap().clone();
    link.set_to_server(perennial_tests::proxy::Flow::Stalled);
    let mut buffered = JoinSet::new();
    for id in &owned {
        let client = clients[zombie].clone();
        let add = command("counter", id, &json!({"add": 1000}));
        buffered.spawn(async move { client.send(add).await });
    }
    // They have arrived: the entities wait for the journal.
    let waiting = eventually("entities to wait for the journal", SOON, async || {
        for id in &owned {
            let described = clients[zombie].describe("counter", id).await.ok()?;
            if described.waiting_for.is_empty() {
                return None;
            }
        }
        Some(())
    });
    waiting.await.unwrap();
    cluster.pause(zombie).unwrap();

    // The others have taken over, and write.
    let taken_over = eventually("others to take over", SOON, async || {
        for id in &owned {
            let get = command("counter", id, &json!("get"));
            let reply = tokio::time::timeout(SOON, clients[healthy].send(get)).await;
            let reply = reply.ok()?.ok()?;
            if reply.payload != json!({"value": 1}).to_string() {
                return None;
            }
        }
        Some(())
    });
    taken_over.await.unwrap();
    for id in &owned {
        let add = command("counter", id, &json!({"add": 1}));
        clients[healthy].send(add).await.unwrap();
    }

    // It goes on, and what was on its way arrives.
    cluster.resume(zombie).unwrap();
    link.set_to_server(perennial_tests::proxy::Flow::Open);
    while let Some(answer) = buffered.join_next().await {
        if let Err(failure) = answer.unwrap() {
            println!("answered {} {}", failure.code, failure.reason);
        } else {
            // It was sent on to the new owner, which is as good.
            println!("answered by the new owner");
        }
    }
    cluster.settled().await.unwrap();
    for id in &owned {
        // Also through the former zombie, which is a member again.
        let (state, sequence_nr) = clients[zombie].state("counter", id).await.unwrap();
        let value = state["value"].as_i64().unwrap();
        assert!(
            (value, sequence_nr) == (2, 2) || (value, sequence_nr) == (1002, 3),
            "I-2: {id} has {value} in {sequence_nr} events"
        );
    }
}
