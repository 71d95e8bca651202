//! What happens when the journal has spoken: held answers go out, or the entity
//! starts over.

use std::time::Duration;

use crate::behavior::AfterEffects;
use crate::command::{Answer, ReplyTo};
use crate::command_error::{Applied, CommandError};
use crate::handing_back::HandBackReason;
use crate::journal::{AppendError, Appended};
use crate::writer::WriterUuid;

use super::{Action, Cell, CellContext, Failure, Held, Index, Next, Promise, Queued, Stage};

/// What clients are told to wait behind an append of unknown outcome.
pub(super) const RETRY_AFTER_UNKNOWN: Duration = Duration::from_millis(100);

impl Cell {
    /// A round's append has an outcome.
    pub(super) fn settle_round(&mut self, outcome: Appended, cx: &mut CellContext<'_>) -> Next {
        self.stage = Stage::Ready;
        let stop = self.release_stored(outcome.stored_writes, cx);
        let Some(failure) = outcome.failure else {
            self.event_sourced().committed();
            self.stop_requested |= stop;
            return self.run(cx);
        };
        // The writes after the failing one were computed from a state that never
        // came to be. What they belong to is either handled again, which nobody
        // can notice because nothing of it was answered, or refused.
        let unsettled = self.work().persisting.abort();
        match failure {
            AppendError::DuplicateCommand { stored, .. } => {
                self.retries_likely = true;
                // Who is told of it must find it in the state from then on (I-12).
                let is_known = stored.sequence_nr <= self.stored_nr;
                let undone = is_known && self.undo_round(outcome.stored_writes, &unsettled);
                self.settle_first(unsettled, |_| Index::Stored(stored));
                self.go_on_or_restart(undone, cx)
            }
            AppendError::Rejected { message } => {
                let undone = self.undo_round(outcome.stored_writes, &unsettled);
                let mut unsettled = unsettled.into_iter();
                if let Some(refused) = unsettled.next() {
                    let error = CommandError::PersistRejected { message };
                    refused.queued.reply_to.answer(Err(error));
                }
                self.handle_again(unsettled.map(|held| held.queued));
                self.go_on_or_restart(undone, cx)
            }
            AppendError::Conflict {
                first_sequence_nr,
                writer,
                ref other,
                ..
            } => {
                tracing::warn!(entity = %self.persistence_id, %failure, "another author wrote this stream; recovering it again");
                let error = CommandError::WriterConflict {
                    sequence_nr: first_sequence_nr,
                    ours: writer,
                    theirs: other
                        .as_ref()
                        .map_or(WriterUuid(uuid::Uuid::nil()), |other| other.writer),
                };
                self.refuse_writes(unsettled, &error);
                self.restart(cx)
            }
            AppendError::Unavailable { message } => {
                let error = CommandError::JournalUnavailable { message };
                if unsettled.iter().all(Held::only_tells) {
                    // The journal was only asked whether they may be answered: the
                    // state is as it was.
                    self.forget_snapshots(&unsettled);
                    for held in unsettled {
                        held.queued.reply_to.answer(Err(error.clone()));
                    }
                    return self.run(cx);
                }
                let loses_own = (unsettled.iter()).any(|held| held.wrote && held.queued.is_own);
                if !loses_own && self.undo_round(outcome.stored_writes, &unsettled) {
                    self.refuse_writes(unsettled, &error);
                    return self.run(cx);
                }
                for held in unsettled {
                    held.queued.reply_to.answer(Err(error.clone()));
                }
                self.restart(cx)
            }
            AppendError::Unknown { message } => self.stop_undecided(unsettled, message),
            AppendError::Fenced { .. } => {
                tracing::warn!(entity = %self.persistence_id, %failure, "stopping");
                // Nothing of it is stored, so another owner may begin it.
                self.handle_again(unsettled.into_iter().map(|held| held.queued));
                self.hand_back_all(HandBackReason::Fenced, cx);
                Next::Fenced
            }
        }
    }

    /// Lets the answers out whose writes are stored. Returns whether one of them
    /// asked the entity to stop.
    fn release_stored(&mut self, writes: usize, cx: &mut CellContext<'_>) -> bool {
        let mut stop = false;
        let mut snapshot = None;
        self.work().persisting.stored(writes);
        while let Some(due) = self.work().persisting.next_due() {
            let mut held = due.handler;
            self.stored_nr = self.stored_nr.max(held.sequence_nr);
            stop |= held.then_stop;
            if let Some(payload) = held.snapshot.take() {
                snapshot = Some((held.sequence_nr, payload));
            }
            self.keep(held, cx);
            self.work().persisting.finished(due.commands);
        }
        if let Some((sequence_nr, payload)) = snapshot {
            cx.actions.push(Action::SaveSnapshot {
                sequence_nr,
                payload,
            });
        }
        stop
    }

