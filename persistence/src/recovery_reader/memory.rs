//! The reader of the in-memory backend. Faults strike as if each entity were read
//! by itself: its bounds, its snapshot and, if there are any, its events. What they
//! leave is read in one moment.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;

use crate::journal::JournalError;
use crate::journal::memory::MemoryJournal;
use crate::journal::memory::faults::Operation;
use crate::sequence_nr::SequenceNr;
use crate::storage::memory::{MemoryStorage, Tables};

use super::composed::is_too_large;
use super::{Beginning, BeginningLimits, RecoveryReader, Wanted};

/// A reader over [`MemoryStorage`].
pub(crate) struct MemoryRecoveryReader {
    storage: MemoryStorage,
    /// Keeps the appends that take effect late.
    journal: Arc<MemoryJournal>,
}

impl MemoryRecoveryReader {
    pub(crate) fn new(storage: MemoryStorage, journal: Arc<MemoryJournal>) -> Self {
        Self { storage, journal }
    }

    /// Meets what is arranged for one entity.
    async fn meet_faults(&self, wanted: &Wanted) -> Result<(), JournalError> {
        let faults = self.storage.faults();
        faults.pass(Operation::Bounds).await?;
        faults.pass(Operation::LoadSnapshot).await?;
        let has_events = {
            let tables = self.storage.tables();
            let beginning = read(&tables, wanted, 1, usize::MAX);
            beginning.is_some_and(|beginning| !beginning.events.is_empty())
        };
        if has_events {
            faults.pass(Operation::ReadEvents).await?;
        }
        Ok(())
    }
}

fn read(
    tables: &Tables,
    wanted: &Wanted,
    events_max: usize,
    bytes_max: usize,
) -> Option<Beginning> {
    let id = &wanted.persistence_id;
    let snapshot = tables.snapshots.get(id).and_then(|snapshots| {
        let mut usable = snapshots.range(..=wanted.snapshot_max);
        usable.next_back().map(|(_, snapshot)| snapshot.clone())
    });
    if is_too_large(snapshot.as_ref(), bytes_max) {
        return None;
    }
    let stream = tables.streams.get(id);
    let bounds = stream.map(|stream| stream.bounds).unwrap_or_default();
    let known = snapshot
        .as_ref()
        .map_or(SequenceNr::ZERO, |s| s.sequence_nr);
    let known = known.max(bounds.deleted_to);
    let stored = stream.map_or(&[][..], |stream| &stream.events);
    let start = stored.partition_point(|event| event.sequence_nr <= known);
    let mut bytes = 0;
    let events = stored[start..].iter().take(events_max).take_while(|event| {
        bytes += event.payload.bytes.len();
        bytes <= bytes_max
    });
    Some(Beginning {
        bounds,
        events: events.cloned().collect(),
        snapshot,
    })
}

#[async_trait]
impl RecoveryReader for MemoryRecoveryReader {
    async fn read_beginnings(
        &self,
        wanted: &[Wanted],
        limits: BeginningLimits,
    ) -> Vec<Result<Option<Beginning>, JournalError>> {
        self.journal.apply_late();
        let met = join_all(wanted.iter().map(|one| self.meet_faults(one))).await;
        let bytes_max = limits.bytes_each(wanted.len());
        let tables = self.storage.tables();
        let read = |(one, met): (&Wanted, Result<(), JournalError>)| {
            met.map(|()| read(&tables, one, limits.events_each, bytes_max))
        };
        wanted.iter().zip(met).map(read).collect()
    }
}
