//! Entities deleted for good, as their keepers ask for it by the law: through the
//! command line of a real node, with a crash in the middle.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use perennial_tests::cli::{self, Outcome};
use perennial_tests::client::{Client, command};
use perennial_tests::database::{self, TestDatabase};
use perennial_tests::eventually::eventually;
use perennial_tests::foreign_writer::ForeignWriter;
use perennial_tests::local_cluster::LocalCluster;
use perennial_tests::node_process::{NodeOptions, NodeProcess};
use serde_json::{Value, json};
use sqlx::{Connection, Executor};

/// What must not be found anywhere afterwards.
const OWNER: &str = "ada-of-number-4711";

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
async fn nothing_is_left_on_sqlite() {
    let node = NodeProcess::start(NodeOptions::default()).await.unwrap();
    nothing_is_left(&node).await;
    let found = files_with(&node.data_dir(), OWNER.as_bytes());
    assert!(found.is_empty(), "{OWNER} is in {found:?}");
}

/// In Postgres the rows are gone; when their place is overwritten is up to its
/// vacuum.
#[tokio::test]
async fn nothing_is_left_on_postgres() {
    let database = TestDatabase::new().await;
    let options = NodeOptions::default().journal(database.url_text());
    let node = NodeProcess::start(options).await.unwrap();
    nothing_is_left(&node).await;
    let mut control = database::connect(&database).await.unwrap();
    for table in ["events", "snapshots", "deleted_commands"] {
        let count = format!(
            "SELECT count(*) FROM perennial.{table} WHERE persistence_id = 'account|ada' AND sequence_nr <= 4"
        );
        let rows: i64 = sqlx::query_scalar(&count)
            .fetch_one(&mut control)
            .await
            .unwrap();
        assert_eq!(rows, 0, "{table}");
    }
    let at: (i64, bool) = sqlx::query_as(
        "SELECT tombstone, tombstone_at BETWEEN now() - interval '1 hour' AND now() FROM perennial.streams",
    )
    .fetch_one(&mut control)
    .await
    .unwrap();
    assert_eq!(at, (4, true), "the tombstone says at which number and when");
}

async fn nothing_is_left(node: &NodeProcess) {
    let client = Client::connect(&node.address()).await.unwrap();
    let open = json!({"open": {"owner": OWNER}});
    let mut opening = command("account", "ada", &open);
    opening.command_id = format!("open-{OWNER}");
    opening.metadata = [("who".to_owned(), OWNER.to_owned())].into();
    client.send(opening.clone()).await.unwrap();
    for _ in 0..3 {
        let deposit = json!({"deposit": {"amount": 5}});
        let deposit = command("account", "ada", &deposit);
        client.send(deposit).await.unwrap();
    }
    let bob = command("account", "bob", &json!({"open": {"owner": "bob"}}));
    client.send(bob).await.unwrap();

    let deleted = json_of(node, &["delete", "account", "ada"]).await;
    assert_eq!(deleted, json!({"sequence_nr": 4}));
    let again = perennial(node, &["delete", "account", "ada"]).await;
    assert_eq!(again.code, Some(0), "{again:?}");
    assert!(again.stdout.contains("number 5"), "{again:?}");

    let listed = perennial(node, &["list", "account"]).await;
    assert_eq!(listed.stdout.trim(), "bob\t1", "{listed:?}");
    let events = perennial(node, &["events", "account", "ada"]).await;
    assert_eq!((events.code, events.stdout.as_str()), (Some(0), ""));
    for past in [
        &["events", "account", "ada", "--from", "1"][..],
        &["state", "account", "ada", "--at", "3"],
    ] {
        let past = perennial(node, past).await;
        assert_eq!(past.code, Some(1), "{past:?}");
        assert!(
            past.stderr.contains("OUT_OF_RANGE HISTORY_DELETED"),
            "{past:?}"
        );
    }
    let state = json_of(node, &["state", "account", "ada"]).await;
    assert_eq!(state["sequence_nr"], 4);
    // It is nobody's account, also for a command id that was used before.
    let balance = perennial(node, &["send", "account", "ada", "\"balance\""]).await;
    assert!(balance.stderr.contains("NOT_OPEN"), "{balance:?}");
    let opened = client
        .send(command(
            "account",
            "ada",
            &json!({"open": {"owner": "eve"}}),
        ))
        .await
        .unwrap();
    assert_eq!((opened.sequence_nr, opened.duplicate), (5, false));
    let never = perennial(node, &["delete", "account", "nobody"]).await;
    assert_eq!(never.code, Some(0), "{never:?}");
    let unknown = perennial(node, &["delete", "unheard-of", "a"]).await;
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    assert!(
        unknown.stderr.contains("ENTITY_TYPE_UNKNOWN"),
        "{unknown:?}"
    );

    let output = node.output();
    let audited = output
        .lines()
        .filter(|line| line.contains("perennial::audit") && line.contains("delete_entity"));
    let of_ada: Vec<&str> = audited.filter(|line| line.contains("ada")).collect();
    // Where it was asked for, before and after; and where it was done.
    for outcome in ["\"attempted\"", "\"deleted\"", "\"done\""] {
        let lines = of_ada.iter().filter(|line| line.contains(outcome));
        assert_eq!(lines.count(), 2, "{outcome}: {output}");
    }
    assert!(!output.contains(OWNER), "{output}");
}

