//! The command line as scripts use it: what it prints, where, and how it ends.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use perennial_tests::cli::{self, Outcome};
use perennial_tests::client::Client;
use perennial_tests::eventually::eventually;
use perennial_tests::node_process::{NodeOptions, NodeProcess};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Runs a command against the node.
async fn perennial(node: &NodeProcess, args: &[&str]) -> Outcome {
    let mut command = cli::command(args).unwrap();
    command.env("PERENNIAL_ADDRESS", node.address());
    cli::outcome(command.spawn().unwrap()).await.unwrap()
}

async fn json_of(node: &NodeProcess, args: &[&str]) -> Value {
    let json = [args, &["--output", "json"]].concat();
    let outcome = perennial(node, &json).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    outcome.json().unwrap()
}

#[tokio::test]
async fn send_prints_the_reply_and_ends_with_what_became_of_it() {
    let node = NodeProcess::start(NodeOptions::default()).await.unwrap();
    let sent = perennial(&node, &["send", "counter", "a", r#"{"add": 5}"#]).await;
    assert_eq!(sent.code, Some(0), "{sent:?}");
    assert!(sent.stdout.contains('5'), "{sent:?}");
    let sent = json_of(&node, &["send", "counter", "a", r#"{"add": 1}"#]).await;
    assert_eq!(
        sent,
        json!({"reply": {"value": 6}, "sequence_nr": 2, "duplicate": false})
    );

    let rejected = perennial(&node, &["send", "account", "a", "\"balance\""]).await;
    assert_eq!(rejected.code, Some(3), "{rejected:?}");
    assert!(rejected.stderr.contains("NOT_OPEN"), "{rejected:?}");
    assert_eq!(rejected.stderr.trim().lines().count(), 1, "{rejected:?}");
    let args = ["send", "account", "a", "\"balance\"", "--output", "json"];
    let rejected = perennial(&node, &args).await;
    let error: Value = serde_json::from_str(rejected.stderr.trim()).unwrap();
    let error = &error["error"];
    assert_eq!(error["status"], "FAILED_PRECONDITION");
    assert_eq!(
        (&error["reason"], &error["applied"]),
        (&json!("NOT_OPEN"), &json!("no"))
    );
    assert!(error["message"].is_string());

    let failed = perennial(&node, &["send", "unheard-of", "a", "\"get\""]).await;
    assert_eq!(failed.code, Some(1), "{failed:?}");
    let misused = perennial(&node, &["send", "counter"]).await;
    assert_eq!(misused.code, Some(2), "{misused:?}");
}

#[tokio::test]
async fn nobody_listens() {
    let address = ["--address", "http://127.0.0.1:1"];
    let send = ["send", "counter", "a", "\"get\""];
    let failed = cli::run(send.iter().chain(&address)).await.unwrap();
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(failed.stderr.contains("127.0.0.1:1"), "{failed:?}");
}

#[tokio::test]
async fn what_is_stored_can_be_read() {
    let node = NodeProcess::start(NodeOptions::default()).await.unwrap();
    for amount in ["1", "10", "100"] {
        let command = format!(r#"{{"add": {amount}}}"#);
        perennial(&node, &["send", "counter", "a", &command]).await;
    }
    let state = perennial(&node, &["state", "counter", "a"]).await;
    assert_eq!(state.code, Some(0), "{state:?}");
    assert!(state.stdout.contains("111"), "{state:?}");
    let events = perennial(&node, &["events", "counter", "a"]).await;
    assert_eq!(events.code, Some(0), "{events:?}");
    assert_eq!(events.stdout.lines().count(), 3, "{events:?}");
    let listed = perennial(&node, &["list", "counter"]).await;
    assert_eq!(listed.code, Some(0), "{listed:?}");
    assert!(listed.stdout.contains('a'), "{listed:?}");
}

#[tokio::test]
async fn load_reports_what_did_not_get_in() {
    let node = NodeProcess::start(NodeOptions::default()).await.unwrap();
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("accounts.ndjson");
    let file = file.to_str().unwrap();
    let rejects = dir.path().join("rejects.ndjson");
    let load = [
        "load",
        "account",
        file,
        "--reject-file",
        rejects.to_str().unwrap(),
    ];
    let good = r#"{"id": "a", "command": {"open": {"owner": "ada"}}}"#;
    let refused = r#"{"id": "b", "command": {"deposit": {"amount": 1}}}"#;
    let bad = r#"{"id": "c", "#;

    std::fs::write(file, format!("{good}\n")).unwrap();
    let loaded = perennial(&node, &load).await;
    assert_eq!(loaded.code, Some(0), "{loaded:?}");

    // The line is not the same as before, so neither is its command id.
    std::fs::write(file, format!("{refused}\n")).unwrap();
    let loaded = perennial(&node, &load).await;
    assert_eq!(loaded.code, Some(3), "{loaded:?}");
    let kept = std::fs::read(&rejects).unwrap();
    let kept: Value = serde_json::from_slice(&kept).unwrap();
    assert_eq!(kept["id"], "b");
    assert_eq!(kept["command"], json!({"deposit": {"amount": 1}}));

    std::fs::write(file, format!("{bad}\n{good}\n{refused}\n")).unwrap();
    let loaded = perennial(&node, &load).await;
    assert_eq!(loaded.code, Some(1), "{loaded:?}");
    let printed = format!("{}{}", loaded.stdout, loaded.stderr);
    assert!(printed.contains("line 1"), "{printed}");
}

/// A file loaded twice has its effect once; command ids of its own are respected.
#[tokio::test]
async fn load_has_its_effect_once() {
    let node = NodeProcess::start(NodeOptions::default()).await.unwrap();
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("counters.ndjson");
    let lines = (0..500).map(|line| {
        let id = line % 7;
        format!("{{\"id\": \"c{id}\", \"command\": {{\"add\": 1}}}}\n")
    });
    std::fs::write(&file, lines.collect::<String>()).unwrap();
    let own_ids = dir.path().join("own-ids.ndjson");
    let line = r#"{"id": "own", "command": {"add": 1}, "command_id": "mine"}"#;
    std::fs::write(&own_ids, format!("{line}\n{line}\n")).unwrap();
    for _ in 0..2 {
        for file in [&file, &own_ids] {
            let loaded = perennial(&node, &["load", "counter", file.to_str().unwrap()]).await;
            assert_eq!(loaded.code, Some(0), "{loaded:?}");
        }
    }
    let mut total = 0;
    for id in 0..7 {
        let entity_id = format!("c{id}");
        let got = json_of(&node, &["send", "counter", &entity_id, "\"get\""]).await;
        total += got["reply"]["value"].as_i64().unwrap();
    }
    assert_eq!(total, 500);
    let got = json_of(&node, &["send", "counter", "own", "\"get\""]).await;
    assert_eq!(got["reply"]["value"], 1);
}

/// The loader connects again by itself and sends what was not answered.
#[tokio::test]
async fn load_outlives_its_node() {
    let mut node = NodeProcess::start(NodeOptions::default()).await.unwrap();
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("counters.ndjson");
    let line = r#"{"id": "a", "command": {"add": 1}}"#;
    std::fs::write(&file, format!("{line}\n").repeat(2_000)).unwrap();
    let mut load = cli::command(["load", "counter", file.to_str().unwrap()]).unwrap();
    let loading = load
        .env("PERENNIAL_ADDRESS", node.address())
        .spawn()
        .unwrap();
    let client = Client::connect(&node.address()).await.unwrap();
    let begun = eventually("the load to begin", Duration::from_secs(30), async || {
        (client.stored_events("counter").await.unwrap() > 100).then_some(())
    });
    begun.await.unwrap();
    node.kill9();
    node.restart().await.unwrap();
    let loaded = cli::outcome(loading).await.unwrap();
    assert_eq!(loaded.code, Some(0), "{loaded:?}");
    let got = json_of(&node, &["send", "counter", "a", "\"get\""]).await;
    assert_eq!(got["reply"]["value"], 2_000);
}

/// I-8: what cannot be printed has happened all the same.
#[tokio::test]
async fn i8_a_command_whose_reply_cannot_be_printed_may_have_been_applied() {
    let node = NodeProcess::start(NodeOptions::default()).await.unwrap();
    let address = node.address();
    let full = std::fs::File::create("/dev/full").unwrap();
    let add = ["send", "counter", "a", r#"{"add": 5}"#, "--output", "json"];
    let mut sending = cli::command([&add[..], &["--address", &address]].concat()).unwrap();
    let outcome = cli::outcome(sending.stdout(full).spawn().unwrap())
        .await
        .unwrap();
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let error: Value = serde_json::from_str(outcome.stderr.trim()).unwrap();
    assert_eq!(error["error"]["applied"], "unknown", "{outcome:?}");
    let state = json_of(&node, &["state", "counter", "a"]).await;
    assert_eq!(state["sequence_nr"], 1, "{state}");
}
