//! A round: the commands that wait, handled one after another.

use crate::behavior::Handled;
use crate::command::{Answer, CommandId, Reply, Request};
use crate::command_error::{Applied, CommandError};
use crate::command_id_cache::Recall;
use crate::journal::{Append, AtomicWrite, CommandRecord, NewEvent};
use crate::payload::Payload;
use crate::persisting::Commands;

use crate::runtime::guarded_journal::OPEN_MESSAGE;

use super::{Action, Cell, CellContext, Failure, Held, Index, Next, Queued, Stage, Work};

/// Requests handled before the cell gives way, and before their events go out.
const ROUND_REQUESTS_MAX: usize = 256;
/// Bytes of events after which a round's append goes out.
const ROUND_BYTES_MAX: usize = 1024 * 1024;
/// Command ids asked for in one look-up. Less than the command id cache holds,
/// so that what is stored between a look-up and its use is still in the cache.
const LOOK_UP_MAX: usize = 128;

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
    pub(crate) fn run(&mut self, cx: &mut CellContext<'_>) -> Next {
        if self.stage != Stage::Ready {
            return Next::Wait;
        }
        let mut look_up = false;
        let mut bytes = 0;
        for _ in 0..ROUND_REQUESTS_MAX {
            // What comes after a stop or a failure is for the next incarnation.
            if self.stop_requested || self.is_broken() {
                break;
            }
            let Some(queued) = self.pop_stash() else {
                break;
            };
            match self.handle(queued, &mut bytes, cx) {
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
            cx.actions.push(Action::Append(Append {
                persistence_id: self.persistence_id.clone(),
                shard: self.shard,
                epoch: self.epoch,
                writer: self.writer,
                first_sequence_nr: self.stored_nr.next(),
                writes,
            }));
            return Next::Wait;
        }
        if let Some(message) = work.broken.take() {
            return Next::Failed {
                failure: Failure::Handling,
                message,
            };
        }
        if look_up {
            self.stage = Stage::LookingUp;
            cx.actions.push(Action::FindCommands(self.ids_to_look_up()));
            return Next::Wait;
        }
        if self.stop_requested {
            return self.restart(cx);
        }
        if self.queued() > 0 {
            return Next::Again;
        }
        self.work = None;
        Next::Idle
    }

    fn handle(&mut self, queued: Queued, bytes: &mut usize, cx: &mut CellContext<'_>) -> Step {
        if queued.deadline.is_some_and(|deadline| deadline <= cx.now) {
            return self.hold(
                queued,
                Err(CommandError::DeadlineExceeded {
                    applied: Applied::No,
                }),
            );
        }
        if cx.journal_out_of_reach {
            // Refused before it is handled, so that the entity can stay.
            let message = OPEN_MESSAGE.to_owned();
            return self.hold(queued, Err(CommandError::JournalUnavailable { message }));
        }
        let Request::Command {
            payload,
            command_id,
            expected_sequence_nr,
            ..
        } = &queued.request
        else {
            let answer = self.encode_state();
            return self.hold(queued, answer);
        };
        let certainly_new = match command_id {
            None => true,
            Some(command_id) => match (self.command_ids.lookup(command_id), &queued.index) {
                (_, Index::Stored(stored)) => {
                    let answer = Ok(Reply {
                        payload: stored.reply.clone(),
                        sequence_nr: stored.sequence_nr,
                        duplicate: true,
                    });
                    return self.hold(queued, answer);
                }
                // The original is in this very round: attach to it by asking the
                // index when it is stored.
                (Recall::Known(nr), _) if nr > self.stored_nr => return Step::EndBefore(queued),
                // The index knew nothing at a later number: another id with the
                // same hash.
                (Recall::Known(nr), Index::NotStored { asked_at }) if nr <= *asked_at => true,
                (Recall::Known(_), _) => return Step::LookUp(queued),
                (Recall::CertainlyNew, _) | (Recall::Unknown, Index::NotStored { .. }) => true,
                (Recall::Unknown, Index::NotAsked) if self.retries_likely => {
                    return Step::LookUp(queued);
                }
                (Recall::Unknown, Index::NotAsked) => false,
            },
        };
        if let Some(expected) = *expected_sequence_nr
            && expected != self.sequence_nr
        {
            let actual = self.sequence_nr;
            let error = CommandError::SequenceNrMismatch { expected, actual };
            return self.hold_unless_retry(queued, Err(error), certainly_new);
        }
        match self.behavior.handle(payload) {
            Handled::Accepted {
                events,
                reply,
                then_snapshot,
                then_stop,
            } => {
                if !events.is_empty() {
                    *bytes += events.iter().map(|e| e.payload.bytes.len()).sum::<usize>();
                    return self.store(queued, events, reply, (then_snapshot, then_stop));
                }
                let answer = Ok(Reply {
                    payload: reply,
                    sequence_nr: self.sequence_nr,
                    duplicate: false,
                });
                if then_stop && certainly_new {
                    self.stop_requested = true;
                    return self.hold(queued, answer);
                }
                self.hold_unless_retry(queued, answer, certainly_new)
            }
            Handled::Refused(error) => self.hold_unless_retry(queued, Err(error), certainly_new),
            Handled::Broken(error) => {
                self.work().broken = Some(error.to_string());
                self.hold(queued, Err(error));
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
        (then_snapshot, then_stop): (bool, bool),
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
            .after_write(before.next(), last, then_snapshot);
        // Encoded now: the state at this number exists only now.
        let snapshot = take.and_then(|_| self.encode_snapshot());
        let held = Held {
            answer: Ok(Reply {
                payload: reply,
                sequence_nr: self.sequence_nr,
                duplicate: false,
            }),
            queued,
            wrote: true,
            sequence_nr: self.sequence_nr,
            snapshot,
            then_stop,
        };
        self.work()
            .persisting
            .persist(write, [held], Commands::GoOn);
        if then_stop { Step::End } else { Step::GoOn }
    }

    /// As [`Cell::hold`], for an answer to a command that stored nothing, which is
    /// only given when the command is no retry of one that did (I-8).
    fn hold_unless_retry(&mut self, queued: Queued, answer: Answer, certainly_new: bool) -> Step {
        if certainly_new {
            self.hold(queued, answer)
        } else {
            Step::LookUp(queued)
        }
    }

    /// Gives an answer when everything handled before it is stored: at once, if
    /// everything is.
    fn hold(&mut self, queued: Queued, answer: Answer) -> Step {
        let held = Held {
            queued,
            answer,
            wrote: false,
            sequence_nr: self.sequence_nr,
            snapshot: None,
            then_stop: false,
        };
        if let Some(held) = self.work().persisting.defer(held, Commands::GoOn) {
            held.queued.reply_to.answer(held.answer);
        }
        Step::GoOn
    }

    fn encode_state(&self) -> Answer {
        match self.behavior.encode_state() {
            Ok(payload) => Ok(Reply {
                payload,
                sequence_nr: self.sequence_nr,
                duplicate: false,
            }),
            Err(error) => Err(CommandError::Panicked {
                message: format!("its state cannot be encoded: {error}"),
                applied: Applied::No,
            }),
        }
    }

    /// The state, for a snapshot. One that cannot be encoded costs its snapshot,
    /// not its events.
    pub(super) fn encode_snapshot(&mut self) -> Option<Payload> {
        match self.behavior.encode_state() {
            Ok(payload) => Some(payload),
            Err(error) => {
                tracing::warn!(entity = %self.persistence_id, %error, "the state cannot be encoded: no snapshot is taken");
                self.retention.snapshot_failed();
                None
            }
        }
    }

    /// The ids of the requests at the head of the stash that may be retries.
    fn ids_to_look_up(&mut self) -> Vec<CommandId> {
        let stash = &self.work().stash;
        let ids = stash.iter().take(LOOK_UP_MAX).filter_map(|queued| {
            let Request::Command { command_id, .. } = &queued.request else {
                return None;
            };
            command_id.clone()
        });
        ids.collect()
    }

    fn is_broken(&self) -> bool {
        self.work.as_ref().is_some_and(|work| work.broken.is_some())
    }

    pub(super) fn pop_stash(&mut self) -> Option<Queued> {
        self.work.as_mut()?.stash.pop_front()
    }

    pub(super) fn work(&mut self) -> &mut Work {
        self.work.get_or_insert_default()
    }
}
