//! Processor time of the processes that take part in a measurement.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::process_usage::{cpu_time, cpu_time_with_children};

/// Processor time used so far, or between two looks.
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

    /// In microseconds to one decimal, shared by so many commands; null for a
    /// process that takes no part.
    pub(super) fn per_command(&self, count: usize) -> Value {
        let each = |used: Duration| {
            let micros = used.as_secs_f64() * 1e6 / count.max(1) as f64;
            (micros * 10.0).round() / 10.0
        };
        json!({
            "server": self.server.map(each),
            "client": each(self.client),
            "postgres": self.postgres.map(each),
        })
    }
}
