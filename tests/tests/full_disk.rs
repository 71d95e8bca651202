//! A disk that fills up: commands are refused, none is lost, and all goes on when
//! there is room again.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::time::Duration;

use perennial::proto::v1::SendRequest;
use perennial_tests::client::{Client, command};
use perennial_tests::eventually::eventually;
use perennial_tests::node_process::{NodeOptions, NodeProcess};
use perennial_tests::small_disk::SmallDisk;
use serde_json::json;

/// Far more than fit.
const COMMANDS_MAX: u64 = 20_000;

#[tokio::test]
async fn full_disk_refuses_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount("4m").unwrap() else {
        println!("skipped: only root may mount the small disk this needs");
        return;
    };
    let options = NodeOptions::default()
        .data_dir(disk.path().join("data"))
        .setting("persistence.backoff.min", "10ms")
        .setting("persistence.backoff.max", "10ms");
    let mut node = NodeProcess::start(options).await.unwrap();
    let client = Client::connect(&node.address()).await.unwrap();
    let mut sent = 0;
    let failure = loop {
        assert!(sent < COMMANDS_MAX, "the disk never fills up");
        sent += 1;
        match client.send(add_one(sent)).await {
            Ok(response) => assert_eq!(response.sequence_nr, sent),
            Err(failure) => break failure,
        }
    };
    println!("command {sent} was refused: {failure:?}");
    assert!(failure.message.contains("full"), "{failure:?}");
    assert!(["JOURNAL_UNAVAILABLE", "PERSIST_FAILED"].contains(&failure.reason.as_str()));

    assert!(disk.resize("64m"));
    let retried = eventually(
        "the refused command to get in",
        Duration::from_secs(30),
        async || client.send(add_one(sent)).await.ok(),
    );
    assert_eq!(retried.await.unwrap().sequence_nr, sent);
    node.restart().await.unwrap();
    let client = Client::connect(&node.address()).await.unwrap();
    let (state, sequence_nr) = client.state("counter", "filling").await.unwrap();
    assert_eq!((state, sequence_nr), (json!({"value": sent}), sent));
}

/// Adds 1 and takes a kilobyte of disk.
fn add_one(number: u64) -> SendRequest {
    SendRequest {
        command_id: format!("add-{number}"),
        metadata: HashMap::from([("ballast".to_owned(), "x".repeat(1000))]),
        ..command("counter", "filling", &json!({"add": 1}))
    }
}
