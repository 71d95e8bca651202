//! The in-memory store of durable states. Next: `storage/memory.rs`, its tables.

use async_trait::async_trait;

use crate::durable_state_store::{DurableStateStore, StateWrite, StateWriteError, StoredState};
use crate::journal::memory::faults::Operation;
use crate::journal::{EntityListing, JournalError, WriteRight};
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::storage::memory::MemoryStorage;

/// A store of durable states over [`MemoryStorage`].
pub struct MemoryDurableStateStore {
    storage: MemoryStorage,
}

impl MemoryDurableStateStore {
    pub(crate) fn new(storage: MemoryStorage) -> Self {
        Self { storage }
    }
}

#[async_trait]
impl DurableStateStore for MemoryDurableStateStore {
    async fn load(
        &self,
        persistence_id: &PersistenceId,
    ) -> Result<Option<StoredState>, JournalError> {
        self.storage.faults().pass(Operation::LoadState).await?;
        Ok(self.storage.tables().states.get(persistence_id).cloned())
    }

    async fn write(&self, right: WriteRight, write: &StateWrite) -> Result<(), StateWriteError> {
        let passed = self.storage.faults().pass(Operation::WriteState).await;
        passed.map_err(|error| StateWriteError::Unavailable {
            message: error.to_string(),
        })?;
        let updated_at = self.storage.now();
        let mut tables = self.storage.tables();
        if !tables.may_write(right) {
            return Err(StateWriteError::fenced(right));
        }
        let stored = tables.states.get(&write.persistence_id);
        let stored = stored.map_or(SequenceNr::ZERO, |state| state.revision);
        if stored != write.replaces {
            return Err(StateWriteError::Conflict {
                persistence_id: write.persistence_id.clone(),
                replaces: write.replaces,
                stored,
            });
        }
        let state = StoredState {
            revision: write.revision,
            payload: write.payload.clone(),
            updated_at,
        };
        tables.states.insert(write.persistence_id.clone(), state);
        Ok(())
    }

    async fn list_entities(
        &self,
        entity_type: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<EntityListing>, JournalError> {
        self.storage.faults().pass(Operation::ListEntities).await?;
        let tables = self.storage.tables();
        let wanted = |(id, state): &(&PersistenceId, &StoredState)| {
            state.payload.is_some()
                && id.entity_type() == entity_type
                && after.is_none_or(|after| id.entity_id() > after)
        };
        let listing = |(id, state): (&PersistenceId, &StoredState)| EntityListing {
            persistence_id: id.clone(),
            sequence_nr: state.revision,
        };
        let wanted = tables.states.iter().filter(wanted);
        Ok(wanted.take(limit).map(listing).collect())
    }
}
