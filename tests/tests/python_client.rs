//! A client of another language, made from the published contract alone, against
//! real nodes: the good case and every row of the table of errors that one node
//! can produce. What is asserted is in `tests/python/`.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use perennial_tests::binaries::repository;
use perennial_tests::database::{self, TestDatabase};
use perennial_tests::foreign_writer::ForeignWriter;
use perennial_tests::issuer::{Issuer, with_tokens};
use perennial_tests::node_process::{NodeOptions, NodeProcess};
use perennial_tests::proxy::{Flow, Proxy};
use tempfile::TempDir;
use tokio::process::Command;

#[tokio::test]
async fn contract() {
    let node = NodeProcess::start(NodeOptions::default()).await.unwrap();
    python_tests_pass(&node, "test_contract").await;
}

#[tokio::test]
async fn errors() {
    let dir = TempDir::new().unwrap();
    let journal = format!("sqlite:{}", dir.path().join("journal.sqlite").display());
    // Deleting a part of a stream is up to its entity; here somebody else did it.
    let writer = ForeignWriter::open(&journal).await.unwrap();
    writer.add_ones("forgetful", 1, 5).await.unwrap();
    writer.delete("forgetful", 3).await.unwrap();
    drop(writer);

    let options = NodeOptions::default()
        .binary(env!("CARGO_BIN_EXE_perennial-misbehaving"))
        .journal(journal)
        .setting("node.max_in_flight", "64")
        .setting("persistence.stash_capacity", "8")
        .setting("persistence.backoff.min", "1s");
    let node = NodeProcess::start(options).await.unwrap();
    python_tests_pass(&node, "test_errors").await;
}

#[tokio::test]
async fn errors_of_the_journal() {
    let database = TestDatabase::new().await;
    let proxy = Proxy::start(database::server_address(&database).await.unwrap())
        .await
        .unwrap();
    let options = NodeOptions::default()
        .journal(database::url_through(&database, proxy.address()))
        .setting("persistence.append_timeout", "1s")
        .setting("persistence.backoff.min", "1ms")
        .setting("persistence.backoff.max", "1ms");
    let node = NodeProcess::start(options).await.unwrap();
    let passes = async |name| python_tests_pass(&node, name).await;

    passes("test_journal_errors.Healthy").await;
    let writer = ForeignWriter::open(&database.url_text()).await.unwrap();
    writer.add_ones("contested", 2, 1).await.unwrap();
    passes("test_journal_errors.Contested").await;
    proxy.set(Flow::StallsAt("counter|stalled"));
    passes("test_journal_errors.Stalled").await;
    proxy.set(Flow::Cut);
    passes("test_journal_errors.Unreachable").await;
    proxy.set(Flow::Open);
    passes("test_journal_errors.Reachable").await;
}

/// Tokens made by other people's code, of every kind of key there is.
#[tokio::test]
async fn tokens() {
    let dir = TempDir::new().unwrap();
    let keys = dir.path().join("jwks.json");
    // The client publishes its own keys there.
    Issuer::publish(&keys, &[&Issuer::new("unused").unwrap()]).unwrap();
    let rules = r#"[
        { subject = "shop", entity_types = ["counter"], allow = ["send", "events"] },
        { group = "operators", allow = ["admin"] },
    ]"#;
    let options = with_tokens(NodeOptions::default(), &keys, rules);
    let node = NodeProcess::start(options).await.unwrap();
    python_tests_pass_with(&node, "test_auth", &[("PERENNIAL_TEST_JWKS", &keys)]).await;
}

async fn python_tests_pass(node: &NodeProcess, name: &str) {
    python_tests_pass_with(node, name, &[]).await;
}

async fn python_tests_pass_with(node: &NodeProcess, name: &str, variables: &[(&str, &PathBuf)]) {
    let folder = python_folder().await;
    let tests = repository().join("tests/python");
    let path = [tests.clone(), folder.join("generated")];
    let address = node.address();
    let run = Command::new(folder.join("venv/bin/python"))
        .args(["-B", "-m", "unittest", "--verbose"])
        .arg(name)
        .current_dir(&tests)
        .env("PYTHONPATH", std::env::join_paths(path).unwrap())
        .env("PERENNIAL_TEST_NODE", address.trim_start_matches("http://"))
        .envs(variables.iter().copied())
        .kill_on_drop(true)
        .output();
    let output = run.await.unwrap();
    let report = String::from_utf8_lossy(&output.stderr);
    println!("{report}");
    assert!(output.status.success(), "{name}: {}", output.status);
}

/// Where the virtual environment and the generated code are, made if necessary.
async fn python_folder() -> PathBuf {
    let made = Command::new(repository().join("tests/python/environment"))
        .stderr(std::process::Stdio::inherit())
        .output();
    let made = made.await.unwrap();
    assert!(
        made.status.success(),
        "the Python environment cannot be made"
    );
    PathBuf::from(String::from_utf8(made.stdout).unwrap().trim())
}
