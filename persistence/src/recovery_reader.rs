//! Reads where recoveries begin: for many entities at once, the bounds of the
//! stream, the latest snapshot and the first events after it.
//!
//! Recoveries come in storms, after a restart or when a shard moves, and most
//! entities need little. So what waits together is read together, in Postgres by
//! one statement. Only the beginning is read here: whoever has more events reads
//! on with [`Journal::read_events`](crate::journal::Journal::read_events), page by
//! page. What is read is neither checked for gaps nor filtered: `replay.rs`.
//! Who waits for whom is decided in `runtime/recovery_queue.rs`.
//!
//! Backends stand in `recovery_reader/`; one that has only a journal and a snapshot
//! store gets its reader from [`composed`].

pub mod composed;
#[cfg(feature = "testing")]
pub mod conformance;
mod halves;
pub(crate) mod memory;
pub(crate) mod postgres;
pub(crate) mod sqlite;

use async_trait::async_trait;

use crate::journal::{JournalError, StoredEvent, StreamBounds};
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::snapshot_store::Snapshot;

/// A recovery that is to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Whose.
    pub persistence_id: PersistenceId,
    /// The highest snapshot of use, inclusive: lower than the latest where that
    /// one could not be understood, [`SequenceNr::ZERO`] where none could.
    pub snapshot_max: SequenceNr,
}

impl Wanted {
    /// From the latest snapshot.
    #[must_use]
    pub fn latest(persistence_id: PersistenceId) -> Self {
        Self {
            persistence_id,
            snapshot_max: SequenceNr::MAX,
        }
    }
}

/// How much one call may return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BeginningLimits {
    /// Events of one entity.
    pub events_each: usize,
    /// Payload bytes of all entities together. Each has an equal share of it, for
    /// its snapshot and as much again for its events.
    pub bytes: usize,
}

impl BeginningLimits {
    /// Bytes for the snapshot of one of so many entities, and for its events.
    pub(crate) fn bytes_each(&self, entities: usize) -> usize {
        self.bytes / 2 / entities.max(1)
    }
}

/// Where a recovery begins. All of it was true at one moment, except from a
/// [`composed`] reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beginning {
    /// How far the stream reaches.
    pub bounds: StreamBounds,
    /// The snapshot with the highest number that was wanted. It may be one from
    /// before the entity was deleted: see [`Beginning::forget_former_life`].
    pub snapshot: Option<Snapshot>,
    /// The events after the snapshot and after what is deleted, ascending, from the
    /// first on; how many of them is up to the reader, within the limits.
    pub events: Vec<StoredEvent>,
}

impl Beginning {
    /// Drops a snapshot of what the entity was before it was deleted as a whole:
    /// see [`StreamBounds::first_snapshot`].
    pub fn forget_former_life(&mut self) {
        if self.snapshot_nr() < self.bounds.first_snapshot() {
            self.snapshot = None;
        }
    }

    /// Up to where the snapshot replaces the events.
    #[must_use]
    pub fn snapshot_nr(&self) -> SequenceNr {
        let snapshot = self.snapshot.as_ref();
        snapshot.map_or(SequenceNr::ZERO, |snapshot| snapshot.sequence_nr)
    }

    /// Whether it reaches the end of the stream: nothing is left to read.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let known = self.snapshot_nr().max(self.bounds.deleted_to);
        let last = self.events.last().map_or(known, |event| event.sequence_nr);
        last >= self.bounds.highest
    }
}

/// Reads where recoveries begin.
///
/// Safe to cancel: callers give up calls that take too long.
#[async_trait]
pub trait RecoveryReader: Send + Sync + 'static {
    /// How many calls can usefully be under way at once, beside reads of the
    /// journal. Fixed while it lives.
    fn concurrency(&self) -> usize {
        1
    }

    /// One answer for each entity, in order. What is wrong with one entity, a row
    /// that is damaged, is the answer for that one only.
    ///
    /// `Ok(None)` means that its snapshot alone is larger than its share of the
    /// limit: load it by itself, with the snapshot store.
    async fn read_beginnings(
        &self,
        wanted: &[Wanted],
        limits: BeginningLimits,
    ) -> Vec<Result<Option<Beginning>, JournalError>>;
}
