//! How many entities of the node are in memory, over all its workers, and which
//! worker holds the one that was idle for the longest.
//!
//! The limit of active entities is one for the node: a busy shard may use what a
//! quiet one does not. Each worker keeps its own idle order and publishes its
//! oldest entry here, so that the least recently used entity of the node leaves,
//! wherever it is. An entity that is working is never a victim; the number of
//! those is bounded by the commands in flight.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::idle_order::Tick;

use super::worker::IdleTimeouts;

/// What the workers of a node share about who is in memory.
pub(crate) struct Residency {
    limit: AtomicUsize,
    timeouts: Mutex<Arc<IdleTimeouts>>,
    live: AtomicUsize,
    /// For each worker the tick of its oldest idle entity.
    oldest: Box<[AtomicU64]>,
}

/// A worker without an idle entity.
const NO_IDLE: u64 = u64::MAX;

impl Residency {
    pub(crate) fn new(limit: usize, timeouts: IdleTimeouts, workers: usize) -> Self {
        Self {
            limit: AtomicUsize::new(limit),
            timeouts: Mutex::new(Arc::new(timeouts)),
            live: AtomicUsize::new(0),
            oldest: (0..workers).map(|_| AtomicU64::new(NO_IDLE)).collect(),
        }
    }

    fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// After which time entities count as idle.
    pub(crate) fn timeouts(&self) -> Arc<IdleTimeouts> {
        Arc::clone(&self.lock())
    }

    pub(crate) fn set_timeouts(&self, timeouts: IdleTimeouts) {
        *self.lock() = Arc::new(timeouts);
    }

    fn lock(&self) -> MutexGuard<'_, Arc<IdleTimeouts>> {
        // Held for an assignment.
        self.timeouts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// An entity came into memory. Returns the worker that should passivate its
    /// oldest idle entity in exchange, if the node is over its limit.
    pub(crate) fn entered(&self) -> Option<usize> {
        let live = self.live.fetch_add(1, Ordering::Relaxed) + 1;
        if live <= self.limit() {
            return None;
        }
        let candidates = self.oldest.iter().enumerate();
        candidates
            .map(|(worker, oldest)| (oldest.load(Ordering::Relaxed), worker))
            .min()
            .filter(|&(oldest, _)| oldest != NO_IDLE)
            .map(|(_, worker)| worker)
    }

    pub(crate) fn left(&self) {
        self.live.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether the node is still over its limit.
    pub(crate) fn is_over(&self) -> bool {
        self.live() > self.limit()
    }

    pub(crate) fn publish_oldest(&self, worker: usize, oldest: Option<Tick>) {
        let oldest = oldest.map_or(NO_IDLE, u64::from);
        self.oldest[worker].store(oldest, Ordering::Relaxed);
    }
}
