//! The reader in Postgres: one statement for all entities, which is one snapshot of
//! the database, and one row for each entity.
//!
//! The events of an entity come as one array per column: a row of its own for each
//! would cost the driver more than the event itself. Arrays are taken apart in
//! `recovery_reader/postgres/page.rs`.

mod page;

use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt;
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::journal::{JournalError, StreamBounds};
use crate::payload::{CodecId, Payload};
use crate::sequence_nr::SequenceNr;
use crate::snapshot_store::Snapshot;
use crate::storage::manifests::manifest;
use crate::storage::owned::owned;
use crate::storage::postgres::connections::{Connections, arguments};
use crate::storage::{self, corrupt, from_micros, limit};

use super::halves::{Answer, read_in_halves};
use super::{Beginning, BeginningLimits, RecoveryReader, Wanted};

/// Statements under way at once. Four, with 128 recoveries instead of 50, came out some
/// 12 % faster than two; more would share the same recoveries among smaller statements.
/// Half of the connections at most, so that long streams and other reads always find one.
const STATEMENTS_MAX: usize = 4;

/// One row for each entity, whatever there is of it.
///
/// `$1`, `$2`: ids and highest snapshots. `$3`: events of each. `$4`: largest
/// snapshot. `$5`: largest event; a larger one comes as null and ends the page: a
/// running sum of bytes would cost half as much again as reading the rows.
///
/// LATERAL with LIMIT leaves the planner nothing but a walk along an index for each
/// entity. Where the page is not full, its last event is the stream's, and the
/// CASE does not look for the highest number again.
const READ_BEGINNINGS: &str = "\
    SELECT (w.place - 1)::int4, snapshot.sequence_nr, snapshot.codec, snapshot.manifest, snapshot.payload, \
           snapshot.created_at, coalesce(stream.deleted_to, 0), \
           CASE WHEN cardinality(page.sequence_nrs) BETWEEN 1 AND $3 - 1 \
                THEN page.sequence_nrs[cardinality(page.sequence_nrs)] \
                ELSE coalesce((SELECT max(sequence_nr) FROM perennial.events WHERE persistence_id = w.id), \
                              stream.highest, 0) END, \
           coalesce(stream.tombstone, 0), page.* \
    FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS w (id, snapshot_max, place) \
    LEFT JOIN LATERAL ( \
        SELECT sequence_nr, codec, manifest, CASE WHEN octet_length(payload) <= $4 THEN payload END AS payload, \
               (extract(epoch FROM created_at) * 1000000)::bigint AS created_at \
        FROM perennial.snapshots WHERE persistence_id = w.id AND sequence_nr <= w.snapshot_max \
        ORDER BY sequence_nr DESC LIMIT 1 \
    ) snapshot ON true \
    LEFT JOIN LATERAL ( \
        SELECT highest, deleted_to, tombstone FROM perennial.streams WHERE persistence_id = w.id LIMIT 1 \
    ) stream ON true \
    CROSS JOIN LATERAL ( \
        SELECT array_agg(sequence_nr) AS sequence_nrs, array_agg(writer_uuid), array_agg(codec), \
               array_agg(manifest), array_agg(CASE WHEN octet_length(payload) <= $5 THEN payload END), \
               array_agg(created_at), array_agg(command_id), \
               array_agg(json_build_array(sequence_nr, tags, metadata)::text) \
                   FILTER (WHERE tags IS NOT NULL OR metadata IS NOT NULL) \
        FROM ( \
            SELECT * FROM perennial.events \
            WHERE persistence_id = w.id AND sequence_nr > greatest(snapshot.sequence_nr, stream.deleted_to, 0) \
            ORDER BY sequence_nr LIMIT $3 \
        ) events \
    ) page";

/// Where the columns of the page begin in a row.
const PAGE_COLUMNS: usize = 9;

/// A reader in Postgres.
pub(crate) struct PostgresRecoveryReader {
    connections: Arc<Connections>,
}

impl PostgresRecoveryReader {
    pub(crate) fn new(connections: Arc<Connections>) -> Self {
        Self { connections }
    }
}

