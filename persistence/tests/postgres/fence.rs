//! I-2: when a fence has returned, nothing of the fenced session can be stored any
//! more, whatever its connections were doing.

use std::time::{Duration, Instant};

use perennial_persistence::journal::{AppendError, Appended, WriteRight};
use perennial_persistence::registry::NodeNr;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::storage::{Storage, StorageOptions, migrate};
use perennial_persistence::testing::postgres_server::{PostgresServer, TestDatabase};
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr, WriterUuid};
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Executor};
use uuid::Uuid;

use crate::node::{Node, PATIENCE, assert_stored, id, until_any};
use crate::raw_client::StalledClient;

/// However its connections stall.
const FENCE_AT_MOST: Duration = Duration::from_secs(2);

/// Some lock is waited for.
const WAITS: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                     AND datname = current_database()";
/// A fence waits.
const FENCE_WAITS: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                           AND datname = current_database() AND application_name = 'perennial registry'";

fn assert_fenced(appended: &Appended) {
    assert!(
        matches!(appended.failure, Some(AppendError::Fenced { .. })),
        "{appended:?}"
    );
}

/// Holds the place of the next event of a stream, so that an append of it waits in
/// the middle of its statement, with its lane locked.
async fn hold_next(rival: &mut PgConnection, sequence_nr: i64) {
    let hold = format!(
        "BEGIN; INSERT INTO perennial.events \
             (persistence_id, sequence_nr, tx, writer_uuid, shard, codec, manifest, payload) \
         VALUES ('counter|a', {sequence_nr}, 1, gen_random_uuid(), 1, 1, '', '')"
    );
    rival.execute(hold.as_str()).await.unwrap();
}

/// An append is in the middle of its statement when the fence begins, and its obstacle
/// goes: it commits before the fence returns, or never.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_under_way_commits_before_the_fence_returns_or_never() {
    let database = TestDatabase::new().await;
    let mut control = database.connect_options().connect().await.unwrap();
    let mut rival = database.connect_options().connect().await.unwrap();
    let mut committed = 0;
    let mut highest = 0;
    for _ in 0..10 {
        let node = Node::start(&database.url()).await;
        let name = "a";
        hold_next(&mut rival, highest + 1).await;
        let append = node.append(node.to_append(name, highest as u64 + 1, &["late"]));
        let fence = async {
            until_any(&mut control, WAITS).await;
            let (registry, session) = (node.storage.registry.clone(), node.session);
            let fence = tokio::spawn(async move { registry.fence(session, None).await });
            until_any(&mut control, FENCE_WAITS).await;
            rival.execute("ROLLBACK").await.unwrap();
            fence.await.unwrap().unwrap();
            // What the next owner recovers.
            node.texts(name).await.len() as i64
        };
        let (appended, recovered) = futures::future::join(append, fence).await;
        match &appended.failure {
            None => assert_eq!(recovered, highest + 1),
            Some(_) => {
                assert_fenced(&appended);
                assert_eq!(recovered, highest);
            }
        }
        assert_eq!(node.texts(name).await.len() as i64, recovered);
        committed += recovered - highest;
        highest = recovered;
    }
    assert!(committed > 0, "the fence should mostly wait for the append");
}

/// The obstacle stays: the append's connection is ended, and it is never stored.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_stays_under_way_is_ended_by_the_fence() {
    let database = TestDatabase::new().await;
    let node = Node::start(&database.url()).await;
    assert_stored(&node.append(node.to_append("a", 1, &["1"])).await);
    let mut control = database.connect_options().connect().await.unwrap();
    let mut rival = database.connect_options().connect().await.unwrap();
    hold_next(&mut rival, 2).await;
    let append = node.append(node.to_append("a", 2, &["late"]));
    let fence = async {
        until_any(&mut control, WAITS).await;
        let began = Instant::now();
        node.storage
            .registry
            .fence(node.session, None)
            .await
            .unwrap();
        assert!(began.elapsed() < FENCE_AT_MOST, "{:?}", began.elapsed());
        rival.execute("ROLLBACK").await.unwrap();
    };
    let (appended, ()) = futures::future::join(append, fence).await;
    assert_fenced(&appended);
    assert_eq!(node.texts("a").await, ["1"]);
}

