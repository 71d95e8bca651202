//! The journal in Postgres.
//!
//! This file reads and deletes; appends, which are the delicate part, are in
//! `journal/postgres/append.rs`. Tables: `migrations/postgres/0001_schema.sql`.
//! Connections: `storage/postgres/connections.rs`.

mod append;
mod columns;
mod fencing;
mod outcome;
mod statement;
pub(crate) mod tails;

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};

use crate::command::CommandId;
use crate::journal::{
    Append, Appended, EntityListing, EventRange, Journal, JournalError, StoredCommand, StoredEvent,
    StreamBounds, WriteRight,
};
use crate::payload::{CodecId, Payload};
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::storage::listing::Page;
use crate::storage::manifests::manifest;
use crate::storage::owned::owned;
use crate::storage::postgres::connections::{Connections, arguments};
use crate::storage::{
    self, corrupt, decode_error, from_micros, limit, parse_metadata, unavailable,
};
use crate::writer::{Epoch, SessionUuid, ShardNr, WriterUuid};

/// A journal in Postgres.
pub(crate) struct PostgresJournal {
    connections: Arc<Connections>,
}

impl PostgresJournal {
    pub(crate) fn new(connections: Arc<Connections>) -> Self {
        Self { connections }
    }
}

/// The window sums the bytes before each row, so that the byte limit is applied
/// where the rows are; lengths are known without reading large payloads.
const READ_EVENTS: &str = "\
    SELECT sequence_nr, writer_uuid, codec, manifest, payload, tags, metadata::text, command_id, \
           (extract(epoch FROM created_at) * 1000000)::bigint \
    FROM (SELECT *, sum(octet_length(payload)) OVER (ORDER BY sequence_nr ROWS UNBOUNDED PRECEDING) \
                    - octet_length(payload) AS bytes_before \
          FROM perennial.events \
          WHERE persistence_id = $1 AND sequence_nr BETWEEN $2 AND $3 ORDER BY sequence_nr LIMIT $4) page \
    WHERE bytes_before < $5 ORDER BY sequence_nr";

const BOUNDS: &str = "\
    SELECT coalesce((SELECT max(sequence_nr) FROM perennial.events WHERE persistence_id = $1), \
                    (SELECT highest FROM perennial.streams WHERE persistence_id = $1), 0), \
           coalesce((SELECT deleted_to FROM perennial.streams WHERE persistence_id = $1), 0), \
           coalesce((SELECT tombstone FROM perennial.streams WHERE persistence_id = $1), 0)";

const FIND_COMMANDS: &str = "\
    SELECT command_id, sequence_nr + write_len - 1, reply_codec, reply_manifest, reply FROM perennial.events \
    WHERE persistence_id = $1 AND command_id = ANY ($2) \
    UNION ALL \
    SELECT command_id, sequence_nr, reply_codec, reply_manifest, reply FROM perennial.deleted_commands \
    WHERE persistence_id = $1 AND command_id = ANY ($2)";

/// Steps from id to id along the indexes instead of reading every event. An entity
/// with neither events nor snapshots was deleted.
const LIST_ENTITIES: &str = "\
    WITH RECURSIVE ids (id) AS ( \
        SELECT min(id) FROM ( \
            SELECT min(persistence_id) AS id FROM perennial.events WHERE persistence_id > $1 AND persistence_id < $2 \
            UNION ALL \
            SELECT min(persistence_id) FROM perennial.snapshots WHERE persistence_id > $1 AND persistence_id < $2) first \
        UNION ALL \
        SELECT (SELECT min(id) FROM ( \
            SELECT min(persistence_id) AS id FROM perennial.events WHERE persistence_id > ids.id AND persistence_id < $2 \
            UNION ALL \
            SELECT min(persistence_id) FROM perennial.snapshots \
            WHERE persistence_id > ids.id AND persistence_id < $2) next) \
        FROM ids WHERE ids.id IS NOT NULL \
    ), page AS (SELECT id FROM ids WHERE id IS NOT NULL LIMIT $3) \
    SELECT id, coalesce((SELECT max(sequence_nr) FROM perennial.events WHERE persistence_id = id), \
                        (SELECT highest FROM perennial.streams WHERE persistence_id = id), 0) \
    FROM page";

/// A fence changes the rows of all lanes at once, so one of them will do.
const MAY_WRITE: &str = "\
    SELECT EXISTS (SELECT FROM perennial.writer_sessions \
                   WHERE session = $1 AND lane = 0 AND fenced_at IS NULL \
                     AND coalesce((fenced_shards ->> asked.shard::text)::bigint, -1) < asked.epoch) \
    FROM unnest($2::bigint[], $3::bigint[]) WITH ORDINALITY AS asked (shard, epoch, place) ORDER BY place";

/// Events deleted by one statement, so that none takes long, whatever the stream.
const DELETE_AT_ONCE: i64 = 1000;

