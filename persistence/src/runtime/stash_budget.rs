//! How many commands wait for the entities of the node, over all its workers.
//!
//! Each entity bounds what waits for it; this bounds their sum, so that many entities
//! that are all behind do not use up the memory of the node. Workers look before they
//! let a command in and count afterwards what their cells keep: the limit can be
//! exceeded by one command for each worker, and nothing that is let in is refused
//! later. What becomes of a command without room is decided in `cell/aside.rs`.

use std::sync::atomic::{AtomicUsize, Ordering};

/// What the workers of a node share about what waits.
pub(crate) struct StashBudget {
    limit: usize,
    kept: AtomicUsize,
}

impl StashBudget {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            kept: AtomicUsize::new(0),
        }
    }

    pub(crate) fn kept(&self) -> usize {
        self.kept.load(Ordering::Relaxed)
    }

    pub(crate) fn is_used_up(&self) -> bool {
        self.kept() >= self.limit
    }

    /// A cell kept so many commands and keeps so many now.
    pub(crate) fn recount(&self, before: usize, now: usize) {
        if now > before {
            self.kept.fetch_add(now - before, Ordering::Relaxed);
        } else if now < before {
            self.kept.fetch_sub(before - now, Ordering::Relaxed);
        }
    }
}
