//! What a worker does with each message that it takes in. Next: `mailbox.rs`, how they
//! come, and `worker.rs`, what happens to the cells that they concern.

use super::mailbox::{Outcome, WorkerEvent, WorkerRequest};
use super::{PageVerdict, RecoveryFault, Worker};
use crate::command::Envelope;
use crate::handing_back::HandBackReason;

impl Worker {
    pub(super) fn on_request(&mut self, request: WorkerRequest) {
        match request {
            WorkerRequest::Deliver(envelope) => self.deliver(envelope),
            WorkerRequest::Describe(id, reply) => {
                let _ = reply.send(self.describe(&id));
            }
            WorkerRequest::Passivate(id, left) => {
                if let Some(&slot) = self.by_id.get(&id) {
                    if self.cells[slot].cell.request_stop(left) {
                        self.make_ready(slot);
                    }
                } else {
                    // What it failed of is mended, says who asks for this.
                    self.failures.remove(&id);
                }
            }
            WorkerRequest::StopShards(shards, limit) => self.close_shards(shards, limit),
            WorkerRequest::Delete(request) => self.delete(request),
        }
    }

    pub(super) fn on_event(&mut self, event: WorkerEvent) {
        match event {
            WorkerEvent::RecoveryPage(to, page, verdict) => {
                let writer = self.draw_writer();
                let mut said = PageVerdict::Over;
                self.drive_if_there(to, |cell, cx| {
                    let (verdict, next) = cell.take_page(&page, writer, cx);
                    said = verdict;
                    next
                });
                let _ = verdict.send(said);
            }
            WorkerEvent::RecoveryFault(to, fault) => {
                self.drive_if_there(to, |cell, _| match fault {
                    RecoveryFault::Unavailable(message) => cell.recovery_unavailable(message),
                    RecoveryFault::Damaged(message) => cell.recovery_failed(message),
                });
            }
            WorkerEvent::Appended(outcomes) => {
                for outcome in outcomes {
                    let Outcome {
                        to,
                        appended,
                        unstored,
                    } = outcome;
                    self.drive_if_there(to, |cell, cx| cell.appended(appended, unstored, cx));
                }
            }
            WorkerEvent::CommandsFound(to, asked, found) => {
                self.drive_if_there(to, |cell, cx| cell.commands_found(&asked, found, cx));
            }
            WorkerEvent::SnapshotSettled(to, sequence_nr, saved) => {
                self.tell(to, |cell, cx| cell.snapshot_settled(sequence_nr, saved, cx));
            }
            WorkerEvent::DeletionSettled(to, deleted) => {
                self.tell(to, |cell, cx| cell.deletion_settled(deleted, cx));
            }
            WorkerEvent::StorageReport(to, report) => {
                if let Some(cell) = self.addressed(to)
                    && cell.hear(report)
                {
                    self.make_ready(to.slot);
                }
            }
            WorkerEvent::EntityDeleted(id, deleted) => self.deleted(&id, &deleted),
            WorkerEvent::OutsideReturned(slot, ticket, result) => {
                let resident = self.cells.get(slot);
                if resident.is_some_and(|resident| resident.cell.waits_for(ticket)) {
                    self.drive(slot, |cell, cx| cell.outside_returned(ticket, result, cx));
                }
            }
            WorkerEvent::PassivateOldest => {
                if self.shared.residency.is_over() {
                    self.passivate_oldest();
                }
            }
            WorkerEvent::IdleTimeoutsChanged => {
                let cells = &self.cells;
                let type_of = |slot: u32| cells[slot as usize].cell.persistence_id.entity_type();
                self.idle.change(&self.shared.residency.timeouts(), type_of);
            }
            WorkerEvent::StopShards(shards, limit) => self.close_shards(shards, limit),
            WorkerEvent::Stop => {
                self.stopping = true;
                while let Some(slot) = self.idle.pop_oldest() {
                    self.leave(slot as usize, "stopped");
                }
                while let Some(slot) = self.parked.pop_first() {
                    self.leave_parked(slot);
                }
            }
        }
    }

    pub(super) fn deliver(&mut self, envelope: Envelope) {
        let Some(envelope) = self.hold(envelope) else {
            return;
        };
        if let Some(&slot) = self.by_id.get(&envelope.persistence_id) {
            if envelope.epoch > self.cells[slot].cell.epoch {
                self.closing.left(envelope.shard, slot);
                if self.cells[slot].cell.supersede(envelope.epoch) {
                    self.make_ready(slot);
                }
            }
            let is_node_full = self.shared.stash_budget.is_used_up();
            let cell = &mut self.cells[slot].cell;
            let is_ready = cell.accept(envelope, &self.shared.settings, is_node_full);
            self.recount(slot);
            if is_ready {
                self.make_ready(slot);
            }
            return;
        }
        if self.stopping {
            let reason = HandBackReason::Stopped;
            self.shared.hand_back(reason, vec![envelope]);
            return;
        }
        self.start(envelope);
    }
}
