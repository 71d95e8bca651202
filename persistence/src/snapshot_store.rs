//! Where snapshots live: a state at a sequence number, so that recovery need not
//! replay the whole stream.
//!
//! A snapshot is an optimisation and never the truth: losing one costs time.
//! Which snapshots to take and to keep is decided in `retention.rs`.
//! Implementations stand beside the journals', in `snapshot_store/`.

#[cfg(feature = "testing")]
pub mod conformance;
pub mod memory;
pub(crate) mod postgres;
pub(crate) mod sqlite;

use std::time::SystemTime;

use async_trait::async_trait;

use crate::journal::{JournalError, WriteRight};
use crate::payload::Payload;
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;

/// A state at a sequence number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The last event folded into the state.
    pub sequence_nr: SequenceNr,
    /// The encoded state.
    pub payload: Payload,
    /// When it was stored, by the store's clock.
    pub created_at: SystemTime,
}

/// Which snapshots are meant: those within all four bounds, which are inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotCriteria {
    /// Lowest number.
    pub min_sequence_nr: SequenceNr,
    /// Highest number.
    pub max_sequence_nr: SequenceNr,
    /// Earliest time; `None` for no bound.
    pub min_created_at: Option<SystemTime>,
    /// Latest time; `None` for no bound.
    pub max_created_at: Option<SystemTime>,
}

impl SnapshotCriteria {
    /// Every snapshot.
    pub const ALL: Self = Self::up_to(SequenceNr::MAX);

    /// Every snapshot up to a number, inclusive.
    #[must_use]
    pub const fn up_to(max_sequence_nr: SequenceNr) -> Self {
        Self {
            min_sequence_nr: SequenceNr::ZERO,
            max_sequence_nr,
            min_created_at: None,
            max_created_at: None,
        }
    }
}

/// A store of snapshots.
#[async_trait]
pub trait SnapshotStore: Send + Sync + 'static {
    /// The snapshot with the highest number among those that match.
    async fn load(
        &self,
        persistence_id: &PersistenceId,
        criteria: SnapshotCriteria,
    ) -> Result<Option<Snapshot>, JournalError>;

    /// Stores a snapshot; one with the same number is replaced (S10).
    async fn save(
        &self,
        right: WriteRight,
        persistence_id: &PersistenceId,
        sequence_nr: SequenceNr,
        payload: &Payload,
    ) -> Result<(), JournalError>;

    /// Deletes all that match.
    async fn delete(
        &self,
        right: WriteRight,
        persistence_id: &PersistenceId,
        criteria: SnapshotCriteria,
    ) -> Result<(), JournalError>;
}
