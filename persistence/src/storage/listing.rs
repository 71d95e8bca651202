//! A page of the entities of a type that a table knows, in the order of their ids.
//!
//! Journal and store of durable states list in the same way and differ in the table:
//! their statements take the two ends of the range and a limit, and give ids with
//! numbers.

use std::sync::Arc;

use sqlx::FromRow;

use super::owned::owned;
use super::postgres::connections::{Connections, arguments};
use super::sqlite::{self, SqliteDatabase};
use super::{corrupt, limit, unavailable};
use crate::journal::{EntityListing, JournalError};
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;

const DOING: &str = "listing entities";

/// Which page of which type.
pub(crate) struct Page {
    /// The ids of the page stand between these, both exclusive.
    after: String,
    end: String,
    count: i64,
}

impl Page {
    /// The ids of a type after this one: `|` separates type and id, and `}` is the byte
    /// after it.
    pub(crate) fn new(entity_type: &str, after: Option<&str>, count: usize) -> Self {
        let after = after.unwrap_or_default();
        Self {
            after: format!("{entity_type}|{after}"),
            end: format!("{entity_type}}}"),
            count: limit(count),
        }
    }

    pub(crate) async fn read_postgres(
        self,
        connections: Arc<Connections>,
        sql: &'static str,
    ) -> Result<Vec<EntityListing>, JournalError> {
        owned(async move {
            let arguments = arguments![self.after, self.end, self.count];
            let rows = connections.read(DOING, sql, arguments).await?;
            let line = |row| {
                let line = FromRow::from_row(row);
                listing(line.map_err(|error| unavailable(DOING, error))?)
            };
            rows.iter().map(line).collect()
        })
        .await
    }

    pub(crate) async fn read_sqlite(
        self,
        database: Arc<SqliteDatabase>,
        sql: &'static str,
    ) -> Result<Vec<EntityListing>, JournalError> {
        owned(async move {
            let failed = |error| sqlite::unavailable(DOING, error);
            let mut reader = database.reader().await.map_err(failed)?;
            let query = sqlx::query_as(sql)
                .bind(self.after)
                .bind(self.end)
                .bind(self.count);
            let rows: Vec<(String, i64)> = query.fetch_all(&mut *reader).await.map_err(failed)?;
            rows.into_iter().map(listing).collect()
        })
        .await
    }
}

fn listing((id, highest): (String, i64)) -> Result<EntityListing, JournalError> {
    let persistence_id =
        PersistenceId::parse(&id).map_err(|error| corrupt(&id, highest, &error))?;
    Ok(EntityListing {
        persistence_id,
        sequence_nr: SequenceNr::from_i64(highest),
    })
}
