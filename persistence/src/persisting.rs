//! In which order an entity's writes go out and its handlers run: the rules of
//! persist, persist-async and defer, as a pure state machine.
//!
//! * At most one batch of writes is out; what is issued meanwhile forms the next.
//! * Handlers run strictly in the order in which they were issued, each only
//!   when the writes issued before it are stored. A deferred handler writes
//!   nothing and keeps its place in that order; with nothing pending it runs at
//!   once.
//! * While a *stashing* handler is pending, commands wait.
//! * A write that is refused for certain keeps its place in that order, and takes
//!   no later write along.
//!
//! It knows nothing of entities, events or journals: a write `W` and a handler
//! `H` are whatever the caller makes of them. Next: `runtime/cell.rs`, which
//! feeds it with rounds of commands, and `actor/machine.rs`, which feeds it with
//! what a persistent actor issues.

use std::collections::VecDeque;

/// Whether commands wait until a handler has run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commands {
    /// They wait: `persist`, `persist_all`, `defer`.
    Wait,
    /// They go on: `persist_async`, `persist_all_async`, `defer_async`.
    GoOn,
}

#[derive(Debug)]
struct Pending<H> {
    handler: H,
    commands: Commands,
    /// How many writes have to be settled before the handler may run.
    after_writes: u64,
    /// It belongs to the last of those writes; else it is deferred behind it.
    of_write: bool,
}

/// What became of the write a handler belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It is stored; deferred handlers, which write nothing, see this too.
    Stored,
    /// It is certainly not stored.
    Refused,
}

/// Pending writes and handlers of one entity. See the module's text.
#[derive(Debug)]
pub struct Persisting<W, H> {
    pending: VecDeque<Pending<H>>,
    /// Pending handlers, and those running now, for which commands wait.
    stashing: usize,
    /// A handler was taken and is not reported finished: it counts as pending.
    running: bool,
    /// Issued, not yet sent.
    unsent: Vec<W>,
    /// Counts of writes since the beginning: issued ≥ sent ≥ settled.
    issued: u64,
    sent: u64,
    settled: u64,
    /// Which of the settled writes with pending handlers were refused.
    refused: VecDeque<u64>,
}

/// A handler whose turn has come. Give it back to [`Persisting::finished`] as
/// `commands` after it ran.
#[derive(Debug, PartialEq, Eq)]
pub struct Due<H> {
    /// The handler.
    pub handler: H,
    /// As issued.
    pub commands: Commands,
    /// What became of its write.
    pub settled: Settled,
}

impl<W, H> Default for Persisting<W, H> {
    fn default() -> Self {
        Self {
            pending: VecDeque::new(),
            stashing: 0,
            running: false,
            unsent: Vec::new(),
            issued: 0,
            sent: 0,
            settled: 0,
            refused: VecDeque::new(),
        }
    }
}

impl<W, H> Persisting<W, H> {
    /// Issues one atomic write with one handler for each of its events.
    pub fn persist(&mut self, write: W, handlers: impl IntoIterator<Item = H>, commands: Commands) {
        self.unsent.push(write);
        self.issued += 1;
        for handler in handlers {
            self.push(handler, commands, true);
        }
    }

    /// Issues a handler that writes nothing. With nothing pending, and no handler
    /// running, it is returned, to be run at once; [`Persisting::finished`] is not
    /// called for it.
    pub fn defer(&mut self, handler: H, commands: Commands) -> Option<H> {
        if self.runs_inline() {
            return Some(handler);
        }
        self.push(handler, commands, false);
        None
    }

    /// Whether what is deferred now runs at once.
    #[must_use]
    pub fn runs_inline(&self) -> bool {
        self.pending.is_empty() && !self.running
    }

    /// As [`Persisting::defer`], but with nothing pending it is the next due
    /// handler.
    pub fn queue(&mut self, handler: H, commands: Commands) {
        self.push(handler, commands, false);
    }

    fn push(&mut self, handler: H, commands: Commands, of_write: bool) {
        if commands == Commands::Wait {
            self.stashing += 1;
        }
        self.pending.push_back(Pending {
            handler,
            commands,
            after_writes: self.issued,
            of_write,
        });
    }

