//! What a node measures about itself, for Prometheus.
//!
//! All metrics of the process are described here, with their units. Those of
//! commands are recorded by [`CommandMetrics`]; those of the engine by the
//! engine, through the `metrics` facade. `http.rs` shows them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    histogram,
};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use perennial_persistence::command::Answer;
use perennial_persistence::command_error::CommandError;

use crate::connections::{CONNECTIONS, REFUSED};
use crate::grpc::paced::SLOW_READERS;
use crate::grpc::status::{REASONS, reason_of};
use crate::tls::reload::{EXPIRY, RELOADS};

const COMMANDS: &str = "perennial_commands_total";
pub(crate) const LIVE_ENTITIES: &str = "perennial_live_entities";
const COMMAND_DURATION: &str = "perennial_command_duration_seconds";

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
    describe_counter!(
        COMMANDS,
        Unit::Count,
        "Commands by entity type and outcome."
    );
    describe_histogram!(
        COMMAND_DURATION,
        Unit::Seconds,
        "From taking a command on to its answer."
    );
    describe_gauge!(
        "perennial_live_entities",
        Unit::Count,
        "Entities in memory."
    );
    describe_gauge!(
        "perennial_cluster_leader_known",
        Unit::Count,
        "1 while this node knows a leader."
    );
    describe_counter!(
        "perennial_cluster_leader_changes_total",
        Unit::Count,
        "Times that another node became the leader."
    );
    describe_gauge!(
        "perennial_shards",
        Unit::Count,
        "Shards of the cluster by state, as this node knows them."
    );
    describe_gauge!(
        "perennial_shards_owned",
        Unit::Count,
        "Shards this node owns."
    );
    describe_gauge!(
        "perennial_handoff_oldest_seconds",
        Unit::Seconds,
        "Age of the oldest handoff under way."
    );
    describe_raft();
    describe_counter!(
        "perennial_fenced_writes_total",
        Unit::Count,
        "Writes the journal refused because their session is fenced."
    );
    describe_gauge!(
        "perennial_recoveries_running",
        Unit::Count,
        "Entities that recover now."
    );
    describe_gauge!(
        "perennial_recoveries_waiting",
        Unit::Count,
        "Entities that wait for a permit to recover."
    );
    describe_histogram!(
        "perennial_recovery_duration_seconds",
        Unit::Seconds,
        "From the permit to the first command."
    );
    describe_counter!(
        "perennial_passivations_total",
        Unit::Count,
        "Entities that left memory, by reason."
    );
    describe_counter!(
        "perennial_recovery_failures_total",
        Unit::Count,
        "Recoveries that failed, by entity type."
    );
    describe_counter!(
        "perennial_replay_filter_issues_total",
        Unit::Count,
        "Events of another writer found while recovering, by entity type."
    );
    describe_counter!(
        "perennial_backoffs_forgotten_total",
        Unit::Count,
        "Failures forgotten early because too many entities failed."
    );
    describe_gauge!(
        "perennial_journal_circuit_state",
        Unit::Count,
        "0: the journal is asked; 1: it is tried; 2: it failed and is left alone."
    );
    describe_counter!(
        "perennial_stash_overflows_total",
        Unit::Count,
        "Commands refused because too many waited, by the limit that was met."
    );
    describe_gauge!(
        "perennial_stashed_commands",
        Unit::Count,
        "Commands that wait for entities or are put aside, of which a node has stash_total at most."
    );
    describe_counter!(
        "perennial_snapshots_skipped_total",
        Unit::Count,
        "Snapshots not taken because too many were being written."
    );
    describe_histogram!(
        "perennial_append_batch_size",
        Unit::Count,
        "Events stored by one transaction."
    );
    describe_histogram!(
        "perennial_append_duration_seconds",
        Unit::Seconds,
        "Time of one transaction that stores events."
    );
    describe_region();
    describe_connections();
    describe_histogram!(
        "perennial_stash_depth",
        Unit::Count,
        "Commands found waiting when their entity was run."
    );
}

