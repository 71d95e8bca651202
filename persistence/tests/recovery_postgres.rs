//! Recoveries and appends on one Postgres: neither starves the other, and damage
//! stays where it is.

#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use perennial_persistence::journal::{Append, AtomicWrite, JournalError, NewEvent};
use perennial_persistence::payload::Payload;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::recovery_reader::{BeginningLimits, Wanted};
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::storage::{Storage, StorageOptions, migrate};
use perennial_persistence::testing::postgres_server::TestDatabase;
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr, WriterUuid};
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Executor};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Far longer than anything here should take.
const PATIENCE: Duration = Duration::from_secs(25);

const LIMITS: BeginningLimits = BeginningLimits {
    events_each: 128,
    bytes: 1024 * 1024,
};

async fn open(database: &TestDatabase) -> (Storage, SessionUuid) {
    migrate(&database.url()).await.unwrap();
    let options = StorageOptions {
        connect_timeout: PATIENCE,
        ..StorageOptions::default()
    };
    let storage = Storage::open(&database.url(), &options).await.unwrap();
    let node = storage.registry.mint_node().await.unwrap();
    let incarnation = storage.registry.begin_incarnation(node).await.unwrap();
    (storage, incarnation.session)
}

fn id(name: &str) -> PersistenceId {
    PersistenceId::new("counter", name).unwrap()
}

/// One event, the first of a stream.
fn to_append(name: &str) -> Append {
    Append {
        persistence_id: id(name),
        shard: ShardNr(1),
        epoch: Epoch(1),
        writer: WriterUuid(uuid::Uuid::new_v4()),
        first_sequence_nr: SequenceNr::new(1),
        writes: vec![AtomicWrite {
            events: vec![NewEvent {
                payload: Payload::json("1"),
                tags: Vec::new(),
            }],
            command: None,
            metadata: None,
        }],
    }
}

async fn append(storage: &Storage, session: SessionUuid, lane: usize, name: &str) {
    let append = to_append(name);
    let outcomes = storage.journal.append(session, lane, &[append]).await;
    assert!(outcomes[0].failure.is_none(), "{outcomes:?}");
}

/// How many events the beginning of a recovery has.
async fn recover(storage: &Storage, name: &str) -> usize {
    let wanted = [Wanted::latest(id(name))];
    let mut answers = storage.recoveries.read_beginnings(&wanted, LIMITS).await;
    answers.pop().unwrap().unwrap().unwrap().events.len()
}