/// Deletes the first so many events, everything in one statement: the right to
/// write, checked like an append's; the highest number, kept in `streams`; the
/// commands, kept in `deleted_commands`; and a few of those beyond the horizon,
/// forgotten. What is left is as whole as before, so it may stop after any chunk.
const DELETE_EVENTS: &str = "\
    WITH lane AS ( \
        SELECT FROM perennial.writer_sessions \
        WHERE session = $1 AND lane = 0 AND fenced_at IS NULL \
          AND coalesce((fenced_shards ->> $2::text)::bigint, -1) < $3 FOR SHARE \
    ), stream AS ( \
        SELECT coalesce((SELECT max(sequence_nr) FROM perennial.events WHERE persistence_id = $4), \
                        (SELECT highest FROM perennial.streams WHERE persistence_id = $4), 0) AS highest, \
               (SELECT min(sequence_nr) FROM perennial.events WHERE persistence_id = $4) AS lowest \
    ), target AS ( \
        SELECT highest, least($5, highest, lowest - 1 + $7) AS up_to FROM stream, lane \
        WHERE $5 <= highest OR $5 = 9223372036854775807 \
    ), kept AS ( \
        INSERT INTO perennial.streams AS streams (persistence_id, highest, deleted_to) \
        SELECT $4, highest, up_to FROM target \
        ON CONFLICT (persistence_id) DO UPDATE \
        SET highest = greatest(streams.highest, excluded.highest), \
            deleted_to = greatest(streams.deleted_to, excluded.deleted_to) \
    ), gone AS ( \
        DELETE FROM perennial.events USING target WHERE persistence_id = $4 AND sequence_nr <= up_to \
        RETURNING command_id, sequence_nr + write_len - 1 AS last_nr, reply_codec, reply_manifest, reply \
    ), remembered AS ( \
        INSERT INTO perennial.deleted_commands (persistence_id, command_id, sequence_nr, reply_codec, \
                                                reply_manifest, reply) \
        SELECT $4, command_id, last_nr, reply_codec, reply_manifest, reply FROM gone WHERE command_id IS NOT NULL \
    ), forgotten AS ( \
        DELETE FROM perennial.deleted_commands WHERE (persistence_id, command_id) IN ( \
            SELECT persistence_id, command_id FROM perennial.deleted_commands, lane \
            WHERE deleted_at < now() - make_interval(secs => $6) ORDER BY deleted_at LIMIT 1000) \
    ) \
    SELECT EXISTS (SELECT FROM lane), highest, coalesce((SELECT up_to FROM target), 0) FROM stream";

pub(crate) fn decode_event(
    persistence_id: &PersistenceId,
    row: &PgRow,
) -> Result<StoredEvent, JournalError> {
    let sequence_nr: i64 = row
        .try_get(0)
        .map_err(|error| corrupt(persistence_id.as_str(), 0, &error))?;
    let decode = || -> Result<StoredEvent, sqlx::Error> {
        let tags: Option<Vec<String>> = row.try_get(5)?;
        let metadata: Option<&str> = row.try_get(6)?;
        Ok(StoredEvent {
            persistence_id: persistence_id.clone(),
            sequence_nr: SequenceNr::from_i64(sequence_nr),
            writer: WriterUuid(row.try_get(1)?),
            payload: Payload {
                codec: CodecId(row.try_get(2)?),
                manifest: manifest(row.try_get(3)?),
                bytes: row.try_get::<Vec<u8>, _>(4)?.into(),
            },
            tags: tags.unwrap_or_default(),
            metadata: parse_metadata(metadata).map_err(decode_error)?,
            command_id: storage::command_id(row.try_get(7)?).map_err(decode_error)?,
            created_at: from_micros(row.try_get(8)?),
        })
    };
    decode().map_err(|error| corrupt(persistence_id.as_str(), sequence_nr, &error))
}

/// What earlier runs of these commands stored, in any order, unknown ones left out.
async fn find_commands(
    connections: &Connections,
    persistence_id: &PersistenceId,
    command_ids: &[CommandId],
) -> Result<Vec<(String, StoredCommand)>, JournalError> {
    let doing = "looking up command ids";
    let ids: Vec<&str> = command_ids.iter().map(CommandId::as_str).collect();
    let arguments = arguments![persistence_id.as_str(), ids];
    let rows = connections.read(doing, FIND_COMMANDS, arguments).await?;
    let decode = |row: &PgRow| {
        let (id, sequence_nr, codec, manifest, reply) =
            <(String, i64, i16, String, Vec<u8>)>::from_row(row)?;
        let stored = StoredCommand {
            sequence_nr: SequenceNr::from_i64(sequence_nr),
            reply: storage::payload(codec, manifest, reply),
        };
        Ok((id, stored))
    };
    let found: Result<Vec<_>, sqlx::Error> = rows.iter().map(decode).collect();
    found.map_err(|error| corrupt(persistence_id.as_str(), 0, &error))
}

