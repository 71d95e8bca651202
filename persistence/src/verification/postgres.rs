//! Reads the rows of a journal in Postgres for its verification: in one read-only
//! transaction, so that all of it is of one moment, and row by row, so that nothing
//! is held.

use std::time::Duration;

use futures::TryStreamExt;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Executor, FromRow};

use super::columns::{EventColumns, SnapshotColumns, StreamColumns};
use super::{Feed, Finding, Row};
use crate::storage::StorageError;
use crate::storage::postgres::{connect_to_current, failed};
use crate::storage::url::PostgresAddress;

const DOING: &str = "verifying the journal";

/// How long a connection may take to be closed politely.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A hash join would put the events out of order, and sort them again.
const BEGIN: &str = "\
    BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; \
    SET LOCAL statement_timeout = 0; \
    SET LOCAL enable_hashjoin = off; \
    SET LOCAL jit = off";

/// Equal numbers in the order of storing.
const EVENTS: &str = "\
    SELECT e.persistence_id, e.sequence_nr, e.writer_uuid, e.codec, \
           (extract(epoch FROM e.created_at) * 1000000)::bigint, coalesce(t.deleted_to, 0) \
    FROM perennial.events e LEFT JOIN perennial.streams t USING (persistence_id) \
    ORDER BY e.persistence_id, e.sequence_nr, e.tx, e.ordering";

const SNAPSHOTS: &str = "\
    SELECT s.persistence_id, s.sequence_nr, s.codec, \
           greatest(coalesce((SELECT max(e.sequence_nr) FROM perennial.events e \
                              WHERE e.persistence_id = s.persistence_id), 0), coalesce(t.highest, 0)), \
           coalesce(t.tombstone, 0) \
    FROM perennial.snapshots s LEFT JOIN perennial.streams t USING (persistence_id) \
    ORDER BY s.persistence_id, s.sequence_nr";

const STREAMS: &str = "\
    SELECT t.persistence_id, t.highest, t.deleted_to, \
           coalesce((SELECT max(e.sequence_nr) FROM perennial.events e \
                     WHERE e.persistence_id = t.persistence_id), 0) \
    FROM perennial.streams t ORDER BY t.persistence_id";

/// Any unique index over exactly these columns does what the key is there for.
const HAS_KEY: &str = "\
    SELECT EXISTS ( \
        SELECT FROM pg_index i \
        WHERE i.indrelid = 'perennial.events'::regclass AND i.indisunique AND i.indisvalid AND i.indpred IS NULL \
          AND (SELECT array_agg(a.attname::text ORDER BY a.attname) FROM pg_attribute a \
               WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)) \
              = ARRAY['persistence_id', 'sequence_nr'])";

type Decode = fn(&PgRow) -> Result<Row, sqlx::Error>;

pub(super) async fn read(
    address: &PostgresAddress,
    feed: &mut Feed<'_>,
) -> Result<(), StorageError> {
    let mut connection = connect_to_current(address).await?;
    let read = read_all(&mut connection, feed).await;
    read.map_err(|source| failed(address, DOING, source))?;
    // Nothing depends on a polite good-bye.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, connection.close()).await;
    Ok(())
}

async fn read_all(connection: &mut PgConnection, feed: &mut Feed<'_>) -> Result<(), sqlx::Error> {
    connection.execute(BEGIN).await?;
    let has_key: bool = sqlx::query_scalar(HAS_KEY)
        .fetch_one(&mut *connection)
        .await?;
    if !has_key {
        let key = "events_pkey";
        feed.found(Finding::UniqueKeyMissing { key });
    }
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