async fn read(
    connections: &Connections,
    wanted: &[Wanted],
    limits: BeginningLimits,
    bytes_each: usize,
) -> Result<Vec<Answer>, JournalError> {
    let doing = "reading where recoveries begin";
    let ids: Vec<&str> = wanted
        .iter()
        .map(|one| one.persistence_id.as_str())
        .collect();
    let snapshots: Vec<i64> = wanted.iter().map(|one| one.snapshot_max.as_i64()).collect();
    let arguments = arguments![
        ids,
        snapshots,
        limit(limits.events_each),
        limit(bytes_each),
        limit(bytes_each / limits.events_each.max(1)),
    ];
    let rows = connections.read(doing, READ_BEGINNINGS, arguments).await?;
    let mut answers: Vec<Option<Answer>> = wanted.iter().map(|_| None).collect();
    for row in &rows {
        let place = row.try_get::<i32, _>(0);
        let place = place.map_err(|error| storage::unavailable(doing, error))?;
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        if let (Some(one), Some(answer)) = (wanted.get(place), answers.get_mut(place)) {
            *answer = Some(decode(one, row));
        }
    }
    let missing = || Err(storage::unavailable(doing, sqlx::Error::RowNotFound));
    Ok(answers
        .into_iter()
        .map(|answer| answer.unwrap_or_else(missing))
        .collect())
}

fn decode(wanted: &Wanted, row: &PgRow) -> Answer {
    let id = &wanted.persistence_id;
    let damaged = |error: sqlx::Error| corrupt(id.as_str(), 0, &error);
    let snapshot = match row.try_get(1).map_err(damaged)? {
        None => None,
        Some(sequence_nr) => {
            let Some(snapshot) = decode_snapshot(sequence_nr, row).map_err(damaged)? else {
                return Ok(None);
            };
            Some(snapshot)
        }
    };
    let bounds = || -> Result<StreamBounds, sqlx::Error> {
        Ok(StreamBounds {
            deleted_to: SequenceNr::from_i64(row.try_get(6)?),
            highest: SequenceNr::from_i64(row.try_get(7)?),
            tombstone: SequenceNr::from_i64(row.try_get(8)?),
        })
    };
    Ok(Some(Beginning {
        bounds: bounds().map_err(damaged)?,
        snapshot,
        events: page::decode_events(id, row, PAGE_COLUMNS)?,
    }))
}

/// `None` when its payload is too large to be read along.
fn decode_snapshot(sequence_nr: i64, row: &PgRow) -> Result<Option<Snapshot>, sqlx::Error> {
    let Some(bytes) = row.try_get::<Option<Vec<u8>>, _>(4)? else {
        return Ok(None);
    };
    let payload = Payload {
        codec: CodecId(row.try_get(2)?),
        manifest: manifest(row.try_get(3)?),
        bytes: bytes.into(),
    };
    Ok(Some(Snapshot {
        sequence_nr: SequenceNr::from_i64(sequence_nr),
        payload,
        created_at: from_micros(row.try_get(5)?),
    }))
}

/// Whether a statement failed because of what is stored: a damaged page or value.
/// Others may be whole.
fn is_damage(error: &JournalError) -> bool {
    let JournalError::Unavailable {
        source: Some(source),
        ..
    } = error
    else {
        return false;
    };
    let code = source
        .downcast_ref::<sqlx::Error>()
        .and_then(sqlx::Error::as_database_error)
        .and_then(sqlx::error::DatabaseError::code);
    // SQLSTATE classes: internal error (data or index corrupted), data exception.
    code.is_some_and(|code| code.starts_with("XX") || code.starts_with("22"))
}

#[async_trait]
impl RecoveryReader for PostgresRecoveryReader {
    fn concurrency(&self) -> usize {
        (self.connections.options.recovery_connections / 2).clamp(1, STATEMENTS_MAX)
    }

    async fn read_beginnings(&self, wanted: &[Wanted], limits: BeginningLimits) -> Vec<Answer> {
        let (connections, wanted) = (self.connections.clone(), wanted.to_vec());
        let bytes_each = limits.bytes_each(wanted.len());
        owned(async move {
            let read = |some: Vec<Wanted>| {
                let connections = connections.clone();
                async move { read(&connections, &some, limits, bytes_each).await }.boxed()
            };
            read_in_halves(&wanted, read, is_damage).await
        })
        .await
    }
}
