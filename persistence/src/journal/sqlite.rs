//! The journal in an SQLite file.
//!
//! This file reads and deletes; appends are in `journal/sqlite/append.rs`. The
//! file, its connections and what errors mean: `storage/sqlite.rs`.

mod append;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

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
use crate::storage::sqlite::{Fences, SqliteDatabase, unavailable};
use crate::storage::{self, corrupt, decode_error, from_micros, limit, parse_metadata};
use crate::writer::{Epoch, SessionUuid, ShardNr, WriterUuid};

/// Events deleted by one transaction, so that appends need not wait for long.
const DELETE_AT_ONCE: u64 = 1000;

/// Remembered commands beyond the horizon forgotten with one deletion of events,
/// so that no deletion takes long.
const FORGET_AT_ONCE: i64 = 1000;

/// A journal in an SQLite file.
pub(crate) struct SqliteJournal {
    database: Arc<SqliteDatabase>,
}

impl SqliteJournal {
    pub(crate) fn new(database: Arc<SqliteDatabase>) -> Self {
        Self { database }
    }
}

/// The window sums the bytes before each row, so that the byte limit is applied
/// where the rows are.
const READ_EVENTS: &str = "SELECT sequence_nr, writer_uuid, codec, manifest, payload, tags, metadata, command_id, created_at \
     FROM (SELECT *, sum(length(payload)) OVER (ORDER BY sequence_nr ROWS UNBOUNDED PRECEDING) - length(payload) \
                  AS bytes_before \
           FROM events WHERE persistence_id = ? AND sequence_nr BETWEEN ? AND ? ORDER BY sequence_nr LIMIT ?) \
     WHERE bytes_before < ? ORDER BY sequence_nr";

/// Steps from id to id along the indexes instead of reading every event. An entity
/// with neither events nor snapshots was deleted.
const LIST_ENTITIES: &str = "WITH RECURSIVE ids (id) AS ( \
         SELECT min(id) FROM ( \
             SELECT min(persistence_id) AS id FROM events WHERE persistence_id > ?1 AND persistence_id < ?2 \
             UNION ALL \
             SELECT min(persistence_id) FROM snapshots WHERE persistence_id > ?1 AND persistence_id < ?2) \
         UNION ALL \
         SELECT (SELECT min(id) FROM ( \
             SELECT min(persistence_id) AS id FROM events WHERE persistence_id > ids.id AND persistence_id < ?2 \
             UNION ALL \
             SELECT min(persistence_id) FROM snapshots WHERE persistence_id > ids.id AND persistence_id < ?2)) \
         FROM ids WHERE ids.id IS NOT NULL LIMIT ?3 \
     ) \
     SELECT id, coalesce((SELECT max(sequence_nr) FROM events WHERE persistence_id = id), \
                         (SELECT highest FROM streams WHERE persistence_id = id), 0) \
     FROM ids WHERE id IS NOT NULL";

async fn find_command(
    connection: &mut SqliteConnection,
    persistence_id: &PersistenceId,
    command_id: &CommandId,
) -> Result<Option<StoredCommand>, sqlx::Error> {
    let found: Option<(i64, i16, String, Vec<u8>)> = sqlx::query_as(
        "SELECT sequence_nr + write_len - 1, reply_codec, reply_manifest, reply FROM events \
         WHERE persistence_id = ?1 AND command_id = ?2 \
         UNION ALL \
         SELECT sequence_nr, reply_codec, reply_manifest, reply FROM deleted_commands \
         WHERE persistence_id = ?1 AND command_id = ?2 \
         LIMIT 1",
    )
    .bind(persistence_id.as_str())
    .bind(command_id.as_str())
    .fetch_optional(connection)
    .await?;
    Ok(
        found.map(|(sequence_nr, codec, manifest, reply)| StoredCommand {
            sequence_nr: SequenceNr::from_i64(sequence_nr),
            reply: storage::payload(codec, manifest, reply),
        }),
    )
}

