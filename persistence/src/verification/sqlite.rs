//! Reads the rows of a journal in an SQLite file for its verification: in one read
//! transaction of a connection that cannot write, row by row.

use std::path::Path;

use futures::TryStreamExt;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection, Executor, FromRow};

use super::columns::{EventColumns, SnapshotColumns, StreamColumns};
use super::{Feed, Row};
use crate::storage::StorageError;
use crate::storage::sqlite::{connect_to_read, url};

/// The order of storing is that of "ordering".
const EVENTS: &str = "\
    SELECT e.persistence_id, e.sequence_nr, e.writer_uuid, e.codec, e.created_at, coalesce(t.deleted_to, 0) \
    FROM events e LEFT JOIN streams t ON t.persistence_id = e.persistence_id \
    ORDER BY e.persistence_id, e.sequence_nr, e.ordering";

const SNAPSHOTS: &str = "\
    SELECT s.persistence_id, s.sequence_nr, s.codec, \
           max(coalesce((SELECT max(e.sequence_nr) FROM events e WHERE e.persistence_id = s.persistence_id), 0), \
               coalesce(t.highest, 0)), \
           coalesce(t.tombstone, 0) \
    FROM snapshots s LEFT JOIN streams t ON t.persistence_id = s.persistence_id \
    ORDER BY s.persistence_id, s.sequence_nr";

const STREAMS: &str = "\
    SELECT t.persistence_id, t.highest, t.deleted_to, \
           coalesce((SELECT max(e.sequence_nr) FROM events e WHERE e.persistence_id = t.persistence_id), 0) \
    FROM streams t ORDER BY t.persistence_id";

type Decode = fn(&SqliteRow) -> Result<Row, sqlx::Error>;

pub(super) async fn read(path: &Path, feed: &mut Feed<'_>) -> Result<(), StorageError> {
    let mut connection = connect_to_read(path).await?;
    let read = read_all(&mut connection, feed).await;
    read.map_err(|source| StorageError::Database {
        url: url(path),
        doing: "verifying the journal",
        source,
    })?;
    // Nothing depends on a polite good-bye.
    let _ = connection.close().await;
    Ok(())
}

async fn read_all(
    connection: &mut SqliteConnection,
    feed: &mut Feed<'_>,
) -> Result<(), sqlx::Error> {
    connection.execute("BEGIN").await?;
    let passes: [(&str, Decode); 3] = [
        (EVENTS, |row| EventColumns::from_row(row).map(Row::from)),
        (SNAPSHOTS, |row| {
            SnapshotColumns::from_row(row).map(Row::from)
        }),
        (STREAMS, |row| StreamColumns::from_row(row).map(Row::from)),
    ];
    for (statement, decode) in passes {
        let mut rows = sqlx::query(statement).fetch(&mut *connection);
        while let Some(row) = rows.try_next().await? {
            feed.take(decode(&row)?);
        }
    }
    connection.execute("COMMIT").await?;
    Ok(())
}
