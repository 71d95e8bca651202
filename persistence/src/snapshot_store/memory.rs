//! The in-memory snapshot store. Next: `storage/memory.rs`, its tables.

use async_trait::async_trait;

use crate::journal::memory::faults::Operation;
use crate::journal::{JournalError, WriteRight};
use crate::payload::Payload;
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::snapshot_store::{Snapshot, SnapshotCriteria, SnapshotStore};
use crate::storage::memory::MemoryStorage;

/// A snapshot store over [`MemoryStorage`].
pub struct MemorySnapshotStore {
    storage: MemoryStorage,
}

impl MemorySnapshotStore {
    pub(crate) fn new(storage: MemoryStorage) -> Self {
        Self { storage }
    }
}

fn matches(criteria: &SnapshotCriteria, snapshot: &Snapshot) -> bool {
    (criteria.min_sequence_nr..=criteria.max_sequence_nr).contains(&snapshot.sequence_nr)
        && criteria
            .min_created_at
            .is_none_or(|min| snapshot.created_at >= min)
        && criteria
            .max_created_at
            .is_none_or(|max| snapshot.created_at <= max)
}

#[async_trait]
impl SnapshotStore for MemorySnapshotStore {
    async fn load(
        &self,
        persistence_id: &PersistenceId,
        criteria: SnapshotCriteria,
    ) -> Result<Option<Snapshot>, JournalError> {
        self.storage.faults().pass(Operation::LoadSnapshot).await?;
        let tables = self.storage.tables();
        let mut newest_first = tables
            .snapshots
            .get(persistence_id)
            .into_iter()
            .flat_map(|all| all.values().rev());
        Ok(newest_first
            .find(|snapshot| matches(&criteria, snapshot))
            .cloned())
    }

    async fn save(
        &self,
        right: WriteRight,
        persistence_id: &PersistenceId,
        sequence_nr: SequenceNr,
        payload: &Payload,
    ) -> Result<(), JournalError> {
        self.storage.faults().pass(Operation::SaveSnapshot).await?;
        let created_at = self.storage.now();
        let mut tables = self.storage.tables();
        if !tables.may_write(right) {
            let session = right.session;
            return Err(JournalError::Fenced { session });
        }
        let snapshot = Snapshot {
            sequence_nr,
            payload: payload.clone(),
            created_at,
        };
        let snapshots = tables.snapshots.entry(persistence_id.clone()).or_default();
        snapshots.insert(sequence_nr, snapshot);
        Ok(())
    }

    async fn delete(
        &self,
        right: WriteRight,
        persistence_id: &PersistenceId,
        criteria: SnapshotCriteria,
    ) -> Result<(), JournalError> {
        self.storage
            .faults()
            .pass(Operation::DeleteSnapshots)
            .await?;
        let mut tables = self.storage.tables();
        if !tables.may_write(right) {
            let session = right.session;
            return Err(JournalError::Fenced { session });
        }
        if let Some(snapshots) = tables.snapshots.get_mut(persistence_id) {
            snapshots.retain(|_, snapshot| !matches(&criteria, snapshot));
        }
        Ok(())
    }
}
