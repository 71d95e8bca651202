//! What the journal of a soak holds, read beside the nodes and without their code.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;
use sqlx::Row as _;

use crate::database::{self, TestDatabase};
use crate::history::journal::StoredEvent;

/// An event with what it says.
#[derive(Debug, Clone, Serialize)]
pub struct DumpedEvent {
    /// What the journal check looks at.
    #[serde(flatten)]
    pub stored: StoredEvent,
    /// As it is stored.
    pub payload: String,
}

/// The streams of all entities whose ids begin with the prefix, by `type|id`.
///
/// # Errors
/// When the database does not answer.
pub async fn streams(
    database: &TestDatabase,
    prefix: &str,
) -> Result<BTreeMap<String, Vec<DumpedEvent>>> {
    let mut connection = database::connect(database).await?;
    let rows = sqlx::query(
        "SELECT persistence_id, sequence_nr, writer_uuid::text AS writer, command_id, \
                coalesce(write_len, 1)::bigint AS write_len, convert_from(payload, 'UTF8') AS payload \
           FROM perennial.events \
          WHERE persistence_id LIKE 'counter|' || $1 || '%' OR persistence_id LIKE 'account|' || $1 || '%' \
          ORDER BY persistence_id, sequence_nr",
    );
    let mut streams: BTreeMap<String, Vec<DumpedEvent>> = BTreeMap::new();
    for row in rows.bind(prefix).fetch_all(&mut connection).await? {
        let number = |column: &str| -> Result<u64> {
            let number: i64 = row.try_get(column)?;
            Ok(u64::try_from(number)?)
        };
        let event = DumpedEvent {
            stored: StoredEvent {
                sequence_nr: number("sequence_nr")?,
                writer: row.try_get("writer")?,
                command_id: row.try_get("command_id")?,
                write_len: number("write_len")?,
            },
            payload: row.try_get("payload")?,
        };
        let stream = row.try_get("persistence_id")?;
        streams.entry(stream).or_default().push(event);
    }
    Ok(streams)
}

/// What a stream adds up to: the number of a counter, or the balance of an account.
///
/// # Errors
/// When an event cannot be read.
pub fn sum(events: &[DumpedEvent]) -> Result<i64> {
    let mut sum = 0;
    for event in events {
        let event: serde_json::Value = serde_json::from_str(&event.payload)?;
        let amount = |part: &str| event[part]["amount"].as_i64().unwrap_or_default();
        sum += event["added"].as_i64().unwrap_or_default();
        sum += amount("deposited") - amount("withdrawn");
    }
    Ok(sum)
}
