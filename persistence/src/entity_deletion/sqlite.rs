//! Deleting an entity in an SQLite file: a tombstone, then the rows below it in
//! chunks, each a transaction of its own, so that appends need not wait for long.
//!
//! Rows are overwritten (`secure_delete`), and at the end the write-ahead log is
//! emptied as far as readers allow: SQLite alone would leave what was deleted
//! readable in the file until its place is needed. Next: `storage/sqlite.rs`.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;

use super::{EntityDeletion, Tombstone, fenced_meanwhile};
use crate::journal::{JournalError, WriteRight};
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::storage::from_micros;
use crate::storage::owned::owned;
use crate::storage::sqlite::{Fences, SqliteDatabase, unavailable};

/// Deletes entities in an SQLite file.
pub(crate) struct SqliteEntityDeletion {
    database: Arc<SqliteDatabase>,
}

impl SqliteEntityDeletion {
    pub(crate) fn new(database: Arc<SqliteDatabase>) -> Self {
        Self { database }
    }
}

/// A second deletion of the same life finds its tombstone and leaves it.
const SET_TOMBSTONE: &str = "\
    INSERT INTO streams (persistence_id, highest, deleted_to, tombstone, tombstone_at) \
    SELECT ?1, highest, highest, highest, CAST(unixepoch('subsec') * 1000000 AS INTEGER) FROM ( \
        SELECT max( \
            coalesce((SELECT max(sequence_nr) FROM events WHERE persistence_id = ?1), \
                     (SELECT highest FROM streams WHERE persistence_id = ?1), 0), \
            coalesce((SELECT max(sequence_nr) FROM snapshots WHERE persistence_id = ?1), 0), ?2) AS highest) \
    WHERE highest > 0 \
    ON CONFLICT (persistence_id) DO UPDATE \
    SET highest = max(highest, excluded.highest), \
        deleted_to = max(deleted_to, excluded.deleted_to), \
        tombstone_at = CASE WHEN tombstone >= excluded.tombstone THEN tombstone_at ELSE excluded.tombstone_at END, \
        tombstone = max(coalesce(tombstone, 0), excluded.tombstone) \
    RETURNING tombstone, tombstone_at";

/// What is deleted, and how many rows by one transaction: snapshots may be large.
const ROWS: [(&str, i64); 3] = [
    (
        "DELETE FROM snapshots WHERE rowid IN ( \
             SELECT rowid FROM snapshots WHERE persistence_id = ? AND sequence_nr <= ? \
             ORDER BY sequence_nr LIMIT ?)",
        100,
    ),
    (
        "DELETE FROM events WHERE rowid IN ( \
             SELECT rowid FROM events WHERE persistence_id = ? AND sequence_nr <= ? \
             ORDER BY sequence_nr LIMIT ?)",
        1000,
    ),
    (
        "DELETE FROM deleted_commands WHERE rowid IN ( \
             SELECT rowid FROM deleted_commands WHERE persistence_id = ? AND sequence_nr <= ? LIMIT ?)",
        1000,
    ),
];

async fn may_write(
    connection: &mut SqliteConnection,
    right: WriteRight,
) -> Result<bool, sqlx::Error> {
    let fences = Fences::of(connection, right.session).await?;
    Ok(fences.allow(right.shard, right.epoch))
}

async fn set_tombstone(
    database: &SqliteDatabase,
    right: WriteRight,
    id: &PersistenceId,
    may_have_stored_to: SequenceNr,
) -> Result<Option<Tombstone>, JournalError> {
    let failed = |error| unavailable("deleting an entity", error);
    let mut writer = database.writer().await.map_err(failed)?;
    let mut transaction = writer.begin().await.map_err(failed)?;
    if !may_write(&mut transaction, right).await.map_err(failed)? {
        let session = right.session;
        return Err(JournalError::Fenced { session });
    }
    let kept: Option<(i64, i64)> = sqlx::query_as(SET_TOMBSTONE)
        .bind(id.as_str())
        .bind(may_have_stored_to.as_i64())
        .fetch_optional(&mut *transaction)
        .await
        .map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    Ok(kept.map(|(nr, at)| Tombstone {
        sequence_nr: SequenceNr::from_i64(nr),
        deleted_at: from_micros(at),
    }))
}

/// Deletes some rows; returns how many.
async fn delete_some(
    database: &SqliteDatabase,
    right: WriteRight,
    id: &PersistenceId,
    to: SequenceNr,
    (statement, at_once): (&'static str, i64),
) -> Result<u64, JournalError> {
    let failed = |error| unavailable("deleting an entity", error);
    let mut writer = database.writer().await.map_err(failed)?;
    writer.overwrite_deleted(true).await.map_err(failed)?;
    let mut transaction = writer.begin().await.map_err(failed)?;
    if !may_write(&mut transaction, right).await.map_err(failed)? {
        return Err(fenced_meanwhile(id));
    }
    let deleted = sqlx::query(statement)
        .bind(id.as_str())
        .bind(to.as_i64())
        .bind(at_once)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    writer.overwrite_deleted(false).await.map_err(failed)?;
    Ok(deleted.rows_affected())
}

/// The log still has what was deleted. Readers that are in the middle of something
/// keep a part of it, until a later checkpoint.
async fn empty_log(database: &SqliteDatabase) -> Result<(), sqlx::Error> {
    let mut writer = database.writer().await?;
    writer.checkpoint().await
}

#[async_trait]
impl EntityDeletion for SqliteEntityDeletion {
    async fn delete_entity(
        &self,
        right: WriteRight,
        persistence_id: &PersistenceId,
        may_have_stored_to: SequenceNr,
    ) -> Result<Option<Tombstone>, JournalError> {
        let (database, id) = (self.database.clone(), persistence_id.clone());
        owned(async move {
            let kept = set_tombstone(&database, right, &id, may_have_stored_to).await?;
            let Some(tombstone) = kept else {
                return Ok(None);
            };
            let to = tombstone.sequence_nr;
            let mut deleted_any = false;
            for rows in ROWS {
                loop {
                    let deleted = delete_some(&database, right, &id, to, rows).await?;
                    deleted_any |= deleted > 0;
                    if deleted < rows.1.unsigned_abs() {
                        break;
                    }
                }
            }
            if deleted_any && let Err(error) = empty_log(&database).await {
                tracing::warn!(entity = %id, %error, "it is deleted, but the write-ahead log keeps its rows until the next checkpoint");
            }
            Ok(kept)
        })
        .await
    }
}
