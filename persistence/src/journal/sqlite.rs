//! The journal in an SQLite file.
//!
//! A batch is one transaction with the write lock held from its start, so what is
//! checked (fence, predecessor, command ids) still holds at the commit. Each
//! atomic write has a savepoint of its own: one that is refused is undone as a
//! whole and leaves its neighbours alone.
//! The file, its connections and what errors mean: `storage/sqlite.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Executor, Row};
use uuid::Uuid;

use crate::command::CommandId;
use crate::journal::repetition::first_repetition;
use crate::journal::{
    Append, AppendError, Appended, AtomicWrite, EntityListing, EventRange, Journal, JournalError,
    OtherAuthor, StoredCommand, StoredEvent, StreamBounds, WriteRight,
};
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::storage::owned::owned;
use crate::storage::sqlite::{Fences, SqliteDatabase, SqliteFailure, sort_failure, unavailable};
use crate::storage::{
    self, corrupt, decode_error, from_micros, limit, listing, listing_range, metadata_json,
    parse_metadata,
};
use crate::writer::{SessionUuid, WriterUuid};

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

const INSERT_EVENT: &str = "INSERT INTO events (persistence_id, sequence_nr, writer_uuid, shard, entity_type, codec, \
     manifest, payload, tags, metadata, write_len, command_id, reply, reply_codec, reply_manifest, created_at) \
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, CAST(unixepoch('subsec') * 1000000 AS INTEGER))";

/// Of each of an array of streams, in its order.
const KNOWN_HIGHEST: &str = "SELECT coalesce( \
         (SELECT max(sequence_nr) FROM events WHERE persistence_id = asked.value), \
         (SELECT highest FROM streams WHERE persistence_id = asked.value), 0) \
     FROM json_each(?) AS asked ORDER BY asked.key";

/// Of an array of pairs of stream and command id, those that are stored. A cross
/// join is one whose order SQLite keeps: from the array to the index.
const KNOWN_COMMANDS: &str = "WITH asked AS ( \
         SELECT key, value ->> 0 AS persistence_id, value ->> 1 AS command_id FROM json_each(?)) \
     SELECT asked.key, e.sequence_nr + e.write_len - 1, e.reply_codec, e.reply_manifest, e.reply \
     FROM asked CROSS JOIN events e \
     ON e.persistence_id = asked.persistence_id AND e.command_id = asked.command_id \
     UNION ALL \
     SELECT asked.key, d.sequence_nr, d.reply_codec, d.reply_manifest, d.reply \
     FROM asked CROSS JOIN deleted_commands d \
     ON d.persistence_id = asked.persistence_id AND d.command_id = asked.command_id";

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

async fn append_batch(
    database: &SqliteDatabase,
    session: SessionUuid,
    batch: &[Append],
) -> Vec<Appended> {
    let failed = |error: &sqlx::Error| {
        let (_, message) = sort_failure(error);
        let failure = AppendError::Unavailable { message };
        batch
            .iter()
            .map(|_| Appended::none(failure.clone()))
            .collect()
    };
    let mut writer = match database.writer().await {
        Ok(writer) => writer,
        Err(error) => return failed(&error),
    };
    let mut transaction = match writer.begin().await {
        Ok(transaction) => transaction,
        Err(error) => return failed(&error),
    };
    let outcomes = match store_batch(&mut transaction, session, batch).await {
        Ok(outcomes) => outcomes,
        // Not committed, so nothing is stored; the transaction rolls back when
        // dropped, if the database has not done so already.
        Err(error) => return failed(&error),
    };
    match transaction.commit().await {
        Ok(()) => outcomes,
        Err(error) => {
            // The commit record may have reached the disk all the same.
            writer.give_up();
            let (_, message) = sort_failure(&error);
            let failure = AppendError::Unknown { message };
            batch
                .iter()
                .map(|_| Appended::none(failure.clone()))
                .collect()
        }
    }
}