pub(crate) async fn read_bounds(
    connection: &mut SqliteConnection,
    persistence_id: &PersistenceId,
) -> Result<StreamBounds, sqlx::Error> {
    let (highest, deleted_to, tombstone): (i64, i64, i64) = sqlx::query_as(
        "SELECT coalesce((SELECT max(sequence_nr) FROM events WHERE persistence_id = ?1), \
                         (SELECT highest FROM streams WHERE persistence_id = ?1), 0), \
                coalesce((SELECT deleted_to FROM streams WHERE persistence_id = ?1), 0), \
                coalesce((SELECT tombstone FROM streams WHERE persistence_id = ?1), 0)",
    )
    .bind(persistence_id.as_str())
    .fetch_one(connection)
    .await?;
    Ok(StreamBounds {
        highest: SequenceNr::from_i64(highest),
        deleted_to: SequenceNr::from_i64(deleted_to),
        tombstone: SequenceNr::from_i64(tombstone),
    })
}

pub(crate) fn decode_event(
    persistence_id: &PersistenceId,
    row: &SqliteRow,
) -> Result<StoredEvent, JournalError> {
    let sequence_nr: i64 = row
        .try_get(0)
        .map_err(|error| corrupt(persistence_id.as_str(), 0, &error))?;
    let decode = || -> Result<StoredEvent, sqlx::Error> {
        let tags: Option<String> = row.try_get(5)?;
        let tags = tags
            .map(|tags| serde_json::from_str(&tags))
            .transpose()
            .map_err(decode_error)?;
        let metadata: Option<String> = row.try_get(6)?;
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
            metadata: parse_metadata(metadata.as_deref()).map_err(decode_error)?,
            command_id: storage::command_id(row.try_get(7)?).map_err(decode_error)?,
            created_at: from_micros(row.try_get(8)?),
        })
    };
    decode().map_err(|error| corrupt(persistence_id.as_str(), sequence_nr, &error))
}

/// Deletes in chunks. Events that are stored meanwhile stay.
async fn delete_events(
    database: &SqliteDatabase,
    right: WriteRight,
    persistence_id: &PersistenceId,
    to: SequenceNr,
) -> Result<(), JournalError> {
    let failed = |error| unavailable("deleting events", error);
    let mut goal = to;
    loop {
        let mut writer = database.writer().await.map_err(failed)?;
        let mut transaction = writer.begin().await.map_err(failed)?;
        let fences = Fences::of(&mut transaction, right.session).await;
        if !fences.map_err(failed)?.allow(right.shard, right.epoch) {
            let session = right.session;
            return Err(JournalError::Fenced { session });
        }
        let bounds = read_bounds(&mut transaction, persistence_id).await;
        let highest = bounds.map_err(failed)?.highest;
        if goal > highest && goal != SequenceNr::MAX {
            return Err(JournalError::DeleteBeyondStream { asked: to, highest });
        }
        goal = goal.min(highest);
        let chunk = Chunk {
            persistence_id,
            highest,
            goal,
            horizon: database.command_id_horizon,
        };
        let deleted_to = chunk.delete(&mut transaction).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        if deleted_to >= goal {
            return Ok(());
        }
    }
}

/// What one transaction deletes: the first events of a stream.
struct Chunk<'a> {
    persistence_id: &'a PersistenceId,
    highest: SequenceNr,
    /// Where the deletion ends, inclusive.
    goal: SequenceNr,
    horizon: Duration,
}

impl Chunk<'_> {
    /// Returns the last number deleted.
    async fn delete(&self, connection: &mut SqliteConnection) -> Result<SequenceNr, sqlx::Error> {
        let id = self.persistence_id.as_str();
        let lowest: Option<i64> =
            sqlx::query_scalar("SELECT min(sequence_nr) FROM events WHERE persistence_id = ?")
                .bind(id)
                .fetch_one(&mut *connection)
                .await?;
        let to = lowest.map_or(self.goal, |lowest| {
            let chunk_end = SequenceNr::from_i64(lowest).plus(DELETE_AT_ONCE).previous();
            self.goal.min(chunk_end)
        });
        sqlx::query(
            "INSERT INTO streams (persistence_id, highest, deleted_to) VALUES (?1, ?2, ?3) \
             ON CONFLICT (persistence_id) DO UPDATE SET highest = ?2, deleted_to = max(deleted_to, ?3)",
        )
        .bind(id)
        .bind(self.highest.as_i64())
        .bind(to.as_i64())
        .execute(&mut *connection)
        .await?;
        sqlx::query(
            "INSERT INTO deleted_commands (persistence_id, command_id, sequence_nr, reply_codec, reply_manifest, \
                                           reply, deleted_at) \
             SELECT persistence_id, command_id, sequence_nr + write_len - 1, reply_codec, reply_manifest, reply, \
                    CAST(unixepoch('subsec') * 1000000 AS INTEGER) \
             FROM events WHERE persistence_id = ? AND sequence_nr <= ? AND command_id IS NOT NULL",
        )
        .bind(id)
        .bind(to.as_i64())
        .execute(&mut *connection)
        .await?;
        sqlx::query("DELETE FROM events WHERE persistence_id = ? AND sequence_nr <= ?")
            .bind(id)
            .bind(to.as_i64())
            .execute(&mut *connection)
            .await?;
        sqlx::query(
            "DELETE FROM deleted_commands WHERE rowid IN ( \
                 SELECT rowid FROM deleted_commands \
                 WHERE deleted_at < CAST(unixepoch('subsec') * 1000000 AS INTEGER) - ? ORDER BY deleted_at LIMIT ?)",
        )
        .bind(i64::try_from(self.horizon.as_micros()).unwrap_or(i64::MAX))
        .bind(FORGET_AT_ONCE)
        .execute(&mut *connection)
        .await?;
        Ok(to)
    }
}