    /// Keeps a promise whose time has come.
    pub(super) fn keep(&mut self, held: Held, cx: &mut CellContext<'_>) {
        let Held {
            queued,
            promise,
            then,
            wrote,
            ..
        } = held;
        match promise {
            Promise::Answer(answer) => match then {
                None => queued.reply_to.answer(answer),
                Some(then) => self.keep_effects(*then, wrote, queued.reply_to, answer, cx),
            },
            Promise::Stash => self.put_aside(queued, cx.settings),
            Promise::Outside(work) => self.go_outside(Some(queued), work, cx),
        }
    }

    /// Does what else was asked for. A panic on the way is told instead of the
    /// answer, and ends it: events that the command stored stay.
    fn keep_effects(
        &mut self,
        effects: AfterEffects,
        wrote: bool,
        reply_to: ReplyTo,
        answer: Answer,
        cx: &mut CellContext<'_>,
    ) {
        for run in effects.run {
            if let Err(error) = self.event_sourced().run(run) {
                let message = error.to_string();
                self.work().broken = Some(message.clone());
                let applied = if wrote { Applied::Unknown } else { Applied::No };
                reply_to.answer(Err(CommandError::Panicked { message, applied }));
                return;
            }
        }
        reply_to.answer(answer);
        if effects.unstash_all {
            self.take_back();
        }
        for work in effects.outside {
            self.go_outside(None, work, cx);
        }
    }

    /// Makes the state what it was before a round of which certainly nothing is stored.
    /// False when the state has to be recovered instead.
    fn undo_round(&mut self, stored_writes: usize, unsettled: &[Held]) -> bool {
        let is_whole = stored_writes == 0 && !self.stop_requested && !self.is_broken();
        if !is_whole || !self.event_sourced().undo() {
            return false;
        }
        self.sequence_nr = self.stored_nr;
        self.command_ids.forget_after(self.stored_nr);
        self.forget_snapshots(unsettled);
        true
    }

    /// Snapshots that go with what is unsettled are not saved: the next one that is due
    /// is taken.
    pub(super) fn forget_snapshots(&mut self, unsettled: &[Held]) {
        if unsettled.iter().any(|held| held.snapshot.is_some()) {
            self.retention.snapshot_failed();
        }
    }

    fn go_on_or_restart(&mut self, undone: bool, cx: &mut CellContext<'_>) -> Next {
        if undone {
            self.run(cx)
        } else {
            self.restart(cx)
        }
    }

    /// Puts unsettled requests back at the head of the stash, the first with what
    /// is now known of it.
    fn settle_first(&mut self, unsettled: Vec<Held>, index: impl FnOnce(&Queued) -> Index) {
        let mut requests: Vec<Queued> = unsettled.into_iter().map(|held| held.queued).collect();
        if let Some(first) = requests.first_mut() {
            first.index = index(first);
        }
        self.handle_again(requests.into_iter());
    }

    fn handle_again(&mut self, requests: impl DoubleEndedIterator<Item = Queued>) {
        let stash = &mut self.work().stash;
        for queued in requests.rev() {
            stash.push_front(queued);
        }
    }

    /// Refuses the requests that wanted to write, handles the others again.
    fn refuse_writes(&mut self, unsettled: Vec<Held>, error: &CommandError) {
        let mut others = Vec::new();
        for held in unsettled {
            if held.wrote {
                held.queued.reply_to.answer(Err(error.clone()));
            } else {
                others.push(held.queued);
            }
        }
        self.handle_again(others.into_iter());
    }

    /// The outcome of the append is undecided: the entity stops unconditionally
    /// (5.1 rule 5), and what waits behind the append is certainly not applied.
    fn stop_undecided(&mut self, unsettled: Vec<Held>, message: String) -> Next {
        let unknown = CommandError::PersistFailed {
            message: message.clone(),
        };
        let behind = CommandError::BackingOff {
            message: message.clone(),
            retry_after: RETRY_AFTER_UNKNOWN,
        };
        for held in unsettled {
            let error = if held.wrote { &unknown } else { &behind };
            held.queued.reply_to.answer(Err(error.clone()));
        }
        self.refuse_all(&behind);
        Next::Failed {
            failure: Failure::Journal,
            message,
        }
    }
}
