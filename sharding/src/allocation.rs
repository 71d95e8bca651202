//! Where shards should be: homes for those without one, and the fewest moves that
//! balance the rest.
//!
//! Pure functions over a placement (shard to node), the nodes' weights and the ring's
//! preferences; the same input gives the same plan on every node. A cluster is
//! balanced when no node has more than its share of the shards rounded up, nor less
//! than it rounded down. Among plans of equally few moves, those are taken that
//! bring shards where the ring prefers them. When a plan is carried out, and how
//! much of it at once, is the business of `coordinator.rs`.

#[cfg(test)]
mod allocation_test;

use std::cmp::Reverse;
use std::collections::BTreeMap;

use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::ShardNr;

use crate::ring::Ring;

/// The nodes that may have shards, each with its share relative to the others.
pub type Weights = BTreeMap<NodeNr, u32>;

/// A shard that is to go from one node to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// The shard.
    pub shard: ShardNr,
    /// Where it is.
    pub from: NodeNr,
    /// Where it is to be.
    pub to: NodeNr,
}

/// How many shards a node should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// No fewer than that, inclusive.
    pub least: u32,
    /// No more than that, inclusive; `least` or one more.
    pub most: u32,
    /// Of the node.
    weight: u32,
}

/// Every node's share of the shards.
#[must_use]
pub fn shares(number_of_shards: u32, weights: &Weights) -> BTreeMap<NodeNr, Share> {
    let shards = u64::from(number_of_shards);
    let total: u64 = weights
        .values()
        .map(|&weight| u64::from(weight.max(1)))
        .sum();
    weights
        .iter()
        .map(|(&node, &weight)| {
            let weight = weight.max(1);
            let part = shards * u64::from(weight);
            // Not above the number of shards, which is a u32.
            let share = Share {
                least: (part / total) as u32,
                most: part.div_ceil(total) as u32,
                weight,
            };
            (node, share)
        })
        .collect()
}

/// How many shards each node has, beside how many it should have.
struct Counts {
    nodes: BTreeMap<NodeNr, (u32, Share)>,
    /// So many more nodes may have one shard above the least of their share.
    extras_left: u32,
}

impl Counts {
    fn of(placement: &[Option<NodeNr>], weights: &Weights) -> Self {
        // A cluster is formed with a u32 of shards.
        let number_of_shards = placement.len() as u32;
        let mut nodes: BTreeMap<NodeNr, (u32, Share)> = shares(number_of_shards, weights)
            .into_iter()
            .map(|(node, share)| (node, (0, share)))
            .collect();
        for node in placement.iter().flatten() {
            if let Some((count, _)) = nodes.get_mut(node) {
                *count += 1;
            }
        }
        let least: u32 = nodes.values().map(|(_, share)| share.least).sum();
        let above: u32 = nodes
            .values()
            .map(|(count, share)| count.saturating_sub(share.least))
            .sum();
        Self {
            nodes,
            extras_left: number_of_shards.saturating_sub(least).saturating_sub(above),
        }
    }

    fn below_least(&self, node: NodeNr) -> bool {
        self.nodes
            .get(&node)
            .is_some_and(|(count, share)| *count < share.least)
    }

    fn room_for_an_extra(&self, node: NodeNr) -> bool {
        self.extras_left > 0
            && self
                .nodes
                .get(&node)
                .is_some_and(|(count, share)| *count < share.most)
    }

    fn add(&mut self, node: NodeNr) {
        if let Some((count, share)) = self.nodes.get_mut(&node) {
            if *count >= share.least {
                self.extras_left = self.extras_left.saturating_sub(1);
            }
            *count += 1;
        }
    }

    /// Who is to get a shard that nobody is preferred for: below its least share
    /// if there is such a node, then the emptiest for its weight, then the lowest
    /// number.
    fn neediest(&self) -> Option<NodeNr> {
        let by_need = |(&node, &(count, share)): (&NodeNr, &(u32, Share))| {
            let rank = match count {
                _ if count < share.least => 0,
                _ if count < share.most => 1,
                _ => 2,
            };
            (rank, fill(count, share), node)
        };
        self.nodes
            .iter()
            .map(by_need)
            .min()
            .map(|(_, _, node)| node)
    }
}

