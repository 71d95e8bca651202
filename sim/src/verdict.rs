//! What was found to be wrong.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which, as in the list of promises, or `progress`.
    pub promise: &'static str,
    /// Milliseconds after the beginning.
    pub at: u64,
    /// How.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} ms: {}", self.promise, self.at, self.what)
    }
}

/// Further ones are not kept: the first says most.
const KEPT_MAX: usize = 20;

/// What was found in a run; clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Verdict(Arc<Mutex<Vec<Violation>>>);

impl Verdict {
    pub(crate) fn violated(&self, promise: &'static str, at: u64, what: String) {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if found.len() < KEPT_MAX {
            found.push(Violation { promise, at, what });
        }
    }

    pub(crate) fn is_guilty(&self) -> bool {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        !found.is_empty()
    }

    pub(crate) fn found(&self) -> Vec<Violation> {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        found.clone()
    }
}
