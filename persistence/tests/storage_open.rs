//! Opening and migrating: what is not ours is refused and not touched, what is out
//! of date is said so, and what was stored is there after reopening.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use perennial_persistence::command::CommandId;
use perennial_persistence::journal::{
    Append, AtomicWrite, CommandRecord, Journal, NewEvent, WriteRight,
};
use perennial_persistence::payload::Payload;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::storage::{Storage, StorageError, StorageOptions, StorageUrl, migrate};
use perennial_persistence::testing::postgres_server::TestDatabase;
use perennial_persistence::writer::{Epoch, ShardNr, WriterUuid};
use sqlx::{ConnectOptions, Connection, Executor};
use uuid::Uuid;

async fn open(url: &StorageUrl) -> Result<Storage, StorageError> {
    Storage::open(url, &StorageOptions::default()).await
}

struct File {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl File {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/journal.sqlite");
        Self {
            _folder: folder,
            path,
        }
    }

    fn url(&self) -> StorageUrl {
        StorageUrl::Sqlite(self.path.clone())
    }

    fn with_content(content: &[u8]) -> Self {
        let file = Self::new();
        std::fs::create_dir_all(file.path.parent().unwrap()).unwrap();
        std::fs::write(&file.path, content).unwrap();
        file
    }

    async fn execute(&self, sql: &str) {
        std::fs::create_dir_all(self.path.parent().unwrap()).unwrap();
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&self.path);
        let mut connection = options.create_if_missing(true).connect().await.unwrap();
        connection.execute(sql).await.unwrap();
        connection.close().await.unwrap();
    }
}

async fn execute(database: &TestDatabase, sql: &str) {
    let mut connection = database.connect_options().connect().await.unwrap();
    connection.execute(sql).await.unwrap();
    connection.close().await.unwrap();
}

