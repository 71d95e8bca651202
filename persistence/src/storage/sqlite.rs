//! One SQLite file: opening, schema, and the connections its journal, snapshot
//! store and registry share.
//!
//! There is one writing connection, because SQLite has one write lock; every
//! change is one `BEGIN IMMEDIATE` transaction, durable when committed
//! (`synchronous=FULL`, write-ahead log). Readers have their own connections and
//! see the last commit. SQLite runs on the driver's own threads, so nothing here
//! blocks the caller's. Next: `sqlite/connections.rs`, what is handed out.

mod connections;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Executor};
use tokio::sync::Mutex;

pub(crate) use self::connections::SqliteDatabase;
use crate::durable_state_store::sqlite::SqliteDurableStateStore;
use crate::entity_deletion::sqlite::SqliteEntityDeletion;
use crate::global_order::sqlite::SqliteEventsInOrder;
use crate::journal::JournalError;
use crate::journal::sqlite::SqliteJournal;
use crate::recovery_reader::sqlite::SqliteRecoveryReader;
use crate::registry::sqlite::SqliteRegistry;
use crate::snapshot_store::sqlite::SqliteSnapshotStore;
use crate::storage::{
    SchemaStep, Storage, StorageError, StorageOptions, check_version, decode_error, latest,
};
use crate::writer::{Epoch, SessionUuid, ShardNr};

/// "Pern" in ASCII: what marks an SQLite file as ours (`PRAGMA application_id`).
const APPLICATION_ID: i64 = 0x5065_726E;

/// The first bytes of every SQLite file.
const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// The version is kept in `PRAGMA user_version`, which is part of the transaction.
const SCHEMA: &[SchemaStep] = &[
    SchemaStep {
        name: "0001_schema",
        sql: include_str!("../../migrations/sqlite/0001_schema.sql"),
    },
    SchemaStep {
        name: "0002_cluster",
        sql: include_str!("../../migrations/sqlite/0002_cluster.sql"),
    },
];

/// How long to wait for the write lock of another process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the file, which must exist and be up to date.
pub(crate) async fn open(path: &Path, options: &StorageOptions) -> Result<Storage, StorageError> {
    let database = Arc::new(open_database(path, options).await?);
    Ok(Storage {
        journal: Arc::new(SqliteJournal::new(database.clone())),
        snapshots: Arc::new(SqliteSnapshotStore::new(database.clone())),
        states: Arc::new(SqliteDurableStateStore::new(database.clone())),
        recoveries: Arc::new(SqliteRecoveryReader::new(database.clone())),
        registry: Arc::new(SqliteRegistry::new(database.clone())),
        deletion: Arc::new(SqliteEntityDeletion::new(database.clone())),
        order: Arc::new(SqliteEventsInOrder::new(database)),
    })
}

async fn open_database(
    path: &Path,
    options: &StorageOptions,
) -> Result<SqliteDatabase, StorageError> {
    let url = url(path);
    check_version(url.clone(), find_version(path).await?, SCHEMA)?;
    let base = SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT);
    let failed = |source| StorageError::Database {
        url: url.clone(),
        doing: "opening the file",
        source,
    };
    let writer = base.connect().await.map_err(failed)?;
    let readers = SqlitePoolOptions::new()
        .max_connections(u32::try_from(options.recovery_connections.max(1)).unwrap_or(u32::MAX))
        .acquire_timeout(options.connect_timeout)
        .test_before_acquire(false)
        .connect_with(base.clone().pragma("query_only", "ON"))
        .await
        .map_err(failed)?;
    Ok(SqliteDatabase {
        writer: Mutex::new(writer),
        writer_options: base,
        readers,
        command_id_horizon: options.command_id_horizon,
    })
}

/// A connection that cannot write, to a file that exists and is up to date.
pub(crate) async fn connect_to_read(path: &Path) -> Result<SqliteConnection, StorageError> {
    check_version(url(path), find_version(path).await?, SCHEMA)?;
    SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .busy_timeout(BUSY_TIMEOUT)
        .connect()
        .await
        .map_err(|source| StorageError::Database {
            url: url(path),
            doing: "opening the file",
            source,
        })
}

/// Makes the file and its schema, or updates it.
pub(crate) async fn migrate(path: &Path) -> Result<(), StorageError> {
    let found = find_version(path).await?;
    if found == latest(SCHEMA) {
        return Ok(());
    }
    if found > latest(SCHEMA) {
        return check_version(url(path), found, SCHEMA);
    }
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder {
        std::fs::create_dir_all(folder).map_err(|source| StorageError::File {
            url: url(path),
            doing: "making the folder",
            source,
        })?;
    }
    apply_steps(path)
        .await
        .map_err(|source| StorageError::Database {
            url: url(path),
            doing: "migrating the schema",
            source,
        })
}

async fn apply_steps(path: &Path) -> Result<(), sqlx::Error> {
    let mut connection = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
        .connect()
        .await?;
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    // Asked again under the lock: another process may have been first.
    let version: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut *transaction)
        .await?;
    let done = usize::try_from(version).unwrap_or(0);
    for (number, step) in SCHEMA.iter().enumerate().skip(done) {
        tracing::info!(path = %path.display(), step = step.name, "migrating the journal");
        transaction.execute(step.sql).await?;
        transaction
            .execute(format!("PRAGMA user_version = {}", number + 1).as_str())
            .await?;
    }
    transaction
        .execute(format!("PRAGMA application_id = {APPLICATION_ID}").as_str())
        .await?;
    transaction.commit().await?;
    connection.close().await
}