/// Deletes in chunks, so that neither a statement nor the lane it uses is busy for
/// long. Events that are stored meanwhile stay.
async fn delete_events(
    connections: &Connections,
    right: WriteRight,
    persistence_id: &PersistenceId,
    to: SequenceNr,
) -> Result<(), JournalError> {
    let doing = "deleting events";
    let mut goal = to;
    loop {
        let arguments = arguments![
            right.session.0,
            right.shard.to_string(),
            storage::epoch_i64(right.epoch),
            persistence_id.as_str(),
            goal.as_i64(),
            connections.options.command_id_horizon.as_secs_f64(),
            DELETE_AT_ONCE,
        ];
        let row = connections
            .write(right.session, doing, DELETE_EVENTS, arguments)
            .await?;
        let (may_write, highest, deleted_to) =
            <(bool, i64, i64)>::from_row(&row).map_err(|error| unavailable(doing, error))?;
        let highest = SequenceNr::from_i64(highest);
        if !may_write {
            let session = right.session;
            return Err(JournalError::Fenced { session });
        }
        if goal > highest && goal != SequenceNr::MAX {
            return Err(JournalError::DeleteBeyondStream { asked: to, highest });
        }
        goal = goal.min(highest);
        if SequenceNr::from_i64(deleted_to) >= goal {
            return Ok(());
        }
    }
}

#[async_trait]
impl Journal for PostgresJournal {
    fn lanes(&self) -> usize {
        self.connections.append_lanes()
    }

    /// Not in a task of its own, which would need a copy of the batch: a lane that is
    /// left in the middle of a statement closes its connection, so a caller may go
    /// away.
    async fn append(&self, session: SessionUuid, lane: usize, batch: &[Append]) -> Vec<Appended> {
        append::append(&self.connections, session, lane, batch).await
    }

    async fn may_write(
        &self,
        session: SessionUuid,
        shards: &[(ShardNr, Epoch)],
    ) -> Result<Vec<bool>, JournalError> {
        let connections = self.connections.clone();
        let numbers: Vec<i64> = shards.iter().map(|(shard, _)| shard.0.into()).collect();
        let epochs: Vec<i64> = shards
            .iter()
            .map(|(_, epoch)| storage::epoch_i64(*epoch))
            .collect();
        owned(async move {
            let doing = "asking whether the session is fenced";
            let arguments = arguments![session.0, numbers, epochs];
            let rows = connections.read(doing, MAY_WRITE, arguments).await?;
            let may_write = |row: &PgRow| row.try_get(0);
            let answers: Result<Vec<bool>, sqlx::Error> = rows.iter().map(may_write).collect();
            answers.map_err(|error| unavailable(doing, error))
        })
        .await
    }

    async fn read_events(&self, range: &EventRange) -> Result<Vec<StoredEvent>, JournalError> {
        let (connections, range) = (self.connections.clone(), range.clone());
        owned(async move {
            let arguments = arguments![
                range.persistence_id.as_str(),
                range.from.as_i64(),
                range.to.as_i64(),
                limit(range.max_events),
                limit(range.max_bytes.max(1)),
            ];
            let rows = connections
                .read("reading events", READ_EVENTS, arguments)
                .await?;
            rows.iter()
                .map(|row| decode_event(&range.persistence_id, row))
                .collect()
        })
        .await
    }

    async fn bounds(&self, persistence_id: &PersistenceId) -> Result<StreamBounds, JournalError> {
        let (connections, persistence_id) = (self.connections.clone(), persistence_id.clone());
        owned(async move {
            let doing = "reading the bounds of a stream";
            let arguments = arguments![persistence_id.as_str()];
            let rows = connections.read(doing, BOUNDS, arguments).await?;
            let row = rows.first().ok_or(sqlx::Error::RowNotFound);
            let (highest, deleted_to, tombstone) = row
                .and_then(<(i64, i64, i64)>::from_row)
                .map_err(|error| unavailable(doing, error))?;
            Ok(StreamBounds {
                highest: SequenceNr::from_i64(highest),
                deleted_to: SequenceNr::from_i64(deleted_to),
                tombstone: SequenceNr::from_i64(tombstone),
            })
        })
        .await
    }

    async fn find_commands(
        &self,
        persistence_id: &PersistenceId,
        command_ids: &[CommandId],
    ) -> Result<Vec<Option<StoredCommand>>, JournalError> {
        let (connections, persistence_id) = (self.connections.clone(), persistence_id.clone());
        let command_ids = command_ids.to_vec();
        owned(async move {
            let found = find_commands(&connections, &persistence_id, &command_ids).await?;
            let stored = |id: &CommandId| {
                let (_, stored) = found.iter().find(|(found, _)| found == id.as_str())?;
                Some(stored.clone())
            };
            Ok(command_ids.iter().map(stored).collect())
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
        page.read_postgres(self.connections.clone(), LIST_ENTITIES)
            .await
    }

    async fn delete_events(
        &self,
        right: WriteRight,
        persistence_id: &PersistenceId,
        to: SequenceNr,
    ) -> Result<(), JournalError> {
        let (connections, persistence_id) = (self.connections.clone(), persistence_id.clone());
        owned(async move { delete_events(&connections, right, &persistence_id, to).await }).await
    }
}