async fn expect_outdated(url: &StorageUrl) {
    let error = open(url).await.err().unwrap();
    assert!(
        matches!(error, StorageError::SchemaOutdated { found: 0, .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("perennial journal migrate"),
        "{error}"
    );
}

async fn expect_not_ours(url: &StorageUrl) {
    for error in [
        open(url).await.err().unwrap(),
        migrate(url).await.err().unwrap(),
    ] {
        assert!(matches!(error, StorageError::NotOurs { .. }), "{error}");
    }
}

async fn expect_too_new(url: &StorageUrl) {
    for error in [
        open(url).await.err().unwrap(),
        migrate(url).await.err().unwrap(),
    ] {
        assert!(
            matches!(error, StorageError::SchemaTooNew { found: 99, .. }),
            "{error}"
        );
    }
}

/// Several processes migrate at once, and again later.
async fn expect_migration_takes_turns(url: &StorageUrl) {
    for result in futures::future::join_all((0..4).map(|_| migrate(url))).await {
        result.unwrap();
    }
    migrate(url).await.unwrap();
    open(url).await.unwrap();
}

/// Three events at the start of a stream, in one atomic write.
fn an_append(id: &PersistenceId) -> Append {
    let event = NewEvent {
        payload: Payload::json("1"),
        tags: Vec::new(),
    };
    Append {
        persistence_id: id.clone(),
        shard: ShardNr(1),
        epoch: Epoch(1),
        writer: WriterUuid(Uuid::new_v4()),
        first_sequence_nr: SequenceNr::new(1),
        writes: vec![AtomicWrite {
            events: vec![event; 3],
            command: None,
            metadata: None,
        }],
    }
}

/// The highest number stays when everything was deleted and the process restarted;
/// so do cluster and node numbers.
async fn expect_kept_over_reopening(url: &StorageUrl) {
    migrate(url).await.unwrap();
    let id = PersistenceId::new("counter", "a").unwrap();
    let before = open(url).await.unwrap();
    let cluster = before.registry.cluster(16).await.unwrap();
    let node = before.registry.mint_node().await.unwrap();
    let incarnation = before.registry.begin_incarnation(node).await.unwrap();
    let append = an_append(&id);
    let outcomes = before
        .journal
        .append(incarnation.session, 0, &[append])
        .await;
    assert!(outcomes[0].failure.is_none(), "{outcomes:?}");
    let right = WriteRight {
        session: incarnation.session,
        shard: ShardNr(1),
        epoch: Epoch(1),
    };
    before
        .journal
        .delete_events(right, &id, SequenceNr::MAX)
        .await
        .unwrap();
    drop(before);

    let after = open(url).await.unwrap();
    let bounds = after.journal.bounds(&id).await.unwrap();
    assert_eq!((bounds.highest.get(), bounds.deleted_to.get()), (3, 3));
    assert_eq!(after.registry.cluster(16).await.unwrap(), cluster);
    assert_eq!(
        after.registry.begin_incarnation(node).await.unwrap().number,
        2
    );
    assert!(after.registry.mint_node().await.unwrap() > node);
}

/// Command ids of deleted events are forgotten after the horizon, with a later
/// deletion.
async fn expect_forgotten_after_the_horizon(url: &StorageUrl) {
    migrate(url).await.unwrap();
    let options = StorageOptions {
        command_id_horizon: Duration::ZERO,
        ..StorageOptions::default()
    };
    let storage = Storage::open(url, &options).await.unwrap();
    let node = storage.registry.mint_node().await.unwrap();
    let session = storage
        .registry
        .begin_incarnation(node)
        .await
        .unwrap()
        .session;
    let id = PersistenceId::new("counter", "a").unwrap();
    let once = CommandId::parse("once").unwrap().unwrap();
    let mut append = an_append(&id);
    append.writes[0].command = Some(CommandRecord {
        command_id: once.clone(),
        reply: Payload::json("done"),
    });
    let outcomes = storage.journal.append(session, 0, &[append]).await;
    assert!(outcomes[0].failure.is_none(), "{outcomes:?}");
    let (shard, epoch) = (ShardNr(1), Epoch(1));
    let right = WriteRight {
        session,
        shard,
        epoch,
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        storage
            .journal
            .delete_events(right, &id, SequenceNr::MAX)
            .await
            .unwrap();
        let found = storage
            .journal
            .find_commands(&id, std::slice::from_ref(&once))
            .await
            .unwrap();
        if found == [None] {
            break;
        }
        assert!(Instant::now() < deadline, "should be forgotten: {found:?}");
    }
}

#[tokio::test]
async fn memory_forgets_commands_after_the_horizon() {
    expect_forgotten_after_the_horizon(&StorageUrl::Memory).await;
}

#[tokio::test]
async fn sqlite_forgets_commands_after_the_horizon() {
    expect_forgotten_after_the_horizon(&File::new().url()).await;
}

#[tokio::test]
async fn postgres_forgets_commands_after_the_horizon() {
    let database = TestDatabase::new().await;
    expect_forgotten_after_the_horizon(&database.url()).await;
}

#[tokio::test]
async fn memory_needs_no_migration() {
    let storage = open(&StorageUrl::Memory).await.unwrap();
    let journal: &dyn Journal = &*storage.journal;
    assert_eq!(journal.lanes(), StorageOptions::default().lanes);
}

#[tokio::test]
async fn sqlite_file_that_is_missing_is_not_made_by_opening() {
    let file = File::new();
    expect_outdated(&file.url()).await;
    assert!(!file.path.exists());
    expect_outdated(&File::with_content(b"").url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_migrations_take_turns() {
    expect_migration_takes_turns(&File::new().url()).await;
}

#[tokio::test]
async fn sqlite_keeps_what_was_stored() {
    expect_kept_over_reopening(&File::new().url()).await;
}

#[tokio::test]
async fn sqlite_file_of_another_program_is_not_touched() {
    let sql = "CREATE TABLE customers (name TEXT); INSERT INTO customers VALUES ('ada')";
    let file = File::new();
    file.execute(sql).await;
    let before = std::fs::read(&file.path).unwrap();
    expect_not_ours(&file.url()).await;
    assert_eq!(std::fs::read(&file.path).unwrap(), before);
    let other_id = File::new();
    other_id.execute("PRAGMA application_id = 4711").await;
    expect_not_ours(&other_id.url()).await;
}

#[tokio::test]
async fn file_that_is_no_sqlite_file_is_not_touched() {
    let content = b"Dear diary,\ntoday was a long day.";
    let file = File::with_content(content);
    expect_not_ours(&file.url()).await;
    assert_eq!(std::fs::read(&file.path).unwrap(), content);
}

#[tokio::test]
async fn sqlite_schema_of_a_newer_program_is_refused() {
    let file = File::new();
    migrate(&file.url()).await.unwrap();
    file.execute("PRAGMA user_version = 99").await;
    expect_too_new(&file.url()).await;
}

#[tokio::test]
async fn postgres_without_a_schema_is_outdated() {
    let database = TestDatabase::new().await;
    expect_outdated(&database.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_migrations_take_turns() {
    let database = TestDatabase::new().await;
    expect_migration_takes_turns(&database.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_keeps_what_was_stored() {
    let database = TestDatabase::new().await;
    expect_kept_over_reopening(&database.url()).await;
}

#[tokio::test]
async fn postgres_schema_of_another_program_is_not_touched() {
    let database = TestDatabase::new().await;
    execute(
        &database,
        "CREATE SCHEMA perennial; CREATE TABLE perennial.plants (name text)",
    )
    .await;
    expect_not_ours(&database.url()).await;
    execute(&database, "SELECT name FROM perennial.plants").await;
}

#[tokio::test]
async fn postgres_schema_of_a_newer_program_is_refused() {
    let database = TestDatabase::new().await;
    migrate(&database.url()).await.unwrap();
    execute(
        &database,
        "INSERT INTO perennial.migrations (version, name) VALUES (99, 'later')",
    )
    .await;
    expect_too_new(&database.url()).await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_without_the_password() {
    let url = StorageUrl::parse("postgres://ada:geheim@127.0.0.1:1/shop").unwrap();
    let error = open(&url).await.err().unwrap();
    assert!(
        matches!(
            error,
            StorageError::Database {
                doing: "connecting",
                ..
            }
        ),
        "{error}"
    );
    assert!(
        !format!("{error} {error:?}").contains("geheim"),
        "{error:?}"
    );
}
