//! In which order an entity's writes go out and its handlers run: the rules of
//! persist, persist-async and defer, as a pure state machine.
//!
//! * At most one batch of writes is out; what is issued meanwhile forms the next.
//! * Handlers run strictly in the order in which they were issued, each only
//!   when the writes issued before it are stored. A deferred handler writes
//!   nothing and keeps its place in that order; with nothing pending it runs at
//!   once.
//! * While a *stashing* handler is pending, commands wait.
//!
//! It knows nothing of entities, events or journals: a write `W` and a handler
//! `H` are whatever the caller makes of them. Next: `runtime/cell.rs`, which
//! feeds it.

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
    /// How many writes have to be stored before the handler may run.
    after_writes: u64,
}

/// Pending writes and handlers of one entity. See the module's text.
#[derive(Debug)]
pub struct Persisting<W, H> {
    pending: VecDeque<Pending<H>>,
    /// Pending handlers, and those running now, for which commands wait.
    stashing: usize,
    /// Issued, not yet sent.
    unsent: Vec<W>,
    /// Counts of writes since the beginning: issued ≥ sent ≥ stored.
    issued: u64,
    sent: u64,
    stored: u64,
}

/// A handler whose turn has come. Give it back to [`Persisting::finished`] as
/// `commands` after it ran.
#[derive(Debug, PartialEq, Eq)]
pub struct Due<H> {
    /// The handler.
    pub handler: H,
    /// As issued.
    pub commands: Commands,
}

impl<W, H> Default for Persisting<W, H> {
    fn default() -> Self {
        Self {
            pending: VecDeque::new(),
            stashing: 0,
            unsent: Vec::new(),
            issued: 0,
            sent: 0,
            stored: 0,
        }
    }
}

impl<W, H> Persisting<W, H> {
    /// Issues one atomic write with one handler for each of its events.
    pub fn persist(&mut self, write: W, handlers: impl IntoIterator<Item = H>, commands: Commands) {
        self.unsent.push(write);
        self.issued += 1;
        for handler in handlers {
            self.push(handler, commands);
        }
    }

    /// Issues a handler that writes nothing. With nothing pending it is returned,
    /// to be run at once; [`Persisting::finished`] is not called for it.
    pub fn defer(&mut self, handler: H, commands: Commands) -> Option<H> {
        if self.pending.is_empty() {
            return Some(handler);
        }
        self.push(handler, commands);
        None
    }

    fn push(&mut self, handler: H, commands: Commands) {
        if commands == Commands::Wait {
            self.stashing += 1;
        }
        self.pending.push_back(Pending {
            handler,
            commands,
            after_writes: self.issued,
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
        self.stored += writes as u64;
        assert!(
            self.stored <= self.sent,
            "I-4: {} writes reported stored, {} sent",
            self.stored,
            self.sent
        );
    }

    /// The next handler whose turn has come.
    pub fn next_due(&mut self) -> Option<Due<H>> {
        if self.pending.front()?.after_writes > self.stored {
            return None;
        }
        let Pending {
            handler, commands, ..
        } = self.pending.pop_front()?;
        Some(Due { handler, commands })
    }

    /// A handler taken from [`Persisting::next_due`] has run; writes that it
    /// issued are pending already, so commands go on waiting for them.
    pub fn finished(&mut self, commands: Commands) {
        if commands == Commands::Wait {
            self.stashing -= 1;
        }
    }

    /// Gives up everything pending, in order: the entity stops.
    pub fn abort(&mut self) -> Vec<H> {
        let pending = std::mem::take(self).pending;
        pending.into_iter().map(|pending| pending.handler).collect()
    }

    /// Whether commands have to wait.
    #[must_use]
    pub fn is_stashing(&self) -> bool {
        self.stashing > 0
    }

    /// Whether a batch is out.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.sent > self.stored
    }

    /// Whether nothing is pending.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty() && !self.is_writing() && self.unsent.is_empty()
    }

