//! What an engine counts about itself, beside the metrics of the process: several
//! engines can run in one process, and share those.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What an engine counts about itself, as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineFigures {
    /// Entities in memory.
    pub live_entities: usize,
    /// Events it stored since it was started.
    pub events_stored: u64,
    /// Commands that wait for entities or are put aside.
    pub commands_waiting: usize,
    /// Entities that recover.
    pub recoveries_running: usize,
    /// Entities that wait for a permit to recover.
    pub recoveries_waiting: usize,
    /// Permits there are (promise I-11).
    pub recoveries_max: usize,
    /// Whether the circuit breaker keeps calls from the journal.
    pub journal_out_of_reach: bool,
}

/// Where the parts of an engine count.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    events_stored: AtomicU64,
    recoveries_running: AtomicUsize,
    recoveries_waiting: AtomicUsize,
}

impl Tally {
    pub(crate) fn stored(&self, events: usize) {
        self.events_stored
            .fetch_add(events as u64, Ordering::Relaxed);
    }

    pub(crate) fn recoveries(&self, running: usize, waiting: usize) {
        self.recoveries_running.store(running, Ordering::Relaxed);
        self.recoveries_waiting.store(waiting, Ordering::Relaxed);
    }

    pub(super) fn events_stored(&self) -> u64 {
        self.events_stored.load(Ordering::Relaxed)
    }

    pub(super) fn recoveries_running(&self) -> usize {
        self.recoveries_running.load(Ordering::Relaxed)
    }

    pub(super) fn recoveries_waiting(&self) -> usize {
        self.recoveries_waiting.load(Ordering::Relaxed)
    }
}
