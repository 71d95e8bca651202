//! A round: the commands that wait, handled one after another.

use crate::behavior::{After, Handled};
use crate::command::{Answer, Reply, Request};
use crate::command_error::{Applied, CommandError};
use crate::handing_back::ReadGuard;
use crate::journal::{Append, AtomicWrite, CommandRecord, NewEvent};
use crate::payload::Payload;
use crate::persisting::Commands;

use crate::runtime::guarded_journal::journal_out_of_reach;

use super::retries::Recalled;
use super::{Action, Cell, CellContext, Failure, Held, Next, Promise, Queued, Stage};

/// Requests handled before the cell gives way, and before their events go out.
const ROUND_REQUESTS_MAX: usize = 256;
/// Bytes of events and answers after which a round is over.
const ROUND_BYTES_MAX: usize = 1024 * 1024;

/// What handling one request means for the round.
enum Step {
    GoOn,
    /// Put the request back; the round is over.
    EndBefore(Queued),
    /// Put the request back; ask the index about it before it is handled.
    LookUp(Queued),
    /// The round is over.
    End,
}

impl Cell {
    /// Handles what waits, if the cell is ready.
    pub(super) fn run_round(&mut self, cx: &mut CellContext<'_>) -> Next {
        if self.stage != Stage::Ready {
            return Next::Wait;
        }
        let mut look_up = false;
        let mut bytes = 0;
        for _ in 0..ROUND_REQUESTS_MAX {
            // What comes after a stop or a failure is for the next incarnation.
            if self.stop_requested || self.is_broken() || self.is_paused() {
                break;
            }
            let Some(queued) = self.pop_queued() else {
                break;
            };
            let trace = queued.trace.clone();
            match trace.in_scope(|| self.handle(queued, &mut bytes, cx)) {
                Step::GoOn if bytes < ROUND_BYTES_MAX => {}
                Step::GoOn | Step::End => break,
                Step::EndBefore(queued) => {
                    self.work().stash.push_front(queued);
                    break;
                }
                Step::LookUp(queued) => {
                    self.work().stash.push_front(queued);
                    look_up = true;
                    break;
                }
            }
        }
        self.end_round(look_up, cx)
    }

    fn end_round(&mut self, look_up: bool, cx: &mut CellContext<'_>) -> Next {
        let Some(work) = &mut self.work else {
            return if self.stop_requested {
                Next::Leave
            } else {
                Next::Idle
            };
        };
        if let Some(writes) = work.persisting.next_batch() {
            self.stage = Stage::Storing;
            let append = Append {
                persistence_id: self.persistence_id.clone(),
                shard: self.shard,
                epoch: self.epoch,
                writer: self.writer,
                first_sequence_nr: self.stored_nr.next(),
                writes,
            };
            let traces = std::mem::take(&mut work.appending);
            cx.actions.push(Action::Append(append, traces));
            return Next::Wait;
        }
        if let Some(message) = work.broken.take() {
            return Next::Failed {
                failure: Failure::Handling,
                message,
            };
        }
        if look_up {
            return self.look_up(cx);
        }
        if self.stop_requested {
            return self.restart(cx);
        }
        if self.queued() > 0 && !self.is_paused() {
            return Next::Again;
        }
        if self.has_aside() {
            return Next::Parked;
        }
        self.work = None;
        Next::Idle
    }