/// Stores what may be stored. An error means that the file cannot be used, and
/// takes the whole batch along.
async fn store_batch(
    connection: &mut SqliteConnection,
    session: SessionUuid,
    batch: &[Append],
) -> Result<Vec<Appended>, sqlx::Error> {
    let fences = Fences::of(connection, session).await?;
    let known = Known::of(connection, batch).await?;
    let mut outcomes = Vec::with_capacity(batch.len());
    for (index, append) in batch.iter().enumerate() {
        let (shard, epoch) = (append.shard, append.epoch);
        outcomes.push(if fences.allow(shard, epoch) {
            store_append(connection, append, index, &known).await?
        } else {
            Appended::none(AppendError::Fenced {
                session,
                shard,
                epoch,
            })
        });
    }
    Ok(outcomes)
}

/// What the file knows of a batch before any of it is stored, asked at once. No
/// two appends of a batch are for the same stream, so it stays true.
struct Known {
    /// The highest number of the stream of each append.
    highest: Vec<SequenceNr>,
    /// By append and write: commands that are stored already.
    commands: BTreeMap<(usize, usize), StoredCommand>,
}

impl Known {
    async fn of(connection: &mut SqliteConnection, batch: &[Append]) -> Result<Self, sqlx::Error> {
        let ids: Vec<&str> = batch
            .iter()
            .map(|append| append.persistence_id.as_str())
            .collect();
        let highest: Vec<i64> = sqlx::query_scalar(KNOWN_HIGHEST)
            .bind(serde_json::Value::from(ids).to_string())
            .fetch_all(&mut *connection)
            .await?;
        let mut places = Vec::new();
        let mut asked = Vec::new();
        for (nr, append) in batch.iter().enumerate() {
            for (write_nr, write) in append.writes.iter().enumerate() {
                if let Some(command) = &write.command {
                    places.push((nr, write_nr));
                    asked.push(serde_json::json!([
                        append.persistence_id.as_str(),
                        command.command_id.as_str()
                    ]));
                }
            }
        }
        let mut commands = BTreeMap::new();
        if !asked.is_empty() {
            let rows: Vec<(i64, i64, i16, String, Vec<u8>)> = sqlx::query_as(KNOWN_COMMANDS)
                .bind(serde_json::Value::from(asked).to_string())
                .fetch_all(connection)
                .await?;
            for (key, sequence_nr, codec, manifest, reply) in rows {
                let stored = StoredCommand {
                    sequence_nr: SequenceNr::from_i64(sequence_nr),
                    reply: storage::payload(codec, manifest, reply),
                };
                if let Some(place) = usize::try_from(key).ok().and_then(|key| places.get(key)) {
                    commands.insert(*place, stored);
                }
            }
        }
        Ok(Self {
            highest: highest.into_iter().map(SequenceNr::from_i64).collect(),
            commands,
        })
    }
}

async fn store_append(
    connection: &mut SqliteConnection,
    append: &Append,
    index: usize,
    known: &Known,
) -> Result<Appended, sqlx::Error> {
    let highest = known.highest.get(index).copied().unwrap_or_default();
    if highest.next() != append.first_sequence_nr {
        return Ok(Appended::none(conflict(connection, append, highest).await?));
    }
    let repetition = first_repetition(append);
    let mut first = append.first_sequence_nr;
    for (write_nr, write) in append.writes.iter().enumerate() {
        let failure = match (
            &write.command,
            known.commands.get(&(index, write_nr)),
            &repetition,
        ) {
            (Some(command), Some(stored), _) => Some(AppendError::DuplicateCommand {
                persistence_id: append.persistence_id.clone(),
                command_id: command.command_id.clone(),
                stored: stored.clone(),
            }),
            (_, _, Some(repetition)) if repetition.write == write_nr => {
                Some(repetition.failure.clone())
            }
            _ => store_write(connection, append, write, first).await?,
        };
        if failure.is_some() {
            return Ok(Appended {
                stored_writes: write_nr,
                failure,
            });
        }
        first = first.plus(write.events.len() as u64);
    }
    Ok(Appended::all(append))
}

