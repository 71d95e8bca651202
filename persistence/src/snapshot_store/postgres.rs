//! The snapshot store in Postgres. Each write is one statement that checks the
//! session's row as an append does. Next: `storage/postgres/connections.rs`.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};

use crate::journal::{JournalError, WriteRight};
use crate::payload::Payload;
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::snapshot_store::{Snapshot, SnapshotCriteria, SnapshotStore};
use crate::storage::owned::owned;
use crate::storage::postgres::connections::{Connections, arguments};
use crate::storage::{self, epoch_i64, from_micros, to_micros, unavailable};

/// A snapshot store in Postgres.
pub(crate) struct PostgresSnapshotStore {
    connections: Arc<Connections>,
}

impl PostgresSnapshotStore {
    pub(crate) fn new(connections: Arc<Connections>) -> Self {
        Self { connections }
    }
}

/// Times are compared as the microseconds they are read as.
const LOAD: &str = "\
    SELECT sequence_nr, codec, manifest, payload, (extract(epoch FROM created_at) * 1000000)::bigint \
    FROM perennial.snapshots \
    WHERE persistence_id = $1 AND sequence_nr BETWEEN $2 AND $3 \
      AND (extract(epoch FROM created_at) * 1000000)::bigint BETWEEN $4 AND $5 \
    ORDER BY sequence_nr DESC LIMIT 1";

const SAVE: &str = "\
    WITH lane AS ( \
        SELECT FROM perennial.writer_sessions \
        WHERE session = $1 AND lane = 0 AND fenced_at IS NULL \
          AND coalesce((fenced_shards ->> $2::text)::bigint, -1) < $3 FOR SHARE \
    ), saved AS ( \
        INSERT INTO perennial.snapshots (persistence_id, sequence_nr, shard, codec, manifest, payload) \
        SELECT $4, $5, $2::int, $6, $7, $8 FROM lane \
        ON CONFLICT (persistence_id, sequence_nr) DO UPDATE \
        SET shard = excluded.shard, codec = excluded.codec, manifest = excluded.manifest, \
            payload = excluded.payload, created_at = excluded.created_at \
    ) \
    SELECT EXISTS (SELECT FROM lane)";

/// Snapshots deleted by one statement: they may be large.
const DELETE_AT_ONCE: i64 = 100;

/// Deletes some of those that match, the lowest first.
const DELETE: &str = "\
    WITH lane AS ( \
        SELECT FROM perennial.writer_sessions \
        WHERE session = $1 AND lane = 0 AND fenced_at IS NULL \
          AND coalesce((fenced_shards ->> $2::text)::bigint, -1) < $3 FOR SHARE \
    ), gone AS ( \
        DELETE FROM perennial.snapshots WHERE persistence_id = $4 AND sequence_nr IN ( \
            SELECT sequence_nr FROM perennial.snapshots, lane \
            WHERE persistence_id = $4 AND sequence_nr BETWEEN $5 AND $6 \
              AND (extract(epoch FROM created_at) * 1000000)::bigint BETWEEN $7 AND $8 \
            ORDER BY sequence_nr LIMIT $9) \
        RETURNING 1 \
    ) \
    SELECT EXISTS (SELECT FROM lane), (SELECT count(*) FROM gone)";

/// The answer of a write begins with whether the session may.
fn check(doing: &str, right: WriteRight, row: &PgRow) -> Result<(), JournalError> {
    let may_write: bool = row.try_get(0).map_err(|error| unavailable(doing, error))?;
    let session = right.session;
    if may_write {
        Ok(())
    } else {
        Err(JournalError::Fenced { session })
    }
}

#[async_trait]
impl SnapshotStore for PostgresSnapshotStore {
    async fn load(
        &self,
        persistence_id: &PersistenceId,
        criteria: SnapshotCriteria,
    ) -> Result<Option<Snapshot>, JournalError> {
        let (connections, persistence_id) = (self.connections.clone(), persistence_id.clone());
        owned(async move {
            let doing = "loading a snapshot";
            let arguments = arguments![
                persistence_id.as_str(),
                criteria.min_sequence_nr.as_i64(),
                criteria.max_sequence_nr.as_i64(),
                criteria.min_created_at.map_or(i64::MIN, to_micros),
                criteria.max_created_at.map_or(i64::MAX, to_micros),
            ];
            let rows = connections.read(doing, LOAD, arguments).await?;
            let Some(row) = rows.first() else {
                return Ok(None);
            };
            let (sequence_nr, codec, manifest, bytes, created_at) =
                <(i64, i16, String, Vec<u8>, i64)>::from_row(row)
                    .map_err(|error| unavailable(doing, error))?;
            Ok(Some(Snapshot {
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
        let (connections, persistence_id) = (self.connections.clone(), persistence_id.clone());
        let payload = payload.clone();
        owned(async move {
            let doing = "saving a snapshot";
            let arguments = arguments![
                right.session.0,
                right.shard.to_string(),
                epoch_i64(right.epoch),
                persistence_id.as_str(),
                sequence_nr.as_i64(),
                payload.codec.0,
                &*payload.manifest,
                &*payload.bytes,
            ];
            let row = connections
                .write(right.session, doing, SAVE, arguments)
                .await?;
            check(doing, right, &row)
        })
        .await
    }

    async fn delete(
        &self,
        right: WriteRight,
        persistence_id: &PersistenceId,
        criteria: SnapshotCriteria,
    ) -> Result<(), JournalError> {
        let (connections, persistence_id) = (self.connections.clone(), persistence_id.clone());
        owned(async move {
            let doing = "deleting snapshots";
            loop {
                let arguments = arguments![
                    right.session.0,
                    right.shard.to_string(),
                    epoch_i64(right.epoch),
                    persistence_id.as_str(),
                    criteria.min_sequence_nr.as_i64(),
                    criteria.max_sequence_nr.as_i64(),
                    criteria.min_created_at.map_or(i64::MIN, to_micros),
                    criteria.max_created_at.map_or(i64::MAX, to_micros),
                    DELETE_AT_ONCE,
                ];
                let row = connections
                    .write(right.session, doing, DELETE, arguments)
                    .await?;
                check(doing, right, &row)?;
                let deleted: i64 = row.try_get(1).map_err(|error| unavailable(doing, error))?;
                if deleted < DELETE_AT_ONCE {
                    return Ok(());
                }
            }
        })
        .await
    }
}