/// A client executes a write and stalls before it says that it is done.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stalls_before_its_sync_is_ended() {
    let database = TestDatabase::new().await;
    let node = Node::start(&database.url()).await;
    assert_stored(&node.append(node.to_append("a", 1, &["1"])).await);
    let write = format!(
        "WITH lane AS (SELECT FROM perennial.writer_sessions WHERE session = '{}' AND lane = 1 FOR SHARE) \
         INSERT INTO perennial.events (persistence_id, sequence_nr, tx, writer_uuid, shard, codec, manifest, payload) \
         SELECT 'counter|a', 2, 1, gen_random_uuid(), 1, 1, '', '' FROM lane",
        node.session
    );
    let name = format!("perennial {}", node.session);
    let stalled = StalledClient::after(&database.connect_options(), &name, &write).await;
    let began = Instant::now();
    node.storage
        .registry
        .fence(node.session, None)
        .await
        .unwrap();
    assert!(began.elapsed() < FENCE_AT_MOST, "{:?}", began.elapsed());
    tokio::time::timeout(PATIENCE, stalled.closed())
        .await
        .unwrap();
    assert_eq!(node.texts("a").await, ["1"]);
}

/// A node that was restarted while an append of its former self was under way.
#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_node_fences_its_former_session() {
    let database = TestDatabase::new().await;
    let former = Node::start(&database.url()).await;
    let mut control = database.connect_options().connect().await.unwrap();
    let mut rival = database.connect_options().connect().await.unwrap();
    let number = "SELECT node_nr FROM perennial.writer_sessions WHERE session = $1";
    let number: i64 = sqlx::query_scalar(number)
        .bind(former.session.0)
        .fetch_one(&mut control)
        .await
        .unwrap();
    hold_next(&mut rival, 1).await;
    let append = former.append(former.to_append("a", 1, &["late"]));
    let restart = async {
        until_any(&mut control, WAITS).await;
        let options = StorageOptions::default();
        let storage = Storage::open(&database.url(), &options).await.unwrap();
        let began = Instant::now();
        let node = NodeNr(number.unsigned_abs());
        let incarnation = storage.registry.begin_incarnation(node).await.unwrap();
        assert!(began.elapsed() < FENCE_AT_MOST, "{:?}", began.elapsed());
        rival.execute("ROLLBACK").await.unwrap();
        let (session, writer) = (incarnation.session, WriterUuid(Uuid::new_v4()));
        let node = Node {
            storage,
            session,
            writer,
        };
        assert_stored(&node.append(node.to_append("a", 1, &["new"])).await);
        node
    };
    let (appended, node) = futures::future::join(append, restart).await;
    assert_fenced(&appended);
    assert_eq!(node.texts("a").await, ["new"]);
}

/// A shard goes from A to B and back to A, within A's one session: what A sent under
/// its first epoch can never be stored, what it sends under its second is.
#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_comes_back_brings_no_old_append_along() {
    let database = TestDatabase::new().await;
    let (a, b) = (
        Node::start(&database.url()).await,
        Node::start(&database.url()).await,
    );
    let under = |node: &Node, epoch, first, text: &str| {
        let mut append = node.to_append("x", first, &[text]);
        append.epoch = Epoch(epoch);
        append
    };
    let fence = async |session: SessionUuid, epoch| {
        let shard = Some((ShardNr(1), Epoch(epoch)));
        a.storage.registry.fence(session, shard).await.unwrap();
    };
    assert_stored(&a.append(under(&a, 1, 1, "a1")).await);
    fence(a.session, 1).await;
    assert_fenced(&a.append(under(&a, 1, 2, "late")).await);
    assert_stored(&b.append(under(&b, 2, 2, "b2")).await);
    fence(b.session, 2).await;
    assert_stored(&a.append(under(&a, 3, 3, "a3")).await);
    assert_fenced(&a.append(under(&a, 1, 4, "late")).await);
    assert_fenced(&b.append(under(&b, 2, 4, "late")).await);
    // A fence that is late itself takes nothing back.
    fence(a.session, 1).await;
    assert_stored(&a.append(under(&a, 3, 4, "a4")).await);
    // Other shards of the session were never touched.
    let mut other = a.to_append("y", 1, &["1"]);
    other.shard = ShardNr(2);
    assert_stored(&a.append(other).await);
    assert_eq!(a.texts("x").await, ["a1", "b2", "a3", "a4"]);
}

