//! I-1: for a shard and an epoch there is one owner, and epochs of a shard only grow.
//! And what that rests on: at the same place of the log all nodes know the same.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr};
use perennial_sharding::cluster_state::ClusterState;
use xxhash_rust::xxh3::Xxh3;

use crate::network::Host;
use crate::verdict::Verdict;

#[derive(Default)]
pub(super) struct OneHome {
    owners: BTreeMap<(ShardNr, Epoch), (NodeNr, SessionUuid)>,
    /// The state at each index that was seen, as a number.
    states: BTreeMap<(u32, u64), u64>,
}

impl OneHome {
    pub(super) fn look(
        &mut self,
        host: Host,
        before: Option<&ClusterState>,
        state: &ClusterState,
        now: u64,
        verdict: &Verdict,
    ) {
        for (shard, is) in state.shards() {
            let was = before.and_then(|before| before.shard(shard));
            if let Some(was) = was
                && was.epoch > is.epoch
            {
                let what = format!(
                    "{host:?}: the epoch of shard {shard} was {} and is {}",
                    was.epoch, is.epoch
                );
                verdict.violated("I-1", now, what);
            }
            let Some(owner) = state.owner_of(shard) else {
                continue;
            };
            let is = (owner.node, owner.session);
            let known = *self.owners.entry((shard, owner.epoch)).or_insert(is);
            if known != is {
                let what = format!(
                    "{host:?}: shard {shard} is owned by {is:?} under epoch {}, as it was by {known:?}",
                    owner.epoch
                );
                verdict.violated("I-1", now, what);
            }
        }
        let mut hasher = Xxh3::new();
        state.hash(&mut hasher);
        let hash = hasher.finish();
        let place = (state.generation, state.index);
        let known = *self.states.entry(place).or_insert(hash);
        if known != hash {
            let what = format!(
                "{host:?} knows another state at index {} than others did",
                state.index
            );
            verdict.violated("I-1", now, what);
        }
    }
}
