//! The snapshot store in an SQLite file. Next: `storage/sqlite.rs`, the file.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::Sqlite;
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;

use crate::journal::{JournalError, WriteRight};
use crate::payload::Payload;
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::snapshot_store::{Snapshot, SnapshotCriteria, SnapshotStore};
use crate::storage::owned::owned;
use crate::storage::sqlite::{Fences, SqliteDatabase, unavailable};
use crate::storage::{self, from_micros, to_micros};

/// A snapshot store in an SQLite file.
pub(crate) struct SqliteSnapshotStore {
    database: Arc<SqliteDatabase>,
}

impl SqliteSnapshotStore {
    pub(crate) fn new(database: Arc<SqliteDatabase>) -> Self {
        Self { database }
    }
}

/// Executes one statement, if the session may write.
async fn write<'q>(
    database: &SqliteDatabase,
    right: WriteRight,
    doing: &'static str,
    statement: Query<'q, Sqlite, SqliteArguments<'q>>,
) -> Result<(), JournalError> {
    let failed = |error| unavailable(doing, error);
    let mut writer = database.writer().await.map_err(failed)?;
    let mut transaction = writer.begin().await.map_err(failed)?;
    let fences = Fences::of(&mut transaction, right.session)
        .await
        .map_err(failed)?;
    if !fences.allow(right.shard, right.epoch) {
        let session = right.session;
        return Err(JournalError::Fenced { session });
    }
    statement.execute(&mut *transaction).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)
}

#[async_trait]
impl SnapshotStore for SqliteSnapshotStore {
    async fn load(
        &self,
        persistence_id: &PersistenceId,
        criteria: SnapshotCriteria,
    ) -> Result<Option<Snapshot>, JournalError> {
        let (database, persistence_id) = (self.database.clone(), persistence_id.clone());
        owned(async move {
            let failed = |error| unavailable("loading a snapshot", error);
            let mut reader = database.reader().await.map_err(failed)?;
            let row: Option<(i64, i16, String, Vec<u8>, i64)> = sqlx::query_as(
                "SELECT sequence_nr, codec, manifest, payload, created_at FROM snapshots \
                 WHERE persistence_id = ? AND sequence_nr BETWEEN ? AND ? AND created_at BETWEEN ? AND ? \
                 ORDER BY sequence_nr DESC LIMIT 1",
            )
            .bind(persistence_id.as_str())
            .bind(criteria.min_sequence_nr.as_i64())
            .bind(criteria.max_sequence_nr.as_i64())
            .bind(criteria.min_created_at.map_or(i64::MIN, to_micros))
            .bind(criteria.max_created_at.map_or(i64::MAX, to_micros))
            .fetch_optional(&mut *reader)
            .await
            .map_err(failed)?;
            Ok(row.map(|(sequence_nr, codec, manifest, bytes, created_at)| Snapshot {
                sequence_nr: SequenceNr::from_i64(sequence_nr),
                payload: storage::payload(codec, manifest, bytes),
                created_at: from_micros(created_at),
            }))
        })
        .await
    }

    async fn save(
        &self,
        right: WriteRight,
        persistence_id: &PersistenceId,
        sequence_nr: SequenceNr,
        payload: &Payload,
    ) -> Result<(), JournalError> {
        let (database, persistence_id) = (self.database.clone(), persistence_id.clone());
        let payload = payload.clone();
        owned(async move {
            let save = sqlx::query(
                "INSERT OR REPLACE INTO snapshots (persistence_id, sequence_nr, shard, codec, manifest, payload, \
                                                   created_at) \
                 VALUES (?, ?, ?, ?, ?, ?, CAST(unixepoch('subsec') * 1000000 AS INTEGER))",
            )
            .bind(persistence_id.as_str())
            .bind(sequence_nr.as_i64())
            .bind(i64::from(right.shard.0))
            .bind(payload.codec.0)
            .bind(&*payload.manifest)
            .bind(&*payload.bytes);
            write(&database, right, "saving a snapshot", save).await
        })
        .await
    }

    async fn delete(
        &self,
        right: WriteRight,
        persistence_id: &PersistenceId,
        criteria: SnapshotCriteria,
    ) -> Result<(), JournalError> {
        let (database, persistence_id) = (self.database.clone(), persistence_id.clone());
        owned(async move {
            let delete = sqlx::query(
                "DELETE FROM snapshots WHERE persistence_id = ? AND sequence_nr BETWEEN ? AND ? \
                 AND created_at BETWEEN ? AND ?",
            )
            .bind(persistence_id.as_str())
            .bind(criteria.min_sequence_nr.as_i64())
            .bind(criteria.max_sequence_nr.as_i64())
            .bind(criteria.min_created_at.map_or(i64::MIN, to_micros))
            .bind(criteria.max_created_at.map_or(i64::MAX, to_micros));
            write(&database, right, "deleting snapshots", delete).await
        })
        .await
    }
}