/// Homes for `orphans`, shards that are without one in `placement`. The others stay
/// where they are, so a cluster that was balanced before is so afterwards. Nodes
/// that are not in `weights` get nothing. Empty if there is no node.
#[must_use]
pub fn homes_for(
    orphans: &[ShardNr],
    placement: &[Option<NodeNr>],
    weights: &Weights,
    ring: &Ring,
) -> Vec<(ShardNr, NodeNr)> {
    let mut counts = Counts::of(placement, weights);
    let mut homes = Vec::with_capacity(orphans.len());
    let mut homeless = orphans.to_vec();
    // Preferences first, as far as they leave every node its least share.
    for may_take in [Counts::below_least, Counts::room_for_an_extra] {
        homeless.retain(|&shard| {
            let preferred = ring
                .preferred(shard)
                .filter(|&node| may_take(&counts, node));
            if let Some(node) = preferred {
                counts.add(node);
                homes.push((shard, node));
            }
            preferred.is_none()
        });
    }
    for shard in homeless {
        let Some(node) = counts.neediest() else { break };
        counts.add(node);
        homes.push((shard, node));
    }
    homes.sort_unstable();
    homes
}

/// The fewest moves after which the cluster is balanced, in the order of their shards;
/// any first part of them makes progress. Empty while shards are without a home or
/// on nodes that are not in `weights`: first come homes, then balance.
#[must_use]
pub fn rebalance(placement: &[Option<NodeNr>], weights: &Weights, ring: &Ring) -> Vec<Move> {
    let settled: Option<Vec<NodeNr>> = placement
        .iter()
        .map(|node| node.filter(|node| weights.contains_key(node)))
        .collect();
    let Some(placement_now) = settled else {
        return Vec::new();
    };
    let (mut give, mut take) = balance(&Counts::of(placement, weights));
    let mut moves = Vec::new();
    let mut moved = vec![false; placement_now.len()];
    // Best are shards that prefer the receiver, then those that do not prefer where
    // they are, then any.
    for choice in [Choice::Preferred, Choice::Misplaced, Choice::Any] {
        for ((shard, &from), moved) in (0..).map(ShardNr).zip(&placement_now).zip(&mut moved) {
            if *moved || !give.contains_key(&from) {
                continue;
            }
            let preferred = ring.preferred(shard);
            let to = match choice {
                Choice::Preferred => preferred.filter(|node| take.contains_key(node)),
                Choice::Misplaced if preferred == Some(from) => None,
                Choice::Misplaced | Choice::Any => take
                    .iter()
                    .max_by_key(|&(&node, &count)| (count, Reverse(node)))
                    .map(|(&node, _)| node),
            };
            if let Some(to) = to {
                count_down(&mut give, from);
                count_down(&mut take, to);
                moves.push(Move { shard, from, to });
                *moved = true;
            }
        }
    }
    moves.sort_unstable_by_key(|step| step.shard);
    moves
}

/// Which shards of a node that gives are considered.
#[derive(Clone, Copy)]
enum Choice {
    Preferred,
    Misplaced,
    Any,
}

/// How many shards each node has to give, and how many to take: as few as can be,
/// equally many, and none of 0.
fn balance(counts: &Counts) -> (BTreeMap<NodeNr, u32>, BTreeMap<NodeNr, u32>) {
    let mut give = BTreeMap::new();
    let mut take = BTreeMap::new();
    for (&node, &(count, share)) in &counts.nodes {
        if count > share.most {
            give.insert(node, count - share.most);
        }
        if count < share.least {
            take.insert(node, share.least - count);
        }
    }
    let total = |map: &BTreeMap<NodeNr, u32>| map.values().sum::<u32>();
    // What exceeds the most some node may have goes beyond the least of others, and
    // what is missing to the least comes from those above theirs.
    while total(&give) > total(&take) {
        let receiver = counts
            .nodes
            .iter()
            .map(|(&node, &(count, share))| {
                let after = count + take.get(&node).copied().unwrap_or(0);
                (after, share, node)
            })
            .filter(|(after, share, _)| after < &share.most)
            .min_by_key(|&(after, share, node)| (fill(after, share), node));
        let Some((_, _, node)) = receiver else { break };
        *take.entry(node).or_insert(0) += 1;
    }
    while total(&take) > total(&give) {
        let giver = counts
            .nodes
            .iter()
            .map(|(&node, &(count, share))| {
                let after = count - give.get(&node).copied().unwrap_or(0);
                (after, share, node)
            })
            .filter(|(after, share, _)| after > &share.least)
            .max_by_key(|&(after, share, node)| (fill(after, share), Reverse(node)));
        let Some((_, _, node)) = giver else { break };
        *give.entry(node).or_insert(0) += 1;
    }
    (give, take)
}

/// Shards per weight, in fixed point: exact enough to compare, and without floats.
fn fill(count: u32, share: Share) -> u64 {
    (u64::from(count) << 32) / u64::from(share.weight)
}

fn count_down(counts: &mut BTreeMap<NodeNr, u32>, node: NodeNr) {
    if let Some(count) = counts.get_mut(&node) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&node);
        }
    }
}
