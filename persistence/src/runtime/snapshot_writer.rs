//! Saves snapshots and deletes what they replace, apart from the way of a
//! command.
//!
//! A snapshot only saves time, so when too many are waiting a further one is
//! skipped and counted: the entity takes another when the next is due. What to
//! save and delete is decided in `retention.rs`, or by a persistent actor itself,
//! which is told what came of it.

mod under_way;

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::actor::StorageRequest;
use crate::journal::{Journal, JournalError, WriteRight};
use crate::payload::Payload;
use crate::persistence_id::PersistenceId;
use crate::retention::Deletion;
use crate::sequence_nr::SequenceNr;
use crate::snapshot_store::{Snapshot, SnapshotCriteria, SnapshotStore};
use crate::storage::Storage;

use super::contained::contained;
use super::worker::{Address, WorkerHandle};
use under_way::UnderWay;

/// Snapshots and deletions waiting or under way; beyond it they are skipped.
const WAITING_MAX: usize = 1_000;
/// Under way at once, so that they do not crowd out recoveries.
const RUNNING_MAX: usize = 2;

/// Saves snapshots; cheap to clone.
#[derive(Clone)]
pub(crate) struct SnapshotWriter {
    store: Arc<dyn SnapshotStore>,
    journal: Arc<dyn Journal>,
    waiting: Arc<Semaphore>,
    running: Arc<Semaphore>,
    under_way: UnderWay,
}

/// Whose snapshots, and by what right they are written.
pub(crate) struct SnapshotOwner {
    pub(crate) right: WriteRight,
    pub(crate) persistence_id: PersistenceId,
}

impl SnapshotWriter {
    pub(crate) fn new(storage: &Storage) -> Self {
        Self {
            store: Arc::clone(&storage.snapshots),
            journal: Arc::clone(&storage.journal),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            running: Arc::new(Semaphore::new(RUNNING_MAX)),
            under_way: UnderWay::default(),
        }
    }

    /// Saves a snapshot in a task of its own, then tells the cell.
    pub(crate) fn save(
        &self,
        owner: SnapshotOwner,
        sequence_nr: SequenceNr,
        payload: Payload,
        worker: &WorkerHandle,
        from: Address,
    ) {
        let Some(place) = self.place() else {
            worker.snapshot_settled(from, sequence_nr, false);
            return;
        };
        let (this, worker) = (self.clone(), worker.clone());
        let write = self.under_way.begin(&owner.persistence_id);
        tokio::spawn(async move {
            let _turn = this.running.acquire().await;
            let id = &owner.persistence_id;
            let saved = contained(this.store.save(owner.right, id, sequence_nr, &payload)).await;
            if let Err(error) = &saved {
                tracing::warn!(entity = %id, %sequence_nr, %error, "a snapshot was not saved; recovery will replay more events");
            }
            drop((write, place));
            worker.snapshot_settled(from, sequence_nr, saved.is_ok());
        });
    }

    /// Deletes in a task of its own, then tells the cell.
    pub(crate) fn delete(
        &self,
        owner: SnapshotOwner,
        deletion: Deletion,
        worker: &WorkerHandle,
        from: Address,
    ) {
        let Some(place) = self.place() else {
            worker.deletion_settled(from, false);
            return;
        };
        let (this, worker) = (self.clone(), worker.clone());
        let write = self.under_way.begin(&owner.persistence_id);
        tokio::spawn(async move {
            let _turn = this.running.acquire().await;
            let deleted = contained(this.perform(&owner, deletion)).await;
            if let Err(error) = &deleted {
                tracing::warn!(entity = %owner.persistence_id, ?deletion, %error, "nothing was deleted; the next snapshot's deletion covers it");
            }
            drop((write, place));
            worker.deletion_settled(from, deleted.is_ok());
        });
    }

    /// Returns when nothing of this entity is being saved or deleted. It has left
    /// memory, so nothing further is going to be.
    pub(crate) async fn settled(&self, persistence_id: &PersistenceId) {
        self.under_way.settled(persistence_id).await;
    }

    /// Returns when nothing is waiting or under way.
    pub(crate) async fn finished(&self) {
        // Each holds one place.
        let _all = self.waiting.acquire_many(WAITING_MAX as u32).await;
    }

    /// Does what an actor asks for in a task of its own, then tells it.
    pub(crate) fn serve(
        &self,
        owner: SnapshotOwner,
        request: StorageRequest,
        worker: &WorkerHandle,
        from: Address,
    ) {
        let Some(place) = self.place() else {
            let message = "too many snapshots and deletions are waiting: retry later".to_owned();
            let source = None;
            let refused = Err(JournalError::Unavailable { message, source });
            worker.storage_report(from, request.done(refused));
            return;
        };
        let (this, worker) = (self.clone(), worker.clone());
        let write = self.under_way.begin(&owner.persistence_id);
        tokio::spawn(async move {
            let turn = this.running.acquire().await;
            let done = contained(this.perform_request(&owner, &request)).await;
            drop((turn, write, place));
            worker.storage_report(from, request.done(done));
        });
    }

    async fn perform_request(
        &self,
        owner: &SnapshotOwner,
        request: &StorageRequest,
    ) -> Result<Option<Snapshot>, JournalError> {
        let SnapshotOwner {
            right,
            persistence_id: id,
        } = owner;
        match request {
            StorageRequest::LoadSnapshot(criteria) => {
                let mut criteria = *criteria;
                let first = self.journal.bounds(id).await?.first_snapshot();
                criteria.min_sequence_nr = criteria.min_sequence_nr.max(first);
                return self.store.load(id, criteria).await;
            }
            StorageRequest::SaveSnapshot(nr, payload) => {
                self.store.save(*right, id, *nr, payload).await?;
            }
            StorageRequest::DeleteSnapshot(nr) => {
                let mut only = SnapshotCriteria::up_to(*nr);
                only.min_sequence_nr = *nr;
                self.store.delete(*right, id, only).await?;
            }
            StorageRequest::DeleteSnapshots(criteria) => {
                self.store.delete(*right, id, *criteria).await?;
            }
            StorageRequest::DeleteEvents(to) => {
                self.journal.delete_events(*right, id, *to).await?;
            }
        }
        Ok(None)
    }

    async fn perform(&self, owner: &SnapshotOwner, deletion: Deletion) -> Result<(), JournalError> {
        let SnapshotOwner {
            right,
            persistence_id,
        } = owner;
        match deletion {
            Deletion::Events(to) => self.journal.delete_events(*right, persistence_id, to).await,
            Deletion::Snapshots(to) => {
                let criteria = SnapshotCriteria::up_to(to);
                self.store.delete(*right, persistence_id, criteria).await
            }
        }
    }

    fn place(&self) -> Option<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.waiting).try_acquire_owned().ok();
        if place.is_none() {
            metrics::counter!("perennial_snapshots_skipped_total").increment(1);
        }
        place
    }
}