/// Of the ports and their certificates.
fn describe_connections() {
    describe_gauge!(
        CONNECTIONS,
        Unit::Count,
        "Connections by port, those included that have not shaken hands yet."
    );
    describe_counter!(
        REFUSED,
        Unit::Count,
        "Connections that were not taken, or ended for what they did, by port and reason."
    );
    describe_counter!(
        SLOW_READERS,
        Unit::Count,
        "Streams that were ended because their client did not read."
    );
    describe_gauge!(
        EXPIRY,
        Unit::Seconds,
        "When the certificate that is used ends, in seconds since 1970."
    );
    describe_counter!(
        RELOADS,
        Unit::Count,
        "Certificates that have changed on disk, by whether they could be used."
    );
}

/// Of the raft group, as this node takes part in it.
fn describe_raft() {
    for (name, what) in [
        ("perennial_raft_term", "Present term of the raft group."),
        ("perennial_raft_is_leader", "1 while this node leads."),
        (
            "perennial_raft_last_log_index",
            "Index of the last log entry this node has.",
        ),
        (
            "perennial_raft_applied_index",
            "Index of the last log entry this node has applied.",
        ),
        (
            "perennial_raft_snapshot_index",
            "Index of the last log entry in this node's snapshot.",
        ),
        (
            "perennial_raft_apply_lag_entries",
            "Log entries this node has and has not applied.",
        ),
        (
            "perennial_raft_replication_lag_entries",
            "Log entries a voter lacks, by node, in the eyes of the leader; 0 at others.",
        ),
    ] {
        describe_gauge!(name, Unit::Count, what);
    }
    describe_counter!(
        "perennial_raft_elections_total",
        Unit::Count,
        "Elections in which this node stood."
    );
    describe_histogram!(
        "perennial_raft_store_write_seconds",
        Unit::Seconds,
        "Time of one write to the raft log on disk, fsync included."
    );
}

/// Of the shard region: what happens to commands between nodes.
fn describe_region() {
    describe_gauge!(
        "perennial_region_waiting",
        Unit::Count,
        "Commands that wait for a home of their shard."
    );
    for (name, what) in [
        ("buffered", "Commands that had to wait for a home."),
        ("forwarded", "Commands sent to another node."),
        ("returned", "Commands that an owner gave back."),
        ("resent", "Commands sent again after a connection was lost."),
        (
            "owner_lost",
            "Commands whose owner was lost before it answered.",
        ),
    ] {
        describe_counter!(format!("perennial_region_{name}_total"), Unit::Count, what);
    }
    describe_histogram!(
        "perennial_shard_homeless_seconds",
        Unit::Seconds,
        "How long a shard had no home, as this node saw it."
    );
    describe_histogram!(
        "perennial_handoff_duration_seconds",
        Unit::Seconds,
        "From learning that a shard is to go to its being free."
    );
}

/// Counters and clock of one entity type's commands. The handles are made once:
/// counting a command allocates nothing.
pub(crate) struct CommandMetrics {
    replied: Counter,
    duplicate: Counter,
    rejected: Counter,
    failed: BTreeMap<&'static str, Counter>,
    duration: Histogram,
}

impl CommandMetrics {
    pub(crate) fn new(entity_type: &'static str) -> Self {
        let count = |outcome: &'static str| counter!(COMMANDS, "entity_type" => entity_type, "outcome" => outcome);
        Self {
            replied: count("replied"),
            duplicate: count("duplicate"),
            rejected: count("rejected"),
            failed: REASONS
                .iter()
                .map(|reason| (*reason, count(reason)))
                .collect(),
            duration: histogram!(COMMAND_DURATION, "entity_type" => entity_type),
        }
    }

    /// An answer that came after `elapsed`.
    pub(crate) fn answered(&self, answer: &Answer, elapsed: Duration) {
        self.duration.record(elapsed);
        match answer {
            Ok(reply) if reply.duplicate => self.duplicate.increment(1),
            Ok(_) => self.replied.increment(1),
            Err(CommandError::Rejected { .. }) => self.rejected.increment(1),
            Err(error) => self.refused(reason_of(error)),
        }
    }

    /// A command that was refused before it was handed on.
    pub(crate) fn refused(&self, reason: &str) {
        if let Some(counter) = self.failed.get(reason) {
            counter.increment(1);
        }
    }
}