/// I-3: after deletions, also of everything, neither a stale nor a gapped append.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_with_a_stale_number_is_refused_after_deletions() {
    let database = TestDatabase::new().await;
    let node = Node::start(&database.url()).await;
    assert_stored(&node.append(node.to_append("a", 1, &["1", "2", "3"])).await);
    let right = WriteRight {
        session: node.session,
        shard: ShardNr(1),
        epoch: Epoch(1),
    };
    for (next, to) in (4..).zip([SequenceNr::new(2), SequenceNr::MAX]) {
        let journal = &node.storage.journal;
        journal.delete_events(right, &id("a"), to).await.unwrap();
        for wrong in [1, 2, next - 1, next + 1] {
            let mut stale = node.to_append("a", wrong, &["wrong"]);
            stale.writer = WriterUuid(Uuid::new_v4());
            let appended = node.append(stale).await;
            let Some(AppendError::Conflict { highest, .. }) = &appended.failure else {
                panic!("{wrong} after {to}: {appended:?}");
            };
            assert_eq!(highest.get(), next - 1);
        }
        assert_stored(&node.append(node.to_append("a", next, &["x"])).await);
    }
}

/// I-3: an incarnation that goes on where it stored last is not asked for its
/// predecessor, and is told all the same that the stream has gone on without it.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_after_its_own_is_refused_when_the_stream_went_on() {
    let database = TestDatabase::new().await;
    let node = Node::start(&database.url()).await;
    let mut rival = database.connect_options().connect().await.unwrap();
    let insert = |id: &str| {
        format!(
            "INSERT INTO perennial.events (persistence_id, sequence_nr, tx, writer_uuid, shard, codec, manifest, \
                                           payload) VALUES ('counter|{id}', 3, 1, gen_random_uuid(), 1, 1, '', '1')"
        )
    };
    let writer = WriterUuid(Uuid::new_v4());
    let append = |id: &str, first| {
        let mut append = node.to_append(id, first, &["x"]);
        append.writer = writer;
        append
    };
    let streams = "INSERT INTO perennial.streams (persistence_id, highest, deleted_to) VALUES";
    for (id, deleted_to) in [("there", 0), ("partly", 2), ("gone", 3)] {
        for first in [1, 2] {
            assert_stored(&node.append(append(id, first)).await);
        }
        let gapped = node.append(append(id, 4)).await;
        let conflict = matches!(gapped.failure, Some(AppendError::Conflict { .. }));
        assert!(conflict, "{id}: {gapped:?}");
        rival.execute(insert(id).as_str()).await.unwrap();
        if deleted_to > 0 {
            let deleted = format!(
                "DELETE FROM perennial.events WHERE persistence_id = 'counter|{id}' AND sequence_nr <= {deleted_to}; \
                 {streams} ('counter|{id}', 3, {deleted_to})"
            );
            rival.execute(deleted.as_str()).await.unwrap();
        }
        let appended = node.append(append(id, 3)).await;
        let Some(AppendError::Conflict { highest: found, .. }) = &appended.failure else {
            panic!("{id}: {appended:?}");
        };
        assert_eq!(found.get(), 3, "{id}");
    }
    // Deleted by itself up to where it is, it goes on.
    let right = WriteRight {
        session: node.session,
        shard: ShardNr(1),
        epoch: Epoch(1),
    };
    for first in [1, 2, 3] {
        assert_stored(&node.append(append("own", first)).await);
        let (journal, id) = (&node.storage.journal, id("own"));
        let deleted = journal.delete_events(right, &id, SequenceNr::MAX);
        deleted.await.unwrap();
    }
}

