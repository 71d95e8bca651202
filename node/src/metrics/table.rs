//! Every metric of a node in one table: what the recorder describes, what
//! `perennial metrics` prints and what `deploy/monitoring/METRICS.md` says are made
//! of it, so none of them can say something else.
//!
//! It records nothing. A test reads the sources of all crates and fails when they
//! record what does not stand here, or with other labels.

use std::fmt::Write;

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows while the process lives: look at its rate.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How often something was how much: `_bucket`, `_sum` and `_count`.
    Histogram,
}

/// A label, and what bounds the number of its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    /// As in a query.
    pub name: &'static str,
    /// Which values there are.
    pub values: &'static str,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct MetricInfo {
    /// As in a query; ends with `_total` if and only if it is a counter.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: MetricKind,
    /// What is counted or measured, in the plural.
    pub unit: &'static str,
    /// None of them grows with the entities, commands or clients there are.
    pub labels: &'static [Label],
    /// What the number says.
    pub meaning: &'static str,
    /// What a person does about it, and when.
    pub what_to_do: &'static str,
}

use MetricKind::{Counter, Gauge, Histogram};

const ENTITY_TYPE: Label = Label {
    name: "entity_type",
    values: "the registered types",
};
const ENTITY_TYPE_OR_UNKNOWN: Label = Label {
    name: "entity_type",
    values: "the registered types, and `unknown` for all others",
};
const OUTCOME: Label = Label {
    name: "outcome",
    values: "`replied`, `duplicate`, `rejected`, or the reason of the error",
};

const PORT: Label = Label {
    name: "port",
    values: "the node's ports",
};
const USE: Label = Label {
    name: "use",
    values: "what a certificate is for",
};

