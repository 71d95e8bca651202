//! The store of durable states in an SQLite file. Next: `storage/sqlite.rs`, the file.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;

use crate::durable_state_store::{DurableStateStore, StateWrite, StateWriteError, StoredState};
use crate::journal::{EntityListing, JournalError, WriteRight};
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::storage::listing::Page;
use crate::storage::owned::owned;
use crate::storage::sqlite::{Fences, SqliteDatabase, SqliteFailure, sort_failure, unavailable};
use crate::storage::{self, from_micros};

/// A store of durable states in an SQLite file.
pub(crate) struct SqliteDurableStateStore {
    database: Arc<SqliteDatabase>,
}

impl SqliteDurableStateStore {
    pub(crate) fn new(database: Arc<SqliteDatabase>) -> Self {
        Self { database }
    }
}

const LOAD: &str =
    "SELECT revision, codec, manifest, payload, updated_at FROM states WHERE persistence_id = ?";

const WRITE: &str = "INSERT OR REPLACE INTO states (persistence_id, revision, shard, codec, manifest, payload, deleted, \
                                                    updated_at) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6 IS NULL, CAST(unixepoch('subsec') * 1000000 AS INTEGER))";

const LIST: &str = "SELECT persistence_id, revision FROM states \
     WHERE persistence_id > ? AND persistence_id < ? AND NOT deleted ORDER BY persistence_id LIMIT ?";

/// Certainly not stored.
fn failed(error: &sqlx::Error) -> StateWriteError {
    match sort_failure(error) {
        (SqliteFailure::Rejected, message) => StateWriteError::Rejected { message },
        (SqliteFailure::Unavailable, message) => StateWriteError::Unavailable { message },
    }
}

async fn write(
    database: &SqliteDatabase,
    right: WriteRight,
    write: &StateWrite,
) -> Result<(), StateWriteError> {
    let mut writer = database.writer().await.map_err(|error| failed(&error))?;
    let mut transaction = writer.begin().await.map_err(|error| failed(&error))?;
    let fences = Fences::of(&mut transaction, right.session)
        .await
        .map_err(|error| failed(&error))?;
    if !fences.allow(right.shard, right.epoch) {
        return Err(StateWriteError::fenced(right));
    }
    // The transaction has the write lock, so what is read stays true.
    let stored = revision(&mut transaction, &write.persistence_id)
        .await
        .map_err(|error| failed(&error))?;
    if stored != write.replaces {
        return Err(StateWriteError::Conflict {
            persistence_id: write.persistence_id.clone(),
            replaces: write.replaces,
            stored,
        });
    }
    let payload = write.payload.as_ref();
    sqlx::query(WRITE)
        .bind(write.persistence_id.as_str())
        .bind(write.revision.as_i64())
        .bind(i64::from(right.shard.0))
        .bind(payload.map_or(0, |payload| payload.codec.0))
        .bind(payload.map_or("", |payload| &*payload.manifest))
        .bind(payload.map(|payload| &*payload.bytes))
        .execute(&mut *transaction)
        .await
        .map_err(|error| failed(&error))?;
    if let Err(error) = transaction.commit().await {
        // The commit record may have reached the disk all the same.
        let (_, message) = sort_failure(&error);
        return Err(StateWriteError::Unknown { message });
    }
    Ok(())
}

async fn revision(
    connection: &mut SqliteConnection,
    persistence_id: &PersistenceId,
) -> Result<SequenceNr, sqlx::Error> {
    let revision: Option<i64> =
        sqlx::query_scalar("SELECT revision FROM states WHERE persistence_id = ?")
            .bind(persistence_id.as_str())
            .fetch_optional(connection)
            .await?;
    Ok(revision.map_or(SequenceNr::ZERO, SequenceNr::from_i64))
}

#[async_trait]
impl DurableStateStore for SqliteDurableStateStore {
    async fn load(
        &self,
        persistence_id: &PersistenceId,
    ) -> Result<Option<StoredState>, JournalError> {
        let (database, persistence_id) = (self.database.clone(), persistence_id.clone());
        owned(async move {
            let failed = |error| unavailable("loading a state", error);
            let mut reader = database.reader().await.map_err(failed)?;
            let row: Option<(i64, i16, String, Option<Vec<u8>>, i64)> = sqlx::query_as(LOAD)
                .bind(persistence_id.as_str())
                .fetch_optional(&mut *reader)
                .await
                .map_err(failed)?;
            Ok(row.map(
                |(revision, codec, manifest, bytes, updated_at)| StoredState {
                    revision: SequenceNr::from_i64(revision),
                    payload: bytes.map(|bytes| storage::payload(codec, manifest, bytes)),
                    updated_at: from_micros(updated_at),
                },
            ))
        })
        .await
    }

    async fn write(&self, right: WriteRight, state: &StateWrite) -> Result<(), StateWriteError> {
        let (database, state) = (self.database.clone(), state.clone());
        owned(async move { write(&database, right, &state).await }).await
    }

    async fn list_entities(
        &self,
        entity_type: &str,
        after: Option<&str>,
        count: usize,
    ) -> Result<Vec<EntityListing>, JournalError> {
        let page = Page::new(entity_type, after, count);
        page.read_sqlite(self.database.clone(), LIST).await
    }
}
