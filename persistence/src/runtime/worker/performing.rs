//! Performing what cells ask for: recoveries, appends, look-ups, snapshots and work
//! outside. Everything waits elsewhere; what comes of it comes back as a message.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::Aborted;

use super::{Address, Worker};
use crate::codec::CodecError;
use crate::journal::WriteRight;
use crate::runtime::cell::Action;
use crate::runtime::contained::look_up;
use crate::runtime::snapshot_writer::SnapshotOwner;

impl Worker {
    /// Performs the actions a cell asked for.
    pub(super) fn perform(&mut self, slot: usize) {
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            let cell = &mut self.cells[slot].cell;
            if matches!(action, Action::Recover(_)) {
                self.incarnations += 1;
                cell.incarnation = self.incarnations;
            }
            let from = Address {
                worker: self.number,
                slot,
                incarnation: cell.incarnation,
            };
            let worker = &self.shared.workers()[self.number];
            match action {
                Action::Recover(plan) => {
                    let id = cell.persistence_id.clone();
                    let recoveries = &self.shared.recoveries;
                    let trace = cell.first_trace();
                    let awaiting = recoveries.request(id, plan, worker.clone(), from, &trace);
                    self.cells[slot].recovery = Some(awaiting);
                }
                Action::Append(append, traces) => {
                    self.shared.commit.submit(append, &traces, from);
                }
                Action::FindCommands(ids) => {
                    let journal = Arc::clone(&self.shared.storage.journal);
                    let (id, worker) = (cell.persistence_id.clone(), worker.clone());
                    let limit = self.shared.settings.recovery_event_timeout;
                    tokio::spawn(async move {
                        let found = look_up(&*journal, &id, &ids, limit).await;
                        worker.commands_found(from, ids, found);
                    });
                }
                Action::SaveSnapshot {
                    sequence_nr,
                    payload,
                } => {
                    let owner = self.snapshot_owner(slot);
                    let snapshots = &self.shared.snapshots;
                    snapshots.save(owner, sequence_nr, payload, worker, from);
                }
                Action::RunOutside(ticket, work) => {
                    let worker = worker.clone();
                    self.outside.spawn(async move {
                        let panicked = |_| {
                            let message = "the work it ran outside panicked".to_owned();
                            Err(CodecError { message })
                        };
                        let result = match AssertUnwindSafe(work).catch_unwind().await {
                            Ok(Ok(result)) => result,
                            // Nothing waits for it any more.
                            Ok(Err(Aborted)) => return,
                            Err(panic) => panicked(panic),
                        };
                        worker.outside_returned(slot, ticket, result);
                    });
                }
                Action::Delete(deletion) => {
                    let owner = self.snapshot_owner(slot);
                    self.shared.snapshots.delete(owner, deletion, worker, from);
                }
                Action::HandBack(reason, envelopes) => self.shared.hand_back(reason, envelopes),
                Action::Store(request) => {
                    let owner = self.snapshot_owner(slot);
                    self.shared.snapshots.serve(owner, request, worker, from);
                }
            }
        }
        self.actions = actions;
    }

    pub(super) fn snapshot_owner(&self, slot: usize) -> SnapshotOwner {
        let cell = &self.cells[slot].cell;
        SnapshotOwner {
            right: WriteRight {
                session: self.shared.session,
                shard: cell.shard,
                epoch: cell.epoch,
            },
            persistence_id: cell.persistence_id.clone(),
        }
    }
}