/// All metrics, by the part of the node they tell of.
pub static METRICS: &[MetricInfo] = &[
    MetricInfo {
        name: "perennial_commands_total",
        kind: Counter,
        unit: "commands",
        labels: &[ENTITY_TYPE_OR_UNKNOWN, OUTCOME],
        meaning: "Commands this node took on for clients, by how they ended. Counted where they \
                  entered the cluster, not where the entity lives.",
        what_to_do: "`rejected` and `duplicate` are the business of entities and clients. For reasons in \
                     capitals see the table of errors; alerts name those that need somebody.",
    },
    MetricInfo {
        name: "perennial_command_duration_seconds",
        kind: Histogram,
        unit: "seconds",
        labels: &[ENTITY_TYPE],
        meaning: "From taking a command on to its answer: the way to the owner, waiting, recovery and \
                  append included.",
        what_to_do: "When it rises, compare the times of appends and recoveries, `perennial_stash_depth` \
                     (one busy entity) and `perennial_region_waiting` (no home); a trace shows which it is.",
    },
    MetricInfo {
        name: "perennial_live_entities",
        kind: Gauge,
        unit: "entities",
        labels: &[],
        meaning: "Entities in memory.",
        what_to_do: "At `sharding.passivation.active_entity_limit` entities leave early: raise it if memory \
                     allows, or add a node.",
    },
    MetricInfo {
        name: "perennial_passivations_total",
        kind: Counter,
        unit: "entities",
        labels: &[Label {
            name: "reason",
            values: "`idle`, `limit`, `stopped`, `handoff`, `fenced`, `failed`, `deleted`",
        }],
        meaning: "Entities that left memory.",
        what_to_do: "Many by `limit` together with many recoveries: the working set does not fit. Many by \
                     `failed`: read the log.",
    },
    MetricInfo {
        name: "perennial_stash_depth",
        kind: Histogram,
        unit: "commands",
        labels: &[],
        meaning: "Commands found waiting when their entity was run.",
        what_to_do: "A high p99 is one busy entity: spread its load over several, or make its handler \
                     cheaper.",
    },
    MetricInfo {
        name: "perennial_stashed_commands",
        kind: Gauge,
        unit: "commands",
        labels: &[],
        meaning: "Commands that wait for entities or are put aside, of which a node has \
                  `persistence.stash_total` at most.",
        what_to_do: "Near the limit commands are refused: look for slow appends, or for an entity that \
                     stashes and never unstashes (`cluster describe`).",
    },
    MetricInfo {
        name: "perennial_stash_overflows_total",
        kind: Counter,
        unit: "commands",
        labels: &[Label {
            name: "limit",
            values: "`entity`, `node`",
        }],
        meaning: "Commands refused because too many waited, by the limit that was met.",
        what_to_do: "`entity`: one entity gets more than it can handle. `node`: all of them are behind; see \
                     the journal.",
    },
    MetricInfo {
        name: "perennial_entity_panics_total",
        kind: Counter,
        unit: "panics",
        labels: &[ENTITY_TYPE],
        meaning: "Panics of entities' own code.",
        what_to_do: "A bug of that type: the log has message and entity. Neighbours are not harmed.",
    },
    MetricInfo {
        name: "perennial_backoffs_forgotten_total",
        kind: Counter,
        unit: "entities",
        labels: &[],
        meaning: "Failures forgotten early because too many entities failed at once.",
        what_to_do: "Something makes entities fail in masses: find it in the log.",
    },
    MetricInfo {
        name: "perennial_recoveries_running",
        kind: Gauge,
        unit: "entities",
        labels: &[],
        meaning: "Entities that recover now, `persistence.max_concurrent_recoveries` at most.",
        what_to_do: "Nothing by itself; see those that wait.",
    },
    MetricInfo {
        name: "perennial_recoveries_waiting",
        kind: Gauge,
        unit: "entities",
        labels: &[],
        meaning: "Entities that wait for a permit to recover, first come first served.",
        what_to_do: "High after a takeover, and sinking: wait. Always high: raise \
                     `persistence.max_concurrent_recoveries` if the database has room, else the limit of \
                     entities in memory.",
    },
    MetricInfo {
        name: "perennial_recovery_duration_seconds",
        kind: Histogram,
        unit: "seconds",
        labels: &[],
        meaning: "From the permit to the first command.",
        what_to_do: "Long histories without snapshots make it long: `persistence.snapshot.every`. Else the \
                     database reads slowly.",
    },
    MetricInfo {
        name: "perennial_recovery_batch_size",
        kind: Histogram,
        unit: "entities",
        labels: &[],
        meaning: "Entities whose beginnings were read by one statement.",
        what_to_do: "Nothing: it grows with the load.",
    },
    MetricInfo {
        name: "perennial_recovery_failures_total",
        kind: Counter,
        unit: "recoveries",
        labels: &[ENTITY_TYPE],
        meaning: "Recoveries that failed because the history is damaged or its code does not understand it.",
        what_to_do: "Runbook, “Poisoned entity”. After an update: did event types change without an adapter?",
    },
    MetricInfo {
        name: "perennial_replay_filter_issues_total",
        kind: Counter,
        unit: "events",
        labels: &[ENTITY_TYPE],
        meaning: "Events of another writer found while recovering.",
        what_to_do: "Never in a healthy journal: run `perennial journal verify`; runbook, “Verify after an \
                     incident”.",
    },
    MetricInfo {
        name: "perennial_append_duration_seconds",
        kind: Histogram,
        unit: "seconds",
        labels: &[],
        meaning: "Time of one transaction that stores events.",
        what_to_do: "It is the floor of every command that stores: look at the database's disk, its \
                     synchronous standby, and the network to it.",
    },
    MetricInfo {
        name: "perennial_append_batch_size",
        kind: Histogram,
        unit: "events",
        labels: &[],
        meaning: "Events stored by one transaction; its `_sum` counts events.",
        what_to_do: "Nothing: it grows with the load, which is what keeps the number of transactions low.",
    },
    MetricInfo {
        name: "perennial_journal_circuit_state",
        kind: Gauge,
        unit: "state",
        labels: &[],
        meaning: "0: the journal is asked; 1: it is tried; 2: it failed and is left alone for a while.",
        what_to_do: "2 on all nodes: the database is gone; runbook, “Postgres switchover”. On one: the \
                     network between that node and the database.",
    },
    MetricInfo {
        name: "perennial_fenced_writes_total",
        kind: Counter,
        unit: "writes",
        labels: &[],
        meaning: "Times the journal refused this node's writes because its session is fenced.",
        what_to_do: "The node was taken for dead while it lived: look for pauses, partitions, or a machine \
                     without processor time. Nothing was lost.",
    },
    MetricInfo {
        name: "perennial_snapshots_skipped_total",
        kind: Counter,
        unit: "snapshots",
        labels: &[],
        meaning: "Snapshots not taken because too many were being written.",
        what_to_do: "Harmless now and then; always: the database is slow, and recoveries get longer.",
    },
    MetricInfo {
        name: "perennial_global_order_lag_seconds",
        kind: Gauge,
        unit: "seconds",
        labels: &[],
        meaning: "How far readers of all events are behind, because a transaction is open.",
        what_to_do: "Find the oldest transaction on the database server (`pg_stat_activity`, any database) \
                     and end it.",
    },
    MetricInfo {
        name: "perennial_published_events_missed_total",
        kind: Counter,
        unit: "events",
        labels: &[],
        meaning: "Events that subscribers in the process missed because they were too slow.",
        what_to_do: "They read them from the journal instead; always: make the subscriber faster.",
    },
    MetricInfo {
        name: "perennial_deliveries_unconfirmed_total",
        kind: Counter,
        unit: "deliveries",
        labels: &[],
        meaning: "Attempts to deliver from entity to entity that were not confirmed; they are repeated.",
        what_to_do: "When it keeps growing, a receiver does not reply: the log at level `debug` has its id.",
    },
    MetricInfo {
        name: "perennial_cluster_leader_known",
        kind: Gauge,
        unit: "flag",
        labels: &[],
        meaning: "1 while this node knows a leader.",
        what_to_do: "0 on all nodes: runbook, “Lost quorum”. On one: its network to the others.",
    },
    MetricInfo {
        name: "perennial_cluster_leader_changes_total",
        kind: Counter,
        unit: "changes",
        labels: &[],
        meaning: "Times that another node became the leader.",
        what_to_do: "Some with every update. Without one: slow disks or a busy network; raise \
                     `cluster.raft.election_min`.",
    },
    MetricInfo {
        name: "perennial_raft_apply_lag_entries",
        kind: Gauge,
        unit: "entries",
        labels: &[],
        meaning: "Log entries this node has and has not applied.",
        what_to_do: "When it stays high the node is short of processor time, and routes by old news.",
    },
    MetricInfo {
        name: "perennial_raft_term",
        kind: Gauge,
        unit: "term",
        labels: &[],
        meaning: "Present term of the raft group.",
        what_to_do: "Grows with every election; when it grows all the time, see the changes of leader.",
    },
    MetricInfo {
        name: "perennial_raft_is_leader",
        kind: Gauge,
        unit: "flag",
        labels: &[],
        meaning: "1 while this node leads.",
        what_to_do: "More than one for longer than moments: two groups; do all nodes share one database?",
    },
    MetricInfo {
        name: "perennial_raft_last_log_index",
        kind: Gauge,
        unit: "entries",
        labels: &[],
        meaning: "Index of the last log entry this node has.",
        what_to_do: "The same on all voters, or nearly; one that stands still is cut off or its disk does not answer.",
    },
    MetricInfo {
        name: "perennial_raft_applied_index",
        kind: Gauge,
        unit: "entries",
        labels: &[],
        meaning: "Index of the last log entry this node has applied.",
        what_to_do: "See the lag.",
    },
    MetricInfo {
        name: "perennial_raft_snapshot_index",
        kind: Gauge,
        unit: "entries",
        labels: &[],
        meaning: "Index of the last log entry in this node's snapshot.",
        what_to_do: "When it stands still while the log grows, snapshots fail: read the log.",
    },
    MetricInfo {
        name: "perennial_raft_replication_lag_entries",
        kind: Gauge,
        unit: "entries",
        labels: &[Label {
            name: "node",
            values: "the voters' numbers",
        }],
        meaning: "Log entries a voter lacks, in the eyes of the leader; 0 at others.",
        what_to_do: "One that does not catch up: its disk, its network, or it is gone.",
    },
    MetricInfo {
        name: "perennial_raft_elections_total",
        kind: Counter,
        unit: "elections",
        labels: &[],
        meaning: "Elections in which this node stood.",
        what_to_do: "Without an update or a failure: slow disks or a busy network; raise `cluster.raft.election_min`.",
    },
    MetricInfo {
        name: "perennial_raft_store_write_seconds",
        kind: Histogram,
        unit: "seconds",
        labels: &[],
        meaning: "Time of one write to the raft log on disk, fsync included.",
        what_to_do: "Beyond 100 ms leaders are missed: give the data directory a faster disk.",
    },
    MetricInfo {
        name: "perennial_shards",
        kind: Gauge,
        unit: "shards",
        labels: &[Label {
            name: "state",
            values: "`owned`, `handing_off`, `unassigned`, `waiting_for_fence`",
        }],
        meaning: "Shards of the cluster by state, as this node knows them.",
        what_to_do: "Any but `owned` for more than moments: runbook, “Stuck handoff”.",
    },
    MetricInfo {
        name: "perennial_shards_owned",
        kind: Gauge,
        unit: "shards",
        labels: &[],
        meaning: "Shards this node owns, those it hands off included.",
        what_to_do: "Uneven for long: `cluster.weight`, or a node that does not take what it is given.",
    },
    MetricInfo {
        name: "perennial_handoff_oldest_seconds",
        kind: Gauge,
        unit: "seconds",
        labels: &[],
        meaning: "Age of the oldest handoff under way.",
        what_to_do: "Beyond `sharding.handoff_timeout`: runbook, “Stuck handoff”.",
    },
    MetricInfo {
        name: "perennial_handoff_duration_seconds",
        kind: Histogram,
        unit: "seconds",
        labels: &[],
        meaning: "At the old owner: from learning that a shard is to go to its being free.",
        what_to_do: "Long: entities of the shard wait for something outside, or appends are slow.",
    },
    MetricInfo {
        name: "perennial_shard_homeless_seconds",
        kind: Histogram,
        unit: "seconds",
        labels: &[],
        meaning: "How long a shard had no home, as this node saw it; its commands waited.",
        what_to_do: "After a death it is about `cluster.down_after`. In planned movements it is what clients \
                     feel.",
    },
    MetricInfo {
        name: "perennial_region_waiting",
        kind: Gauge,
        unit: "commands",
        labels: &[],
        meaning: "Commands that wait for a home of their shard.",
        what_to_do: "When it does not sink within seconds, shards are homeless: runbook, “Stuck handoff”.",
    },
    MetricInfo {
        name: "perennial_region_buffered_total",
        kind: Counter,
        unit: "commands",
        labels: &[],
        meaning: "Commands that had to wait for a home.",
        what_to_do: "Some with each movement; always: shards move too much.",
    },
    MetricInfo {
        name: "perennial_region_forwarded_total",
        kind: Counter,
        unit: "commands",
        labels: &[],
        meaning: "Commands sent to another node.",
        what_to_do: "Nothing: with n nodes (n − 1)/n of all, unless clients know the owners.",
    },
    MetricInfo {
        name: "perennial_region_returned_total",
        kind: Counter,
        unit: "commands",
        labels: &[],
        meaning: "Commands that an owner gave back because its shard had moved; they are routed anew.",
        what_to_do: "Nothing while shards move; at other times it should not grow.",
    },
    MetricInfo {
        name: "perennial_region_resent_total",
        kind: Counter,
        unit: "commands",
        labels: &[],
        meaning: "Commands sent again after the connection to their owner was lost.",
        what_to_do: "Look for what breaks connections between nodes.",
    },
    MetricInfo {
        name: "perennial_region_owner_lost_total",
        kind: Counter,
        unit: "commands",
        labels: &[],
        meaning: "Commands answered OWNER_LOST: their owner was lost before it answered, and they had no \
                  command id.",
        what_to_do: "Give commands ids: then they are sent again by themselves.",
    },
    MetricInfo {
        name: "perennial_link_outstanding",
        kind: Gauge,
        unit: "commands",
        labels: &[Label {
            name: "node",
            values: "the other nodes' numbers",
        }],
        meaning: "Commands sent to another node and not answered.",
        what_to_do: "Higher towards one node than to the others: that one is slow.",
    },
    MetricInfo {
        name: "perennial_connections",
        kind: Gauge,
        unit: "connections",
        labels: &[PORT],
        meaning: "Connections, those included that have not shaken hands yet.",
        what_to_do: "Near its limit new ones are refused: see which clients open so many.",
    },
    MetricInfo {
        name: "perennial_auth_denials_total",
        kind: Counter,
        unit: "calls",
        labels: &[Label {
            name: "reason",
            values: "what is wrong with the token, or `right_` and the right that is missing",
        }],
        meaning: "Calls of clients that were refused because they are not known or may not.",
        what_to_do: "`expired`: a client does not renew its token. `key_unknown`: bring the issuer's new keys. \
                     `right_…`: a rule is missing, or somebody tries; admin calls are in the audit log.",
    },
    MetricInfo {
        name: "perennial_jwks_reloads_total",
        kind: Counter,
        unit: "files",
        labels: &[Label {
            name: "result",
            values: "`replaced`, `failed`",
        }],
        meaning: "Times that the file with the keys of tokens changed.",
        what_to_do: "`failed`: the keys before it stay in use; the log says what is wrong with the file.",
    },
    MetricInfo {
        name: "perennial_jwks_keys",
        kind: Gauge,
        unit: "keys",
        labels: &[],
        meaning: "Keys that tokens are checked with.",
        what_to_do: "One more than usual while the issuer changes keys; less than expected: the log says which are left out.",
    },
    MetricInfo {
        name: "perennial_connections_refused_total",
        kind: Counter,
        unit: "connections",
        labels: &[
            PORT,
            Label {
                name: "reason",
                values: "a fixed set of words",
            },
        ],
        meaning: "Connections that were not taken, or ended for what they did.",
        what_to_do: "Limits met: too many clients, or a hostile one. Handshakes that fail: certificates \
                     that do not fit, or plain text where TLS is expected.",
    },
    MetricInfo {
        name: "perennial_slow_readers_total",
        kind: Counter,
        unit: "streams",
        labels: &[],
        meaning: "Streams that were ended because their client did not read.",
        what_to_do: "Look at the client: it asks for more than it takes.",
    },
    MetricInfo {
        name: "perennial_certificate_expiry_timestamp_seconds",
        kind: Gauge,
        unit: "seconds",
        labels: &[USE],
        meaning: "When the certificate that is used ends, in seconds since 1970.",
        what_to_do: "Two weeks before: runbook, “Rotate certificates”.",
    },
    MetricInfo {
        name: "perennial_certificate_reloads_total",
        kind: Counter,
        unit: "reloads",
        labels: &[
            USE,
            Label {
                name: "result",
                values: "`ok`, `failed`",
            },
        ],
        meaning: "Certificates that have changed on disk, by whether they could be used.",
        what_to_do: "`failed`: the one before stays in use; the log says what is wrong with the new one.",
    },
    MetricInfo {
        name: "perennial_trace_spans_dropped_total",
        kind: Counter,
        unit: "spans",
        labels: &[Label {
            name: "reason",
            values: "`queue_full`, `not_sent`",
        }],
        meaning: "Spans of traces that the collector does not get. Commands are not affected.",
        what_to_do: "`not_sent`: the log says what is wrong with `telemetry.otlp.endpoint`, or with the collector \
                     there. `queue_full`: it is too slow, or too much is traced: lower `telemetry.otlp.sampling`.",
    },
];

