//! What an actor asks of its storage besides persisting, and what it hears of it.
//!
//! Signals are handled like commands: one at a time, not while commands wait for a
//! callback, and before the commands that wait. An incarnation hears only of its own
//! requests.

use crate::codec::CodecError;
use crate::journal::JournalError;
use crate::payload::Payload;
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::snapshot_store::{Snapshot, SnapshotCriteria};

use super::{PersistentActor, SnapshotOffer};

/// What became of a request to the storage.
pub enum Signal<A: PersistentActor> {
    /// The snapshot is stored.
    SaveSnapshotSuccess {
        /// The last event in it.
        sequence_nr: SequenceNr,
    },
    /// The snapshot is not stored; nothing is lost but time.
    SaveSnapshotFailure {
        /// The last event in it.
        sequence_nr: SequenceNr,
        /// Why.
        cause: String,
    },
    /// The snapshot asked for with `load_snapshot`, or `None` if none matches.
    LoadSnapshotSuccess(Option<SnapshotOffer<A::Snapshot>>),
    /// It could not be read.
    LoadSnapshotFailure {
        /// Why.
        cause: String,
    },
    /// The snapshot, if it was there, is deleted.
    DeleteSnapshotSuccess {
        /// The last event in it.
        sequence_nr: SequenceNr,
    },
    /// It is not deleted.
    DeleteSnapshotFailure {
        /// The last event in it.
        sequence_nr: SequenceNr,
        /// Why.
        cause: String,
    },
    /// All snapshots that match are deleted.
    DeleteSnapshotsSuccess {
        /// As asked for.
        criteria: SnapshotCriteria,
    },
    /// They are not, or not all.
    DeleteSnapshotsFailure {
        /// As asked for.
        criteria: SnapshotCriteria,
        /// Why.
        cause: String,
    },
    /// The events are deleted.
    DeleteEventsSuccess {
        /// The last one deleted.
        to: SequenceNr,
    },
    /// None is deleted.
    DeleteEventsFailure {
        /// As asked for.
        to: SequenceNr,
        /// Why.
        cause: String,
    },
}

impl<A: PersistentActor> Signal<A> {
    /// Logs a failure, as actors do that do not listen.
    pub(super) fn log_failure(&self, entity: &PersistenceId) {
        let (what, cause) = match self {
            Self::SaveSnapshotFailure { cause, .. } => ("a snapshot was not saved", cause),
            Self::LoadSnapshotFailure { cause } => ("a snapshot was not loaded", cause),
            Self::DeleteSnapshotFailure { cause, .. } => ("a snapshot was not deleted", cause),
            Self::DeleteSnapshotsFailure { cause, .. } => ("snapshots were not deleted", cause),
            Self::DeleteEventsFailure { cause, .. } => ("events were not deleted", cause),
            _ => return,
        };
        tracing::warn!(%entity, cause, "{what}");
    }
}

/// What an actor asks of the storage.
#[derive(Debug)]
pub(crate) enum StorageRequest {
    SaveSnapshot(SequenceNr, Payload),
    LoadSnapshot(SnapshotCriteria),
    DeleteSnapshot(SequenceNr),
    DeleteSnapshots(SnapshotCriteria),
    DeleteEvents(SequenceNr),
}

/// What became of it, before it has types.
pub(crate) enum StorageReport {
    SnapshotSaved(SequenceNr, Result<(), String>),
    SnapshotLoaded(Result<Option<Snapshot>, String>),
    SnapshotDeleted(SequenceNr, Result<(), String>),
    SnapshotsDeleted(SnapshotCriteria, Result<(), String>),
    EventsDeleted(SequenceNr, Result<(), String>),
}

impl StorageRequest {
    /// What it comes to when it was done, or was not.
    pub(crate) fn done(self, done: Result<Option<Snapshot>, JournalError>) -> StorageReport {
        let done = done.map_err(|error| error.to_string());
        let unit = |done: Result<Option<Snapshot>, String>| done.map(|_| ());
        match self {
            Self::SaveSnapshot(nr, _) => StorageReport::SnapshotSaved(nr, unit(done)),
            Self::LoadSnapshot(_) => StorageReport::SnapshotLoaded(done),
            Self::DeleteSnapshot(nr) => StorageReport::SnapshotDeleted(nr, unit(done)),
            Self::DeleteSnapshots(criteria) => {
                StorageReport::SnapshotsDeleted(criteria, unit(done))
            }
            Self::DeleteEvents(to) => StorageReport::EventsDeleted(to, unit(done)),
        }
    }
}

impl StorageReport {
    pub(super) fn typed<A: PersistentActor>(
        self,
        decode: impl FnOnce(&Payload) -> Result<A::Snapshot, CodecError>,
    ) -> Signal<A> {
        match self {
            Self::SnapshotSaved(sequence_nr, Ok(())) => Signal::SaveSnapshotSuccess { sequence_nr },
            Self::SnapshotSaved(sequence_nr, Err(cause)) => {
                Signal::SaveSnapshotFailure { sequence_nr, cause }
            }
            Self::SnapshotLoaded(Ok(None)) => Signal::LoadSnapshotSuccess(None),
            Self::SnapshotLoaded(Ok(Some(loaded))) => match decode(&loaded.payload) {
                Ok(snapshot) => Signal::LoadSnapshotSuccess(Some(SnapshotOffer {
                    sequence_nr: loaded.sequence_nr,
                    created_at: loaded.created_at,
                    snapshot,
                })),
                Err(CodecError { message: cause }) => Signal::LoadSnapshotFailure { cause },
            },
            Self::SnapshotLoaded(Err(cause)) => Signal::LoadSnapshotFailure { cause },
            Self::SnapshotDeleted(sequence_nr, Ok(())) => {
                Signal::DeleteSnapshotSuccess { sequence_nr }
            }
            Self::SnapshotDeleted(sequence_nr, Err(cause)) => {
                Signal::DeleteSnapshotFailure { sequence_nr, cause }
            }
            Self::SnapshotsDeleted(criteria, Ok(())) => Signal::DeleteSnapshotsSuccess { criteria },
            Self::SnapshotsDeleted(criteria, Err(cause)) => {
                Signal::DeleteSnapshotsFailure { criteria, cause }
            }
            Self::EventsDeleted(to, Ok(())) => Signal::DeleteEventsSuccess { to },
            Self::EventsDeleted(to, Err(cause)) => Signal::DeleteEventsFailure { to, cause },
        }
    }
}
