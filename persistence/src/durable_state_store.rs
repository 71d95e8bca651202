//! Where durable states live: of each entity the latest state only, with a revision.
//!
//! A write names the revision it replaces. One that is not the stored one means that
//! somebody else wrote, or that the writer is stale, and the write has no effect. Like
//! every write it is fenced (I-2). A deleted state keeps its revision, so that it is
//! never written as if it were new. What a state means is the business of
//! `durable_state.rs`. Implementations stand beside the journals', in
//! `durable_state_store/`.

#[cfg(feature = "testing")]
pub mod conformance;
pub mod memory;
pub(crate) mod postgres;
pub(crate) mod sqlite;

use std::time::SystemTime;

use async_trait::async_trait;

use crate::journal::{EntityListing, JournalError, WriteRight};
use crate::payload::Payload;
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::writer::{Epoch, SessionUuid, ShardNr};

/// A state as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredState {
    /// Grows with every change; at least 1.
    pub revision: SequenceNr,
    /// The encoded state; `None` when it is deleted.
    pub payload: Option<Payload>,
    /// When it was written, by the store's clock.
    pub updated_at: SystemTime,
}

/// A state to be stored, or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateWrite {
    /// Whose state.
    pub persistence_id: PersistenceId,
    /// The revision it replaces; 0 for a state that was never written.
    pub replaces: SequenceNr,
    /// Its own revision: the next, or a later one if changes in between were never
    /// stored by themselves.
    pub revision: SequenceNr,
    /// The encoded state; `None` to delete it.
    pub payload: Option<Payload>,
}

/// Why a state is not stored, or not known to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateWriteError {
    /// Another revision is stored than the write wanted to replace.
    #[error(
        "state {persistence_id}: the write wanted to replace revision {replaces}, but {stored} is stored: read it \
         again, then decide anew"
    )]
    Conflict {
        /// Whose state.
        persistence_id: PersistenceId,
        /// Given with the write.
        replaces: SequenceNr,
        /// Found; 0 for a state that was never written.
        stored: SequenceNr,
    },
    /// The session is fenced, as a whole or for this shard and epoch.
    #[error(
        "session {session} is fenced for shard {shard} up to epoch {epoch}: the shard has another owner"
    )]
    Fenced {
        /// The session that wanted to write.
        session: SessionUuid,
        /// The shard.
        shard: ShardNr,
        /// The epoch the write carried.
        epoch: Epoch,
    },
    /// The store refuses these bytes; a retry would fail too.
    #[error("the store refuses the state: {message}")]
    Rejected {
        /// What the database said.
        message: String,
    },
    /// Certainly not stored. A retry can succeed when the store is back.
    #[error("the store cannot be reached, nothing was stored: {message}")]
    Unavailable {
        /// What the driver said.
        message: String,
    },
    /// It may be stored.
    #[error("the outcome of the write is unknown: {message}")]
    Unknown {
        /// What the driver said.
        message: String,
    },
}

impl StateWriteError {
    pub(crate) fn fenced(right: WriteRight) -> Self {
        Self::Fenced {
            session: right.session,
            shard: right.shard,
            epoch: right.epoch,
        }
    }
}

/// A store of durable states.
#[async_trait]
pub trait DurableStateStore: Send + Sync + 'static {
    /// The latest state; `None` if there never was one.
    async fn load(
        &self,
        persistence_id: &PersistenceId,
    ) -> Result<Option<StoredState>, JournalError>;

    /// Stores a state, or deletes it, if the revision it replaces is the stored one.
    ///
    /// # Errors
    /// After all but [`StateWriteError::Unknown`] the stored state is as before.
    async fn write(&self, right: WriteRight, write: &StateWrite) -> Result<(), StateWriteError>;

    /// Entities of a type that have a state, with its revision, in ascending byte order
    /// of their ids, starting after `after`, at most `limit`.
    async fn list_entities(
        &self,
        entity_type: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<EntityListing>, JournalError>;
}
