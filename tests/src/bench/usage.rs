//! Processor time of the processes that take part in a measurement.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::process_usage::{cpu_time, cpu_time_with_children};

/// Processor time used so far, or between two looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    server: Option<Duration>,
    client: Duration,
    postgres: Option<Duration>,
}

impl Usage {
    /// What the processes have used until now; the client is this process.
    pub(super) fn now(server: Option<u32>, postgres: Option<u32>) -> Result<Self> {
        Ok(Self {
            server: server.map(cpu_time).transpose()?,
            client: cpu_time(std::process::id())?,
            postgres: postgres.map(cpu_time_with_children).transpose()?,
        })
    }

    pub(super) fn since(&self, before: &Self) -> Self {
        let passed = |now: Option<Duration>, before| Some(now?.saturating_sub(before?));
        Self {
            server: passed(self.server, before.server),
            client: self.client.saturating_sub(before.client),
            postgres: passed(self.postgres, before.postgres),
        }
    }

    /// What two stretches of time used together.
    pub(super) fn plus(&self, other: &Self) -> Self {
        let both = |one: Option<Duration>, other| Some(one? + other?);
        Self {
            server: both(self.server, other.server),
            client: self.client + other.client,
            postgres: both(self.postgres, other.postgres),
        }
    }

    /// Shared by so many operations.
    pub(super) fn per_operation(&self, count: u64) -> Cost {
        let each = |used: Duration| used.as_secs_f64() * 1e6 / count.max(1) as f64;
        Cost {
            server: self.server.map(each),
            client: each(self.client),
            postgres: self.postgres.map(each),
        }
    }
}

/// Processor time of one operation, in microseconds; `None` for a process that
/// takes no part.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    server: Option<f64>,
    client: f64,
    postgres: Option<f64>,
}

impl Cost {
    /// Of all processes.
    pub(super) fn total(&self) -> f64 {
        self.server.unwrap_or(0.0) + self.client + self.postgres.unwrap_or(0.0)
    }

    /// To one decimal.
    pub(super) fn to_json(self) -> Value {
        json!({
            "server": self.server.map(one_decimal),
            "client": one_decimal(self.client),
            "postgres": self.postgres.map(one_decimal),
            "total": one_decimal(self.total()),
        })
    }
}

/// Rounds for people.
pub(super) fn one_decimal(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// One number in parts of another, to two decimals.
pub(super) fn ratio(value: f64, of: f64) -> f64 {
    (value / of * 100.0).round() / 100.0
}
