//! The global order in an SQLite file: there is one writer, so commits are in the
//! order of the table's key, and nothing is ever held back.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::global_order::{EventsInOrder, OrderedEvent, Position};
use crate::journal::JournalError;
use crate::journal::sqlite::decode_event;
use crate::persistence_id::PersistenceId;
use crate::storage::owned::owned;
use crate::storage::sqlite::{SqliteDatabase, unavailable};
use crate::storage::{corrupt, limit};

/// A reader of all events in an SQLite file.
pub(crate) struct SqliteEventsInOrder {
    database: Arc<SqliteDatabase>,
}

impl SqliteEventsInOrder {
    pub(crate) fn new(database: Arc<SqliteDatabase>) -> Self {
        Self { database }
    }
}

/// The list of columns begins as `decode_event` expects.
const EVENTS_AFTER: &str = "SELECT sequence_nr, writer_uuid, codec, manifest, payload, tags, metadata, command_id, created_at, \
            persistence_id, ordering \
     FROM (SELECT *, sum(length(payload)) OVER (ORDER BY ordering ROWS UNBOUNDED PRECEDING) - length(payload) \
                  AS bytes_before \
           FROM (SELECT * FROM events WHERE ordering > ? ORDER BY ordering LIMIT ?)) \
     WHERE bytes_before < ? ORDER BY ordering";

fn decode(row: &SqliteRow) -> Result<OrderedEvent, JournalError> {
    let doing = "reading events in order";
    let id: &str = row.try_get(9).map_err(|error| unavailable(doing, error))?;
    let ordering: i64 = row.try_get(10).map_err(|error| corrupt(id, 0, &error))?;
    let persistence_id = PersistenceId::parse(id).map_err(|error| corrupt(id, 0, &error))?;
    Ok(OrderedEvent {
        position: Position {
            tx: 0,
            ordering: ordering.unsigned_abs(),
        },
        event: decode_event(&persistence_id, row)?,
    })
}

#[async_trait]
impl EventsInOrder for SqliteEventsInOrder {
    async fn events_after(
        &self,
        position: Position,
        max_events: usize,
        max_bytes: usize,
    ) -> Result<Vec<OrderedEvent>, JournalError> {
        let database = self.database.clone();
        owned(async move {
            let failed = |error| unavailable("reading events in order", error);
            let mut reader = database.reader().await.map_err(failed)?;
            let rows = sqlx::query(EVENTS_AFTER)
                .bind(i64::try_from(position.ordering).unwrap_or(i64::MAX))
                .bind(limit(max_events))
                .bind(limit(max_bytes.max(1)))
                .fetch_all(&mut *reader)
                .await
                .map_err(failed)?;
            rows.iter().map(decode).collect()
        })
        .await
    }

    async fn lag(&self) -> Result<Duration, JournalError> {
        Ok(Duration::ZERO)
    }
}
