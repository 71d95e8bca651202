//! Spares a journal that fails: after some failures in a row nothing is sent for
//! a while, then one call at a time tries whether it is back.
//!
//! A pure value. It does not know what a failure is; the caller reports as
//! failed only what says that the journal is out of reach. A conflict, a fence,
//! a refused row are *answers*, and count as successes: the journal is there.
//! Next: `backoff.rs`, for failures of an entity's own.

use std::time::{Duration, Instant};

/// Longest allowed time of the circuit breaker's settings.
pub const CIRCUIT_BREAKER_LIMIT: Duration = Duration::from_secs(60 * 60);

/// Settings `persistence.circuit_breaker.*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitBreakerSettings {
    /// So many failures in a row open it, at least 1.
    pub max_failures: u32,
    /// A call without an answer after this time has failed; the caller sees to
    /// that. A probe nobody reports on counts as lost after it.
    pub call_timeout: Duration,
    /// Time between probes, on average.
    pub reset_timeout: Duration,
}

impl Default for CircuitBreakerSettings {
    fn default() -> Self {
        Self {
            max_failures: 10,
            call_timeout: Duration::from_secs(10),
            reset_timeout: Duration::from_secs(1),
        }
    }
}

/// A setting of the circuit breaker that cannot work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCircuitBreakerSettings {
    /// It would open before anything failed.
    #[error("persistence.circuit_breaker.max_failures is 0: use at least 1")]
    NoFailures,
    /// A time is zero or above [`CIRCUIT_BREAKER_LIMIT`].
    #[error(
        "persistence.circuit_breaker.{key} is {value:?}: use more than 0 and at most {CIRCUIT_BREAKER_LIMIT:?}"
    )]
    Time {
        /// The last part of the setting's key.
        key: &'static str,
        /// As set.
        value: Duration,
    },
}

impl CircuitBreakerSettings {
    /// Checks the settings; to be called once, where they are read.
    ///
    /// # Errors
    /// [`InvalidCircuitBreakerSettings`] names the key and what is allowed.
    pub fn validate(self) -> Result<Self, InvalidCircuitBreakerSettings> {
        if self.max_failures == 0 {
            return Err(InvalidCircuitBreakerSettings::NoFailures);
        }
        let times = [
            ("call_timeout", self.call_timeout),
            ("reset_timeout", self.reset_timeout),
        ];
        for (key, value) in times {
            if value.is_zero() || value > CIRCUIT_BREAKER_LIMIT {
                return Err(InvalidCircuitBreakerSettings::Time { key, value });
            }
        }
        Ok(self)
    }
}

/// Whether calls go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CircuitState {
    /// All do.
    Closed,
    /// None does.
    Open,
    /// One is under way to see whether the journal is back.
    HalfOpen,
}

/// The answer to the question whether to send something.
#[derive(Debug, PartialEq, Eq)]
pub enum Admittance {
    /// Send it and report what became of it. A call that is given up without a
    /// report counts neither way.
    Send(Ticket),
    /// Do not send it.
    Refuse {
        /// When asking again may be answered otherwise.
        retry_after: Duration,
    },
}

/// The right to one call.
///
/// Reports on calls from before the breaker last changed are ignored: what was
/// sent long ago says nothing about the journal now.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket {
    era: u64,
}

/// The circuit breaker of one journal.
#[derive(Debug)]
pub struct CircuitBreaker {
    settings: CircuitBreakerSettings,
    position: Position,
    /// Counts what makes earlier tickets void: openings and probes.
    era: u64,
}

#[derive(Debug, Clone, Copy)]
enum Position {
    Closed { failures: u32 },
    Open { probe_at: Instant },
    HalfOpen { lost_at: Instant },
}

impl CircuitBreaker {
    /// A closed breaker. `settings` have been through
    /// [`CircuitBreakerSettings::validate`].
    #[must_use]
    pub const fn new(settings: CircuitBreakerSettings) -> Self {
        Self {
            settings,
            position: Position::Closed { failures: 0 },
            era: 0,
        }
    }

    /// Asks whether to send something now.
    pub fn admit(&mut self, now: Instant) -> Admittance {
        let waits_until = match self.position {
            Position::Closed { .. } => return Admittance::Send(Ticket { era: self.era }),
            Position::Open { probe_at } => probe_at,
            Position::HalfOpen { lost_at } => lost_at,
        };
        let wait = waits_until.saturating_duration_since(now);
        if !wait.is_zero() {
            // A probe under way usually ends long before it counts as lost.
            let retry_after = wait.min(self.settings.reset_timeout.mul_f64(LONGEST));
            return Admittance::Refuse { retry_after };
        }
        self.era += 1;
        self.position = Position::HalfOpen {
            lost_at: now + self.settings.call_timeout,
        };
        Admittance::Send(Ticket { era: self.era })
    }

    /// The journal answered, whatever it said.
    pub fn succeeded(&mut self, ticket: &Ticket) {
        if ticket.era == self.era {
            self.position = Position::Closed { failures: 0 };
        }
    }

    /// The journal did not answer, or could not be reached. `random`, from 0
    /// inclusive to 1 exclusive, decides when the next probe goes out: after
    /// three to five quarters of the reset time-out, so that the nodes of a
    /// cluster do not probe together.
    pub fn failed(&mut self, ticket: &Ticket, now: Instant, random: f64) {
        if ticket.era != self.era {
            return;
        }
        if let Position::Closed { failures } = &mut self.position {
            *failures += 1;
            if *failures < self.settings.max_failures {
                return;
            }
        }
        let stretch = SHORTEST + (LONGEST - SHORTEST) * random.clamp(0.0, 1.0);
        self.era += 1;
        self.position = Position::Open {
            probe_at: now + self.settings.reset_timeout.mul_f64(stretch),
        };
    }

    /// Whether calls go through, for metrics and logs.
    #[must_use]
    pub fn state(&self) -> CircuitState {
        match self.position {
            Position::Closed { .. } => CircuitState::Closed,
            Position::Open { .. } => CircuitState::Open,
            Position::HalfOpen { .. } => CircuitState::HalfOpen,
        }
    }
}

/// The bounds of the time between probes, as parts of the reset time-out.
const SHORTEST: f64 = 0.75;
const LONGEST: f64 = 1.25;

#[cfg(test)]
mod circuit_breaker_test;
