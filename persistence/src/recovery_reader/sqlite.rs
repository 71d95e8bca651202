//! The reader in an SQLite file: two statements for all entities, in one read
//! transaction.
//!
//! SQLite has no LATERAL. The first statement reads bounds and snapshots, the second
//! the events by ranges of numbers, which are as many events, because a stream has
//! no gaps; one that does has fewer, and its recovery finds that out.

use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection, Row};

use crate::journal::sqlite::decode_event;
use crate::journal::{JournalError, StreamBounds};
use crate::payload::{CodecId, Payload};
use crate::sequence_nr::SequenceNr;
use crate::snapshot_store::Snapshot;
use crate::storage::manifests::manifest;
use crate::storage::owned::owned;
use crate::storage::sqlite::{SqliteDatabase, unavailable};
use crate::storage::{corrupt, from_micros, limit};

use super::halves::{Answer, read_in_halves};
use super::{Beginning, BeginningLimits, RecoveryReader, Wanted};

const DOING: &str = "reading where recoveries begin";

/// `?1`: a JSON array of [id, highest snapshot]. `?2`: the largest snapshot.
const READ_SNAPSHOTS: &str = "\
    WITH wanted AS ( \
        SELECT key AS place, value ->> 0 AS id, \
               (SELECT max(sequence_nr) FROM snapshots \
                WHERE persistence_id = value ->> 0 AND sequence_nr <= value ->> 1) AS snapshot_nr \
        FROM json_each(?1) \
    ) \
    SELECT place, snapshot_nr, codec, manifest, CASE WHEN length(payload) <= ?2 THEN payload END, created_at, \
           coalesce((SELECT deleted_to FROM streams WHERE persistence_id = id), 0), \
           coalesce((SELECT max(sequence_nr) FROM events WHERE persistence_id = id), \
                    (SELECT highest FROM streams WHERE persistence_id = id), 0), \
           coalesce((SELECT tombstone FROM streams WHERE persistence_id = id), 0) \
    FROM wanted LEFT JOIN snapshots ON persistence_id = id AND sequence_nr = snapshot_nr";

/// `?1`: a JSON array of [place, id, first number, last number]. `?2`: the largest
/// event; a larger one comes as null and ends the page. CROSS JOIN keeps the order
/// of the loops, and so that of the rows.
const READ_EVENTS: &str = "\
    SELECT sequence_nr, writer_uuid, codec, manifest, CASE WHEN length(payload) <= ?2 THEN payload END, tags, \
           metadata, command_id, created_at, wanted.value ->> 0 \
    FROM json_each(?1) wanted CROSS JOIN events \
    WHERE persistence_id = wanted.value ->> 1 \
      AND sequence_nr BETWEEN wanted.value ->> 2 AND wanted.value ->> 3 \
    ORDER BY wanted.key, sequence_nr";

/// A reader in an SQLite file.
pub(crate) struct SqliteRecoveryReader {
    database: Arc<SqliteDatabase>,
}

impl SqliteRecoveryReader {
    pub(crate) fn new(database: Arc<SqliteDatabase>) -> Self {
        Self { database }
    }
}

async fn read(
    connection: &mut SqliteConnection,
    wanted: &[Wanted],
    limits: BeginningLimits,
    bytes_each: usize,
) -> Result<Vec<Answer>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let mut answers = read_snapshots(&mut transaction, wanted, bytes_each).await?;
    read_events(&mut transaction, wanted, &mut answers, limits, bytes_each).await?;
    transaction.commit().await?;
    Ok(answers)
}

/// Everything but the events.
async fn read_snapshots(
    connection: &mut SqliteConnection,
    wanted: &[Wanted],
    bytes_each: usize,
) -> Result<Vec<Answer>, sqlx::Error> {
    let asked: Vec<(&str, i64)> = wanted
        .iter()
        .map(|one| (one.persistence_id.as_str(), one.snapshot_max.as_i64()))
        .collect();
    let rows = sqlx::query(READ_SNAPSHOTS)
        .bind(json(&asked)?)
        .bind(limit(bytes_each))
        .fetch_all(connection)
        .await?;
    let mut answers: Vec<Option<Answer>> = wanted.iter().map(|_| None).collect();
    for row in &rows {
        let place = place(row, 0)?;
        if let (Some(one), Some(answer)) = (wanted.get(place), answers.get_mut(place)) {
            let id = one.persistence_id.as_str();
            *answer = Some(decode_snapshot(row).map_err(|error| corrupt(id, 0, &error)));
        }
    }
    let missing = || Err(unavailable(DOING, sqlx::Error::RowNotFound));
    Ok(answers
        .into_iter()
        .map(|answer| answer.unwrap_or_else(missing))
        .collect())
}

