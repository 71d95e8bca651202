//! Memory is for what is active, not for what exists.

#![allow(clippy::unwrap_used)]

use perennial_tests::client::{Client, Failure, command, json};
use perennial_tests::node_process::{NodeOptions, NodeProcess};
use perennial_tests::process_usage::resident_bytes;
use serde_json::json;

const COUNTERS: u64 = 200_000;
const FIRST_LOOK: u64 = 50_000;
const GROWTH_MAX: f64 = 0.10;
const OUTSTANDING: usize = 512;

/// 200,000 counters touched once each, 10,000 of them live at most: between the
/// 50,000th and the last the node hardly grows, and every one reads back right.
#[tokio::test]
async fn memory_does_not_grow_with_what_exists() {
    let options = NodeOptions::default()
        .setting("sharding.passivation.active_entity_limit", "10000")
        .setting("sharding.passivation.idle_timeout", "1s");
    let node = NodeProcess::start(options).await.unwrap();
    let client = Client::connect(&node.address()).await.unwrap();
    let mut resident = Vec::new();
    let mut answered = 0;
    let touches = (0..COUNTERS).map(|counter| {
        let add = json!({"add": counter + 1});
        command("counter", &format!("c{counter}"), &add)
    });
    let touching = client.pipeline(OUTSTANDING, touches, |_, response| {
        assert_eq!(Failure::in_response(&response), None);
        answered += 1;
        if answered == FIRST_LOOK || answered == COUNTERS {
            resident.push(resident_bytes(node.pid()).unwrap());
        }
    });
    touching.await.unwrap();
    let [early, late] = resident[..] else {
        panic!("looked {} times", resident.len());
    };
    println!("resident: {early} bytes after {FIRST_LOOK}, {late} after {COUNTERS}");
    let growth = late as f64 / early as f64 - 1.0;
    assert!(growth < GROWTH_MAX, "grew by {:.1} %", growth * 100.0);

    let reads =
        (0..COUNTERS).map(|counter| command("counter", &format!("c{counter}"), &json!("get")));
    let mut right = 0;
    let reading = client.pipeline(OUTSTANDING, reads, |counter, response| {
        assert_eq!(Failure::in_response(&response), None);
        assert_eq!(json(&response).unwrap(), json!({"value": counter + 1}));
        right += 1;
    });
    reading.await.unwrap();
    assert_eq!(right, COUNTERS);
}
