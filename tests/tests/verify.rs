//! `perennial journal verify` on journals of real nodes, whole ones and ones whose
//! rows somebody has damaged by hand.

#![allow(clippy::unwrap_used)]

use perennial_tests::cli::{self, Outcome};
use perennial_tests::client::{Client, command};
use perennial_tests::database::{self, TestDatabase};
use perennial_tests::foreign_writer::ForeignWriter;
use perennial_tests::node_process::{NodeOptions, NodeProcess};
use perennial_tests::process_usage;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor};

/// Fills a journal by way of a node: counters with 4 events each, snapshots after
/// every second, two incarnations of each, and one that was deleted.
async fn fill(options: NodeOptions) -> NodeProcess {
    let options = options.setting("persistence.snapshot.every", "2");
    let mut node = NodeProcess::start(options).await.unwrap();
    for _ in 0..2 {
        let client = Client::connect(&node.address()).await.unwrap();
        for id in ["codec", "gap", "gone", "left", "two"] {
            for _ in 0..2 {
                let add = command("counter", id, &json!({"add": 1}));
                client.send(add).await.unwrap();
            }
        }
        node.terminate().await.unwrap();
        node.restart().await.unwrap();
    }
    let mut delete = cli::command(["delete", "counter", "gone"]).unwrap();
    delete.env("PERENNIAL_ADDRESS", node.address());
    let deleted = cli::outcome(delete.spawn().unwrap()).await.unwrap();
    assert_eq!(deleted.code, Some(0), "{deleted:?}");
    node
}

async fn verify(url: &str, more: &[&str]) -> Outcome {
    let args = [&["journal", "verify", "--journal", url], more].concat();
    cli::run(args).await.unwrap()
}

/// What is printed with `--output json`: findings, sorted, and the summary.
async fn findings(url: &str) -> (Vec<Value>, Value) {
    let outcome = verify(url, &["--output", "json"]).await;
    let lines = outcome.stdout.lines().map(|line| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}; {outcome:?}"))
    });
    let mut lines: Vec<Value> = lines.collect();
    let summary = lines.pop().unwrap();
    let expected = i32::from(!lines.is_empty());
    assert_eq!(outcome.code, Some(expected), "{outcome:?}");
    lines.sort_by_key(Value::to_string);
    (lines, summary)
}

#[tokio::test]
async fn postgres_damaged_by_hand() {
    let database = TestDatabase::new().await;
    let url = database.url_text();
    let node = fill(NodeOptions::default().journal(url.clone())).await;
    let (found, summary) = findings(&url).await;
    assert_eq!(found, [] as [Value; 0]);
    let (streams, events) = (&summary["streams"], &summary["events"]);
    assert_eq!((streams, events), (&json!(4), &json!(16)), "{summary}");
    assert_eq!(summary["snapshots"], 8, "{summary}");
    assert_eq!(verify(&url, &[]).await.code, Some(0));
    drop(node);

    let mut control = database::connect(&database).await.unwrap();
    control
        .execute(
            "ALTER TABLE perennial.events DROP CONSTRAINT events_pkey; \
             CREATE INDEX ON perennial.events (persistence_id, sequence_nr); \
             INSERT INTO perennial.events (sequence_nr, tx, created_at, writer_uuid, shard, write_len, codec, \
                                           persistence_id, manifest, payload) \
             SELECT sequence_nr, tx, '2026-01-02T03:04:05Z', '00000000-0000-0000-0000-00000000feed', shard, 1, codec, \
                    persistence_id, manifest, payload \
             FROM perennial.events WHERE persistence_id = 'counter|two' AND sequence_nr > 2; \
             DELETE FROM perennial.events WHERE persistence_id = 'counter|gap' AND sequence_nr IN (2, 3); \
             UPDATE perennial.events SET codec = 77 WHERE persistence_id = 'counter|codec' AND sequence_nr > 3; \
             UPDATE perennial.snapshots SET codec = 78 WHERE persistence_id = 'counter|codec' AND sequence_nr = 2; \
             INSERT INTO perennial.snapshots (persistence_id, sequence_nr, shard, codec, manifest, payload) \
             VALUES ('counter|ahead', 4711, 1, 1, '', '1'), ('counter|gone', 3, 1, 1, '', '1'); \
             INSERT INTO perennial.streams (persistence_id, highest, deleted_to) VALUES ('counter|left', 4, 1); \
             ALTER DATABASE CURRENT SET default_transaction_read_only = on"
                .replace("CURRENT", &format!("\"{}\"", database.connect_options().get_database().unwrap()))
                .as_str(),
        )
        .await
        .unwrap();

    let (found, summary) = findings(&url).await;
    let two_authors = found
        .iter()
        .find(|f| f["finding"] == "two_authors")
        .unwrap();
    let authors = two_authors["authors"].as_array().unwrap();
    assert_eq!(authors.len(), 2, "{two_authors}");
    let stranger = "00000000-0000-0000-0000-00000000feed";
    let is_stranger = |author: &&Value| author["writer"] == stranger;
    assert_eq!(
        authors.iter().find(is_stranger).unwrap(),
        &json!({
            "writer": stranger, "first": 3, "last": 4, "events": 2,
            "first_at": "2026-01-02T03:04:05.000Z", "last_at": "2026-01-02T03:04:05.000Z",
        })
    );
    let (first, last) = (&two_authors["first"], &two_authors["last"]);
    assert_eq!((first, last), (&json!(3), &json!(4)), "{two_authors}");
    assert_eq!(two_authors["persistence_id"], "counter|two");
    let mut expected = vec![
        json!({"finding": "gap", "persistence_id": "counter|gap", "first": 2, "last": 3}),
        json!({"finding": "left_over", "persistence_id": "counter|gone", "deleted_to": 4, "first": 3, "last": 3,
               "snapshots": 1}),
        json!({"finding": "left_over", "persistence_id": "counter|left", "deleted_to": 1, "first": 1, "last": 1,
               "events": 1}),
        json!({"finding": "snapshot_ahead", "persistence_id": "counter|ahead", "snapshot": 4711, "highest": 0}),
        two_authors.clone(),
        json!({"finding": "unique_key_missing", "key": "events_pkey"}),
        json!({"finding": "unknown_codec", "persistence_id": "counter|codec", "codec": 77, "first": 4, "last": 4,
               "events": 1}),
        json!({"finding": "unknown_codec", "persistence_id": "counter|codec", "codec": 78, "first": 2, "last": 2,
               "snapshots": 1}),
    ];
    expected.sort_by_key(Value::to_string);
    assert_eq!(found, expected);
    assert_eq!(summary["findings"], 8, "{summary}");

    let outcome = verify(&url, &[]).await;
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert_eq!(outcome.stdout.lines().count(), 9, "{outcome:?}");
    assert!(
        outcome.stdout.contains("counter|two: two authors"),
        "{outcome:?}"
    );
    assert!(outcome.stderr.contains("8 findings"), "{outcome:?}");
}