/// The table in Markdown, as `perennial metrics` prints it.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         What a node says at `/metrics`, for Prometheus. Printed by `perennial metrics`: to change it, change\n\
         `node/src/metrics/table.rs`. Times are in seconds. No label grows with the entities, commands or\n\
         clients there are.\n\n\
         | name | type | unit | labels | meaning | what to do |\n\
         |---|---|---|---|---|---|\n",
    );
    for metric in METRICS {
        let kind = match metric.kind {
            Counter => "counter",
            Gauge => "gauge",
            Histogram => "histogram",
        };
        let label = |label: &Label| format!("`{}`: {}", label.name, label.values);
        let labels: Vec<String> = metric.labels.iter().map(label).collect();
        // Writing to a text cannot fail.
        let _ = writeln!(
            text,
            "| `{}` | {kind} | {} | {} | {} | {} |",
            metric.name,
            metric.unit,
            labels.join("; "),
            metric.meaning,
            metric.what_to_do,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_the_rules_and_stand_once() {
        let mut names = BTreeSet::new();
        for metric in METRICS {
            let name = metric.name;
            assert!(names.insert(name), "{name} stands twice");
            assert!(name.starts_with("perennial_"), "{name}");
            assert_eq!(
                name.ends_with("_total"),
                metric.kind == Counter,
                "{name}: counters, and only they, end with _total"
            );
            assert_eq!(
                name.ends_with("_seconds"),
                metric.unit == "seconds",
                "{name}: buckets are chosen by the end of the name"
            );
            let texts = [metric.unit, metric.meaning, metric.what_to_do];
            for text in texts
                .iter()
                .chain(metric.labels.iter().map(|label| &label.values))
            {
                assert!(
                    !text.is_empty() && !text.contains(['|', '\n']),
                    "{name}: {text:?}"
                );
            }
        }
    }
}
