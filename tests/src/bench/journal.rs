//! The append API alone, and its floor: the same rows by an `INSERT` alone, at the
//! same concurrency.
//!
//! The two take turns second by second, so that both see the same machine.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::bench::appending::{Appending, JournalWriter};
use crate::bench::bare_insert::BareInsert;
use crate::bench::place::{JournalKind, Place};
use crate::bench::usage::{one_decimal, ratio};
use crate::bench::{BUILD, Options};
use crate::foreign_writer::open_with_session;

/// Length of a turn.
const TURN: Duration = Duration::from_secs(1);

/// Measures both.
///
/// # Errors
/// When the journal cannot be opened or does not store an event.
pub async fn run(options: &Options) -> Result<Value> {
    let place = Place::make(options.journal).await?;
    let (journal, floor) = measure(&place, options).await?;
    Ok(json!({
        "bench": "journal",
        "build": BUILD,
        "journal": options.journal.name(),
        "outstanding": options.outstanding,
        "entities": options.entities,
        "append": journal.to_json(),
        "floor": floor.as_ref().map(Appending::to_json),
        "ratio": floor.as_ref().map(|floor| ratio(journal.rate(), floor.rate())),
        "cpu_us_over_floor": floor.as_ref().and_then(|floor| {
            Some(one_decimal(journal.cost()?.total() - floor.cost()?.total()))
        }),
    }))
}

/// The journal of a place, and the floor in tables beside it; a journal in memory
/// has none.
pub(super) async fn measure(
    place: &Place,
    options: &Options,
) -> Result<(Appending<JournalWriter>, Option<Appending<BareInsert>>)> {
    let (storage, session) = open_with_session(&place.url()).await?;
    let writers = JournalWriter::for_each_lane(&storage.journal, session);
    let lanes = writers.len();
    let mut journal = Appending::new(writers, options.entities, place.postgres())?;
    let mut floor = match options.journal {
        JournalKind::Memory => None,
        _ => {
            let writers = BareInsert::open(&place.empty_tables().await?, lanes).await?;
            Some(Appending::new(writers, options.entities, place.postgres())?)
        }
    };
    let trial = options.length() / 10;
    journal.find_best_batch(options.outstanding, trial).await?;
    if let Some(floor) = &mut floor {
        floor.find_best_batch(options.outstanding, trial).await?;
    }
    for _ in 0..options.seconds.max(1) {
        journal.measure(TURN).await?;
        if let Some(floor) = &mut floor {
            floor.measure(TURN).await?;
        }
    }
    Ok((journal, floor))
}
