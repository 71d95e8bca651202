//! Fills a journal before a measurement, through its append API.

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use perennial_persistence::journal::WriteRight;
use perennial_persistence::payload::Payload;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::writer::{Epoch, ShardNr};

use crate::bench::appending::{Row, append, store_all};
use crate::foreign_writer::open_with_session;

/// Events of one batch.
const BATCH_EVENTS: usize = 1000;
/// Events a stream gets in a row: neighbours in a stream are not all neighbours on
/// the disk, as they would not be if they had come one by one.
const EVENTS_IN_A_ROW: usize = 10;
/// Snapshots saved at once.
const SAVED_AT_ONCE: usize = 16;

/// The counter with a number.
pub(super) fn counter(prefix: &str, number: usize) -> Result<PersistenceId> {
    Ok(PersistenceId::new(
        "counter",
        &format!("{prefix}-{number}"),
    )?)
}

/// Gives so many new counters so many events, each of which adds 1.
pub(super) async fn fill_counters(
    url: &str,
    prefix: &str,
    counters: usize,
    events: usize,
) -> Result<()> {
    let (storage, session) = open_with_session(url).await?;
    let journal = &*storage.journal;
    let lanes = journal.lanes();
    // One counter is filled in larger steps.
    let in_a_row = if counters == 1 {
        BATCH_EVENTS
    } else {
        EVENTS_IN_A_ROW.min(events)
    };
    let mut stored = 0;
    while stored < events {
        let next = in_a_row.min(events - stored);
        let first = SequenceNr::new(stored as u64 + 1);
        let filling = (0..lanes).map(async |lane| {
            let numbers: Vec<usize> = (lane..counters).step_by(lanes).collect();
            for numbers in numbers.chunks((BATCH_EVENTS / next).max(1)) {
                let mut appends = Vec::with_capacity(numbers.len());
                for &number in numbers {
                    appends.push(append(&Row::new(counter(prefix, number)?, first), next));
                }
                store_all(journal, session, lane, &appends).await?;
            }
            Ok::<_, anyhow::Error>(())
        });
        futures::future::try_join_all(filling).await?;
        stored += next;
    }
    Ok(())
}

/// Saves a snapshot of each counter, of when it had so many events.
pub(super) async fn save_snapshots(
    url: &str,
    prefix: &str,
    counters: usize,
    events: usize,
) -> Result<()> {
    let (storage, session) = open_with_session(url).await?;
    let right = WriteRight {
        session,
        shard: ShardNr(0),
        epoch: Epoch(1),
    };
    let state = Payload::json(format!(r#"{{"value":{events}}}"#));
    let nr = SequenceNr::new(events as u64);
    stream::iter(0..counters)
        .map(async |number| {
            let id = counter(prefix, number)?;
            storage.snapshots.save(right, &id, nr, &state).await?;
            Ok(())
        })
        .buffer_unordered(SAVED_AT_ONCE)
        .try_collect()
        .await
}
