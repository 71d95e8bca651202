//! A right that runs out unless it is extended: to speak for entities of this node
//! without asking the journal.
//!
//! Who extends it, and by how much, is the business of the cluster; here is only the
//! time until which it holds, for many to read. Next: `handing_back.rs`, where the
//! engine is given one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::planted::{self, Bug};

/// A right that runs out. Clones share it.
#[derive(Debug, Clone)]
pub struct ReadLease(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Times are counted from here.
    made: Instant,
    /// Nanoseconds after `made` until which it holds, exclusive.
    until: AtomicU64,
}

impl ReadLease {
    /// A lease that has run out at `now`, to be extended.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self(Arc::new(Inner {
            made: now,
            until: AtomicU64::new(0),
        }))
    }

    /// It holds until this time, exclusive; one that holds longer stays as it is.
    pub fn extend(&self, until: Instant) {
        let until = nanoseconds(until.saturating_duration_since(self.0.made));
        self.0.until.fetch_max(until, Ordering::AcqRel);
    }

    /// It has run out, and is not to be extended any more.
    pub fn end(&self) {
        self.0.until.store(0, Ordering::Release);
    }

    /// Whether it holds at this time.
    #[must_use]
    pub fn holds_at(&self, now: Instant) -> bool {
        let now = nanoseconds(now.saturating_duration_since(self.0.made));
        let until = self.0.until.load(Ordering::Acquire);
        now < until || (planted::is(Bug::StaleReads) && until > 0)
    }

    /// Whether it holds at the moment.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.holds_at(tokio::time::Instant::now().into_std())
    }

    /// Since when it does not hold; `None` while it does.
    #[must_use]
    pub fn out_for(&self, now: Instant) -> Option<Duration> {
        if self.holds_at(now) {
            return None;
        }
        let until = Duration::from_nanos(self.0.until.load(Ordering::Acquire));
        let now = now.saturating_duration_since(self.0.made);
        Some(now.saturating_sub(until))
    }
}

/// As far as 584 years.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_until_the_latest_time_it_was_given() {
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        let lease = ReadLease::new(now);
        assert!(!lease.holds_at(now));
        lease.extend(at(100));
        lease.extend(at(50));
        assert!(lease.holds_at(at(99)) && !lease.holds_at(at(100)));
        assert_eq!(lease.out_for(at(99)), None);
        assert_eq!(lease.out_for(at(130)), Some(Duration::from_millis(30)));
        lease.end();
        assert!(!lease.holds_at(now));
    }
}
