//! The floor under appends: the same rows into the same tables by an `INSERT` and
//! nothing else. Nobody checks whose they are, whether they are the next ones, or
//! what to do when they cannot be stored.

use anyhow::Result;
use perennial_persistence::payload::CodecId;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection};
use uuid::Uuid;

use crate::bench::appending::{BatchWriter, EVENT, MANIFEST, Row};
use crate::bench::place::BareTables;

const INSERT_POSTGRES: &str = "\
    INSERT INTO perennial.events (persistence_id, sequence_nr, tx, writer_uuid, shard, write_len, codec, manifest, \
                                  payload) \
    SELECT persistence_id, sequence_nr, pg_current_xact_id()::text::bigint, writer_uuid, shard, write_len, codec, \
           manifest, payload \
    FROM unnest($1::text[], $2::bigint[], $3::uuid[], $4::int[], $5::int[], $6::smallint[], $7::text[], $8::bytea[]) \
         AS e (persistence_id, sequence_nr, writer_uuid, shard, write_len, codec, manifest, payload)";

const INSERT_SQLITE: &str = "INSERT INTO events (persistence_id, sequence_nr, writer_uuid, shard, write_len, codec, \
                                                 manifest, payload, created_at) VALUES ";

/// Rows of one SQLite statement: beyond that it gets no faster.
const SQLITE_ROWS: usize = 32;

/// A connection to tables that nobody else uses.
pub(super) enum BareInsert {
    Postgres(Box<PgConnection>),
    Sqlite(Box<SqliteConnection>),
}

impl BareInsert {
    /// As many as the journal has lanes.
    pub(super) async fn open(tables: &BareTables, lanes: usize) -> Result<Vec<Self>> {
        let mut writers = Vec::new();
        for _ in 0..lanes {
            writers.push(match tables {
                BareTables::Postgres(options) => {
                    Self::Postgres(Box::new(options.as_ref().clone().connect().await?))
                }
                BareTables::Sqlite(path) => {
                    let options = SqliteConnectOptions::new()
                        .filename(path)
                        .journal_mode(SqliteJournalMode::Wal)
                        .synchronous(SqliteSynchronous::Full);
                    Self::Sqlite(Box::new(options.connect().await?))
                }
            });
        }
        Ok(writers)
    }
}

impl BatchWriter for BareInsert {
    async fn store(&mut self, rows: &[Row]) -> Result<()> {
        match self {
            Self::Postgres(connection) => insert_postgres(connection, rows).await,
            Self::Sqlite(connection) => insert_sqlite(connection, rows).await,
        }
    }
}

async fn insert_postgres(connection: &mut PgConnection, rows: &[Row]) -> Result<()> {
    let ids: Vec<&str> = rows.iter().map(|row| row.persistence_id.as_str()).collect();
    let numbers: Vec<i64> = rows
        .iter()
        .map(|row| row.sequence_nr.get() as i64)
        .collect();
    sqlx::query(INSERT_POSTGRES)
        .bind(ids)
        .bind(numbers)
        .bind(vec![Uuid::nil(); rows.len()])
        .bind(vec![0_i32; rows.len()])
        .bind(vec![1_i32; rows.len()])
        .bind(vec![CodecId::JSON.0; rows.len()])
        .bind(vec![MANIFEST; rows.len()])
        .bind(vec![EVENT; rows.len()])
        .execute(connection)
        .await?;
    Ok(())
}

async fn insert_sqlite(connection: &mut SqliteConnection, rows: &[Row]) -> Result<()> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    for rows in rows.chunks(SQLITE_ROWS) {
        let place = "(?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let places = vec![place; rows.len()].join(", ");
        let insert = format!("{INSERT_SQLITE}{places}");
        let mut query = sqlx::query(&insert);
        for row in rows {
            query = query
                .bind(row.persistence_id.as_str())
                .bind(row.sequence_nr.get() as i64)
                .bind(Uuid::nil())
                .bind(0)
                .bind(1)
                .bind(CodecId::JSON.0)
                .bind(MANIFEST)
                .bind(EVENT)
                .bind(1_700_000_000_000_000_i64);
        }
        query.execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(())
}