/// Lanes have rows of their own, so that appends at the same time do not lock the same
/// one: each such moment would cost a multixact.
#[tokio::test(flavor = "multi_thread")]
async fn appends_on_several_lanes_use_up_no_multixacts() {
    let server = PostgresServer::start();
    let database = TestDatabase::on(&server.url_text()).await;
    let mut control = database.connect_options().connect().await.unwrap();
    for lanes in [2, 4] {
        migrate(&database.url()).await.unwrap();
        let options = StorageOptions {
            lanes,
            ..StorageOptions::default()
        };
        let node = Node::start_with(&database.url(), &options).await;
        let before = next_multixact(&mut control).await;
        let journal = &node.storage.journal;
        let node = &node;
        let work = (0..lanes).map(|lane| async move {
            for nr in 1..=50 {
                let name = format!("{lanes}-{lane}");
                let append = [node.to_append(&name, nr, &["x"])];
                let outcomes = journal.append(node.session, lane, &append).await;
                assert_stored(&outcomes[0]);
            }
        });
        futures::future::join_all(work).await;
        assert_eq!(next_multixact(&mut control).await, before, "{lanes} lanes");
    }
}

async fn next_multixact(control: &mut PgConnection) -> String {
    control.execute("CHECKPOINT").await.unwrap();
    sqlx::query_scalar("SELECT next_multixact_id::text FROM pg_control_checkpoint()")
        .fetch_one(control)
        .await
        .unwrap()
}

/// I-2: a fence does not wait for ever for the one it fences.
#[tokio::test(flavor = "multi_thread")]
async fn a_fence_ends_a_connection_of_the_session_that_stalls() {
    let database = TestDatabase::new().await;
    let node = Node::start(&database.url()).await;
    let options = database
        .connect_options()
        .application_name(&format!("perennial {}", node.session));
    let mut stalled = options.connect().await.unwrap();
    stalled.execute("BEGIN").await.unwrap();
    stalled
        .execute("SELECT FROM perennial.writer_sessions WHERE lane = 1 FOR SHARE")
        .await
        .unwrap();

    let fence = node.storage.registry.fence(node.session, None);
    tokio::time::timeout(PATIENCE, fence)
        .await
        .unwrap()
        .unwrap();

    assert!(
        stalled.execute("COMMIT").await.is_err(),
        "the stalled connection should be gone"
    );
    let appended = node.append(node.to_append("a", 1, &["1"])).await;
    assert!(
        matches!(appended.failure, Some(AppendError::Fenced { .. })),
        "{appended:?}"
    );
}

/// A fence that is blocked by somebody else waits for him.
#[tokio::test(flavor = "multi_thread")]
async fn a_fence_leaves_connections_of_others_alone() {
    let database = TestDatabase::new().await;
    let node = Node::start(&database.url()).await;
    let mut other = database.connect_options().connect().await.unwrap();
    other.execute("BEGIN").await.unwrap();
    other
        .execute("SELECT FROM perennial.writer_sessions FOR SHARE")
        .await
        .unwrap();
    let (registry, session) = (node.storage.registry.clone(), node.session);
    let fence = tokio::spawn(async move { registry.fence(session, None).await });
    let mut control = database.connect_options().connect().await.unwrap();
    // It has waited longer than it lets its own session stall.
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                 AND clock_timestamp() - query_start > interval '800 ms'";
    until_any(&mut control, waits).await;
    assert!(!fence.is_finished());
    other.execute("COMMIT").await.unwrap();
    fence.await.unwrap().unwrap();
}
