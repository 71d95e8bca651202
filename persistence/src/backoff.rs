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
mod tests {
    use super::*;

    const SETTINGS: BackoffSettings = BackoffSettings {
        min: Duration::from_secs(3),
        max: Duration::from_secs(30),
        random_factor: 0.2,
    };

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn the_delay_doubles_from_min_to_max() {
        let mut now = Instant::now();
        let mut backoff = Backoff::first_failure(&SETTINGS, now, 0.0);
        for (failures, expected) in [3, 6, 12, 24, 30, 30, 30].into_iter().enumerate() {
            assert_eq!(backoff.failures() as usize, failures + 1);
            assert_eq!(backoff.remaining(now), Some(secs(expected)));
            now += secs(expected);
            backoff.starting(&SETTINGS, now);
            backoff.failed(&SETTINGS, now, 0.0);
        }
    }

    #[test]
    fn any_number_of_failures_stays_at_max() {
        for failures in [5, 31, 32, 33, 34, 64, 65, u32::MAX] {
            assert_eq!(SETTINGS.delay(failures), SETTINGS.max, "{failures}");
        }
        let widest = BackoffSettings {
            min: Duration::from_nanos(1),
            max: BACKOFF_LIMIT,
            random_factor: 1.0,
        };
        assert_eq!(widest.delay(u32::MAX), BACKOFF_LIMIT);
    }

    #[test]
    fn the_random_part_adds_up_to_its_factor() {
        let now = Instant::now();
        let delay = |random| Backoff::first_failure(&SETTINGS, now, random).remaining(now);
        assert_eq!(delay(0.0), Some(secs(3)));
        assert_eq!(delay(0.5), Some(Duration::from_millis(3_300)));
        assert_eq!(delay(1.0), Some(Duration::from_millis(3_600)));
        assert_eq!(delay(7.0), Some(Duration::from_millis(3_600)));
        assert_eq!(delay(-7.0), Some(secs(3)));
    }

    #[test]
    fn remaining_counts_down_to_nothing() {
        let now = Instant::now();
        let backoff = Backoff::first_failure(&SETTINGS, now, 0.0);
        assert_eq!(backoff.remaining(now + secs(1)), Some(secs(2)));
        assert_eq!(backoff.remaining(now + secs(3)), None);
        assert_eq!(backoff.remaining(now + secs(4)), None);
    }

    fn failed_three_times(now: Instant) -> Backoff {
        let mut backoff = Backoff::first_failure(&SETTINGS, now, 0.0);
        backoff.failed(&SETTINGS, now, 0.0);
        backoff.failed(&SETTINGS, now, 0.0);
        assert_eq!(backoff.failures(), 3);
        backoff
    }

    #[test]
    fn a_run_of_max_forgets_the_failures() {
        let now = Instant::now();
        for (ran, failures_then) in [(secs(30), 1), (secs(29), 4)] {
            let mut backoff = failed_three_times(now);
            let started = now + secs(12);
            backoff.starting(&SETTINGS, started);
            backoff.recovered(started);
            assert_eq!(backoff.remaining(started), None);
            assert_eq!(
                backoff.is_forgotten(&SETTINGS, started + ran),
                ran == secs(30)
            );
            backoff.failed(&SETTINGS, started + ran, 0.0);
            assert_eq!(backoff.failures(), failures_then, "ran {ran:?}");
        }
    }

    #[test]
    fn a_slow_recovery_is_no_quiet_time() {
        let mut now = Instant::now();
        let mut backoff = failed_three_times(now);
        now += secs(12);
        backoff.starting(&SETTINGS, now);
        // A recovery that ends by its time-out.
        now += secs(90);
        assert!(!backoff.is_forgotten(&SETTINGS, now));
        backoff.failed(&SETTINGS, now, 0.0);
        assert_eq!(backoff.failures(), 4);
        assert_eq!(backoff.remaining(now), Some(secs(24)));
    }

    #[test]
    fn an_entity_nobody_asks_for_is_forgotten() {
        let now = Instant::now();
        let mut backoff = failed_three_times(now);
        let over = now + secs(12);
        assert!(!backoff.is_forgotten(&SETTINGS, now));
        assert!(!backoff.is_forgotten(&SETTINGS, over + secs(29)));
        assert!(backoff.is_forgotten(&SETTINGS, over + secs(30)));
        backoff.starting(&SETTINGS, over + secs(30));
        backoff.failed(&SETTINGS, over + secs(30), 0.0);
        assert_eq!(backoff.failures(), 1);
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let with = |min, max, random_factor| {
            BackoffSettings {
                min,
                max,
                random_factor,
            }
            .validate()
        };
        assert_eq!(BackoffSettings::default().validate(), Ok(SETTINGS));
        assert!(with(secs(3), secs(3), 0.0).is_ok());
        assert!(with(secs(3), secs(3), 1.0).is_ok());
        let min_is_zero = InvalidBackoffSettings::MinIsZero;
        assert_eq!(with(secs(0), secs(3), 0.0), Err(min_is_zero));
        let error = with(secs(4), secs(3), 0.0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "persistence.backoff.min (4s) is longer than persistence.backoff.max (3s): swap or change them"
        );
        assert!(with(secs(3), BACKOFF_LIMIT, 0.0).is_ok());
        let max = BACKOFF_LIMIT + secs(1);
        let too_long = InvalidBackoffSettings::MaxTooLong { max };
        assert_eq!(with(secs(3), max, 0.0), Err(too_long));
        for random_factor in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            let error = with(secs(3), secs(4), random_factor).unwrap_err();
            assert!(matches!(error, InvalidBackoffSettings::RandomFactor { .. }));
        }
    }

    #[test]
    fn it_is_small() {
        assert!(size_of::<Backoff>() <= 32);
    }
}
