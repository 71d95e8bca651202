//! The cluster at a glance: what this node knows of it, and what the nodes say of
//! themselves when they are asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::ShardNr;
use perennial_sharding::cluster_state::{ClusterState, Home, Member, Shard};
use perennial_sharding::control_plane::Leadership;
use perennial_sharding::peer::NodeFigures;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::figures::quantile;
use crate::node::cluster_view::ClusterView;

/// Who asks within it sees what was found last: many browsers cost as much as one.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// The cluster at one moment.
pub(super) struct Overview {
    pub(super) at: SystemTime,
    /// Whose page this is.
    pub(super) this_node: NodeNr,
    pub(super) state: Arc<ClusterState>,
    pub(super) leadership: Leadership,
    pub(super) voters: BTreeSet<NodeNr>,
    /// Of the nodes that answered.
    pub(super) figures: BTreeMap<NodeNr, NodeFigures>,
}

/// Where a shard is, as the picture shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// A node's.
    Owned(NodeNr),
    /// On its way from one node to another.
    Moving(NodeNr, NodeNr),
    /// A node's that waits for a former owner to be fenced.
    Fencing(NodeNr),
    /// Nobody's.
    Homeless,
}

impl Place {
    pub(super) fn of(shard: &Shard) -> Self {
        match shard.home {
            Home::Unassigned => Self::Homeless,
            Home::Owned { node, .. } if shard.unfenced.is_empty() => Self::Owned(node),
            Home::Owned { node, .. } => Self::Fencing(node),
            Home::HandingOff { from, to, .. } => Self::Moving(from, to),
        }
    }

    /// Who has it now.
    pub(super) fn owner(self) -> Option<NodeNr> {
        match self {
            Self::Owned(node) | Self::Moving(node, _) | Self::Fencing(node) => Some(node),
            Self::Homeless => None,
        }
    }
}

/// Figures of all nodes that answered, together.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Totals {
    pub(super) commands_per_second: f64,
    pub(super) failures_per_second: f64,
    pub(super) events_per_second: f64,
    pub(super) live_entities: u64,
    pub(super) commands_waiting: u64,
    pub(super) recoveries_running: u64,
    pub(super) recoveries_waiting: u64,
    pub(super) recoveries_max: u64,
    pub(super) p50: Option<Duration>,
    pub(super) p99: Option<Duration>,
    pub(super) history: Vec<u32>,
    /// Nodes whose journal does not answer.
    pub(super) without_journal: usize,
}

impl Overview {
    /// Shards by place, each list in order.
    pub(super) fn places(&self) -> BTreeMap<Place, Vec<ShardNr>> {
        let mut places: BTreeMap<Place, Vec<ShardNr>> = BTreeMap::new();
        for (nr, shard) in self.state.shards() {
            places.entry(Place::of(shard)).or_default().push(nr);
        }
        places
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &Member> {
        self.state.members.values()
    }

    /// By which a node is coloured, wherever it is shown: the same for as long as it
    /// lives, whoever comes and goes.
    pub(super) fn colour(&self, node: NodeNr) -> String {
        format!("n{}", node.0 % super::shard_picture::COLOURS)
    }

    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        let mut latencies: Vec<u32> = Vec::new();
        for figures in self.figures.values() {
            totals.commands_per_second += figures.commands_per_second;
            totals.failures_per_second += figures.failures_per_second;
            totals.events_per_second += figures.events_per_second;
            totals.live_entities += figures.live_entities;
            totals.commands_waiting += figures.commands_waiting;
            totals.recoveries_running += figures.recoveries_running;
            totals.recoveries_waiting += figures.recoveries_waiting;
            totals.recoveries_max += figures.recoveries_max;
            totals.without_journal += usize::from(!figures.journal_in_reach);
            add_up(&mut latencies, figures.latencies.iter());
            // The latest last: added up from the end.
            let mut latest_first: Vec<u32> = totals.history.iter().rev().copied().collect();
            add_up(&mut latest_first, figures.history.iter().rev());
            latest_first.reverse();
            totals.history = latest_first;
        }
        totals.p50 = quantile(&latencies, 0.5);
        totals.p99 = quantile(&latencies, 0.99);
        totals
    }
}

fn add_up<'a>(sum: &mut Vec<u32>, more: impl ExactSizeIterator<Item = &'a u32>) {
    sum.resize(sum.len().max(more.len()), 0);
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum = sum.saturating_add(*more);
    }
}

/// Looks at the cluster, not more often than makes sense.
pub(super) struct Observer {
    view: ClusterView,
    last: Mutex<Option<(Instant, Arc<Overview>)>>,
}

impl Observer {
    pub(super) fn new(view: ClusterView) -> Self {
        Self {
            view,
            last: Mutex::new(None),
        }
    }

    pub(super) async fn look(&self) -> Arc<Overview> {
        // Who comes while somebody looks waits, and sees the same.
        let mut last = self.last.lock().await;
        if let Some((at, overview)) = &*last
            && at.elapsed() < FRESH_FOR
        {
            return Arc::clone(overview);
        }
        let state = self.view.state();
        let overview = Arc::new(Overview {
            at: super::now(),
            this_node: self.view.node(),
            leadership: self.view.leadership(),
            voters: self.view.voters(),
            figures: self.view.figures(&state).await,
            state,
        });
        *last = Some((Instant::now(), Arc::clone(&overview)));
        overview
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn figures_of_nodes_are_added_up_and_lines_end_together() {
        let figures = |commands_per_second, history: &[u32], latencies: &[u32]| NodeFigures {
            commands_per_second,
            history: history.to_vec(),
            latencies: latencies.to_vec(),
            recoveries_max: 50,
            ..NodeFigures::default()
        };
        let overview = Overview {
            at: SystemTime::UNIX_EPOCH,
            this_node: NodeNr(1),
            state: Arc::new(ClusterState::new(Uuid::nil(), 1, 4)),
            leadership: Leadership::default(),
            voters: BTreeSet::new(),
            figures: BTreeMap::from([
                (NodeNr(1), figures(1.5, &[1, 2, 3], &[0, 99])),
                // Started a moment ago.
                (NodeNr(2), figures(2.0, &[10], &[0, 0, 1])),
            ]),
        };
        let totals = overview.totals();
        assert_eq!(totals.commands_per_second.to_bits(), 3.5_f64.to_bits());
        assert_eq!(totals.history, [1, 2, 13]);
        assert_eq!(totals.recoveries_max, 100);
        assert_eq!(totals.without_journal, 2);
        assert_eq!(totals.p50, quantile(&[0, 1], 0.5));
        assert_eq!(totals.p99, quantile(&[0, 1], 0.5));
    }
}