#[tokio::test]
async fn sqlite_damaged_by_hand() {
    let node = fill(NodeOptions::default()).await;
    let path = node.data_dir().join("journal.sqlite");
    let url = format!("sqlite:{}", path.display());
    // Beside the node.
    let (found, summary) = findings(&url).await;
    assert_eq!(
        (found, &summary["events"]),
        (vec![], &json!(16)),
        "{summary}"
    );
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.sqlite");
    let mut node = node;
    node.terminate().await.unwrap();
    std::fs::copy(&path, &copy).unwrap();
    drop(node);

    let options = SqliteConnectOptions::new().filename(&copy);
    let mut control = options.connect().await.unwrap();
    control
        .execute(
            "DELETE FROM events WHERE persistence_id = 'counter|gap' AND sequence_nr = 1; \
             UPDATE events SET writer_uuid = (SELECT writer_uuid FROM events \
                                              WHERE persistence_id = 'counter|two' AND sequence_nr = 1) \
             WHERE persistence_id = 'counter|two' AND sequence_nr = 4; \
             UPDATE streams SET highest = 9 WHERE persistence_id = 'counter|gone'; \
             PRAGMA wal_checkpoint(TRUNCATE)",
        )
        .await
        .unwrap();
    control.close().await.unwrap();
    let before = std::fs::read(&copy).unwrap();
    let (found, _) = findings(&format!("sqlite:{}", copy.display())).await;
    let kinds: Vec<_> = found
        .iter()
        .map(|f| {
            (
                f["finding"].as_str().unwrap(),
                f["persistence_id"].as_str().unwrap(),
            )
        })
        .collect();
    let expected = [
        ("gap", "counter|gap"),
        ("gap", "counter|gone"),
        ("two_authors", "counter|two"),
    ];
    assert_eq!(kinds.len(), 3, "{found:?}");
    for one in expected {
        assert!(kinds.contains(&one), "{found:?}");
    }
    assert_eq!(std::fs::read(&copy).unwrap(), before, "it only reads");
}

/// A journal that is not there, or not ours, is not a whole one.
#[tokio::test]
async fn no_journal() {
    let missing = verify("sqlite:no/such/journal.sqlite", &[]).await;
    assert_eq!(missing.code, Some(1), "{missing:?}");
    assert!(missing.stderr.contains("journal migrate"), "{missing:?}");
    let database = TestDatabase::new().await;
    let empty = verify(&database.url_text(), &[]).await;
    assert_eq!(empty.code, Some(1), "{empty:?}");
    let writer = ForeignWriter::open(&database.url_text()).await.unwrap();
    drop(writer);
    let empty = verify(&database.url_text(), &[]).await;
    assert_eq!(empty.code, Some(0), "{empty:?}");
}

/// I-10: a large journal is read row by row, and says how far it has come.
#[tokio::test]
async fn a_large_journal_takes_no_memory() {
    const STREAMS: i64 = 400;
    const LENGTH: i64 = 1000;
    let database = TestDatabase::new().await;
    let writer = ForeignWriter::open(&database.url_text()).await.unwrap();
    drop(writer);
    let mut control = database::connect(&database).await.unwrap();
    let fill = format!(
        "INSERT INTO perennial.events (sequence_nr, tx, writer_uuid, shard, write_len, codec, persistence_id, manifest, \
                                       payload) \
         SELECT nr, 1, md5(stream::text)::uuid, 1, 1, 1, 'counter|' || stream, 'added', '{{}}' \
         FROM generate_series(1, {STREAMS}) stream, generate_series(1, {LENGTH}) nr"
    );
    control.execute(fill.as_str()).await.unwrap();
    let mut args = cli::command(["journal", "verify", "--journal", &database.url_text()]).unwrap();
    let child = args.spawn().unwrap();
    let pid = child.id().unwrap();
    let mut peak = 0;
    let mut running = std::pin::pin!(cli::outcome(child));
    let outcome = loop {
        tokio::select! {
            outcome = &mut running => break outcome.unwrap(),
            () = tokio::time::sleep(std::time::Duration::from_millis(20)) => {
                peak = peak.max(process_usage::resident_bytes(pid).unwrap_or(0));
            }
        }
    };
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let events = STREAMS * LENGTH;
    assert!(
        outcome
            .stdout
            .contains(&format!("{events} events of {STREAMS} streams")),
        "{outcome:?}"
    );
    assert!(peak > 0, "it was looked at");
    // All rows together would be more.
    assert!(peak < 48 << 20, "{peak} bytes");
}