    fn handle(&mut self, queued: Queued, bytes: &mut usize, cx: &mut CellContext<'_>) -> Step {
        // A caller that gave up was told that this is never handled.
        if !queued.reply_to.begin() || queued.is_overdue(cx.now) {
            let applied = Applied::No;
            return self.hold_answer(queued, Err(CommandError::DeadlineExceeded { applied }), cx);
        }
        let Request::Command {
            payload,
            expected_sequence_nr,
            ..
        } = &queued.request
        else {
            let answer = self.encode_state();
            *bytes += answer.as_ref().map_or(0, |r| r.payload.bytes.len());
            return self.hold_answer(queued, answer, cx);
        };
        // What stores nothing needs no journal, so a live entity answers it all the same.
        let unwritable = cx.journal_out_of_reach.then(journal_out_of_reach);
        let certainly_new = match (self.recall(&queued), &unwritable) {
            (Recalled::Stored(reply), _) => return self.hold_answer(queued, Ok(reply), cx),
            (Recalled::UnderWay, _) => return Step::EndBefore(queued),
            (Recalled::New { certainly: false } | Recalled::AskIndex, Some(unwritable)) => {
                return self.hold_answer(queued, Err(unwritable.clone()), cx);
            }
            (Recalled::New { certainly }, _) => certainly,
            (Recalled::AskIndex, None) => return Step::LookUp(queued),
        };
        if let Some(expected) = *expected_sequence_nr
            && expected != self.sequence_nr
        {
            if !certainly_new {
                return Step::LookUp(queued);
            }
            let actual = self.sequence_nr;
            let error = CommandError::SequenceNrMismatch { expected, actual };
            return self.hold_answer(queued, Err(error), cx);
        }
        let at = self.sequence_nr;
        let handled = self
            .event_sourced()
            .handle(payload, at, unwritable.as_ref());
        let stores = matches!(&handled, Handled::Accepted { events, .. } if !events.is_empty());
        if !stores && !certainly_new {
            // What stores nothing takes effect only when the command is no retry of
            // one that did (I-8).
            return match handled {
                Handled::Broken(_) | Handled::Spoiled(_) => {
                    // Perhaps it failed on its own effect. The state is not to be
                    // trusted: start over, then ask the index first.
                    self.retries_likely = true;
                    self.stop_requested = true;
                    Step::EndBefore(queued)
                }
                _ => Step::LookUp(queued),
            };
        }
        match handled {
            Handled::Accepted {
                events,
                reply,
                then,
            } if stores => {
                let events_len = events.iter().map(|e| e.payload.bytes.len()).sum::<usize>();
                *bytes += reply.bytes.len() + events_len;
                self.store(queued, events, reply, then)
            }
            Handled::Accepted { reply, then, .. } => {
                *bytes += reply.bytes.len();
                let answer = Ok(Reply {
                    payload: reply,
                    sequence_nr: self.sequence_nr,
                    duplicate: false,
                });
                self.hold_followed(queued, answer, then, cx)
            }
            Handled::Refused { error, then } => {
                let is_of_journal = matches!(error, CommandError::JournalUnavailable { .. });
                self.stop_requested |= is_of_journal && queued.is_own;
                self.hold_followed(queued, Err(error), then, cx)
            }
            Handled::Spoiled(error) => {
                // The next incarnation goes on from what is stored.
                self.stop_requested = true;
                self.hold_answer(queued, Err(error), cx);
                Step::End
            }
            Handled::Stashed => self.hold(queued, Promise::Stash, cx),
            Handled::Outside(work) => self.hold(queued, Promise::Outside(work), cx),
            Handled::Broken(error) => {
                self.work().broken = Some(error.to_string());
                self.hold_answer(queued, Err(error), cx);
                Step::End
            }
        }
    }

    /// Issues the write of a command that has events.
    fn store(
        &mut self,
        queued: Queued,
        events: Vec<NewEvent>,
        reply: Payload,
        then: After,
    ) -> Step {
        let before = self.sequence_nr;
        self.sequence_nr = before.plus(events.len() as u64);
        let Request::Command {
            command_id,
            metadata,
            ..
        } = &queued.request
        else {
            // Only commands have events.
            return Step::GoOn;
        };
        if let Some(command_id) = command_id {
            self.command_ids.remember(command_id, self.sequence_nr);
        }
        let write = AtomicWrite {
            events,
            command: command_id.clone().map(|command_id| CommandRecord {
                command_id,
                reply: reply.clone(),
            }),
            metadata: metadata.clone(),
        };
        let last = self.sequence_nr;
        let take = self
            .retention
            .after_write(before.next(), last, then.snapshot);
        // Encoded now: the state at this number exists only now. So do those that
        // effects are to see, hence they end the round.
        let snapshot = take.and_then(|_| self.encode_snapshot());
        let ends_round = then.stop || then.effects.is_some();
        if queued.trace.span().is_some() {
            self.work().appending.push(queued.trace.clone());
        }
        let held = Held {
            promise: Promise::Answer(Ok(Reply {
                payload: reply,
                sequence_nr: self.sequence_nr,
                duplicate: false,
            })),
            queued,
            wrote: true,
            sequence_nr: self.sequence_nr,
            snapshot,
            then_stop: then.stop,
            then: then.effects,
        };
        self.work()
            .persisting
            .persist(write, [held], Commands::GoOn);
        if ends_round { Step::End } else { Step::GoOn }
    }

