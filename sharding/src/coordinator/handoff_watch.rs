//! How long handoffs take, as far as one leader has seen them.
//!
//! See `coordinator.rs` for why an owner's deadline begins when it says that it
//! knows of the handoff. Nothing of this is replicated: a new leader gives every
//! handoff its full time again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr};

use crate::cluster_state::ClusterState;
use crate::failure_detector::FailureDetector;
use crate::lease::stretched;

/// The handoffs that are under way.
#[derive(Debug)]
pub(super) struct HandoffWatch {
    /// The time-out of the owner, stretched for the difference of clocks.
    patience: Duration,
    /// For the owner to say that it knows.
    notice_patience: Duration,
    handoffs: BTreeMap<ShardNr, Watched>,
}

#[derive(Debug)]
struct Watched {
    epoch: Epoch,
    seen_at: Instant,
    /// Who has applied the log up to here knows of the handoff.
    seen_index: u64,
    /// When the owner said that it knows.
    known_at: Option<Instant>,
}

/// What has taken too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdue {
    /// The owner knows of the handoff and has had its time.
    Drain {
        shard: ShardNr,
        session: SessionUuid,
        epoch: Epoch,
    },
    /// The owner has not even applied that part of the log.
    Notice { node: NodeNr, session: SessionUuid },
}

impl HandoffWatch {
    /// An owner says what it knows only in its heartbeats, and may miss as many of them
    /// as one that is alive: so many as come in `down_after`.
    pub(super) fn new(handoff_timeout: Duration, down_after: Duration) -> Self {
        let patience = stretched(handoff_timeout);
        Self {
            patience,
            notice_patience: patience.max(down_after),
            handoffs: BTreeMap::new(),
        }
    }

    /// Takes note of handoffs that began or ended, and of what owners know.
    pub(super) fn look(&mut self, state: &ClusterState, detector: &FailureDetector, now: Instant) {
        let mut before = std::mem::take(&mut self.handoffs);
        for (shard, owner, _) in state.handoffs() {
            let mut watched = before
                .remove(&shard)
                .filter(|watched| watched.epoch == owner.epoch)
                .unwrap_or(Watched {
                    epoch: owner.epoch,
                    seen_at: now,
                    seen_index: state.index,
                    known_at: None,
                });
            let applied = state
                .member(owner.node)
                .and_then(|member| detector.index_of(member));
            if watched.known_at.is_none() && applied >= Some(watched.seen_index) {
                watched.known_at = Some(now);
            }
            self.handoffs.insert(shard, watched);
        }
    }

    /// What has taken too long, by shard.
    pub(super) fn overdue(&self, state: &ClusterState, now: Instant) -> Vec<Overdue> {
        let mut overdue = Vec::new();
        for (shard, owner, _) in state.handoffs() {
            let Some(watched) = self.handoffs.get(&shard) else {
                continue;
            };
            if !self.is_overdue(watched, now) {
                continue;
            }
            overdue.push(match watched.known_at {
                Some(_) => Overdue::Drain {
                    shard,
                    session: owner.session,
                    epoch: owner.epoch,
                },
                None => Overdue::Notice {
                    node: owner.node,
                    session: owner.session,
                },
            });
        }
        overdue
    }

    /// Whether any handoff has taken too long.
    pub(super) fn is_one_overdue(&self, now: Instant) -> bool {
        self.handoffs
            .values()
            .any(|watched| self.is_overdue(watched, now))
    }

    fn is_overdue(&self, watched: &Watched, now: Instant) -> bool {
        now >= match watched.known_at {
            Some(known_at) => known_at + self.patience,
            None => watched.seen_at + self.notice_patience,
        }
    }
}