    /// Everything issued and not sent, if no write is out. Call it when a command
    /// or a run of handlers is over, so that what they issued goes out together.
    /// The writes count as sent: report with [`Persisting::stored`].
    pub fn next_batch(&mut self) -> Option<Vec<W>> {
        if self.is_writing() || self.unsent.is_empty() {
            return None;
        }
        self.sent = self.issued;
        Some(std::mem::take(&mut self.unsent))
    }

    /// The first `writes` of the batch that is out are stored.
    ///
    /// # Panics
    /// When more are reported than are out: it would release handlers of writes
    /// that are not durable (I-4).
    pub fn stored(&mut self, writes: usize) {
        self.settled += writes as u64;
        assert!(
            self.settled <= self.sent,
            "I-4: {} writes reported settled, {} sent",
            self.settled,
            self.sent
        );
    }

    /// After [`Persisting::stored`]: the next `writes` of the batch that is out are
    /// certainly not stored.
    ///
    /// # Panics
    /// As [`Persisting::stored`].
    pub fn refused(&mut self, writes: usize) {
        let first = self.settled + 1;
        self.stored(writes);
        self.refused.extend(first..=self.settled);
    }

    /// The rest of the batch that is out is certainly not stored either, but for no
    /// reason of its own: it goes out again, before all that was issued since.
    ///
    /// # Panics
    /// When it is not exactly the rest of the batch.
    pub fn give_back(&mut self, mut writes: Vec<W>) {
        assert_eq!(
            self.settled + writes.len() as u64,
            self.sent,
            "I-5: a write is lost"
        );
        self.sent = self.settled;
        writes.append(&mut self.unsent);
        self.unsent = writes;
    }

    /// The next handler whose turn has come.
    pub fn next_due(&mut self) -> Option<Due<H>> {
        if self.pending.front()?.after_writes > self.settled {
            return None;
        }
        let Pending {
            handler,
            commands,
            after_writes,
            of_write,
        } = self.pending.pop_front()?;
        while self.refused.front().is_some_and(|&nr| nr < after_writes) {
            self.refused.pop_front();
        }
        let refused = of_write && self.refused.front() == Some(&after_writes);
        self.running = true;
        Some(Due {
            handler,
            commands,
            settled: if refused {
                Settled::Refused
            } else {
                Settled::Stored
            },
        })
    }

    /// A handler taken from [`Persisting::next_due`] has run; writes that it
    /// issued are pending already, so commands go on waiting for them.
    pub fn finished(&mut self, commands: Commands) {
        self.running = false;
        if commands == Commands::Wait {
            self.stashing -= 1;
        }
    }

    /// Gives up everything pending, in order: the entity stops.
    pub fn abort(&mut self) -> Vec<H> {
        let pending = std::mem::take(self).pending;
        pending.into_iter().map(|pending| pending.handler).collect()
    }

    /// Gives up what is not sent yet, with its handlers: the entity stops when the
    /// outcome of the batch that is out is known.
    pub fn abort_unsent(&mut self) {
        let kept = self
            .pending
            .partition_point(|pending| pending.after_writes <= self.sent);
        for dropped in self.pending.drain(kept..) {
            self.stashing -= usize::from(dropped.commands == Commands::Wait);
        }
        self.unsent.clear();
        self.issued = self.sent;
    }

    /// Takes the handlers of the batch that is out, whose outcome will never be
    /// known, in order; [`Persisting::abort`] gives the others.
    pub fn abort_sent(&mut self) -> Vec<H> {
        let out = self
            .pending
            .partition_point(|pending| pending.after_writes <= self.sent);
        let out = self.pending.drain(..out);
        let out = out.filter(|pending| pending.of_write);
        out.map(|pending| pending.handler).collect()
    }

    /// Whether commands have to wait.
    #[must_use]
    pub fn is_stashing(&self) -> bool {
        self.stashing > 0
    }

    /// Whether a batch is out.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.sent > self.settled
    }

    /// Whether nothing is pending.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty() && !self.is_writing() && self.unsent.is_empty()
    }

    /// How many handlers are pending.
    #[must_use]
    pub fn pending_len(&self) -> usize {
        self.pending.len()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod persisting_test;
