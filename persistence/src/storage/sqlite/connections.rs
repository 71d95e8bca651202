//! The connections to one SQLite file: the one that writes, and those that read.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePool};
use sqlx::{ConnectOptions, Connection, Executor, Sqlite};
use tokio::sync::{Mutex, MutexGuard};

/// An open SQLite file.
pub(crate) struct SqliteDatabase {
    pub(super) writer: Mutex<SqliteConnection>,
    pub(super) writer_options: SqliteConnectOptions,
    pub(super) readers: SqlitePool,
    pub(crate) command_id_horizon: Duration,
}

impl SqliteDatabase {
    /// The writing connection, opened anew if the last one is of no use any more.
    pub(crate) async fn writer(&self) -> Result<Writer<'_>, sqlx::Error> {
        let mut connection = self.writer.lock().await;
        if is_stuck(&mut connection).await {
            tracing::warn!("a transaction of the SQLite file failed: opening a new connection");
            let fresh = self.writer_options.connect().await?;
            let stuck = std::mem::replace(&mut *connection, fresh);
            // Whatever it still holds it gives up now.
            if let Err(error) = stuck.close().await {
                tracing::debug!(%error, "closing the former connection");
            }
        }
        Ok(Writer(connection))
    }

    pub(crate) async fn reader(&self) -> Result<PoolConnection<Sqlite>, sqlx::Error> {
        self.readers.acquire().await
    }
}

/// Whether the driver takes the connection to be in a transaction that nobody has.
///
/// When a disk is full or fails, SQLite rolls back by itself. The driver does not
/// notice: its own rollback fails, and from then on it would begin nothing.
async fn is_stuck(connection: &mut SqliteConnection) -> bool {
    // A transaction that was dropped is rolled back in the connection's own thread,
    // before that answers a ping.
    connection.is_in_transaction()
        && (connection.ping().await.is_err() || connection.is_in_transaction())
}

/// The writing connection while it is in use.
pub(crate) struct Writer<'a>(MutexGuard<'a, SqliteConnection>);

impl Writer<'_> {
    /// Begins a transaction that holds the write lock from its start.
    pub(crate) async fn begin(&mut self) -> Result<sqlx::Transaction<'_, Sqlite>, sqlx::Error> {
        self.0.begin_with("BEGIN IMMEDIATE").await
    }

    /// Whether what is deleted is overwritten with zeros.
    pub(crate) async fn overwrite_deleted(&mut self, overwrite: bool) -> Result<(), sqlx::Error> {
        let pragma = match overwrite {
            true => "PRAGMA secure_delete = ON",
            false => "PRAGMA secure_delete = OFF",
        };
        self.execute(pragma).await
    }

    /// Moves the write-ahead log into the file and empties it, as far as readers in
    /// the middle of something allow.
    pub(crate) async fn checkpoint(&mut self) -> Result<(), sqlx::Error> {
        self.execute("PRAGMA wal_checkpoint(TRUNCATE)").await
    }

    async fn execute(&mut self, statement: &str) -> Result<(), sqlx::Error> {
        self.0.execute(statement).await.map(|_| ())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use tempfile::TempDir;
    use uuid::Uuid;

    use super::*;
    use crate::journal::sqlite::SqliteJournal;
    use crate::journal::{Append, AtomicWrite, Journal, JournalError, NewEvent, WriteRight};
    use crate::payload::Payload;
    use crate::persistence_id::PersistenceId;
    use crate::registry::Registry;
    use crate::registry::sqlite::SqliteRegistry;
    use crate::sequence_nr::SequenceNr;
    use crate::snapshot_store::SnapshotStore;
    use crate::snapshot_store::sqlite::SqliteSnapshotStore;
    use crate::storage::StorageOptions;
    use crate::storage::sqlite::{migrate, open_database};
    use crate::writer::{Epoch, ShardNr, WriterUuid};

    const SHARD: ShardNr = ShardNr(1);

    struct File {
        database: Arc<SqliteDatabase>,
        right: WriteRight,
        id: PersistenceId,
        _folder: TempDir,
    }

    impl File {
        async fn new() -> Self {
            let folder = TempDir::new().unwrap();
            let path = folder.path().join("journal.sqlite");
            migrate(&path).await.unwrap();
            let options = StorageOptions::default();
            let database = Arc::new(open_database(&path, &options).await.unwrap());
            let registry = SqliteRegistry::new(database.clone());
            let node = registry.mint_node().await.unwrap();
            let began = registry.begin_incarnation(node).await.unwrap();
            Self {
                database,
                right: WriteRight {
                    session: began.session,
                    shard: SHARD,
                    epoch: Epoch(1),
                },
                id: PersistenceId::new("test", "a").unwrap(),
                _folder: folder,
            }
        }

        async fn save_snapshot(&self, bytes: usize) -> Result<(), JournalError> {
            let store = SqliteSnapshotStore::new(self.database.clone());
            let payload = Payload::json(vec![0; bytes]);
            let nr = SequenceNr::new(1);
            store.save(self.right, &self.id, nr, &payload).await
        }

        async fn append(&self) {
            let append = Append {
                persistence_id: self.id.clone(),
                shard: SHARD,
                epoch: Epoch(1),
                writer: WriterUuid(Uuid::nil()),
                first_sequence_nr: SequenceNr::new(1),
                writes: vec![AtomicWrite {
                    events: vec![NewEvent {
                        payload: Payload::json("{}"),
                        tags: Vec::new(),
                    }],
                    command: None,
                    metadata: None,
                }],
            };
            let journal = SqliteJournal::new(self.database.clone());
            let outcomes = journal.append(self.right.session, 0, &[append]).await;
            assert_eq!(outcomes[0].failure, None);
        }

        async fn execute(&self, statement: &str) {
            let mut writer = self.database.writer().await.unwrap();
            writer.execute(statement).await.unwrap();
        }
    }

    #[tokio::test]
    async fn the_file_can_be_written_again_when_the_disk_is_not_full_any_more() {
        let file = File::new().await;
        file.execute("PRAGMA max_page_count = 50").await;
        let too_much = file.save_snapshot(1_000_000).await;
        let message = too_much.unwrap_err().to_string();
        assert!(message.contains("is full"), "{message}");
        file.execute("PRAGMA max_page_count = 100000").await;
        file.save_snapshot(1_000_000).await.unwrap();
        file.append().await;
    }

    /// Rolled back by the one who had it, it is no reason to connect again.
    #[tokio::test]
    async fn a_dropped_transaction_leaves_the_connection_as_it_is() {
        let file = File::new().await;
        file.execute("PRAGMA cache_size = 77").await;
        drop(file.database.writer().await.unwrap().begin().await.unwrap());
        let mut writer = file.database.writer().await.unwrap();
        let cache_size = sqlx::query_scalar("PRAGMA cache_size");
        let cache_size: i64 = cache_size.fetch_one(&mut *writer.0).await.unwrap();
        assert_eq!(cache_size, 77, "it is the same connection");
    }
}