/// Stores an atomic write, or says why it is refused.
async fn store_write(
    connection: &mut SqliteConnection,
    append: &Append,
    write: &AtomicWrite,
    first: SequenceNr,
) -> Result<Option<AppendError>, sqlx::Error> {
    // A single insert is all or nothing by itself.
    let several = write.events.len() > 1;
    if several {
        connection.execute("SAVEPOINT atomic_write").await?;
    }
    let rejected = match insert_events(connection, append, write, first).await {
        Ok(()) => None,
        Err(error) => match sort_failure(&error) {
            (SqliteFailure::Rejected, message) => Some(AppendError::Rejected { message }),
            (SqliteFailure::Unavailable, _) => return Err(error),
        },
    };
    if several {
        if rejected.is_some() {
            connection.execute("ROLLBACK TO atomic_write").await?;
        }
        connection.execute("RELEASE atomic_write").await?;
    }
    Ok(rejected)
}

async fn insert_events(
    connection: &mut SqliteConnection,
    append: &Append,
    write: &AtomicWrite,
    first: SequenceNr,
) -> Result<(), sqlx::Error> {
    let metadata = metadata_json(&write.metadata);
    for (index, event) in write.events.iter().enumerate() {
        let tags = (!event.tags.is_empty())
            .then(|| serde_json::Value::from(event.tags.clone()).to_string());
        let command = write.command.as_ref().filter(|_| index == 0);
        sqlx::query(INSERT_EVENT)
            .bind(append.persistence_id.as_str())
            .bind(first.plus(index as u64).as_i64())
            .bind(append.writer.0)
            .bind(i64::from(append.shard.0))
            .bind(append.persistence_id.entity_type())
            .bind(event.payload.codec.0)
            .bind(&*event.payload.manifest)
            .bind(&*event.payload.bytes)
            .bind(tags)
            .bind(metadata.as_deref())
            .bind((index == 0).then_some(write.events.len() as i64))
            .bind(command.map(|command| command.command_id.as_str()))
            .bind(command.map(|command| &*command.reply.bytes))
            .bind(command.map(|command| command.reply.codec.0))
            .bind(command.map(|command| &*command.reply.manifest))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

async fn conflict(
    connection: &mut SqliteConnection,
    append: &Append,
    highest: SequenceNr,
) -> Result<AppendError, sqlx::Error> {
    let contested: Option<(Uuid, i64)> = sqlx::query_as(
        "SELECT writer_uuid, created_at FROM events WHERE persistence_id = ? AND sequence_nr = ?",
    )
    .bind(append.persistence_id.as_str())
    .bind(append.first_sequence_nr.as_i64())
    .fetch_optional(connection)
    .await?;
    Ok(AppendError::Conflict {
        persistence_id: append.persistence_id.clone(),
        writer: append.writer,
        first_sequence_nr: append.first_sequence_nr,
        highest,
        other: contested.map(|(writer, created_at)| OtherAuthor {
            writer: WriterUuid(writer),
            created_at: from_micros(created_at),
        }),
    })
}

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

async fn read_bounds(
    connection: &mut SqliteConnection,
    persistence_id: &PersistenceId,
) -> Result<StreamBounds, sqlx::Error> {
    let (highest, deleted_to): (i64, i64) = sqlx::query_as(
        "SELECT coalesce((SELECT max(sequence_nr) FROM events WHERE persistence_id = ?1), \
                         (SELECT highest FROM streams WHERE persistence_id = ?1), 0), \
                coalesce((SELECT deleted_to FROM streams WHERE persistence_id = ?1), 0)",
    )
    .bind(persistence_id.as_str())
    .fetch_one(connection)
    .await?;
    Ok(StreamBounds {
        highest: SequenceNr::from_i64(highest),
        deleted_to: SequenceNr::from_i64(deleted_to),
    })
}

fn decode_event(
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
            payload: storage::payload(row.try_get(2)?, row.try_get(3)?, row.try_get(4)?),
            tags: tags.unwrap_or_default(),
            metadata: parse_metadata(metadata.as_deref()).map_err(decode_error)?,
            command_id: storage::command_id(row.try_get(7)?).map_err(decode_error)?,
            created_at: from_micros(row.try_get(8)?),
        })
    };
    decode().map_err(|error| corrupt(persistence_id.as_str(), sequence_nr, &error))
}