    fn hold_answer(&mut self, queued: Queued, answer: Answer, cx: &mut CellContext<'_>) -> Step {
        self.hold(queued, Promise::Answer(answer), cx)
    }

    /// Says something of the entity's state, for which nothing is stored. With writes
    /// pending it waits for them, and they prove that the state is the latest. With
    /// none, the state may be another node's by now.
    fn confirm(&mut self, held: Held, cx: &CellContext<'_>) -> Option<Held> {
        if !self.work().persisting.runs_inline() || !held.promise.tells_of_state() {
            return Some(held);
        }
        match cx.confirmations.guard() {
            ReadGuard::Always => Some(held),
            ReadGuard::Lease(lease) if lease.holds() => Some(held),
            ReadGuard::Lease(_) => {
                self.stop_requested |= held.queued.is_own;
                self.forget_snapshots(std::slice::from_ref(&held));
                // Handed back, it could be overtaken by what its sender sent after it.
                let shard = self.shard.0;
                let error = CommandError::ShardUnavailable { shard };
                held.queued.reply_to.answer(Err(error));
                None
            }
            ReadGuard::Journal => {
                // A write without events asks the journal whether this node may write.
                let write = AtomicWrite {
                    events: Vec::new(),
                    command: None,
                    metadata: None,
                };
                let persisting = &mut self.work().persisting;
                persisting.persist(write, [held], Commands::GoOn);
                None
            }
        }
    }

    /// Answers what stored nothing, and does what follows.
    fn hold_followed(
        &mut self,
        queued: Queued,
        answer: Answer,
        then: After,
        cx: &mut CellContext<'_>,
    ) -> Step {
        self.stop_requested |= then.stop;
        let at = self.sequence_nr;
        let take = then.snapshot.then(|| self.retention.asked(at)).flatten();
        let mut held = self.held(queued, Promise::Answer(answer));
        held.snapshot = take.and_then(|_| self.encode_snapshot());
        held.then = then.effects;
        self.defer(held, cx)
    }

    fn hold(&mut self, queued: Queued, promise: Promise, cx: &mut CellContext<'_>) -> Step {
        let held = self.held(queued, promise);
        self.defer(held, cx)
    }

    /// The promise of what stored nothing.
    fn held(&self, queued: Queued, promise: Promise) -> Held {
        Held {
            queued,
            promise,
            wrote: false,
            sequence_nr: self.sequence_nr,
            snapshot: None,
            then_stop: false,
            then: None,
        }
    }

    /// Keeps a promise when everything handled before it is stored: at once, if
    /// everything is.
    fn defer(&mut self, held: Held, cx: &mut CellContext<'_>) -> Step {
        let ends_round = held.then.is_some() || matches!(held.promise, Promise::Outside(_));
        let Some(held) = self.confirm(held, cx) else {
            return if ends_round { Step::End } else { Step::GoOn };
        };
        match self.work().persisting.defer(held, Commands::GoOn) {
            Some(mut held) => {
                if let Some(payload) = held.snapshot.take() {
                    let sequence_nr = held.sequence_nr;
                    cx.actions.push(Action::SaveSnapshot {
                        sequence_nr,
                        payload,
                    });
                }
                self.keep(held, cx);
            }
            None if ends_round => return Step::End,
            None => {}
        }
        Step::GoOn
    }

    pub(super) fn encode_state(&self) -> Answer {
        Ok(Reply {
            payload: self.entity.encode_state()?,
            sequence_nr: self.sequence_nr,
            duplicate: false,
        })
    }

    /// The state, for a snapshot. One that cannot be encoded costs its snapshot,
    /// not its events.
    pub(super) fn encode_snapshot(&mut self) -> Option<Payload> {
        match self.entity.encode_state() {
            Ok(payload) => Some(payload),
            Err(error) => {
                tracing::warn!(entity = %self.persistence_id, %error, "the state cannot be encoded: no snapshot is taken");
                self.retention.snapshot_failed();
                None
            }
        }
    }
}
