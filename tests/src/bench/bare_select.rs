//! The floor under recoveries: the same rows read by `= ANY ($1)` alone, many
//! entities by a statement, on as many connections in SQLite as in Postgres. Nobody
//! bounds them, puts them in order, or looks what is in them.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use sqlx::Row as _;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};

use crate::bench::filling::counter;
use crate::bench::place::BareTables;
use crate::bench::recovery::{Kind, Speed};
use crate::bench::usage::Usage;

/// Entities of one statement that are tried.
const BATCHES: [usize; 5] = [16, 32, 64, 128, 256];

/// Statements under way at once, as many as a node has in Postgres.
const CONNECTIONS: u32 = 4;

const EVENTS: &str = "\
    SELECT persistence_id, sequence_nr, writer_uuid, codec, manifest, payload, tags, metadata::text, command_id, \
           created_at::text FROM perennial.events WHERE persistence_id = ANY ($1) AND sequence_nr > $2";
const SNAPSHOTS: &str = "\
    SELECT persistence_id, sequence_nr, codec, manifest, payload FROM perennial.snapshots \
    WHERE persistence_id = ANY ($1)";
const EVENTS_SQLITE: &str = "\
    SELECT persistence_id, sequence_nr, writer_uuid, codec, manifest, payload, tags, metadata, command_id, \
           created_at FROM events \
    WHERE persistence_id IN (SELECT value FROM json_each(?)) AND sequence_nr > ?";
const SNAPSHOTS_SQLITE: &str = "\
    SELECT persistence_id, sequence_nr, codec, manifest, payload FROM snapshots \
    WHERE persistence_id IN (SELECT value FROM json_each(?))";

/// Reads one kind of entities.
pub(super) struct BareSelect {
    tables: Tables,
    ids: Vec<String>,
    in_snapshot: i64,
    rows: usize,
    batch: usize,
    postgres: Option<u32>,
}

#[derive(Clone)]
enum Tables {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

impl BareSelect {
    pub(super) async fn open(
        tables: &BareTables,
        kind: &Kind,
        entities: usize,
        postgres: Option<u32>,
    ) -> Result<Self> {
        let tables = match tables {
            BareTables::Postgres(options) => Tables::Postgres(
                PgPoolOptions::new()
                    .max_connections(CONNECTIONS)
                    .test_before_acquire(false)
                    .connect_with(options.as_ref().clone())
                    .await?,
            ),
            BareTables::Sqlite(path) => Tables::Sqlite(
                SqlitePoolOptions::new()
                    .max_connections(CONNECTIONS)
                    .test_before_acquire(false)
                    .connect_with(SqliteConnectOptions::new().filename(path))
                    .await?,
            ),
        };
        let id = |number| Ok(counter(kind.name, number)?.as_str().to_owned());
        let each = kind.events + usize::from(kind.in_snapshot > 0);
        Ok(Self {
            tables,
            ids: (0..entities).map(id).collect::<Result<_>>()?,
            in_snapshot: kind.in_snapshot as i64,
            rows: entities * each,
            batch: BATCHES[0],
            postgres,
        })
    }

    /// Tries all sizes of batches and keeps the best.
    pub(super) async fn find_best_batch(&mut self) -> Result<()> {
        let mut best = (Duration::MAX, BATCHES[0]);
        for batch in BATCHES {
            self.batch = batch;
            let elapsed = self.read_all().await?.elapsed;
            if elapsed < best.0 {
                best = (elapsed, batch);
            }
        }
        self.batch = best.1;
        Ok(())
    }

    pub(super) fn batch(&self) -> usize {
        self.batch
    }

    /// Reads every entity once.
    pub(super) async fn read_all(&self) -> Result<Speed> {
        let before = Usage::now(None, self.postgres)?;
        let began = Instant::now();
        let batches: Vec<Vec<String>> = self.ids.chunks(self.batch).map(<[_]>::to_vec).collect();
        let with_snapshots = self.in_snapshot > 0;
        let rows: Vec<usize> = stream::iter(batches)
            .map(async |ids| {
                let (tables, after) = (self.tables.clone(), self.in_snapshot);
                let reading = async move {
                    let mut rows = tables.read_events(&ids, after).await?;
                    if with_snapshots {
                        rows += tables.read_snapshots(&ids).await?;
                    }
                    Ok::<_, sqlx::Error>(rows)
                };
                anyhow::Ok(tokio::spawn(reading).await??)
            })
            .buffer_unordered(CONNECTIONS as usize)
            .try_collect()
            .await?;
        let elapsed = began.elapsed();
        let used = Usage::now(None, self.postgres)?.since(&before);
        let rows: usize = rows.into_iter().sum();
        ensure!(rows == self.rows, "read {rows} rows of {}", self.rows);
        Ok(Speed {
            entities: self.ids.len() as u64,
            calls: self.ids.len().div_ceil(self.batch) as u64,
            elapsed,
            used,
        })
    }
}

impl Tables {
    async fn read_events(&self, ids: &[String], after: i64) -> Result<usize, sqlx::Error> {
        match self {
            Self::Postgres(pool) => {
                let query = sqlx::query(EVENTS).bind(ids).bind(after);
                let rows = query.fetch_all(pool).await?;
                Ok(rows
                    .iter()
                    .filter(|row| !row.get::<&[u8], _>(5).is_empty())
                    .count())
            }
            Self::Sqlite(pool) => {
                let query = sqlx::query(EVENTS_SQLITE).bind(json(ids)).bind(after);
                let rows = query.fetch_all(pool).await?;
                Ok(rows
                    .iter()
                    .filter(|row| !row.get::<&[u8], _>(5).is_empty())
                    .count())
            }
        }
    }

    async fn read_snapshots(&self, ids: &[String]) -> Result<usize, sqlx::Error> {
        match self {
            Self::Postgres(pool) => {
                let rows = sqlx::query(SNAPSHOTS).bind(ids).fetch_all(pool).await?;
                Ok(rows
                    .iter()
                    .filter(|row| !row.get::<&[u8], _>(4).is_empty())
                    .count())
            }
            Self::Sqlite(pool) => {
                let query = sqlx::query(SNAPSHOTS_SQLITE).bind(json(ids));
                let rows = query.fetch_all(pool).await?;
                Ok(rows
                    .iter()
                    .filter(|row| !row.get::<&[u8], _>(4).is_empty())
                    .count())
            }
        }
    }
}

fn json(ids: &[String]) -> String {
    serde_json::Value::from(ids).to_string()
}
