//! The ways to reach a worker, and what can be said to it.
//!
//! Requests from outside go through a bounded queue. Answers to what cells asked
//! for go through a second one that the cells themselves bound: each waits for at
//! most one append, recovery and look-up. Nothing is decided here. Next:
//! `worker.rs`, which takes the messages in.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::deleting::{DeleteRequest, Deleted};
use crate::actor::StorageReport;
use crate::codec::CodecError;
use crate::command::{CommandId, Envelope};
use crate::command_error::CommandError;
use crate::engine::EntityDescription;
use crate::journal::{Appended, AtomicWrite, StoredCommand};
use crate::payload::Payload;
use crate::persistence_id::PersistenceId;
use crate::runtime::cell::{OutsideTicket, PageVerdict, RecoveryPage};
use crate::runtime::recovery_pages::RecoveryFault;
use crate::sequence_nr::SequenceNr;
use crate::writer::ShardNr;

/// Where the answer to a cell's action goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) worker: usize,
    pub(super) slot: usize,
    pub(super) incarnation: u64,
}

/// What became of one cell's append.
pub(crate) struct Outcome {
    pub(crate) to: Address,
    pub(crate) appended: Appended,
    /// Its writes that are not known to be stored.
    pub(crate) unstored: Vec<AtomicWrite>,
}

/// The ways to reach a worker; cheap to clone.
#[derive(Clone)]
pub(crate) struct WorkerHandle {
    requests: mpsc::Sender<WorkerRequest>,
    events: mpsc::UnboundedSender<WorkerEvent>,
}

/// What comes from outside; bounded.
pub(super) enum WorkerRequest {
    Deliver(Envelope),
    Describe(PersistenceId, oneshot::Sender<EntityDescription>),
    Passivate(PersistenceId, oneshot::Sender<()>),
    /// After all that was delivered to these shards before. Each is told, by
    /// dropping, when its entities have left; after so long they are made to.
    StopShards(Vec<(ShardNr, oneshot::Sender<()>)>, Duration),
    Delete(DeleteRequest),
}

/// What cells wait for, and what the engine orders.
pub(super) enum WorkerEvent {
    RecoveryPage(Address, RecoveryPage, oneshot::Sender<PageVerdict>),
    RecoveryFault(Address, RecoveryFault),
    Appended(Vec<Outcome>),
    CommandsFound(
        Address,
        Vec<CommandId>,
        Result<Vec<Option<StoredCommand>>, String>,
    ),
    SnapshotSettled(Address, SequenceNr, bool),
    DeletionSettled(Address, bool),
    /// To the cell that is in this place now, if it still waits for it.
    OutsideReturned(usize, OutsideTicket, Result<Payload, CodecError>),
    StorageReport(Address, StorageReport),
    EntityDeleted(PersistenceId, Deleted),
    /// The node is over its limit and this worker has the oldest idle entity.
    PassivateOldest,
    IdleTimeoutsChanged,
    /// As the request, when no requests are taken in any more.
    StopShards(Vec<(ShardNr, oneshot::Sender<()>)>, Duration),
    Stop,
}

/// The queues of a worker that is not running yet.
pub(crate) struct WorkerQueues {
    pub(super) requests: mpsc::Receiver<WorkerRequest>,
    pub(super) events: mpsc::UnboundedReceiver<WorkerEvent>,
}

