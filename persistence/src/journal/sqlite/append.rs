//! Appending a batch to an SQLite file.
//!
//! A batch is one transaction with the write lock held from its start, so what is
//! checked (fence, predecessor, command ids) still holds at the commit. Each
//! atomic write has a savepoint of its own: one that is refused is undone as a
//! whole and leaves its neighbours alone.

use std::collections::BTreeMap;

use sqlx::Executor;
use sqlx::sqlite::SqliteConnection;
use uuid::Uuid;

use crate::journal::repetition::first_repetition;
use crate::journal::{Append, AppendError, Appended, AtomicWrite, OtherAuthor, StoredCommand};
use crate::sequence_nr::SequenceNr;
use crate::storage::sqlite::{Fences, SqliteDatabase, SqliteFailure, sort_failure};
use crate::storage::{self, from_micros, metadata_json};
use crate::writer::{SessionUuid, WriterUuid};

const INSERT_EVENT: &str = "INSERT INTO events (persistence_id, sequence_nr, writer_uuid, shard, codec, \
     manifest, payload, tags, metadata, write_len, command_id, reply, reply_codec, reply_manifest, created_at) \
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, CAST(unixepoch('subsec') * 1000000 AS INTEGER))";

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

/// Stores each append on its own merits.
pub(super) async fn append(
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
