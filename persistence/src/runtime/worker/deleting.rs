//! Deleting an entity, in order with its commands.
//!
//! What it had accepted before is finished first. What arrives from then on is held,
//! and is the first its next life handles. In between, when the entity has left
//! memory, its rows are deleted (`runtime/entity_deletion.rs`). An entity that is
//! not in memory, backing off or not, is deleted at once.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Worker, WorkerHandle};
use crate::command::Envelope;
use crate::command_error::{CommandError, StashLimit};
use crate::engine::{EntityDescription, EntityState};
use crate::handing_back::HandBackReason;
use crate::journal::WriteRight;
use crate::persistence_id::PersistenceId;
use crate::runtime::cell::count_overflow;
use crate::runtime::entity_deletion::ToDelete;
use crate::runtime::guarded_journal::journal_out_of_reach;
use crate::sequence_nr::SequenceNr;
use crate::writer::{Epoch, ShardNr};

/// What a deletion ends with: the number at which the next life begins.
pub(crate) type Deleted = Result<SequenceNr, CommandError>;

/// Undecided appends remembered.
const UNDECIDED_MAX: usize = 10_000;
/// How long an append of unknown outcome may take effect late: far longer than any
/// database works on a statement or a network holds one back.
const UNDECIDED_TIME: Duration = Duration::from_secs(3600);

/// A request to delete an entity.
pub(crate) struct DeleteRequest {
    pub(crate) persistence_id: PersistenceId,
    pub(crate) shard: ShardNr,
    pub(crate) epoch: Epoch,
    pub(crate) done: oneshot::Sender<Deleted>,
}

/// The deletions of one worker.
#[derive(Default)]
pub(super) struct Deletions {
    /// Bounded by the requests of callers who wait for them.
    asked: HashMap<PersistenceId, Deleting>,
    /// Entities with an append of unknown outcome: up to which number, and since when
    /// that is so.
    undecided: HashMap<PersistenceId, (SequenceNr, Instant)>,
}

/// A deletion that was asked for.
struct Deleting {
    shard: ShardNr,
    epoch: Epoch,
    callers: Vec<oneshot::Sender<Deleted>>,
    /// For the next life; as many as fit into a stash.
    held: VecDeque<Envelope>,
}

impl Deletions {
    pub(super) fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    pub(super) fn is_asked(&self, id: &PersistenceId) -> bool {
        !self.asked.is_empty() && self.asked.contains_key(id)
    }

    /// An incarnation has ended without knowing whether its last append is stored. One
    /// that was still recovering may know of less than was sent before it.
    pub(super) fn note_undecided(&mut self, id: &PersistenceId, to: SequenceNr, now: Instant) {
        if to == SequenceNr::ZERO {
            return;
        }
        if let Some((noted, since)) = self.undecided.get_mut(id) {
            *noted = to.max(*noted);
            *since = now;
        } else if self.undecided.len() < UNDECIDED_MAX {
            self.undecided.insert(id.clone(), (to, now));
        }
    }

    pub(super) fn forget_old(&mut self, now: Instant) {
        self.undecided
            .retain(|_, (_, since)| now.duration_since(*since) < UNDECIDED_TIME);
    }

    /// What an entity that is not in memory is doing, if it is being deleted.
    pub(super) fn describe(&self, id: &PersistenceId) -> Option<EntityDescription> {
        let deleting = self.asked.get(id)?;
        Some(EntityDescription {
            state: EntityState::Passive,
            sequence_nr: SequenceNr::ZERO,
            queued: deleting.held.len(),
            waiting_for: "its deletion".into(),
        })
    }
}

impl Worker {
    pub(super) fn delete(&mut self, request: DeleteRequest) {
        let DeleteRequest {
            persistence_id: id,
            shard,
            epoch,
            done,
        } = request;
        if let Some(deleting) = self.deletions.asked.get_mut(&id) {
            deleting.callers.push(done);
            return;
        }
        let slot = self.by_id.get(&id).copied();
        if self.stopping && slot.is_none() {
            let shard = shard.0;
            let _ = done.send(Err(CommandError::ShardUnavailable { shard }));
            return;
        }
        if self.shared.is_journal_out_of_reach() {
            // And it stays in memory, where it may be for a long time to come.
            let _ = done.send(Err(journal_out_of_reach()));
            return;
        }
        let deleting = Deleting {
            shard,
            epoch,
            callers: vec![done],
            held: VecDeque::new(),
        };
        self.deletions.asked.insert(id.clone(), deleting);
        match slot {
            None => self.delete_rows(id),
            Some(slot) if self.cells[slot].cell.is_ready() => self.make_ready(slot),
            Some(_) => {}
        }
    }