impl WorkerHandle {
    pub(crate) fn new(capacity: usize) -> (Self, WorkerQueues) {
        let (requests, request_queue) = mpsc::channel(capacity);
        #[expect(
            clippy::disallowed_methods,
            reason = "bounded by the cells: each waits for at most one append, recovery and look-up"
        )]
        let (events, event_queue) = mpsc::unbounded_channel();
        let queues = WorkerQueues {
            requests: request_queue,
            events: event_queue,
        };
        (Self { requests, events }, queues)
    }

    /// Hands a request in; one that finds no room is answered OVERLOADED.
    pub(crate) fn deliver(&self, envelope: Envelope) {
        let shard = envelope.shard.0;
        let (refused, error) = match self.requests.try_send(WorkerRequest::Deliver(envelope)) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(refused)) => {
                let limit = self.requests.max_capacity();
                (refused, CommandError::Overloaded { limit })
            }
            Err(mpsc::error::TrySendError::Closed(refused)) => {
                (refused, CommandError::ShardUnavailable { shard })
            }
        };
        if let WorkerRequest::Deliver(envelope) = refused {
            envelope.reply_to.answer(Err(error));
        }
    }

    /// As [`WorkerHandle::deliver`]; gives a request back that finds no room.
    #[expect(clippy::result_large_err, reason = "it is handed on, not reported")]
    pub(crate) fn offer(&self, envelope: Envelope) -> Result<(), Envelope> {
        match self.requests.try_send(WorkerRequest::Deliver(envelope)) {
            Err(
                mpsc::error::TrySendError::Full(WorkerRequest::Deliver(envelope))
                | mpsc::error::TrySendError::Closed(WorkerRequest::Deliver(envelope)),
            ) => Err(envelope),
            // Nothing else was sent.
            _ => Ok(()),
        }
    }

    /// Takes the entities of shards out of memory, in turn with what is delivered; after
    /// all of it, in a worker that stops.
    pub(crate) async fn stop_shards(
        &self,
        shards: Vec<(ShardNr, oneshot::Sender<()>)>,
        limit: Duration,
    ) {
        let request = WorkerRequest::StopShards(shards, limit);
        let refused = self.requests.send(request).await.err();
        if let Some(mpsc::error::SendError(WorkerRequest::StopShards(shards, limit))) = refused {
            // It stops, and its entities may have something out: who is told that they
            // have left lets later commands go on (I-9). Without a worker there are no
            // entities; dropped, they are told.
            self.event(WorkerEvent::StopShards(shards, limit));
        }
    }

    pub(crate) async fn describe(&self, id: PersistenceId) -> Option<EntityDescription> {
        let (reply, answer) = oneshot::channel();
        let request = WorkerRequest::Describe(id, reply);
        self.requests.send(request).await.ok()?;
        answer.await.ok()
    }

    /// Returns when the entity has left memory, or was not there.
    pub(crate) async fn passivate(&self, id: PersistenceId) {
        let (left, gone) = oneshot::channel();
        let request = WorkerRequest::Passivate(id, left);
        if self.requests.send(request).await.is_ok() {
            // Told by dropping, too.
            let _ = gone.await;
        }
    }

    /// Returns when the entity is deleted, or is not going to be; `None` when the
    /// worker has ended.
    pub(crate) async fn delete(
        &self,
        request: impl FnOnce(oneshot::Sender<Deleted>) -> DeleteRequest,
    ) -> Option<Deleted> {
        let (done, deleted) = oneshot::channel();
        let request = WorkerRequest::Delete(request(done));
        self.requests.send(request).await.ok()?;
        deleted.await.ok()
    }

    pub(crate) fn recovery_page(
        &self,
        to: Address,
        page: RecoveryPage,
        verdict: oneshot::Sender<PageVerdict>,
    ) {
        self.event(WorkerEvent::RecoveryPage(to, page, verdict));
    }

    pub(crate) fn recovery_fault(&self, to: Address, fault: RecoveryFault) {
        self.event(WorkerEvent::RecoveryFault(to, fault));
    }

    pub(crate) fn appended(&self, outcomes: Vec<Outcome>) {
        self.event(WorkerEvent::Appended(outcomes));
    }

    pub(crate) fn snapshot_settled(&self, to: Address, sequence_nr: SequenceNr, saved: bool) {
        self.event(WorkerEvent::SnapshotSettled(to, sequence_nr, saved));
    }

    pub(crate) fn deletion_settled(&self, to: Address, deleted: bool) {
        self.event(WorkerEvent::DeletionSettled(to, deleted));
    }

    pub(crate) fn storage_report(&self, to: Address, report: StorageReport) {
        self.event(WorkerEvent::StorageReport(to, report));
    }

    pub(super) fn entity_deleted(&self, id: PersistenceId, deleted: Deleted) {
        self.event(WorkerEvent::EntityDeleted(id, deleted));
    }

    pub(super) fn commands_found(
        &self,
        to: Address,
        asked: Vec<CommandId>,
        found: Result<Vec<Option<StoredCommand>>, String>,
    ) {
        self.event(WorkerEvent::CommandsFound(to, asked, found));
    }

    pub(super) fn outside_returned(
        &self,
        slot: usize,
        ticket: OutsideTicket,
        result: Result<Payload, CodecError>,
    ) {
        self.event(WorkerEvent::OutsideReturned(slot, ticket, result));
    }

    pub(super) fn passivate_oldest(&self) {
        self.event(WorkerEvent::PassivateOldest);
    }

    pub(crate) fn idle_timeouts_changed(&self) {
        self.event(WorkerEvent::IdleTimeoutsChanged);
    }

    pub(crate) fn stop(&self) {
        self.event(WorkerEvent::Stop);
    }

    /// A worker ends only when it has no cells left that could wait for an event.
    fn event(&self, event: WorkerEvent) {
        let _ = self.events.send(event);
    }
}
