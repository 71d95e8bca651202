//! What happens to an actor when the journal has spoken: its callbacks run, or it is
//! told that they never will.

use crate::actor::Refusal;
use crate::command_error::CommandError;
use crate::handing_back::HandBackReason;
use crate::journal::{AppendError, Appended, AtomicWrite};
use crate::writer::WriterUuid;

use super::settling::RETRY_AFTER_UNKNOWN;
use super::{Cell, CellContext, Failure, Incarnation, Next};

impl Cell {
    /// The append that was out has an outcome; `unstored` are its writes that are not
    /// known to be stored.
    pub(crate) fn appended(
        &mut self,
        outcome: Appended,
        unstored: Vec<AtomicWrite>,
        cx: &mut CellContext<'_>,
    ) -> Next {
        match self.entity {
            Incarnation::EventSourced(_) => self.settle_round(outcome, cx),
            Incarnation::Actor(_) => self.settle_turns(outcome, unstored, cx),
        }
    }

    fn settle_turns(
        &mut self,
        outcome: Appended,
        mut unstored: Vec<AtomicWrite>,
        cx: &mut CellContext<'_>,
    ) -> Next {
        let was_broken = self.is_broken();
        self.actor().stored(outcome.stored_writes);
        let failure = match outcome.failure {
            Some(failure) if was_broken => Some(failure),
            Some(AppendError::Rejected { message }) => {
                let refusal = Refusal::Error(CommandError::PersistRejected { message });
                self.refuse_first(refusal, unstored);
                None
            }
            Some(AppendError::DuplicateCommand {
                command_id, stored, ..
            }) => {
                self.retries_likely = true;
                let message = format!("command {command_id} stored its events before");
                let cause = CommandError::PersistRejected { message };
                self.refuse_first(Refusal::Duplicate(cause, stored), unstored);
                None
            }
            Some(AppendError::Unavailable { message }) => {
                // Nothing of it is stored, and the actor need not stop for that.
                let refusal = Refusal::Error(CommandError::JournalUnavailable { message });
                let refused = std::mem::take(&mut unstored).len();
                self.actor().refused(refused, refusal, Vec::new());
                None
            }
            failure => failure,
        };
        if was_broken {
            self.actor().settle();
        } else {
            // What was stored before the write that failed has its callbacks.
            self.after_turn(Ok(()), None, cx);
        }
        match failure {
            None => self.run_turns(cx),
            Some(failure) => self.stop_turns(&failure, cx),
        }
    }

    /// The first of the writes is refused, the others go out again.
    fn refuse_first(&mut self, refusal: Refusal, mut unstored: Vec<AtomicWrite>) {
        let given_back = unstored.split_off(1.min(unstored.len()));
        self.actor().refused(1, refusal, given_back);
    }

    /// The incarnation ends: its state, or what is in the journal, is not known.
    fn stop_turns(&mut self, failure: &AppendError, cx: &mut CellContext<'_>) -> Next {
        match failure {
            AppendError::Unknown { message } => {
                let message = message.clone();
                let behind = CommandError::BackingOff {
                    message: message.clone(),
                    retry_after: RETRY_AFTER_UNKNOWN,
                };
                let cause = CommandError::PersistFailed {
                    message: message.clone(),
                };
                self.actor().end(behind.clone());
                self.actor().persist_failed(&cause, true);
                self.refuse_all(&behind);
                Next::Failed {
                    failure: Failure::Journal,
                    message,
                }
            }
            AppendError::Fenced { .. } => {
                tracing::warn!(entity = %self.persistence_id, %failure, "stopping");
                let shard = self.shard.0;
                let cause = CommandError::ShardUnavailable { shard };
                self.actor().end(cause.clone());
                self.actor().persist_failed(&cause, false);
                self.hand_back_all(HandBackReason::Fenced, cx);
                Next::Fenced
            }
            AppendError::Conflict {
                first_sequence_nr,
                writer,
                other,
                ..
            } => {
                tracing::warn!(entity = %self.persistence_id, %failure, "another author wrote this stream; recovering it again");
                let cause = CommandError::WriterConflict {
                    sequence_nr: *first_sequence_nr,
                    ours: *writer,
                    theirs: other
                        .as_ref()
                        .map_or(WriterUuid(uuid::Uuid::nil()), |other| other.writer),
                };
                self.actor().end(cause.clone());
                self.actor().persist_failed(&cause, false);
                self.restart(cx)
            }
            // After a panic, whose commands are told so.
            AppendError::Rejected { .. }
            | AppendError::DuplicateCommand { .. }
            | AppendError::Unavailable { .. } => self.restart(cx),
        }
    }
}
