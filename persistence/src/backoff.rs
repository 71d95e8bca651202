//! How long an entity that failed stays down: twice as long after each failure
//! in a row, within bounds, with a random part so that entities that failed
//! together do not all come back together.
//!
//! A pure value of a few bytes, kept only for entities that failed lately: most
//! have none. It does not know why an entity failed; the caller counts only
//! failures of the entity's own (never an outage of the journal, a conflict or a
//! fence). Next: `circuit_breaker.rs`, for failures of the journal.

use std::time::{Duration, Instant};

/// Longest allowed [`BackoffSettings::max`].
pub const BACKOFF_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// Settings `persistence.backoff.*`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BackoffSettings {
    /// After the first failure.
    pub min: Duration,
    /// After many. Also the quiet time after which failures are forgotten.
    pub max: Duration,
    /// Up to this share of the delay is added at random, 0 to 1 inclusive.
    pub random_factor: f64,
}

impl Default for BackoffSettings {
    fn default() -> Self {
        Self {
            min: Duration::from_secs(3),
            max: Duration::from_secs(30),
            random_factor: 0.2,
        }
    }
}

/// Settings that contradict each other or themselves.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum InvalidBackoffSettings {
    /// `min` is zero, so that a failing entity would be restarted in a busy loop.
    #[error("persistence.backoff.min is 0: use a longer time")]
    MinIsZero,
    /// `min` is above `max`.
    #[error(
        "persistence.backoff.min ({min:?}) is longer than persistence.backoff.max ({max:?}): swap or change them"
    )]
    MinAboveMax {
        /// `min` as set.
        min: Duration,
        /// `max` as set.
        max: Duration,
    },
    /// `max` is above [`BACKOFF_LIMIT`].
    #[error("persistence.backoff.max is {max:?}: use at most {BACKOFF_LIMIT:?}")]
    MaxTooLong {
        /// As set.
        max: Duration,
    },
    /// The factor is negative, above one, or not a number.
    #[error("persistence.backoff.random_factor is {random_factor}: use a number from 0 to 1")]
    RandomFactor {
        /// As set.
        random_factor: f64,
    },
}

impl BackoffSettings {
    /// Checks the settings; to be called once, where they are read.
    ///
    /// # Errors
    /// [`InvalidBackoffSettings`] names the key and what is allowed.
    pub fn validate(self) -> Result<Self, InvalidBackoffSettings> {
        let Self {
            min,
            max,
            random_factor,
        } = self;
        if min.is_zero() {
            return Err(InvalidBackoffSettings::MinIsZero);
        }
        if min > max {
            return Err(InvalidBackoffSettings::MinAboveMax { min, max });
        }
        if max > BACKOFF_LIMIT {
            return Err(InvalidBackoffSettings::MaxTooLong { max });
        }
        if !(0.0..=1.0).contains(&random_factor) {
            return Err(InvalidBackoffSettings::RandomFactor { random_factor });
        }
        Ok(self)
    }

    /// The delay after this many failures in a row (1 for the first), before
    /// the random part.
    fn delay(&self, failures: u32) -> Duration {
        let mut delay = self.min;
        for _ in 1..failures {
            if delay >= self.max {
                break;
            }
            delay *= 2;
        }
        delay.min(self.max)
    }
}

/// The failures of one entity that failed lately.
///
/// Failures in a row are counted until the entity has been up for `max` at a
/// stretch, or nobody has asked for it for `max` after its delay ended. A
/// recovery that takes long before it fails is no quiet time: only what comes
/// after [`Backoff::recovered`] counts as being up.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    failures: u32,
    phase: Phase,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Down, and not to be started before.
    DownUntil(Instant),
    /// Started again; whether it comes up is not known yet.
    Recovering,
    /// Up since.
    UpSince(Instant),
}

impl Backoff {
    /// The first failure of an entity, `random` from 0 inclusive to 1 exclusive.
    #[must_use]
    pub fn first_failure(settings: &BackoffSettings, now: Instant, random: f64) -> Self {
        let mut backoff = Self {
            failures: 0,
            phase: Phase::Recovering,
        };
        backoff.failed(settings, now, random);
        backoff
    }

    /// The entity failed again; it is down for [`Backoff::remaining`].
    pub fn failed(&mut self, settings: &BackoffSettings, now: Instant, random: f64) {
        if self.is_forgotten(settings, now) {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        let stretch = 1.0 + random.clamp(0.0, 1.0) * settings.random_factor;
        let delay = settings.delay(self.failures).mul_f64(stretch);
        self.phase = Phase::DownUntil(now + delay);
    }

    /// The entity is being started again. To be called once the delay is over.
    pub fn starting(&mut self, settings: &BackoffSettings, now: Instant) {
        if self.is_forgotten(settings, now) {
            self.failures = 0;
        }
        self.phase = Phase::Recovering;
    }

    /// The entity has recovered and takes commands.
    pub fn recovered(&mut self, now: Instant) {
        self.phase = Phase::UpSince(now);
    }

    /// It went down for a reason that is not its own, such as an outage of the
    /// journal. It may be started again at once; whether it would have come up is
    /// not known, so earlier failures are forgotten after the usual quiet time.
    pub fn interrupted(&mut self, now: Instant) {
        if let Phase::Recovering = self.phase {
            self.phase = Phase::DownUntil(now);
        }
    }

    /// What is left of the delay; `None` when the entity may be started.
    #[must_use]
    pub fn remaining(&self, now: Instant) -> Option<Duration> {
        let Phase::DownUntil(until) = self.phase else {
            return None;
        };
        let remaining = until.saturating_duration_since(now);
        (!remaining.is_zero()).then_some(remaining)
    }

    /// The failures no longer count, so the value may be dropped.
    #[must_use]
    pub fn is_forgotten(&self, settings: &BackoffSettings, now: Instant) -> bool {
        match self.phase {
            Phase::DownUntil(quiet_since) | Phase::UpSince(quiet_since) => {
                now.saturating_duration_since(quiet_since) >= settings.max
            }
            Phase::Recovering => false,
        }
    }

    /// Failures in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod backoff_test;