#[async_trait]
impl Journal for SqliteJournal {
    async fn append(&self, session: SessionUuid, _lane: usize, batch: &[Append]) -> Vec<Appended> {
        let (database, batch) = (self.database.clone(), batch.to_vec());
        owned(async move { append::append(&database, session, &batch).await }).await
    }

    async fn may_write(
        &self,
        session: SessionUuid,
        shards: &[(ShardNr, Epoch)],
    ) -> Result<Vec<bool>, JournalError> {
        let (database, shards) = (self.database.clone(), shards.to_vec());
        owned(async move {
            let failed = |error| unavailable("asking whether the session is fenced", error);
            let mut reader = database.reader().await.map_err(failed)?;
            let fences = Fences::of(&mut reader, session).await.map_err(failed)?;
            let may_write = |(shard, epoch)| fences.allow(shard, epoch);
            Ok(shards.into_iter().map(may_write).collect())
        })
        .await
    }

    async fn read_events(&self, range: &EventRange) -> Result<Vec<StoredEvent>, JournalError> {
        let (database, range) = (self.database.clone(), range.clone());
        owned(async move {
            let failed = |error| unavailable("reading events", error);
            let mut reader = database.reader().await.map_err(failed)?;
            let rows = sqlx::query(READ_EVENTS)
                .bind(range.persistence_id.as_str())
                .bind(range.from.as_i64())
                .bind(range.to.as_i64())
                .bind(limit(range.max_events))
                .bind(limit(range.max_bytes.max(1)))
                .fetch_all(&mut *reader)
                .await
                .map_err(failed)?;
            rows.iter()
                .map(|row| decode_event(&range.persistence_id, row))
                .collect()
        })
        .await
    }

    async fn bounds(&self, persistence_id: &PersistenceId) -> Result<StreamBounds, JournalError> {
        let (database, persistence_id) = (self.database.clone(), persistence_id.clone());
        owned(async move {
            let failed = |error| unavailable("reading the bounds of a stream", error);
            let mut reader = database.reader().await.map_err(failed)?;
            read_bounds(&mut reader, &persistence_id)
                .await
                .map_err(failed)
        })
        .await
    }

    async fn find_commands(
        &self,
        persistence_id: &PersistenceId,
        command_ids: &[CommandId],
    ) -> Result<Vec<Option<StoredCommand>>, JournalError> {
        let (database, persistence_id) = (self.database.clone(), persistence_id.clone());
        let command_ids = command_ids.to_vec();
        owned(async move {
            let failed = |error| unavailable("looking up command ids", error);
            let mut reader = database.reader().await.map_err(failed)?;
            let mut found = Vec::with_capacity(command_ids.len());
            for command_id in &command_ids {
                let stored = find_command(&mut reader, &persistence_id, command_id).await;
                found.push(stored.map_err(failed)?);
            }
            Ok(found)
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
        page.read_sqlite(self.database.clone(), LIST_ENTITIES).await
    }

    async fn delete_events(
        &self,
        right: WriteRight,
        persistence_id: &PersistenceId,
        to: SequenceNr,
    ) -> Result<(), JournalError> {
        let (database, persistence_id) = (self.database.clone(), persistence_id.clone());
        owned(async move { delete_events(&database, right, &persistence_id, to).await }).await
    }
}
