//! Deletions of much at once.

use perennial_persistence::journal::WriteRight;
use perennial_persistence::payload::Payload;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::snapshot_store::SnapshotCriteria;
use perennial_persistence::testing::postgres_server::TestDatabase;
use perennial_persistence::writer::{Epoch, ShardNr};
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Executor};

use crate::node::{Node, assert_stored, id};

/// Notes how many rows each statement deletes.
async fn note_deletions(control: &mut PgConnection, table: &str) {
    let notes = format!(
        "CREATE TABLE chunks (deleted bigint); \
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN INSERT INTO chunks SELECT count(*) FROM gone; RETURN NULL; END'; \
         CREATE TRIGGER note AFTER DELETE ON perennial.{table} REFERENCING OLD TABLE AS gone \
             FOR EACH STATEMENT EXECUTE FUNCTION note()"
    );
    control.execute(notes.as_str()).await.unwrap();
}

async fn noted(control: &mut PgConnection) -> (i64, i64) {
    sqlx::query_as("SELECT max(deleted), sum(deleted)::bigint FROM chunks")
        .fetch_one(control)
        .await
        .unwrap()
}

fn right(node: &Node) -> WriteRight {
    WriteRight {
        session: node.session,
        shard: ShardNr(1),
        epoch: Epoch(1),
    }
}

/// I-10: a long stream is deleted in bounded steps; its highest number stays.
#[tokio::test(flavor = "multi_thread")]
async fn events_are_deleted_in_chunks() {
    let database = TestDatabase::new().await;
    let node = Node::start(&database.url()).await;
    assert_stored(&node.append(node.to_append("a", 1, &vec!["x"; 3500])).await);
    let mut control = database.connect_options().connect().await.unwrap();
    note_deletions(&mut control, "events").await;
    let journal = &node.storage.journal;
    for (to, left) in [(SequenceNr::new(2500), 1000), (SequenceNr::MAX, 0)] {
        journal
            .delete_events(right(&node), &id("a"), to)
            .await
            .unwrap();
        assert_eq!(node.texts("a").await.len(), left);
        let bounds = journal.bounds(&id("a")).await.unwrap();
        assert_eq!(bounds.highest.get(), 3500);
        assert_eq!(bounds.deleted_to.get(), 3500 - left as u64);
    }
    let (largest, all) = noted(&mut control).await;
    assert!(largest <= 1000, "{largest} at once");
    assert_eq!(all, 3500);
    assert_stored(&node.append(node.to_append("a", 3501, &["x"])).await);
}

/// I-10: so are snapshots.
#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_deleted_in_chunks() {
    let database = TestDatabase::new().await;
    let node = Node::start(&database.url()).await;
    let snapshots = &node.storage.snapshots;
    for nr in 1..=250 {
        let (nr, state) = (SequenceNr::new(nr), Payload::json("1"));
        snapshots
            .save(right(&node), &id("a"), nr, &state)
            .await
            .unwrap();
    }
    let mut control = database.connect_options().connect().await.unwrap();
    note_deletions(&mut control, "snapshots").await;
    let up_to = SnapshotCriteria::up_to(SequenceNr::new(249));
    snapshots
        .delete(right(&node), &id("a"), up_to)
        .await
        .unwrap();
    assert_eq!(noted(&mut control).await, (100, 249));
    let left = snapshots.load(&id("a"), SnapshotCriteria::ALL).await;
    assert_eq!(left.unwrap().unwrap().sequence_nr.get(), 250);
}
