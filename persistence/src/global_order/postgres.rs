//! The global order in Postgres: `(tx, ordering)` below the oldest running
//! transaction.
//!
//! Why this is an order that never changes:
//!
//! 1. A transaction below the snapshot's `xmin` has ended, so what it stored is in
//!    the snapshot, all of it or nothing; and one that begins later gets a higher
//!    number. So no event can turn up below `xmin` any more.
//! 2. An append sees its predecessor's event in its snapshot, and takes its number
//!    only afterwards, when it locks its lane. So a stream's later event never has
//!    a lower `tx`; and within one statement `ordering` counts in its order.
//! 3. Numbers are per server. `cluster.tx_offset` grows when the database turns up
//!    on another, and is added both when storing and here.
//!
//! A transaction that stays open, in any database of the server, holds everything
//! after it back: that is the lag. Next: `journal/postgres/statement.rs`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::global_order::{EventsInOrder, OrderedEvent, Position};
use crate::journal::JournalError;
use crate::journal::postgres::decode_event;
use crate::persistence_id::PersistenceId;
use crate::storage::owned::owned;
use crate::storage::postgres::connections::{Connections, arguments};
use crate::storage::{corrupt, limit, unavailable};

/// A reader of all events in Postgres.
pub(crate) struct PostgresEventsInOrder {
    connections: Arc<Connections>,
}

impl PostgresEventsInOrder {
    pub(crate) fn new(connections: Arc<Connections>) -> Self {
        Self { connections }
    }
}

/// The index is on `tx` alone, see the schema; events of one transaction are
/// sorted when they are read, so the first condition is for the index and the
/// second for the rest. The lists of columns begin as `decode_event` expects.
const EVENTS_AFTER: &str = "\
    SELECT sequence_nr, writer_uuid, codec, manifest, payload, tags, metadata::text, command_id, \
           (extract(epoch FROM created_at) * 1000000)::bigint, persistence_id, tx, ordering \
    FROM (SELECT *, sum(octet_length(payload)) OVER (ORDER BY tx, ordering ROWS UNBOUNDED PRECEDING) \
                    - octet_length(payload) AS bytes_before \
          FROM (SELECT * FROM perennial.events \
                WHERE tx >= $1 AND (tx, ordering) > ($1, $2) \
                  AND tx < (SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint \
                                   + coalesce((SELECT tx_offset FROM perennial.cluster WHERE one), 0)) \
                ORDER BY tx, ordering LIMIT $3) first) page \
    WHERE bytes_before < $4 ORDER BY tx, ordering";

const LAG: &str = "\
    SELECT extract(epoch FROM clock_timestamp() - created_at)::float8 FROM perennial.events \
    WHERE tx >= (SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint \
                        + coalesce((SELECT tx_offset FROM perennial.cluster WHERE one), 0)) \
    ORDER BY tx LIMIT 1";

fn decode(row: &PgRow) -> Result<OrderedEvent, JournalError> {
    let doing = "reading events in order";
    let id: &str = row.try_get(9).map_err(|error| unavailable(doing, error))?;
    let place = |column| row.try_get::<i64, _>(column).map(i64::unsigned_abs);
    let failed = |error| corrupt(id, 0, &error);
    let persistence_id = PersistenceId::parse(id).map_err(|error| corrupt(id, 0, &error))?;
    Ok(OrderedEvent {
        position: Position {
            tx: place(10).map_err(failed)?,
            ordering: place(11).map_err(failed)?,
        },
        event: decode_event(&persistence_id, row)?,
    })
}

#[async_trait]
impl EventsInOrder for PostgresEventsInOrder {
    async fn events_after(
        &self,
        position: Position,
        max_events: usize,
        max_bytes: usize,
    ) -> Result<Vec<OrderedEvent>, JournalError> {
        let connections = self.connections.clone();
        owned(async move {
            let place = |nr: u64| i64::try_from(nr).unwrap_or(i64::MAX);
            let arguments = arguments![
                place(position.tx),
                place(position.ordering),
                limit(max_events),
                limit(max_bytes.max(1)),
            ];
            let doing = "reading events in order";
            let rows = connections.read(doing, EVENTS_AFTER, arguments).await?;
            rows.iter().map(decode).collect()
        })
        .await
    }

    async fn lag(&self) -> Result<Duration, JournalError> {
        let connections = self.connections.clone();
        owned(async move {
            let doing = "reading the lag of the global order";
            let rows = connections.read(doing, LAG, arguments![]).await?;
            let seconds = rows.first().map(|row| row.try_get::<f64, _>(0));
            let seconds = seconds
                .transpose()
                .map_err(|error| unavailable(doing, error))?;
            let lag = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            let lag = lag.unwrap_or_default();
            metrics::gauge!("perennial_global_order_lag_seconds").set(lag.as_secs_f64());
            Ok(lag)
        })
        .await
    }
}
