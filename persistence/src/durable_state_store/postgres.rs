//! The store of durable states in Postgres. A write is one statement that checks the
//! session's row as an append does. Next: `storage/postgres/connections.rs`.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::FromRow;
use sqlx::postgres::PgRow;

use crate::durable_state_store::{DurableStateStore, StateWrite, StateWriteError, StoredState};
use crate::journal::{EntityListing, JournalError, WriteRight};
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::storage::listing::Page;
use crate::storage::owned::owned;
use crate::storage::postgres::connections::{Connections, Failure, arguments};
use crate::storage::{self, epoch_i64, from_micros, unavailable};

/// A store of durable states in Postgres.
pub(crate) struct PostgresDurableStateStore {
    connections: Arc<Connections>,
}

impl PostgresDurableStateStore {
    pub(crate) fn new(connections: Arc<Connections>) -> Self {
        Self { connections }
    }
}

const LOAD: &str = "\
    SELECT revision, codec, manifest, payload, (extract(epoch FROM updated_at) * 1000000)::bigint \
    FROM perennial.states WHERE persistence_id = $1";

/// A state that was never written is inserted; one that was is updated. Either is done
/// only if the revision is the expected one, also when somebody else is at the same row.
const WRITE: &str = "\
    WITH lane AS ( \
        SELECT FROM perennial.writer_sessions \
        WHERE session = $1 AND lane = 0 AND fenced_at IS NULL \
          AND coalesce((fenced_shards ->> $2::text)::bigint, -1) < $3 FOR SHARE \
    ), inserted AS ( \
        INSERT INTO perennial.states (persistence_id, revision, shard, codec, manifest, payload, deleted) \
        SELECT $4, $6, $2::int, $7, $8, $9, $9 IS NULL FROM lane WHERE $5 = 0 \
        ON CONFLICT (persistence_id) DO NOTHING RETURNING revision \
    ), updated AS ( \
        UPDATE perennial.states \
        SET revision = $6, shard = $2::int, codec = $7, manifest = $8, payload = $9, deleted = $9 IS NULL, \
            updated_at = now() \
        FROM lane WHERE persistence_id = $4 AND revision = $5 RETURNING revision \
    ) \
    SELECT EXISTS (SELECT FROM lane), EXISTS (SELECT FROM inserted) OR EXISTS (SELECT FROM updated), \
           coalesce((SELECT revision FROM perennial.states WHERE persistence_id = $4), 0)";

const LIST: &str = "\
    SELECT persistence_id, revision FROM perennial.states \
    WHERE persistence_id > $1 AND persistence_id < $2 AND NOT deleted ORDER BY persistence_id LIMIT $3";

/// What a failed statement means for the state.
fn failed(error: &sqlx::Error) -> StateWriteError {
    let message = error.to_string();
    match Failure::of(error) {
        Failure::Poisoned => StateWriteError::Rejected { message },
        Failure::Undecided => StateWriteError::Unknown { message },
        Failure::UniqueViolation | Failure::Contention | Failure::ReadOnly | Failure::Refused => {
            StateWriteError::Unavailable { message }
        }
    }
}

fn check(right: WriteRight, write: &StateWrite, row: &PgRow) -> Result<(), StateWriteError> {
    let (may_write, written, stored) =
        <(bool, bool, i64)>::from_row(row).map_err(|error| failed(&error))?;
    match (may_write, written) {
        (false, _) => Err(StateWriteError::fenced(right)),
        (true, true) => Ok(()),
        (true, false) => Err(StateWriteError::Conflict {
            persistence_id: write.persistence_id.clone(),
            replaces: write.replaces,
            stored: SequenceNr::from_i64(stored),
        }),
    }
}

#[async_trait]
impl DurableStateStore for PostgresDurableStateStore {
    async fn load(
        &self,
        persistence_id: &PersistenceId,
    ) -> Result<Option<StoredState>, JournalError> {
        let (connections, persistence_id) = (self.connections.clone(), persistence_id.clone());
        owned(async move {
            let doing = "loading a state";
            let arguments = arguments![persistence_id.as_str()];
            let rows = connections.read(doing, LOAD, arguments).await?;
            let Some(row) = rows.first() else {
                return Ok(None);
            };
            let (revision, codec, manifest, bytes, updated_at) =
                <(i64, i16, String, Option<Vec<u8>>, i64)>::from_row(row)
                    .map_err(|error| unavailable(doing, error))?;
            Ok(Some(StoredState {
                revision: SequenceNr::from_i64(revision),
                payload: bytes.map(|bytes| storage::payload(codec, manifest, bytes)),
                updated_at: from_micros(updated_at),
            }))
        })
        .await
    }

    async fn write(&self, right: WriteRight, write: &StateWrite) -> Result<(), StateWriteError> {
        let (connections, write) = (self.connections.clone(), write.clone());
        owned(async move {
            let payload = write.payload.as_ref();
            let arguments = arguments![
                right.session.0,
                right.shard.to_string(),
                epoch_i64(right.epoch),
                write.persistence_id.as_str(),
                write.replaces.as_i64(),
                write.revision.as_i64(),
                payload.map_or(0, |payload| payload.codec.0),
                payload.map_or("", |payload| &*payload.manifest),
                payload.map(|payload| &*payload.bytes),
            ];
            let written = connections.write_once(right.session, WRITE, arguments);
            let row = written.await.map_err(|error| failed(&error))?;
            check(right, &write, &row)
        })
        .await
    }

    async fn list_entities(
        &self,
        entity_type: &str,
        after: Option<&str>,
        count: usize,
    ) -> Result<Vec<EntityListing>, JournalError> {
        let page = Page::new(entity_type, after, count);
        page.read_postgres(self.connections.clone(), LIST).await
    }
}