    /// How many writes are issued and not sent.
    #[must_use]
    pub fn unsent_len(&self) -> usize {
        self.unsent.len()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    type Machine = Persisting<&'static str, &'static str>;

    fn run_due(machine: &mut Machine) -> Vec<&'static str> {
        let mut ran = Vec::new();
        while let Some(due) = machine.next_due() {
            ran.push(due.handler);
            machine.finished(due.commands);
        }
        ran
    }

    /// 5.5 case 1: what is issued while a write is out goes out after it.
    #[test]
    fn one_batch_is_out_at_a_time() {
        let mut machine = Machine::default();
        machine.persist("a-1", ["h1"], Commands::GoOn);
        assert_eq!(machine.next_batch(), Some(vec!["a-1"]));
        machine.persist("a-2", ["h2"], Commands::GoOn);
        machine.persist("a-3", ["h3"], Commands::GoOn);
        assert_eq!(machine.next_batch(), None);
        machine.stored(1);
        assert_eq!(run_due(&mut machine), ["h1"]);
        assert_eq!(machine.next_batch(), Some(vec!["a-2", "a-3"]));
        machine.stored(2);
        assert_eq!(run_due(&mut machine), ["h2", "h3"]);
        assert!(machine.is_idle());
    }

    /// 5.5 case 3: persist 1 {persist 2} and persist 3 go out as [1, 3], then [2].
    #[test]
    fn nested_persists_form_the_next_batch() {
        let mut machine = Machine::default();
        machine.persist("1", ["h1"], Commands::Wait);
        machine.persist("3", ["h3"], Commands::Wait);
        assert_eq!(machine.next_batch(), Some(vec!["1", "3"]));
        machine.stored(2);
        let first = machine.next_due().unwrap();
        machine.persist("2", ["h2"], Commands::Wait);
        machine.finished(first.commands);
        assert_eq!(run_due(&mut machine), ["h3"]);
        assert!(
            machine.is_stashing(),
            "the nested persist extends the stashing"
        );
        assert_eq!(machine.next_batch(), Some(vec!["2"]));
        machine.stored(1);
        assert_eq!(run_due(&mut machine), ["h2"]);
        assert!(!machine.is_stashing());
    }

    /// O18: defers keep their place between persists; the first runs inline.
    #[test]
    fn o18_defers_keep_their_place() {
        let mut machine = Machine::default();
        assert_eq!(machine.defer("d-1", Commands::Wait), Some("d-1"));
        machine.persist("a-2", ["a-2"], Commands::Wait);
        assert_eq!(machine.defer("d-3", Commands::Wait), None);
        assert_eq!(machine.defer("d-4", Commands::GoOn), None);
        assert_eq!(machine.next_batch(), Some(vec!["a-2"]));
        assert_eq!(run_due(&mut machine), [""; 0]);
        machine.stored(1);
        assert_eq!(run_due(&mut machine), ["a-2", "d-3", "d-4"]);
    }

    /// O1: one atomic write of several events runs one handler for each.
    #[test]
    fn o1_persist_all_runs_a_handler_per_event() {
        let mut machine = Machine::default();
        machine.persist("b", ["b-1", "b-2"], Commands::Wait);
        assert!(machine.is_stashing());
        machine.next_batch();
        machine.stored(1);
        assert_eq!(run_due(&mut machine), ["b-1", "b-2"]);
        assert!(!machine.is_stashing());
    }

    #[test]
    fn a_partly_stored_batch_releases_its_stored_part_only() {
        let mut machine = Machine::default();
        machine.persist("1", ["h1"], Commands::GoOn);
        machine.defer("read", Commands::GoOn);
        machine.persist("2", ["h2"], Commands::GoOn);
        machine.defer("late read", Commands::GoOn);
        machine.next_batch();
        machine.stored(1);
        assert_eq!(run_due(&mut machine), ["h1", "read"]);
        assert_eq!(machine.abort(), ["h2", "late read"]);
        assert!(machine.is_idle());
    }
}