/// Until so many statements wait for a lock.
async fn wait_for_blocked(control: &mut PgConnection, count: i64) {
    let blocked = "SELECT count(*) FROM pg_stat_activity \
                   WHERE wait_event_type = 'Lock' AND datname = current_database()";
    let waiting = async {
        while sqlx::query_scalar::<_, i64>(blocked)
            .fetch_one(&mut *control)
            .await
            .unwrap()
            < count
        {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap();
}

/// All recovery connections are taken by statements that do not return: appends go
/// on as before.
#[tokio::test(flavor = "multi_thread")]
async fn recoveries_do_not_starve_appends() {
    let database = TestDatabase::new().await;
    let (storage, session) = open(&database).await;
    append(&storage, session, 0, "known").await;
    let mut control = database.connect_options().connect().await.unwrap();
    let mut blocker = database.connect_options().connect().await.unwrap();
    blocker.execute("BEGIN").await.unwrap();
    let lock = "LOCK TABLE perennial.snapshots IN ACCESS EXCLUSIVE MODE";
    blocker.execute(lock).await.unwrap();
    let mut recoveries = JoinSet::new();
    for _ in 0..20 {
        let storage = storage.clone();
        recoveries.spawn(async move { recover(&storage, "known").await });
    }
    let connections = StorageOptions::default().recovery_connections as i64;
    wait_for_blocked(&mut control, connections).await;

    let appends = async {
        for nr in 0..20 {
            append(&storage, session, 0, &format!("new-{nr}")).await;
        }
    };
    timeout(PATIENCE, appends).await.unwrap();

    assert!(recoveries.try_join_next().is_none(), "they still wait");
    blocker.execute("COMMIT").await.unwrap();
    while let Some(recovered) = recoveries.join_next().await {
        assert_eq!(recovered.unwrap(), 1);
    }
}

/// All lanes are taken by appends that do not return: recoveries go on as before.
#[tokio::test(flavor = "multi_thread")]
async fn appends_do_not_starve_recoveries() {
    let database = TestDatabase::new().await;
    let (storage, session) = open(&database).await;
    append(&storage, session, 0, "known").await;
    let mut control = database.connect_options().connect().await.unwrap();
    let mut blocker = database.connect_options().connect().await.unwrap();
    blocker.execute("BEGIN").await.unwrap();
    let lock = "SELECT FROM perennial.writer_sessions FOR UPDATE";
    blocker.execute(lock).await.unwrap();
    let mut appends = JoinSet::new();
    for lane in 0..storage.journal.lanes() {
        let storage = storage.clone();
        appends.spawn(async move {
            append(&storage, session, lane, &format!("lane-{lane}")).await;
        });
    }
    wait_for_blocked(&mut control, appends.len() as i64).await;

    let recoveries = async {
        for _ in 0..50 {
            assert_eq!(recover(&storage, "known").await, 1);
        }
    };
    timeout(PATIENCE, recoveries).await.unwrap();

    assert!(appends.try_join_next().is_none(), "they still wait");
    blocker.execute("COMMIT").await.unwrap();
    while let Some(appended) = appends.join_next().await {
        appended.unwrap();
    }
}

/// A row that cannot be understood is the answer for its own entity.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_row_fails_its_own_entity() {
    let database = TestDatabase::new().await;
    let (storage, session) = open(&database).await;
    for name in ["a", "b", "c"] {
        append(&storage, session, 0, name).await;
    }
    let mut control = database.connect_options().connect().await.unwrap();
    let damage = "UPDATE perennial.events SET metadata = '[1]' WHERE persistence_id = 'counter|b'";
    control.execute(damage).await.unwrap();
    let wanted = ["a", "b", "c"].map(|name| Wanted::latest(id(name)));
    let answers = storage.recoveries.read_beginnings(&wanted, LIMITS).await;
    for (answer, is_damaged) in answers.iter().zip([false, true, false]) {
        match answer {
            Err(JournalError::Corrupt { persistence_id, .. }) if is_damaged => {
                assert_eq!(persistence_id, "counter|b");
            }
            Ok(Some(beginning)) if !is_damaged => assert_eq!(beginning.events.len(), 1),
            other => panic!("{other:?}"),
        }
    }
}

/// Statistics that know nothing of a table just filled must not make a recovery
/// read more of it than it needs.
#[tokio::test(flavor = "multi_thread")]
async fn recoveries_walk_along_indexes() {
    let database = TestDatabase::new().await;
    let (storage, _) = open(&database).await;
    let mut control = database.connect_options().connect().await.unwrap();
    let fill = "INSERT INTO perennial.events (sequence_nr, tx, writer_uuid, shard, write_len, codec, \
                                              persistence_id, manifest, payload) \
                SELECT nr, 1, gen_random_uuid(), 1, 1, 1, 'counter|' || n, '', '1' \
                FROM generate_series(1, 20) nr, generate_series(1, 2000) n; \
                INSERT INTO perennial.streams SELECT 'other|' || n, 5, 5 FROM generate_series(1, 2000) n; \
                INSERT INTO perennial.snapshots (persistence_id, sequence_nr, shard, codec, manifest, payload) \
                SELECT 'other|' || n, 5, 1, 1, '', '1' FROM generate_series(1, 2000) n";
    control.execute(fill).await.unwrap();
    let scans = "SELECT coalesce(sum(seq_tup_read), 0)::bigint FROM pg_stat_user_tables \
                 WHERE schemaname = 'perennial' AND relname IN ('events', 'streams', 'snapshots')";
    let wanted: Vec<_> = (1..=50)
        .map(|n| Wanted::latest(id(&n.to_string())))
        .collect();
    // More often than Postgres plans for the parameters of each call.
    for _ in 0..12 {
        for answer in storage.recoveries.read_beginnings(&wanted, LIMITS).await {
            assert_eq!(answer.unwrap().unwrap().events.len(), 20);
        }
    }
    // Statistics are reported when a connection ends, at the latest.
    let gone = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity \
                WHERE application_name LIKE 'perennial re%' AND datname = current_database()";
    control.execute(gone).await.unwrap();
    let read: i64 = sqlx::query_scalar(scans)
        .fetch_one(&mut control)
        .await
        .unwrap();
    assert_eq!(read, 0, "rows read by walking through tables");
}
