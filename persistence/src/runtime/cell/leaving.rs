//! How a cell leaves memory, or starts over in its place, without losing a command.

use std::time::Instant;

use tokio::sync::oneshot;

use crate::command_error::{Applied, CommandError};
use crate::command_id_cache::CommandIdCache;
use crate::handing_back::HandBackReason;
use crate::retention::Retention;
use crate::sequence_nr::SequenceNr;

use super::{
    Action, Cell, CellContext, Failure, Index, Next, Queued, Stage, guard_answers, retention,
};

impl Cell {
    /// Asks the cell to leave memory when what it has handled is stored; what
    /// waits in its stash starts the next incarnation. `left` is told, by being
    /// dropped, when it has. Returns whether the cell wants to run.
    pub(crate) fn request_stop(&mut self, left: oneshot::Sender<()>) -> bool {
        if self.stage == Stage::Recovering {
            // It is not in memory yet. Sent back to the start by everyone who asks,
            // it would never handle what it recovers for.
            return false;
        }
        self.stop_requested = true;
        self.work.get_or_insert_default().leave_waiters.push(left);
        self.stage == Stage::Ready
    }

    /// Starts over from the journal with what is in the stash, or leaves when
    /// nothing is.
    pub(super) fn restart(&mut self, cx: &mut CellContext<'_>) -> Next {
        if let Some(message) = self.work().overflowed.take() {
            return Next::Failed {
                failure: Failure::Handling,
                message,
            };
        }
        self.take_back();
        self.give_up_own();
        if self.leaves_for_good() {
            self.hand_back_all(HandBackReason::Stopped, cx);
            return Next::Leave;
        }
        self.adopt_next_epoch();
        if self.queued() == 0 && !self.has_aside() {
            return Next::Leave;
        }
        let max_payload = cx.settings.max_payload;
        self.entity = match self.factory.incarnate(&self.persistence_id, max_payload) {
            Ok(entity) => entity,
            Err(error) => return self.recovery_failed(error.to_string()),
        };
        guard_answers(&mut self.entity, self.shard, self.epoch, cx);
        self.stage = Stage::Recovering;
        self.sequence_nr = SequenceNr::ZERO;
        self.stored_nr = SequenceNr::ZERO;
        self.snapshot_nr = SequenceNr::ZERO;
        self.command_ids = CommandIdCache::default();
        self.retention = Retention::new(retention(&self.factory, cx.settings));
        self.stop_requested = false;
        let work = self.work();
        // The state has left memory, which is what they wait for: dropping tells.
        work.leave_waiters.clear();
        // It was about the state that is gone.
        work.broken = None;
        work.reports.clear();
        // The ids stored since may not be in the new command id cache.
        for queued in &mut work.stash {
            if matches!(queued.index, Index::NotStored { .. }) {
                queued.index = Index::NotAsked;
            }
        }
        cx.actions.push(Action::Recover(self.entity.begin()));
        Next::Wait
    }

    /// Answers everything that waits with an error.
    pub(crate) fn refuse_all(&mut self, error: &CommandError) {
        let Some(work) = &mut self.work else { return };
        let kept = work.aside.drain();
        for queued in kept
            .chain(work.returned.drain(..))
            .chain(work.stash.drain(..))
        {
            queued.reply_to.answer(Err(error.clone()));
        }
    }
}

impl Queued {
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    pub(super) fn refuse_overdue(self) {
        let applied = Applied::No;
        self.reply_to
            .answer(Err(CommandError::DeadlineExceeded { applied }));
    }
}
