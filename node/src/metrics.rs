//! What a node measures about itself, for Prometheus.
//!
//! `metrics/table.rs` describes all metrics of the process. Those of commands are
//! recorded here, by `CommandMetrics`; the others where they arise, through the
//! `metrics` facade. `http.rs` shows them.

pub mod table;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    histogram,
};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use perennial_persistence::command::Answer;
use perennial_persistence::command_error::CommandError;

use self::table::{METRICS, MetricKind};
use crate::figures::CommandTally;
use crate::grpc::status::{REASONS, reason_of};

/// Upper bounds of the classes of every time, in seconds: from a command
/// answered out of memory to one that waited for a failover.
const SECONDS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0,
];
/// Upper bounds of the classes of every number of things.
const COUNTS: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0,
];

static RECORDER: Mutex<Option<PrometheusHandle>> = Mutex::new(None);

/// Starts recording in this process, once; later calls return the same handle,
/// because several nodes of one process share one recorder.
///
/// # Errors
/// [`BuildError`] when the process has another recorder already.
pub(crate) fn install() -> Result<PrometheusHandle, BuildError> {
    // Held while installing, so that who comes second finds the handle.
    let mut installed = RECORDER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*installed {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)?
        .set_buckets(COUNTS)?
        .install_recorder()?;
    describe();
    Ok(installed.insert(handle).clone())
}

fn describe() {
    for metric in METRICS {
        let unit = match metric.unit {
            "seconds" => Unit::Seconds,
            _ => Unit::Count,
        };
        match metric.kind {
            MetricKind::Counter => describe_counter!(metric.name, unit, metric.meaning),
            MetricKind::Gauge => describe_gauge!(metric.name, unit, metric.meaning),
            MetricKind::Histogram => describe_histogram!(metric.name, unit, metric.meaning),
        }
    }
}

/// Counters and clock of one entity type's commands. The handles are made once:
/// counting a command allocates nothing.
pub(crate) struct CommandMetrics {
    replied: Counter,
    duplicate: Counter,
    rejected: Counter,
    failed: BTreeMap<&'static str, Counter>,
    duration: Histogram,
    /// Of all types of the node.
    tally: Arc<CommandTally>,
}

impl CommandMetrics {
    pub(crate) fn new(entity_type: &'static str, tally: Arc<CommandTally>) -> Self {
        let count = |outcome: &'static str| counter!("perennial_commands_total", "entity_type" => entity_type, "outcome" => outcome);
        Self {
            replied: count("replied"),
            duplicate: count("duplicate"),
            rejected: count("rejected"),
            failed: REASONS
                .iter()
                .map(|reason| (*reason, count(reason)))
                .collect(),
            duration: histogram!("perennial_command_duration_seconds", "entity_type" => entity_type),
            tally,
        }
    }

    /// An answer that came after `elapsed`.
    pub(crate) fn answered(&self, answer: &Answer, elapsed: Duration) {
        self.duration.record(elapsed);
        let failed = !matches!(answer, Ok(_) | Err(CommandError::Rejected { .. }));
        self.tally.answered(elapsed, failed);
        match answer {
            Ok(reply) if reply.duplicate => self.duplicate.increment(1),
            Ok(_) => self.replied.increment(1),
            Err(CommandError::Rejected { .. }) => self.rejected.increment(1),
            Err(error) => self.count_failed(reason_of(error)),
        }
    }

    /// A command that was refused before it was handed on.
    pub(crate) fn refused(&self, reason: &str) {
        self.tally.refused();
        self.count_failed(reason);
    }

    fn count_failed(&self, reason: &str) {
        if let Some(counter) = self.failed.get(reason) {
            counter.increment(1);
        }
    }
}
