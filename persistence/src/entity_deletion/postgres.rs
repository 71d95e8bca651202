//! Deleting an entity in Postgres: a tombstone, then the rows below it in chunks.
//!
//! Every statement checks the session's row as an append does, and doing it twice is
//! the same as once. Next: `storage/postgres/connections.rs`.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::FromRow;

use super::{EntityDeletion, Tombstone, fenced_meanwhile};
use crate::journal::{JournalError, WriteRight};
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::storage::owned::owned;
use crate::storage::postgres::connections::{Connections, arguments};
use crate::storage::{epoch_i64, from_micros, unavailable};

const DOING: &str = "deleting an entity";

/// Deletes entities in Postgres.
pub(crate) struct PostgresEntityDeletion {
    connections: Arc<Connections>,
}

impl PostgresEntityDeletion {
    pub(crate) fn new(connections: Arc<Connections>) -> Self {
        Self { connections }
    }
}

/// A second deletion of the same life finds its tombstone and leaves it.
const SET_TOMBSTONE: &str = "\
    WITH lane AS ( \
        SELECT FROM perennial.writer_sessions \
        WHERE session = $1 AND lane = 0 AND fenced_at IS NULL \
          AND coalesce((fenced_shards ->> $2::text)::bigint, -1) < $3 FOR SHARE \
    ), stream AS ( \
        SELECT greatest( \
            coalesce((SELECT max(sequence_nr) FROM perennial.events WHERE persistence_id = $4), \
                     (SELECT highest FROM perennial.streams WHERE persistence_id = $4), 0), \
            coalesce((SELECT max(sequence_nr) FROM perennial.snapshots WHERE persistence_id = $4), 0), \
            $5) AS highest \
        FROM lane \
    ), kept AS ( \
        INSERT INTO perennial.streams AS streams (persistence_id, highest, deleted_to, tombstone, tombstone_at) \
        SELECT $4, highest, highest, highest, now() FROM stream WHERE highest > 0 \
        ON CONFLICT (persistence_id) DO UPDATE \
        SET highest = greatest(streams.highest, excluded.highest), \
            deleted_to = greatest(streams.deleted_to, excluded.deleted_to), \
            tombstone = greatest(streams.tombstone, excluded.tombstone), \
            tombstone_at = CASE WHEN streams.tombstone >= excluded.tombstone THEN streams.tombstone_at \
                                ELSE excluded.tombstone_at END \
        RETURNING tombstone, tombstone_at \
    ) \
    SELECT EXISTS (SELECT FROM lane), (SELECT tombstone FROM kept), \
           (SELECT (extract(epoch FROM tombstone_at) * 1000000)::bigint FROM kept)";

/// The statement that deletes some of the rows of one table, the lowest first. A
/// macro, because statements are texts without parts that vary.
macro_rules! delete_some {
    ($table:literal, $key:literal) => {
        concat!(
            "WITH lane AS ( \
                 SELECT FROM perennial.writer_sessions \
                 WHERE session = $1 AND lane = 0 AND fenced_at IS NULL \
                   AND coalesce((fenced_shards ->> $2::text)::bigint, -1) < $3 FOR SHARE \
             ), gone AS ( \
                 DELETE FROM perennial.",
            $table,
            " WHERE persistence_id = $4 AND ",
            $key,
            " IN ( \
                     SELECT ",
            $key,
            " FROM perennial.",
            $table,
            ", lane \
                     WHERE persistence_id = $4 AND sequence_nr <= $5 ORDER BY ",
            $key,
            " LIMIT $6) \
                 RETURNING 1 \
             ) \
             SELECT EXISTS (SELECT FROM lane), (SELECT count(*) FROM gone)"
        )
    };
}

/// What is deleted, and how many rows by one statement: snapshots may be large.
const ROWS: [(&str, i64); 3] = [
    (delete_some!("snapshots", "sequence_nr"), 100),
    (delete_some!("events", "sequence_nr"), 1000),
    (delete_some!("deleted_commands", "command_id"), 1000),
];

async fn set_tombstone(
    connections: &Connections,
    right: WriteRight,
    id: &PersistenceId,
    may_have_stored_to: SequenceNr,
) -> Result<Option<Tombstone>, JournalError> {
    let arguments = arguments![
        right.session.0,
        right.shard.to_string(),
        epoch_i64(right.epoch),
        id.as_str(),
        may_have_stored_to.as_i64(),
    ];
    let row = connections
        .write(right.session, DOING, SET_TOMBSTONE, arguments)
        .await?;
    let (may_write, sequence_nr, at) = <(bool, Option<i64>, Option<i64>)>::from_row(&row)
        .map_err(|error| unavailable(DOING, error))?;
    if !may_write {
        let session = right.session;
        return Err(JournalError::Fenced { session });
    }
    Ok(sequence_nr.zip(at).map(|(nr, at)| Tombstone {
        sequence_nr: SequenceNr::from_i64(nr),
        deleted_at: from_micros(at),
    }))
}

async fn delete_rows(
    connections: &Connections,
    right: WriteRight,
    id: &PersistenceId,
    to: SequenceNr,
) -> Result<(), JournalError> {
    for (statement, at_once) in ROWS {
        loop {
            let arguments = arguments![
                right.session.0,
                right.shard.to_string(),
                epoch_i64(right.epoch),
                id.as_str(),
                to.as_i64(),
                at_once,
            ];
            let row = connections
                .write(right.session, DOING, statement, arguments)
                .await?;
            let (may_write, deleted) =
                <(bool, i64)>::from_row(&row).map_err(|error| unavailable(DOING, error))?;
            if !may_write {
                return Err(fenced_meanwhile(id));
            }
            if deleted < at_once {
                break;
            }
        }
    }
    Ok(())
}

#[async_trait]
impl EntityDeletion for PostgresEntityDeletion {
    async fn delete_entity(
        &self,
        right: WriteRight,
        persistence_id: &PersistenceId,
        may_have_stored_to: SequenceNr,
    ) -> Result<Option<Tombstone>, JournalError> {
        let (connections, id) = (self.connections.clone(), persistence_id.clone());
        owned(async move {
            let tombstone = set_tombstone(&connections, right, &id, may_have_stored_to).await?;
            if let Some(tombstone) = tombstone {
                delete_rows(&connections, right, &id, tombstone.sequence_nr).await?;
            }
            Ok(tombstone)
        })
        .await
    }
}
