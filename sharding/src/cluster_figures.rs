//! What a node measures about its cluster, as far as it can see.
//!
//! Follows the replicated state and who leads, and records it through the `metrics`
//! facade. Decides nothing and asks nobody. Next: `region/figures.rs` for commands
//! between nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::ShardNr;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::cluster_state::{ClusterState, Home};
use crate::control_plane::ControlPlane;

/// How often ages are measured anew when nothing else happens.
const UPKEEP: Duration = Duration::from_secs(1);

/// Records the cluster's figures until the control plane ends. `node` is this one.
/// Safe to cancel.
pub async fn record_cluster(control: &impl ControlPlane, node: NodeNr) {
    let leader_known = metrics::gauge!("perennial_cluster_leader_known");
    let leader_changes = metrics::counter!("perennial_cluster_leader_changes_total");
    let shards_owned = metrics::gauge!("perennial_shards_owned");
    let handoff_oldest = metrics::gauge!("perennial_handoff_oldest_seconds");
    let (mut state, mut leadership) = (control.state(), control.leadership());
    let mut upkeep = interval(UPKEEP);
    upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_leader = None;
    let mut handoffs = BTreeMap::new();
    loop {
        let leader = leadership.borrow_and_update().leader;
        leader_known.set(f64::from(u8::from(leader.is_some())));
        if leader.is_some() && leader != last_leader {
            if last_leader.is_some() {
                leader_changes.increment(1);
            }
            last_leader = leader;
        }
        {
            let state = state.borrow_and_update();
            let count = Count::of(&state, node);
            shards_owned.set(f64::from(count.here));
            for (name, shards) in count.by_state() {
                metrics::gauge!("perennial_shards", "state" => name).set(f64::from(shards));
            }
            let now = Instant::now();
            follow_handoffs(&state, &mut handoffs, now);
            let oldest = handoffs.values().min();
            let age = oldest.map_or(Duration::ZERO, |&since| now.duration_since(since));
            handoff_oldest.set(age.as_secs_f64());
        }
        let goes_on = tokio::select! {
            changed = state.changed() => changed.is_ok(),
            changed = leadership.changed() => changed.is_ok(),
            _ = upkeep.tick() => true,
        };
        if !goes_on {
            return;
        }
    }
}

/// How many shards there are of each kind.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    owned: u32,
    handing_off: u32,
    unassigned: u32,
    /// Owned, but not recovered from before a former owner is fenced.
    waiting_for_fence: u32,
    /// Owned by this node, also while it hands them off.
    here: u32,
}

impl Count {
    fn of(state: &ClusterState, node: NodeNr) -> Self {
        let mut count = Self::default();
        for shard in &state.shards {
            let (kind, owner) = match shard.home {
                Home::Unassigned => (&mut count.unassigned, None),
                Home::Owned { node, .. } if !shard.unfenced.is_empty() => {
                    (&mut count.waiting_for_fence, Some(node))
                }
                Home::Owned { node, .. } => (&mut count.owned, Some(node)),
                Home::HandingOff { from, .. } => (&mut count.handing_off, Some(from)),
            };
            *kind += 1;
            count.here += u32::from(owner == Some(node));
        }
        count
    }

    fn by_state(&self) -> [(&'static str, u32); 4] {
        [
            ("owned", self.owned),
            ("handing_off", self.handing_off),
            ("unassigned", self.unassigned),
            ("waiting_for_fence", self.waiting_for_fence),
        ]
    }
}

/// Remembers since when each handoff under way has been seen.
fn follow_handoffs(
    state: &ClusterState,
    handoffs: &mut BTreeMap<(ShardNr, u64), Instant>,
    now: Instant,
) {
    let under_way = |&(shard, epoch): &(ShardNr, u64)| {
        let shard = state.shards.get(shard.0 as usize);
        shard.is_some_and(|shard| {
            matches!(shard.home, Home::HandingOff { .. }) && shard.epoch.0 == epoch
        })
    };
    handoffs.retain(|handoff, _| under_way(handoff));
    for (nr, shard) in (0..).zip(&state.shards) {
        if matches!(shard.home, Home::HandingOff { .. }) {
            let handoff = (ShardNr(nr), shard.epoch.0);
            handoffs.entry(handoff).or_insert(now);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use perennial_persistence::writer::{Epoch, SessionUuid};
    use uuid::Uuid;

    use super::*;

    fn owned(node: u64) -> Home {
        Home::Owned {
            node: NodeNr(node),
            session: SessionUuid(Uuid::from_u128(node.into())),
        }
    }

    #[test]
    fn every_shard_is_counted_once() {
        let mut state = ClusterState::new(Uuid::nil(), 1, 5);
        state.shards[0].home = owned(1);
        state.shards[1].home = owned(2);
        state.shards[2].home = owned(1);
        state.shards[2]
            .unfenced
            .insert(SessionUuid(Uuid::from_u128(2)));
        state.shards[3].home = Home::HandingOff {
            from: NodeNr(1),
            session: SessionUuid(Uuid::from_u128(1)),
            to: NodeNr(2),
        };
        let count = Count::of(&state, NodeNr(1));
        let expected = Count {
            owned: 2,
            handing_off: 1,
            unassigned: 1,
            waiting_for_fence: 1,
            here: 3,
        };
        assert_eq!(count, expected);
        assert_eq!(count.by_state().iter().map(|(_, n)| n).sum::<u32>(), 5);
    }

    #[test]
    fn a_handoff_has_an_age_until_it_ends_and_the_next_one_its_own() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut state = ClusterState::new(Uuid::nil(), 1, 1);
        let mut handoffs = BTreeMap::new();
        let handing_off = Home::HandingOff {
            from: NodeNr(1),
            session: SessionUuid(Uuid::nil()),
            to: NodeNr(2),
        };
        state.shards[0].home = handing_off;
        follow_handoffs(&state, &mut handoffs, start);
        follow_handoffs(&state, &mut handoffs, start + second);
        assert_eq!(handoffs.values().copied().min(), Some(start));
        state.shards[0].epoch = Epoch(state.shards[0].epoch.0 + 1);
        follow_handoffs(&state, &mut handoffs, start + second);
        assert_eq!(handoffs.values().copied().min(), Some(start + second));
        state.shards[0].home = Home::Unassigned;
        follow_handoffs(&state, &mut handoffs, start + second);
        assert!(handoffs.is_empty());
    }
}
