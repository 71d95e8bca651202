//! What an SQLite file knows of a batch before any of it is stored.

use std::collections::BTreeMap;

use sqlx::sqlite::SqliteConnection;
use uuid::Uuid;

use crate::journal::{Append, AppendError, OtherAuthor, StoredCommand};
use crate::sequence_nr::SequenceNr;
use crate::storage::{self, from_micros};
use crate::writer::WriterUuid;

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

/// What the file knows of a batch before any of it is stored, asked at once. No
/// two appends of a batch are for the same stream, so it stays true.
pub(super) struct Known {
    /// The highest number of the stream of each append.
    pub(super) highest: Vec<SequenceNr>,
    /// By append and write: commands that are stored already.
    pub(super) commands: BTreeMap<(usize, usize), StoredCommand>,
}

impl Known {
    pub(super) async fn of(
        connection: &mut SqliteConnection,
        batch: &[Append],
    ) -> Result<Self, sqlx::Error> {
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

/// Why an append is not stored that does not begin right after the highest number.
pub(super) async fn conflict(
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
