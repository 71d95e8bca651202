//! Deleting an entity of the in-memory backend. Next: `storage/memory.rs`.

use async_trait::async_trait;

use super::{EntityDeletion, Tombstone, fenced_meanwhile};
use crate::journal::memory::faults::Operation;
use crate::journal::{JournalError, WriteRight};
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::storage::memory::MemoryStorage;

/// Deletes entities of a [`MemoryStorage`].
pub(crate) struct MemoryEntityDeletion {
    storage: MemoryStorage,
}

impl MemoryEntityDeletion {
    pub(crate) fn new(storage: MemoryStorage) -> Self {
        Self { storage }
    }

    fn set_tombstone(
        &self,
        right: WriteRight,
        id: &PersistenceId,
        may_have_stored_to: SequenceNr,
    ) -> Result<Option<Tombstone>, JournalError> {
        let deleted_at = self.storage.now();
        let mut tables = self.storage.tables();
        if !tables.may_write(right) {
            let session = right.session;
            return Err(JournalError::Fenced { session });
        }
        let snapshots = tables.snapshots.get(id);
        let last_snapshot = snapshots.and_then(|all| all.keys().next_back().copied());
        let stored = tables.streams.get(id).map(|stream| stream.bounds.highest);
        let sequence_nr = [stored, last_snapshot, Some(may_have_stored_to)]
            .into_iter()
            .flatten()
            .max()
            .unwrap_or_default();
        if sequence_nr == SequenceNr::ZERO {
            return Ok(None);
        }
        let stream = tables.streams.entry(id.clone()).or_default();
        let former = stream.tombstone;
        let tombstone = match former.filter(|former| former.sequence_nr >= sequence_nr) {
            Some(former) => former,
            None => Tombstone {
                sequence_nr,
                deleted_at,
            },
        };
        stream.tombstone = Some(tombstone);
        stream.bounds.highest = stream.bounds.highest.max(sequence_nr);
        stream.bounds.deleted_to = stream.bounds.deleted_to.max(sequence_nr);
        stream.bounds.tombstone = tombstone.sequence_nr;
        Ok(Some(tombstone))
    }

    fn delete_rows(
        &self,
        right: WriteRight,
        id: &PersistenceId,
        to: SequenceNr,
    ) -> Result<(), JournalError> {
        let mut tables = self.storage.tables();
        if !tables.may_write(right) {
            return Err(fenced_meanwhile(id));
        }
        if let Some(snapshots) = tables.snapshots.get_mut(id) {
            snapshots.retain(|nr, _| *nr > to);
        }
        tables.delete_events(id, to);
        tables.forget_deleted_commands(id);
        if let Some(stream) = tables.streams.get_mut(id) {
            stream.commands.retain(|_, stored| stored.sequence_nr > to);
        }
        Ok(())
    }
}

#[async_trait]
impl EntityDeletion for MemoryEntityDeletion {
    async fn delete_entity(
        &self,
        right: WriteRight,
        persistence_id: &PersistenceId,
        may_have_stored_to: SequenceNr,
    ) -> Result<Option<Tombstone>, JournalError> {
        let faults = self.storage.faults();
        faults.pass(Operation::DeleteEntity).await?;
        let tombstone = self.set_tombstone(right, persistence_id, may_have_stored_to)?;
        faults.pass(Operation::DeleteEntityRows).await?;
        if let Some(tombstone) = tombstone {
            self.delete_rows(right, persistence_id, tombstone.sequence_nr)?;
        }
        Ok(tombstone)
    }
}
