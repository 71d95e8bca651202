//! What raft says of itself, as figures of this node.
//!
//! Recorded from openraft's own metrics whenever they change; nothing is decided by
//! them. What they mean is described by whoever shows them. Next: `leadership.rs`,
//! which watches the metrics.

use std::collections::BTreeMap;

use metrics::{Counter, Gauge, counter, gauge};
use openraft::{EmptyNode, RaftMetrics};

/// The figures of one member.
pub(super) struct Figures {
    term: Gauge,
    is_leader: Gauge,
    last_log_index: Gauge,
    applied_index: Gauge,
    snapshot_index: Gauge,
    apply_lag: Gauge,
    elections: Counter,
    /// By voter, while this node leads; those it has led before stay, at 0.
    lags: BTreeMap<u64, Gauge>,
    /// The latest term in which this node stood for election.
    stood_in: Option<u64>,
}

impl Figures {
    /// Of a member that has just been started: elections of its earlier lives do not
    /// count.
    pub(super) fn new(now: &RaftMetrics<u64, EmptyNode>) -> Self {
        Self {
            term: gauge!("perennial_raft_term"),
            is_leader: gauge!("perennial_raft_is_leader"),
            last_log_index: gauge!("perennial_raft_last_log_index"),
            applied_index: gauge!("perennial_raft_applied_index"),
            snapshot_index: gauge!("perennial_raft_snapshot_index"),
            apply_lag: gauge!("perennial_raft_apply_lag_entries"),
            elections: counter!("perennial_raft_elections_total"),
            lags: BTreeMap::new(),
            stood_in: term_stood_in(now),
        }
    }

    /// Records what is so now.
    pub(super) fn record(&mut self, now: &RaftMetrics<u64, EmptyNode>) {
        let last = now.last_log_index.unwrap_or(0);
        let applied = now.last_applied.map_or(0, |id| id.index);
        self.term.set(now.current_term as f64);
        let leads = now.current_leader == Some(now.id);
        self.is_leader.set(f64::from(u8::from(leads)));
        self.last_log_index.set(last as f64);
        self.applied_index.set(applied as f64);
        self.snapshot_index
            .set(now.snapshot.map_or(0, |id| id.index) as f64);
        self.apply_lag.set(last.saturating_sub(applied) as f64);
        let stood_in = term_stood_in(now);
        if stood_in > self.stood_in {
            self.elections.increment(1);
            self.stood_in = stood_in;
        }
        for (voter, lag) in voters_behind(now) {
            let lags = self.lags.entry(voter).or_insert_with(
                || gauge!("perennial_raft_replication_lag_entries", "node" => voter.to_string()),
            );
            lags.set(lag as f64);
        }
        let voters = |node: &u64| {
            now.membership_config
                .voter_ids()
                .any(|voter| voter == *node)
        };
        for (_, lag) in self.lags.iter().filter(|(node, _)| !leads || !voters(node)) {
            lag.set(0.0);
        }
    }
}

/// The term in which this node voted for itself, if that is the present one.
fn term_stood_in(now: &RaftMetrics<u64, EmptyNode>) -> Option<u64> {
    let vote = now.vote.leader_id();
    (vote.voted_for() == Some(now.id)).then_some(vote.term)
}

/// How many entries each voter lacks, in the eyes of the leader; nothing for others.
fn voters_behind(now: &RaftMetrics<u64, EmptyNode>) -> impl Iterator<Item = (u64, u64)> + '_ {
    let last = now.last_log_index.unwrap_or(0);
    let replication = now.replication.iter().flatten();
    let voters = replication.filter(|(node, _)| {
        let mut voters = now.membership_config.voter_ids();
        **node != now.id && voters.any(|voter| voter == **node)
    });
    voters.map(move |(node, matched)| {
        let matched = matched.map_or(0, |id| id.index);
        (*node, last.saturating_sub(matched))
    })
}
