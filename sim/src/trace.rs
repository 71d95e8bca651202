//! What happened in a run, as a number: equal runs have equal ones.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use xxhash_rust::xxh3::Xxh3;

/// Takes note of what happens; clones are the same.
#[derive(Clone)]
pub(crate) struct Trace(Arc<Mutex<Inner>>);

struct Inner {
    hasher: Xxh3,
    noted: u64,
    is_shown: bool,
}

/// A run, as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceHash(pub u64);

impl fmt::Display for TraceHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Trace {
    pub(crate) fn new(is_shown: bool) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            hasher: Xxh3::new(),
            noted: 0,
            is_shown,
        })))
    }

    /// Something happened at a time.
    pub(crate) fn note(&self, now: u64, what: impl FnOnce() -> String) {
        let what = what();
        let mut inner = self.lock();
        inner.hasher.update(&now.to_le_bytes());
        inner.hasher.update(what.as_bytes());
        inner.noted += 1;
        if inner.is_shown {
            println!("{now:>6} {what}");
        }
    }

    pub(crate) fn hash(&self) -> TraceHash {
        TraceHash(self.lock().hasher.digest())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