/// The files of a folder that contain these bytes.
fn files_with(folder: &Path, bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, bytes));
            continue;
        }
        let content = std::fs::read(&path).unwrap();
        if content.windows(bytes.len()).any(|window| window == bytes) {
            found.push(path.display().to_string());
        }
    }
    found
}

/// I-5, I-6: a node is killed while it deletes the events of a long stream. What was
/// before does not come back, what comes after is kept, and asking again deletes what
/// is left.
#[tokio::test]
async fn a_deletion_survives_a_kill() {
    const LENGTH: i64 = 6000;
    let database = TestDatabase::new().await;
    let writer = ForeignWriter::open(&database.url_text()).await.unwrap();
    for first in (1..=LENGTH as u64).step_by(1000) {
        writer.add_ones("long", first, 1000).await.unwrap();
    }
    let options = NodeOptions::default().journal(database.url_text());
    let mut node = NodeProcess::start(options).await.unwrap();
    let client = Client::connect(&node.address()).await.unwrap();
    let (state, nr) = client.state("counter", "long").await.unwrap();
    assert_eq!((state, nr), (json!({"value": LENGTH}), LENGTH as u64));

    // A row in the middle cannot be deleted at present.
    let mut control = database::connect(&database).await.unwrap();
    let mut lock = database::connect(&database).await.unwrap();
    let mut holding = lock.begin().await.unwrap();
    let hold = "SELECT FROM perennial.events WHERE persistence_id = 'counter|long' AND sequence_nr = 3500 FOR UPDATE";
    holding.execute(hold).await.unwrap();
    let mut delete = cli::command(["delete", "counter", "long"]).unwrap();
    delete.env("PERENNIAL_ADDRESS", node.address());
    let deleting = delete.spawn().unwrap();
    let count = "SELECT count(*) FROM perennial.events WHERE persistence_id = 'counter|long'";
    let left = async || -> i64 {
        let mut control = database::connect(&database).await.unwrap();
        let left = sqlx::query_scalar(count).fetch_one(&mut control).await;
        left.unwrap()
    };
    eventually(
        "half of the events to go",
        Duration::from_secs(30),
        async || (left().await <= 3000).then_some(()),
    )
    .await
    .unwrap();
    node.kill9();
    holding.rollback().await.unwrap();
    let failed = cli::outcome(deleting).await.unwrap();
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(failed.stderr.contains("applied: unknown"), "{failed:?}");

    node.restart().await.unwrap();
    let client = Client::connect(&node.address()).await.unwrap();
    assert!(left().await > 0, "the deletion was interrupted");
    let (state, nr) = client.state("counter", "long").await.unwrap();
    assert_eq!((state, nr), (json!({"value": 0}), LENGTH as u64), "I-6");
    let added = client
        .send(command("counter", "long", &json!({"add": 7})))
        .await
        .unwrap();
    assert_eq!(added.sequence_nr, LENGTH as u64 + 1);
    node.kill9();
    node.restart().await.unwrap();
    let client = Client::connect(&node.address()).await.unwrap();
    let (state, _) = client.state("counter", "long").await.unwrap();
    assert_eq!(state, json!({"value": 7}), "I-5");

    let deleted = json_of(&node, &["delete", "counter", "long"]).await;
    assert_eq!(deleted, json!({"sequence_nr": LENGTH + 1}));
    let rows: i64 = sqlx::query_scalar(count)
        .fetch_one(&mut control)
        .await
        .unwrap();
    assert_eq!(rows, 0);
}

/// I-8, I-9: whichever comes first, an entity that was deleted has nothing of its
/// former life, and one that lives has everything of the present one.
#[tokio::test(flavor = "multi_thread")]
async fn deletions_race_with_handoffs_and_nobody_notices() {
    const LIVES_MIN: usize = 12;
    let builder = || perennial::Node::builder().entity(perennial::samples::Counter);
    let mut cluster = LocalCluster::of_threads(2, builder).start().await.unwrap();
    let clients = [0, 1].map(|node| Client::lazy(&cluster.address(node)).unwrap());
    let stopping = tokio::sync::watch::Sender::new(false);
    let lives: Vec<_> = (0..8)
        .map(|entity| {
            let (clients, stopped) = (clients.clone(), stopping.subscribe());
            tokio::spawn(async move {
                let id = format!("raced{entity}");
                let mut lives = 0;
                while !*stopped.borrow() || lives < LIVES_MIN {
                    for value in 1..=3 {
                        let add = command("counter", &id, &json!({"add": 1}));
                        let client = &clients[(lives + value) % 2];
                        let reply = client.send(add).await;
                        let reply = reply.unwrap_or_else(|error| panic!("{id}: {error:?}"));
                        let reply = perennial_tests::client::json(&reply).unwrap();
                        assert_eq!(reply, json!({"value": value}), "{id} in life {lives}");
                    }
                    clients[lives % 2].delete("counter", &id).await.unwrap();
                    lives += 1;
                }
                lives
            })
        })
        .collect();
    // Shards move to a third node, and back.
    let added = cluster.add().await.unwrap();
    cluster.settled().await.unwrap();
    cluster.terminate(added).await.unwrap();
    cluster.settled_without(&[added]).await.unwrap();
    stopping.send_replace(true);
    for lives in lives {
        assert!(lives.await.unwrap() >= LIVES_MIN);
    }
}
