//! A reader for a backend that has a journal and a snapshot store and nothing
//! better: each entity is read by itself, in several calls.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;
use futures::try_join;

use crate::journal::{EventRange, Journal, JournalError};
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::snapshot_store::{Snapshot, SnapshotCriteria, SnapshotStore};

use super::{Beginning, BeginningLimits, RecoveryReader, Wanted};

/// A reader over a journal and a snapshot store.
pub struct ComposedRecoveryReader {
    journal: Arc<dyn Journal>,
    snapshots: Arc<dyn SnapshotStore>,
}

impl ComposedRecoveryReader {
    /// A reader over these.
    #[must_use]
    pub fn new(journal: Arc<dyn Journal>, snapshots: Arc<dyn SnapshotStore>) -> Self {
        Self { journal, snapshots }
    }

    async fn read(
        &self,
        wanted: &Wanted,
        limits: BeginningLimits,
        bytes_max: usize,
    ) -> Result<Option<Beginning>, JournalError> {
        let mut beginning = read_without_events(&*self.journal, &*self.snapshots, wanted).await?;
        if is_too_large(beginning.snapshot.as_ref(), bytes_max) {
            return Ok(None);
        }
        let range = EventRange {
            persistence_id: wanted.persistence_id.clone(),
            from: beginning
                .snapshot_nr()
                .max(beginning.bounds.deleted_to)
                .next(),
            to: beginning.bounds.highest,
            max_events: limits.events_each,
            max_bytes: bytes_max,
        };
        if range.from <= range.to {
            beginning.events = self.journal.read_events(&range).await?;
        }
        Ok(Some(beginning))
    }
}

/// Whether a snapshot is larger than its share.
pub(super) fn is_too_large(snapshot: Option<&Snapshot>, bytes_max: usize) -> bool {
    snapshot.is_some_and(|snapshot| snapshot.payload.bytes.len() > bytes_max)
}

/// Bounds and snapshot of one entity, whatever their size. The events can be read
/// after it.
pub(crate) async fn read_without_events(
    journal: &dyn Journal,
    snapshots: &dyn SnapshotStore,
    wanted: &Wanted,
) -> Result<Beginning, JournalError> {
    let id: &PersistenceId = &wanted.persistence_id;
    let criteria = SnapshotCriteria::up_to(wanted.snapshot_max);
    let (bounds, mut snapshot) = try_join!(journal.bounds(id), snapshots.load(id, criteria))?;
    let number = snapshot
        .as_ref()
        .map_or(SequenceNr::ZERO, |s| s.sequence_nr);
    if number < bounds.deleted_to {
        // They were read side by side. What was deleted in between was replaced by
        // a newer snapshot before, so now it is found.
        snapshot = snapshots.load(id, criteria).await?;
    }
    Ok(Beginning {
        bounds,
        snapshot,
        events: Vec::new(),
    })
}

#[async_trait]
impl RecoveryReader for ComposedRecoveryReader {
    async fn read_beginnings(
        &self,
        wanted: &[Wanted],
        limits: BeginningLimits,
    ) -> Vec<Result<Option<Beginning>, JournalError>> {
        let bytes_max = limits.bytes_each(wanted.len());
        join_all(wanted.iter().map(|one| self.read(one, limits, bytes_max))).await
    }
}