    /// Keeps a request for the next life; gives it back when the entity is not being
    /// deleted.
    pub(super) fn hold(&mut self, envelope: Envelope) -> Option<Envelope> {
        if self.deletions.asked.is_empty() {
            return Some(envelope);
        }
        let Some(deleting) = self.deletions.asked.get_mut(&envelope.persistence_id) else {
            return Some(envelope);
        };
        let (settings, budget) = (&self.shared.settings, &self.shared.stash_budget);
        let limit = if deleting.held.len() >= settings.stash_capacity {
            StashLimit::Entity(settings.stash_capacity)
        } else if budget.is_used_up() {
            StashLimit::Node(settings.stash_total)
        } else {
            budget.recount(0, 1);
            deleting.held.push_back(envelope);
            return None;
        };
        count_overflow(limit);
        let error = CommandError::StashFull(limit);
        envelope.reply_to.answer(Err(error));
        None
    }

    pub(super) fn is_to_be_deleted(&self, slot: usize) -> bool {
        let id = &self.cells[slot].cell.persistence_id;
        self.deletions.is_asked(id)
    }

    /// The cell has finished what it had accepted, except what goes on outside: it
    /// leaves memory when that has come back.
    pub(super) fn leave_for_deletion(&mut self, slot: usize) {
        let cell = &mut self.cells[slot].cell;
        if cell.waits_for_outside() {
            self.parked.insert(slot);
            return;
        }
        let stashed = cell.give_up_stashed();
        let id = &cell.persistence_id;
        if let Some(deleting) = self.deletions.asked.get_mut(id) {
            self.shared.stash_budget.recount(0, stashed.len());
            for envelope in stashed.into_iter().rev() {
                deleting.held.push_front(envelope);
            }
        }
        self.leave(slot, "deleted");
    }

    /// Deletes the rows of an entity that is not in memory, in a task of its own.
    pub(super) fn delete_rows(&mut self, id: PersistenceId) {
        let Some(deleting) = self.deletions.asked.get(&id) else {
            return;
        };
        let undecided = self.deletions.undecided.get(&id);
        let to_delete = ToDelete {
            right: WriteRight {
                session: self.shared.session,
                shard: deleting.shard,
                epoch: deleting.epoch,
            },
            may_have_stored_to: undecided.map_or(SequenceNr::ZERO, |(nr, _)| *nr),
            persistence_id: id,
        };
        let deleter = self.shared.deleter.clone();
        let worker: WorkerHandle = self.shared.workers()[self.number].clone();
        tokio::spawn(async move {
            let deleted = deleter.delete(&to_delete).await;
            worker.entity_deleted(to_delete.persistence_id, deleted);
        });
    }

    /// Shards leave this node: what is held goes with them. A deletion that has not begun
    /// is refused; one that has begun goes on, as far as the journal lets it.
    pub(super) fn give_up_deletions(&mut self, leaves: impl Fn(ShardNr) -> bool) {
        let by_id = &self.by_id;
        let mut handed_back = Vec::new();
        self.deletions.asked.retain(|id, deleting| {
            if !leaves(deleting.shard) {
                return true;
            }
            self.shared.stash_budget.recount(deleting.held.len(), 0);
            handed_back.push(Vec::from(std::mem::take(&mut deleting.held)));
            let has_begun = !by_id.contains_key(id);
            if !has_begun {
                let shard = deleting.shard.0;
                for caller in deleting.callers.drain(..) {
                    let _ = caller.send(Err(CommandError::ShardUnavailable { shard }));
                }
            }
            has_begun
        });
        for held in handed_back {
            self.shared.hand_back(HandBackReason::Stopped, held);
        }
    }

    /// A deletion has ended: callers are answered, and what was held goes on to the
    /// next life, or to the same one if nothing is deleted.
    pub(super) fn deleted(&mut self, id: &PersistenceId, deleted: &Deleted) {
        let Some(deleting) = self.deletions.asked.remove(id) else {
            return;
        };
        if deleted.is_ok() {
            // What it failed for is gone.
            self.failures.remove(id);
            self.deletions.undecided.remove(id);
        }
        for caller in deleting.callers {
            let _ = caller.send(deleted.clone());
        }
        for envelope in deleting.held {
            self.shared.stash_budget.recount(1, 0);
            self.deliver(envelope);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A recovery that fails half-way has seen less of what may be stored than was sent
    /// before it.
    #[test]
    fn i6_an_undecided_append_is_not_forgotten_for_a_lower_number() {
        let id = PersistenceId::new("notes", "n").unwrap();
        let now = Instant::now();
        let mut deletions = Deletions::default();
        for to in [7, 10, 5, 0] {
            deletions.note_undecided(&id, SequenceNr::new(to), now);
        }
        assert_eq!(deletions.undecided[&id], (SequenceNr::new(10), now));
    }
}
