//! Appending a batch to an SQLite file.
//!
//! A batch is one transaction with the write lock held from its start, so what is
//! checked (fence, predecessor, command ids; `append/known.rs`) still holds at the
//! commit. What passes is inserted by few statements (`append/insert.rs`); of one
//! that is refused, each atomic write is tried by itself, so that what is refused
//! leaves its neighbours alone.

mod insert;
mod known;

use sqlx::sqlite::SqliteConnection;

use self::insert::{Placed, fitting, insert};
use self::known::{Known, conflict};
use crate::journal::repetition::first_repetition;
use crate::journal::{Append, AppendError, Appended};
use crate::storage::sqlite::{Fences, SqliteDatabase, SqliteFailure, sort_failure};
use crate::writer::SessionUuid;

/// Stores each append on its own merits.
pub(super) async fn append(
    database: &SqliteDatabase,
    session: SessionUuid,
    batch: &[Append],
) -> Vec<Appended> {
    let failed = |error: &sqlx::Error| {
        let (_, message) = sort_failure(error);
        let failure = AppendError::Unavailable { message };
        batch
            .iter()
            .map(|_| Appended::none(failure.clone()))
            .collect()
    };
    let mut writer = match database.writer().await {
        Ok(writer) => writer,
        Err(error) => return failed(&error),
    };
    let mut transaction = match writer.begin().await {
        Ok(transaction) => transaction,
        Err(error) => return failed(&error),
    };
    let outcomes = match store_batch(&mut transaction, session, batch).await {
        Ok(outcomes) => outcomes,
        // Not committed, so nothing is stored; the transaction rolls back when
        // dropped, if the database has not done so already.
        Err(error) => return failed(&error),
    };
    match transaction.commit().await {
        Ok(()) => outcomes,
        Err(error) => {
            // The commit record may have reached the disk all the same.
            let (_, message) = sort_failure(&error);
            let failure = AppendError::Unknown { message };
            batch
                .iter()
                .map(|_| Appended::none(failure.clone()))
                .collect()
        }
    }
}

/// Stores what may be stored. An error means that the file cannot be used, and
/// takes the whole batch along.
async fn store_batch(
    connection: &mut SqliteConnection,
    session: SessionUuid,
    batch: &[Append],
) -> Result<Vec<Appended>, sqlx::Error> {
    let fences = Fences::of(connection, session).await?;
    let known = Known::of(connection, batch).await?;
    let mut outcomes = Vec::with_capacity(batch.len());
    for (index, append) in batch.iter().enumerate() {
        let (shard, epoch) = (append.shard, append.epoch);
        let highest = known.highest.get(index).copied().unwrap_or_default();
        outcomes.push(if !fences.allow(shard, epoch) {
            Appended::none(AppendError::Fenced {
                session,
                shard,
                epoch,
            })
        } else if highest.next() != append.first_sequence_nr {
            Appended::none(conflict(connection, append, highest).await?)
        } else {
            before_duplicate(append, index, &known)
        });
    }
    insert_all(connection, batch, &mut outcomes).await?;
    Ok(outcomes)
}

/// What becomes of an append if nothing of it is refused: it ends before the first
/// write whose command is stored already.
fn before_duplicate(append: &Append, index: usize, known: &Known) -> Appended {
    let repetition = first_repetition(append);
    for (write_nr, write) in append.writes.iter().enumerate() {
        let stored = known.commands.get(&(index, write_nr));
        let failure = match (&write.command, stored, &repetition) {
            (Some(command), Some(stored), _) => AppendError::DuplicateCommand {
                persistence_id: append.persistence_id.clone(),
                command_id: command.command_id.clone(),
                stored: stored.clone(),
            },
            (_, _, Some(repetition)) if repetition.write == write_nr => repetition.failure.clone(),
            _ => continue,
        };
        return Appended {
            stored_writes: write_nr,
            failure: Some(failure),
        };
    }
    Appended::all(append)
}

/// Inserts the writes that `outcomes` says are stored, and corrects it where one is
/// refused.
async fn insert_all(
    connection: &mut SqliteConnection,
    batch: &[Append],
    outcomes: &mut [Appended],
) -> Result<(), sqlx::Error> {
    let mut writes = Vec::new();
    // Of each of those: the append, and the write's number in it.
    let mut places = Vec::new();
    for (index, (append, outcome)) in batch.iter().zip(&*outcomes).enumerate() {
        let mut first = append.first_sequence_nr;
        for (write_nr, write) in append.writes[..outcome.stored_writes].iter().enumerate() {
            writes.push(Placed {
                append,
                write,
                first,
            });
            places.push((index, write_nr));
            first = first.plus(write.events.len() as u64);
        }
    }
    let mut at = 0;
    // Up to here each write is tried by itself.
    let mut alone_until = 0;
    while at < writes.len() {
        let (index, write_nr) = places[at];
        if write_nr >= outcomes[index].stored_writes {
            // An earlier write of its append was refused.
            at += 1;
            alone_until = alone_until.max(at);
            continue;
        }
        let count = if at < alone_until {
            1
        } else {
            fitting(&writes[at..])
        };
        match insert(connection, &writes[at..at + count]).await {
            Ok(()) => at += count,
            Err(error) => match sort_failure(&error) {
                (SqliteFailure::Unavailable, _) => return Err(error),
                (SqliteFailure::Rejected, _) if count > 1 => alone_until = at + count,
                (SqliteFailure::Rejected, message) => {
                    outcomes[index] = Appended {
                        stored_writes: write_nr,
                        failure: Some(AppendError::Rejected { message }),
                    };
                    at += 1;
                }
            },
        }
    }
    Ok(())
}

#[cfg(test)]
mod append_test;