async fn delete_events(
    database: &SqliteDatabase,
    right: WriteRight,
    persistence_id: &PersistenceId,
    to: SequenceNr,
) -> Result<(), JournalError> {
    let doing = "deleting events";
    let failed = |error| unavailable(doing, error);
    let mut writer = database.writer().await.map_err(failed)?;
    let mut transaction = writer.begin().await.map_err(failed)?;
    if !Fences::of(&mut transaction, right.session)
        .await
        .map_err(failed)?
        .allow(right.shard, right.epoch)
    {
        let session = right.session;
        return Err(JournalError::Fenced { session });
    }
    let highest = read_bounds(&mut transaction, persistence_id)
        .await
        .map_err(failed)?
        .highest;
    if to > highest && to != SequenceNr::MAX {
        return Err(JournalError::DeleteBeyondStream { asked: to, highest });
    }
    let horizon = i64::try_from(database.command_id_horizon.as_micros()).unwrap_or(i64::MAX);
    let delete = async {
        sqlx::query(
            "INSERT INTO streams (persistence_id, highest, deleted_to) VALUES (?1, ?2, ?3) \
             ON CONFLICT (persistence_id) DO UPDATE SET highest = ?2, deleted_to = max(deleted_to, ?3)",
        )
        .bind(persistence_id.as_str())
        .bind(highest.as_i64())
        .bind(to.min(highest).as_i64())
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "INSERT INTO deleted_commands (persistence_id, command_id, sequence_nr, reply_codec, reply_manifest, \
                                           reply, deleted_at) \
             SELECT persistence_id, command_id, sequence_nr + write_len - 1, reply_codec, reply_manifest, reply, \
                    CAST(unixepoch('subsec') * 1000000 AS INTEGER) \
             FROM events WHERE persistence_id = ? AND sequence_nr <= ? AND command_id IS NOT NULL",
        )
        .bind(persistence_id.as_str())
        .bind(to.as_i64())
        .execute(&mut *transaction)
        .await?;
        sqlx::query("DELETE FROM events WHERE persistence_id = ? AND sequence_nr <= ?")
            .bind(persistence_id.as_str())
            .bind(to.as_i64())
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "DELETE FROM deleted_commands WHERE rowid IN ( \
                 SELECT rowid FROM deleted_commands \
                 WHERE deleted_at < CAST(unixepoch('subsec') * 1000000 AS INTEGER) - ? ORDER BY deleted_at LIMIT ?)",
        )
        .bind(horizon)
        .bind(FORGET_AT_ONCE)
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await
    };
    delete.await.map_err(failed)
}

#[async_trait]
impl Journal for SqliteJournal {
    async fn append(&self, session: SessionUuid, _lane: usize, batch: &[Append]) -> Vec<Appended> {
        let (database, batch) = (self.database.clone(), batch.to_vec());
        owned(async move { append_batch(&database, session, &batch).await }).await
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
        let database = self.database.clone();
        let (after, end) = listing_range(entity_type, after);
        owned(async move {
            let failed = |error| unavailable("listing entities", error);
            let mut reader = database.reader().await.map_err(failed)?;
            let rows: Vec<(String, i64)> = sqlx::query_as(LIST_ENTITIES)
                .bind(after)
                .bind(end)
                .bind(limit(count))
                .fetch_all(&mut *reader)
                .await
                .map_err(failed)?;
            rows.into_iter().map(listing).collect()
        })
        .await
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