/// Adds the events to the answers that are good so far.
async fn read_events(
    connection: &mut SqliteConnection,
    wanted: &[Wanted],
    answers: &mut [Answer],
    limits: BeginningLimits,
    bytes_each: usize,
) -> Result<(), sqlx::Error> {
    let events_each = u64::try_from(limits.events_each).unwrap_or(u64::MAX);
    let mut asked = Vec::with_capacity(wanted.len());
    for (place, (one, answer)) in wanted.iter().zip(&*answers).enumerate() {
        let Ok(Some(beginning)) = answer else {
            continue;
        };
        let known = beginning.snapshot_nr().max(beginning.bounds.deleted_to);
        let to = known.plus(events_each).min(beginning.bounds.highest);
        if known < to {
            let id = one.persistence_id.as_str();
            asked.push((place, id, known.next().as_i64(), to.as_i64()));
        }
    }
    if asked.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query(READ_EVENTS)
        .bind(json(&asked)?)
        .bind(limit(bytes_each / limits.events_each.max(1)))
        .fetch_all(connection)
        .await?;
    let mut cut = vec![false; wanted.len()];
    for row in &rows {
        let place = place(row, 9)?;
        let (Some(one), Some(answer), Some(cut)) = (
            wanted.get(place),
            answers.get_mut(place),
            cut.get_mut(place),
        ) else {
            continue;
        };
        let Ok(Some(beginning)) = answer else {
            continue;
        };
        *cut |= row.try_get::<Option<&[u8]>, _>(4)?.is_none();
        if *cut {
            continue;
        }
        match decode_event(&one.persistence_id, row) {
            Ok(event) => beginning.events.push(event),
            Err(error) => *answer = Err(error),
        }
    }
    Ok(())
}

/// `None` when the snapshot is too large to be read along.
fn decode_snapshot(row: &SqliteRow) -> Result<Option<Beginning>, sqlx::Error> {
    let snapshot = match row.try_get::<Option<i64>, _>(1)? {
        None => None,
        Some(sequence_nr) => {
            let Some(bytes) = row.try_get::<Option<Vec<u8>>, _>(4)? else {
                return Ok(None);
            };
            let payload = Payload {
                codec: CodecId(row.try_get(2)?),
                manifest: manifest(row.try_get(3)?),
                bytes: bytes.into(),
            };
            Some(Snapshot {
                sequence_nr: SequenceNr::from_i64(sequence_nr),
                payload,
                created_at: from_micros(row.try_get(5)?),
            })
        }
    };
    Ok(Some(Beginning {
        bounds: StreamBounds {
            deleted_to: SequenceNr::from_i64(row.try_get(6)?),
            highest: SequenceNr::from_i64(row.try_get(7)?),
            tombstone: SequenceNr::from_i64(row.try_get(8)?),
        },
        snapshot,
        events: Vec::new(),
    }))
}

fn place(row: &SqliteRow, column: usize) -> Result<usize, sqlx::Error> {
    let place: i64 = row.try_get(column)?;
    Ok(usize::try_from(place).unwrap_or(usize::MAX))
}

fn json(value: &impl serde::Serialize) -> Result<String, sqlx::Error> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(Box::new(error)))
}

/// Whether a statement failed because of what is stored: a damaged page of the file.
/// Others may be whole.
fn is_damage(error: &JournalError) -> bool {
    /// Primary result code of SQLite; the driver gives the extended code, whose low
    /// byte it is.
    const CORRUPT: i64 = 11;
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
        .and_then(sqlx::error::DatabaseError::code)
        .and_then(|code| code.parse::<i64>().ok());
    code.is_some_and(|code| code & 0xff == CORRUPT)
}

#[async_trait]
impl RecoveryReader for SqliteRecoveryReader {
    async fn read_beginnings(&self, wanted: &[Wanted], limits: BeginningLimits) -> Vec<Answer> {
        let (database, wanted) = (self.database.clone(), wanted.to_vec());
        let bytes_each = limits.bytes_each(wanted.len());
        owned(async move {
            let read = |some: Vec<Wanted>| {
                let database = database.clone();
                async move {
                    let failed = |error| unavailable(DOING, error);
                    let mut reader = database.reader().await.map_err(failed)?;
                    read(&mut reader, &some, limits, bytes_each)
                        .await
                        .map_err(failed)
                }
                .boxed()
            };
            read_in_halves(&wanted, read, is_damage).await
        })
        .await
    }
}
