//! Atomic writes as rows, several in one statement: a statement costs the driver more
//! than a row, because each is handed to another thread and back.

use std::sync::LazyLock;

use sqlx::Executor;
use sqlx::sqlite::{SqliteArguments, SqliteConnection};

use crate::journal::{Append, AtomicWrite};
use crate::sequence_nr::SequenceNr;
use crate::storage::metadata_json;

/// Rows of one statement. More gain little, and each number of rows is a statement
/// that the driver keeps prepared.
const ROWS_MAX: usize = 32;

/// By number of rows, less 1.
static INSERTS: LazyLock<[String; ROWS_MAX]> = LazyLock::new(|| {
    std::array::from_fn(|rows| {
        let row = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, \
                   CAST(unixepoch('subsec') * 1000000 AS INTEGER))";
        let rows = vec![row; rows + 1].join(", ");
        format!(
            "INSERT INTO events (persistence_id, sequence_nr, writer_uuid, shard, codec, manifest, payload, tags, \
             metadata, write_len, command_id, reply, reply_codec, reply_manifest, created_at) VALUES {rows}"
        )
    })
});

/// An atomic write and where it goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed<'a> {
    pub(super) append: &'a Append,
    pub(super) write: &'a AtomicWrite,
    /// Number of its first event.
    pub(super) first: SequenceNr,
}

/// How many writes, from the first on, fit into one statement; at least one.
pub(super) fn fitting(writes: &[Placed<'_>]) -> usize {
    let mut rows = 0;
    let fit = writes.iter().take_while(|placed| {
        rows += placed.write.events.len();
        rows <= ROWS_MAX
    });
    fit.count().max(1)
}

/// Stores writes all or none, if they fit into one statement. A write that is larger
/// is stored by itself, all or none as well.
pub(super) async fn insert(
    connection: &mut SqliteConnection,
    writes: &[Placed<'_>],
) -> Result<(), sqlx::Error> {
    let rows: usize = writes.iter().map(|placed| placed.write.events.len()).sum();
    if rows <= ROWS_MAX {
        return insert_rows(connection, &rows_of(writes)).await;
    }
    connection.execute("SAVEPOINT atomic_write").await?;
    let mut inserted = Ok(());
    for rows in rows_of(writes).chunks(ROWS_MAX) {
        inserted = insert_rows(connection, rows).await;
        if inserted.is_err() {
            connection.execute("ROLLBACK TO atomic_write").await?;
            break;
        }
    }
    connection.execute("RELEASE atomic_write").await?;
    inserted
}

/// Each event with its write and its place in it.
fn rows_of<'a>(writes: &[Placed<'a>]) -> Vec<(Placed<'a>, usize)> {
    let rows = |placed: &Placed<'a>| {
        let placed = *placed;
        (0..placed.write.events.len()).map(move |index| (placed, index))
    };
    writes.iter().flat_map(rows).collect()
}

async fn insert_rows(
    connection: &mut SqliteConnection,
    rows: &[(Placed<'_>, usize)],
) -> Result<(), sqlx::Error> {
    let Some(statement) = rows.len().checked_sub(1).and_then(|at| INSERTS.get(at)) else {
        return Ok(());
    };
    let mut query = sqlx::query(statement);
    for (placed, index) in rows {
        query = bind(query, *placed, *index);
    }
    query.execute(connection).await?;
    Ok(())
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, SqliteArguments<'q>>;

fn bind<'q>(query: Query<'q>, placed: Placed<'q>, index: usize) -> Query<'q> {
    let Placed {
        append,
        write,
        first,
    } = placed;
    let event = &write.events[index];
    let tags =
        (!event.tags.is_empty()).then(|| serde_json::Value::from(event.tags.clone()).to_string());
    let command = write.command.as_ref().filter(|_| index == 0);
    query
        .bind(append.persistence_id.as_str())
        .bind(first.plus(index as u64).as_i64())
        .bind(append.writer.0)
        .bind(i64::from(append.shard.0))
        .bind(event.payload.codec.0)
        .bind(&*event.payload.manifest)
        .bind(&*event.payload.bytes)
        .bind(tags)
        .bind(metadata_json(&write.metadata))
        .bind((index == 0).then_some(write.events.len() as i64))
        .bind(command.map(|command| command.command_id.as_str()))
        .bind(command.map(|command| &*command.reply.bytes))
        .bind(command.map(|command| command.reply.codec.0))
        .bind(command.map(|command| &*command.reply.manifest))
}
