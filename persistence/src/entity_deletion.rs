//! Deleting an entity for good: the [`EntityDeletion`] trait.
//!
//! What goes: the entity's events, its snapshots, and the ids of its commands with
//! their replies. What stays: its highest sequence number, so that no number is
//! ever given to two events, and a tombstone that says at which number and when.
//! The entity's next life begins there, in its initial state.
//!
//! The tombstone is stored first and decides: from then on nothing below it is
//! recovered, whatever rows are still there. So a deletion may be interrupted
//! anywhere, and is completed by asking for it again.
//!
//! It is called while the entity is not in memory: `runtime/entity_deletion.rs` and
//! `runtime/worker/deleting.rs` see to that. Implementations: `entity_deletion/`;
//! all pass `entity_deletion/conformance.rs`.

#[cfg(feature = "testing")]
pub mod conformance;
pub(crate) mod memory;
pub(crate) mod postgres;
pub(crate) mod sqlite;

use std::time::SystemTime;

use async_trait::async_trait;

use crate::journal::{JournalError, WriteRight};
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;

/// What is kept of an entity that was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tombstone {
    /// The highest number of the life that ended; the next event gets the one after.
    pub sequence_nr: SequenceNr,
    /// When that life ended, by the journal's clock.
    pub deleted_at: SystemTime,
}

/// Deletes entities for good.
#[async_trait]
pub trait EntityDeletion: Send + Sync + 'static {
    /// Deletes everything of an entity but its highest number, in steps of bounded
    /// size. Deleting what is deleted already completes what was left of an
    /// interrupted deletion, and otherwise changes nothing, not even the tombstone's
    /// time. `None` for an entity that never stored anything, of which nothing is
    /// kept.
    ///
    /// `may_have_stored_to` is the highest number of an append whose outcome nobody
    /// knows, or zero. Such numbers count as used, so that an append which turns up
    /// late finds that it is stale.
    ///
    /// # Errors
    /// [`JournalError::Fenced`] deletes nothing. After [`JournalError::Unavailable`]
    /// the entity is as it was, or deleted with rows left: ask again.
    async fn delete_entity(
        &self,
        right: WriteRight,
        persistence_id: &PersistenceId,
        may_have_stored_to: SequenceNr,
    ) -> Result<Option<Tombstone>, JournalError>;
}

/// For a step after the first: the deletion is under way, so a fence that comes
/// now does not mean that nothing is deleted.
pub(crate) fn fenced_meanwhile(persistence_id: &PersistenceId) -> JournalError {
    JournalError::Unavailable {
        message: format!(
            "deleting {persistence_id}: the shard got another owner meanwhile; ask again, so that it deletes \
             what is left"
        ),
        source: None,
    }
}