/// The schema version of the file, 0 when there is none yet, without changing it.
async fn find_version(path: &Path) -> Result<i64, StorageError> {
    match begins_like_sqlite(path) {
        Ok(None) => return Ok(0),
        Ok(Some(true)) => {}
        Ok(Some(false)) => return Err(not_ours(path, "it is not an SQLite file".into())),
        Err(source) => {
            let (url, doing) = (url(path), "reading the file");
            return Err(StorageError::File { url, doing, source });
        }
    }
    let read = async {
        let mut connection = SqliteConnectOptions::new()
            .filename(path)
            .read_only(true)
            .connect()
            .await?;
        let row: (i64, i64, i64) = sqlx::query_as(
            "SELECT (SELECT application_id FROM pragma_application_id), \
             (SELECT user_version FROM pragma_user_version), (SELECT count(*) FROM sqlite_master)",
        )
        .fetch_one(&mut connection)
        .await?;
        connection.close().await?;
        Ok(row)
    };
    let (application_id, version, objects) =
        read.await.map_err(|source| StorageError::Database {
            url: url(path),
            doing: "reading the schema version",
            source,
        })?;
    match (application_id, objects) {
        (APPLICATION_ID, _) => Ok(version),
        // Made, but not filled: a migration was interrupted before its commit.
        (0, 0) => Ok(0),
        _ => Err(not_ours(
            path,
            format!(
                "its application id is {application_id:#x}, not {APPLICATION_ID:#x}; choose another file"
            ),
        )),
    }
}

/// `None` when there is no file or it is empty.
fn begins_like_sqlite(path: &Path) -> Result<Option<bool>, std::io::Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut start = Vec::with_capacity(SQLITE_MAGIC.len());
    file.take(SQLITE_MAGIC.len() as u64)
        .read_to_end(&mut start)?;
    Ok((!start.is_empty()).then(|| start == SQLITE_MAGIC))
}

fn not_ours(path: &Path, reason: String) -> StorageError {
    StorageError::NotOurs {
        url: url(path),
        reason,
    }
}

pub(crate) fn url(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

/// What a session may not write, read inside the transaction that writes.
pub(crate) struct Fences {
    /// For a shard, the highest fenced epoch; `None` when the whole session is
    /// fenced or not known.
    shards: Option<BTreeMap<u32, u64>>,
}

impl Fences {
    pub(crate) async fn of(
        connection: &mut SqliteConnection,
        session: SessionUuid,
    ) -> Result<Self, sqlx::Error> {
        let row: Option<String> = sqlx::query_scalar(
            "SELECT fenced_shards FROM writer_sessions WHERE session = ? AND fenced_at IS NULL",
        )
        .bind(session.0)
        .fetch_optional(connection)
        .await?;
        let shards = row.map(|json| serde_json::from_str(&json)).transpose();
        Ok(Self {
            shards: shards.map_err(decode_error)?,
        })
    }

    pub(crate) fn allow(&self, shard: ShardNr, epoch: Epoch) -> bool {
        let fenced = |shards: &BTreeMap<u32, u64>| {
            shards
                .get(&shard.0)
                .is_some_and(|fenced| epoch.0 <= *fenced)
        };
        self.shards.as_ref().is_some_and(|shards| !fenced(shards))
    }
}

/// What an SQLite error means for a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SqliteFailure {
    /// These bytes will never be stored.
    Rejected,
    /// The file cannot be used now.
    Unavailable,
}

/// Sorts an error and says it in words.
pub(crate) fn sort_failure(error: &sqlx::Error) -> (SqliteFailure, String) {
    // Primary result codes of SQLite; the driver gives the extended code, whose
    // low byte they are.
    const FULL: i64 = 13;
    const IOERR: i64 = 10;
    const TOOBIG: i64 = 18;
    const CONSTRAINT: i64 = 19;
    const MISMATCH: i64 = 20;
    let code = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .and_then(|code| code.parse::<i64>().ok())
        .map(|code| code & 0xff);
    match code {
        Some(FULL) => (
            SqliteFailure::Unavailable,
            format!("the disk of the SQLite file is full: free some space ({error})"),
        ),
        Some(IOERR) => (
            SqliteFailure::Unavailable,
            format!("the disk of the SQLite file has an I/O error: check it ({error})"),
        ),
        Some(TOOBIG | CONSTRAINT | MISMATCH) => (SqliteFailure::Rejected, error.to_string()),
        _ => (SqliteFailure::Unavailable, error.to_string()),
    }
}

/// For reads, and writes other than appends.
pub(crate) fn unavailable(doing: &str, error: sqlx::Error) -> JournalError {
    JournalError::Unavailable {
        message: format!("{doing}: {}", sort_failure(&error).1),
        source: Some(Box::new(error)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The engine must be able to tell a person what to do.
    #[tokio::test]
    async fn a_full_disk_is_said_to_be_full() {
        let mut connection = SqliteConnectOptions::new()
            .in_memory(true)
            .connect()
            .await
            .unwrap();
        connection
            .execute("CREATE TABLE t (b BLOB); PRAGMA max_page_count = 10")
            .await
            .unwrap();
        let too_much = connection
            .execute("INSERT INTO t VALUES (zeroblob(1000000))")
            .await;
        let (failure, message) = sort_failure(&too_much.unwrap_err());
        assert_eq!(failure, SqliteFailure::Unavailable);
        assert!(
            message.contains("disk of the SQLite file is full"),
            "{message}"
        );
    }

    #[tokio::test]
    async fn a_violated_constraint_is_a_rejection() {
        let mut connection = SqliteConnectOptions::new()
            .in_memory(true)
            .connect()
            .await
            .unwrap();
        connection
            .execute("CREATE TABLE t (n INTEGER CHECK (n > 0))")
            .await
            .unwrap();
        let refused = connection.execute("INSERT INTO t VALUES (0)").await;
        assert_eq!(
            sort_failure(&refused.unwrap_err()).0,
            SqliteFailure::Rejected
        );
    }
}
