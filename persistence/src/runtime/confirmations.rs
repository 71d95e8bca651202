//! Answers from memory: given at once, or when the journal has said that this node
//! may still write to the shard.
//!
//! An event-sourced entity sends such questions along with its writes, which keeps
//! its answers in order (`cell/round.rs`). A persistent actor answers whenever it
//! likes, so its answers are confirmed here: all that wait are asked about in one
//! call. Bounded by the commands under way.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::command::{Answer, ReplyTo};
use crate::command_error::CommandError;
use crate::handing_back::ReadGuard;
use crate::journal::Journal;
use crate::writer::{Epoch, SessionUuid, ShardNr};

use super::contained::contained;

/// Gives answers that nothing was stored for; cheap to clone.
#[derive(Clone)]
pub(crate) struct Confirmations {
    guard: ReadGuard,
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Vec<Unconfirmed>>,
    /// Answers that are not given yet.
    unanswered: AtomicUsize,
    arrived: Notify,
    emptied: Notify,
}

struct Unconfirmed {
    shard: ShardNr,
    epoch: Epoch,
    reply_to: ReplyTo,
    answer: Answer,
}

/// Gives the answers of one incarnation of an entity.
#[derive(Clone)]
pub(crate) struct Confirmed {
    pub(crate) confirmations: Confirmations,
    pub(crate) shard: ShardNr,
    pub(crate) epoch: Epoch,
}

impl std::fmt::Debug for Confirmed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Confirmed")
            .field("shard", &self.shard)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

impl Confirmed {
    /// Gives an answer for which nothing was stored, when it may be given, or refuses
    /// to.
    pub(crate) fn answer(&self, reply_to: ReplyTo, answer: Answer) {
        let (shard, epoch) = (self.shard, self.epoch);
        match &self.confirmations.guard {
            _ if !tells_of_state(&answer) => reply_to.answer(answer),
            ReadGuard::Always => reply_to.answer(answer),
            ReadGuard::Lease(lease) if lease.holds() => reply_to.answer(answer),
            ReadGuard::Lease(_) => {
                let shard = shard.0;
                reply_to.answer(Err(CommandError::ShardUnavailable { shard }));
            }
            ReadGuard::Journal => self.confirmations.queue.push(Unconfirmed {
                shard,
                epoch,
                reply_to,
                answer,
            }),
        }
    }
}

impl Confirmations {
    pub(crate) fn new(guard: ReadGuard) -> Self {
        Self {
            guard,
            queue: Arc::default(),
        }
    }

    pub(crate) fn guard(&self) -> &ReadGuard {
        &self.guard
    }

    /// Starts the task that asks; it ends when aborted.
    pub(crate) fn start(
        &self,
        journal: &Arc<dyn Journal>,
        session: SessionUuid,
        tasks: &mut tokio::task::JoinSet<()>,
    ) {
        if matches!(self.guard, ReadGuard::Journal) {
            let (queue, journal) = (Arc::clone(&self.queue), Arc::clone(journal));
            tasks.spawn(async move { queue.run(&*journal, session).await });
        }
    }

    /// Returns when all that was asked is answered. Safe to cancel.
    pub(crate) async fn finished(&self) {
        loop {
            let emptied = self.queue.emptied.notified();
            if self.queue.unanswered.load(Ordering::Acquire) == 0 {
                return;
            }
            emptied.await;
        }
    }
}

impl Queue {
    fn push(&self, unconfirmed: Unconfirmed) {
        self.unanswered.fetch_add(1, Ordering::AcqRel);
        self.lock().push(unconfirmed);
        self.arrived.notify_one();
    }

    async fn run(&self, journal: &dyn Journal, session: SessionUuid) {
        loop {
            let waiting = std::mem::take(&mut *self.lock());
            if waiting.is_empty() {
                self.arrived.notified().await;
                continue;
            }
            let shards: Vec<_> = waiting.iter().map(|w| (w.shard, w.epoch)).collect();
            let asked = contained(journal.may_write(session, &shards)).await;
            let answers = asked.map(Vec::into_iter);
            self.unanswered.fetch_sub(waiting.len(), Ordering::AcqRel);
            match answers {
                Ok(mut may_write) => {
                    for unconfirmed in waiting {
                        unconfirmed.settle(may_write.next() == Some(true));
                    }
                }
                Err(error) => {
                    let message = error.to_string();
                    for unconfirmed in waiting {
                        let message = message.clone();
                        let error = CommandError::JournalUnavailable { message };
                        unconfirmed.reply_to.answer(Err(error));
                    }
                }
            }
            self.emptied.notify_waiters();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Unconfirmed>> {
        // Held for a push or a take, which leave it whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unconfirmed {
    fn settle(self, may_write: bool) {
        let shard = self.shard.0;
        self.reply_to.answer(if may_write {
            self.answer
        } else {
            Err(CommandError::ShardUnavailable { shard })
        });
    }
}

/// Whether the one who asked learns something of the entity's state.
pub(crate) fn tells_of_state(answer: &Answer) -> bool {
    match answer {
        Ok(_) => true,
        Err(error) => matches!(
            error,
            CommandError::Rejected { .. }
                | CommandError::SequenceNrMismatch { .. }
                | CommandError::Unhandled { .. }
        ),
    }
}
