//! How long a node may serve without having heard from the leader.
//!
//! The lease runs from the *sending* of the latest heartbeat that the leader
//! acknowledged. The leader counts from its *arrival*, and waits longer. So a node's
//! lease has run out before its shards go to others, as long as clocks run at nearly
//! the same rate. Reads rest on this; writes do not: they rest on the fence (I-2).
//! Here is only how these times fit together. Next: `heartbeats.rs`, which keeps a
//! node's lease, and `failure_detector.rs`, the leader's side.

use std::time::Duration;

use perennial_persistence::planted::{self, Bug};

/// Clocks of two nodes differ in rate by no more than one part in this many: far
/// more than clocks do, to leave room for the time a check and its effect take.
const DRIFT_DIVISOR: u32 = 10;

/// Of heartbeats and what follows from their absence. Fits together once made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LivenessTimes {
    heartbeat_interval: Duration,
    lease: Duration,
    down_after: Duration,
}

/// Which times do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LivenessTimesError {
    /// A node could still serve when its shards go to others.
    #[error(
        "cluster.down_after ({down_after:?}) must be longer than cluster.lease ({lease:?}) by more \
         than a tenth: raise it above {longer_than:?}, or shorten the lease"
    )]
    DownAfterTooShort {
        /// As configured.
        down_after: Duration,
        /// As configured.
        lease: Duration,
        /// What `down_after` has to exceed.
        longer_than: Duration,
    },
    /// One lost heartbeat would end the lease.
    #[error(
        "cluster.lease ({lease:?}) must be at least three times cluster.heartbeat_interval \
         ({heartbeat_interval:?}), or one lost heartbeat ends it: raise it to {at_least:?}"
    )]
    LeaseTooShort {
        /// As configured.
        lease: Duration,
        /// As configured.
        heartbeat_interval: Duration,
        /// The shortest possible lease.
        at_least: Duration,
    },
    /// Heartbeats without a pause.
    #[error("cluster.heartbeat_interval must be longer than 0: the default is 200 ms")]
    NoInterval,
}

impl LivenessTimes {
    /// Times that fit together.
    ///
    /// # Errors
    /// [`LivenessTimesError`] says which setting to change.
    pub fn new(
        heartbeat_interval: Duration,
        lease: Duration,
        down_after: Duration,
    ) -> Result<Self, LivenessTimesError> {
        let longer_than = stretched(lease);
        let at_least = heartbeat_interval * 3;
        if heartbeat_interval.is_zero() {
            return Err(LivenessTimesError::NoInterval);
        }
        if lease < at_least {
            return Err(LivenessTimesError::LeaseTooShort {
                lease,
                heartbeat_interval,
                at_least,
            });
        }
        if down_after <= longer_than {
            return Err(LivenessTimesError::DownAfterTooShort {
                down_after,
                lease,
                longer_than,
            });
        }
        Ok(Self {
            heartbeat_interval,
            lease,
            down_after,
        })
    }

    /// Between two heartbeats of a node.
    #[must_use]
    pub fn heartbeat_interval(&self) -> Duration {
        self.heartbeat_interval
    }

    /// From the sending of an acknowledged heartbeat.
    #[must_use]
    pub fn lease(&self) -> Duration {
        match planted::is(Bug::LongLease) {
            true => self.lease * 5,
            false => self.lease,
        }
    }

    /// From the arrival of the latest heartbeat to the node's death.
    #[must_use]
    pub fn down_after(&self) -> Duration {
        self.down_after
    }
}

impl Default for LivenessTimes {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_millis(200),
            lease: Duration::from_millis(1500),
            down_after: Duration::from_secs(2),
        }
    }
}

/// How long to wait so that this much has surely passed by another node's clock.
#[must_use]
pub fn stretched(time: Duration) -> Duration {
    time + time / DRIFT_DIVISOR
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_defaults_fit_together() {
        let times = LivenessTimes::default();
        let again = LivenessTimes::new(times.heartbeat_interval, times.lease, times.down_after);
        assert_eq!(again, Ok(times));
    }

    #[test]
    fn times_that_do_not_fit_say_what_to_change() {
        let error = LivenessTimes::new(ms(200), ms(1500), ms(1650)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cluster.down_after (1.65s) must be longer than cluster.lease (1.5s) by more than a \
             tenth: raise it above 1.65s, or shorten the lease"
        );
        assert!(LivenessTimes::new(ms(200), ms(1500), ms(1651)).is_ok());
        let error = LivenessTimes::new(ms(600), ms(1500), ms(9000)).unwrap_err();
        assert!(matches!(error, LivenessTimesError::LeaseTooShort { .. }));
        let error = LivenessTimes::new(ms(0), ms(1500), ms(9000)).unwrap_err();
        assert_eq!(error, LivenessTimesError::NoInterval);
    }
}
