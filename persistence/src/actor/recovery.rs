//! What a recovery reads, and how an actor takes it in.

use std::time::SystemTime;

use crate::sequence_nr::SequenceNr;
use crate::snapshot_store::SnapshotCriteria;

use super::PersistentActor;

/// What a recovery reads. The default is the newest snapshot and all events after
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovery {
    /// The newest snapshot that matches is offered; `None` for no snapshot, as when
    /// they cannot be read any more. Not above `to_sequence_nr` in any case.
    pub from_snapshot: Option<SnapshotCriteria>,
    /// The last event replayed, inclusive. An actor that stops short of the end
    /// should not persist: later recoveries see the events it has not seen.
    pub to_sequence_nr: SequenceNr,
    /// At most so many events are replayed.
    pub replay_max: u64,
}

impl Recovery {
    /// Reads nothing but the highest number, so that new events follow it.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            from_snapshot: None,
            to_sequence_nr: SequenceNr::MAX,
            replay_max: 0,
        }
    }

    /// The last number to be replayed from a snapshot on, in a stream that reaches
    /// to `highest`.
    pub(crate) fn replay_to(&self, from: SequenceNr, highest: SequenceNr) -> SequenceNr {
        highest
            .min(self.to_sequence_nr)
            .min(from.plus(self.replay_max))
    }

    /// Which snapshots may be offered; `None` for none.
    pub(crate) fn snapshots(&self) -> Option<SnapshotCriteria> {
        let mut criteria = self.from_snapshot?;
        criteria.max_sequence_nr = criteria.max_sequence_nr.min(self.to_sequence_nr);
        Some(criteria)
    }
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            from_snapshot: Some(SnapshotCriteria::ALL),
            to_sequence_nr: SequenceNr::MAX,
            replay_max: u64::MAX,
        }
    }
}

/// A part of an actor's past.
pub enum Recovered<A: PersistentActor> {
    /// A state to start from. An actor that cannot use it calls
    /// [`Context::decline_snapshot`](super::Context::decline_snapshot).
    SnapshotOffer(SnapshotOffer<A::Snapshot>),
    /// The next event.
    Event(A::Event),
    /// That was all; commands follow. Comes in every recovery, also in that of an
    /// entity that was never written.
    Completed,
}

/// A stored state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotOffer<S> {
    /// The last event in it.
    pub sequence_nr: SequenceNr,
    /// When it was stored, by the store's clock.
    pub created_at: SystemTime,
    /// The state.
    pub snapshot: S,
}
