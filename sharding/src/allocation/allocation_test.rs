//! Homes and moves: the field's traces, few moves, balance, and no dependence on
//! the order in which nodes are known.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::ShardNr;
use proptest::prelude::*;

use super::{Move, Weights, homes_for, rebalance, shares};
use crate::ring::Ring;

type Placement = Vec<Option<NodeNr>>;

fn equal(nodes: u64) -> Weights {
    (1..=nodes).map(|node| (NodeNr(node), 1)).collect()
}

/// Shards in order: the first `counts[0]` at node 1, and so on.
fn placed(counts: &[u32]) -> Placement {
    (1..)
        .zip(counts)
        .flat_map(|(node, &count)| (0..count).map(move |_| Some(NodeNr(node))))
        .collect()
}

fn counts(placement: &Placement, weights: &Weights) -> BTreeMap<NodeNr, u32> {
    let mut counts: BTreeMap<_, _> = weights.keys().map(|&node| (node, 0)).collect();
    for node in placement.iter().flatten() {
        *counts.entry(*node).or_default() += 1;
    }
    counts
}

fn carry_out(placement: &mut Placement, moves: &[Move]) {
    for step in moves {
        let home = &mut placement[step.shard.0 as usize];
        assert_eq!(*home, Some(step.from), "{step:?} begins where the shard is");
        *home = Some(step.to);
    }
}

fn settle(placement: &mut Placement, homes: &[(ShardNr, NodeNr)]) {
    for &(shard, node) in homes {
        placement[shard.0 as usize] = Some(node);
    }
}

fn orphans(placement: &Placement) -> Vec<ShardNr> {
    (0..)
        .map(ShardNr)
        .zip(placement)
        .filter(|(_, node)| node.is_none())
        .map(|(shard, _)| shard)
        .collect()
}

fn is_balanced(placement: &Placement, weights: &Weights) -> bool {
    let shares = shares(placement.len() as u32, weights);
    counts(placement, weights)
        .iter()
        .all(|(node, count)| (shares[node].least..=shares[node].most).contains(count))
}

/// From [1,2,0] to [1,1,1] and so on, as in the field's least-shard allocation.
#[test]
fn reference_traces() {
    for (before, moves, after) in [
        (&[1, 2, 0][..], 1, &[1, 1, 1][..]),
        (&[2, 0, 0], 1, &[0, 1, 1]),
        (&[1, 1, 0], 0, &[0, 1, 1]),
        (&[3, 0, 0], 2, &[1, 1, 1]),
        (&[4, 4, 0], 2, &[2, 3, 3]),
        (&[4, 4, 2], 1, &[3, 3, 4]),
        (&[5, 5, 0], 3, &[3, 3, 4]),
        (&[50, 0, 50], 33, &[33, 33, 34]),
        (&[1, 9, 0], 5, &[3, 3, 4]),
        (&[10, 0, 0], 6, &[3, 3, 4]),
    ] {
        let weights = equal(before.len() as u64);
        let ring = Ring::new(&weights);
        let mut placement = placed(before);
        let plan = rebalance(&placement, &weights, &ring);
        assert_eq!(plan.len(), moves, "{before:?}");
        carry_out(&mut placement, &plan);
        let mut sorted: Vec<_> = counts(&placement, &weights).into_values().collect();
        sorted.sort_unstable();
        assert_eq!(sorted, after, "{before:?}");
        assert_eq!(rebalance(&placement, &weights, &ring), [], "{before:?}");
    }
}

#[test]
fn a_new_shard_goes_where_the_fewest_are() {
    let weights = equal(3);
    let placement = vec![Some(NodeNr(1)), Some(NodeNr(2)), None];
    let homes = homes_for(&[ShardNr(2)], &placement, &weights, &Ring::new(&weights));
    assert_eq!(homes, [(ShardNr(2), NodeNr(3))]);
}

#[test]
fn without_nodes_nothing_is_planned() {
    let none = Weights::new();
    let ring = Ring::new(&none);
    assert_eq!(homes_for(&[ShardNr(0)], &[None], &none, &ring), []);
    assert_eq!(rebalance(&placed(&[3]), &none, &ring), []);
}

#[test]
fn shards_without_a_home_come_before_balance() {
    let weights = equal(2);
    let ring = Ring::new(&weights);
    let mut placement = placed(&[6, 0]);
    assert_eq!(rebalance(&placement, &weights, &ring).len(), 3);
    placement[0] = None;
    assert_eq!(rebalance(&placement, &weights, &ring), []);
    placement[0] = Some(NodeNr(3));
    assert_eq!(rebalance(&placement, &weights, &ring), []);
}

/// At first every shard is where the ring prefers it, but for the few that balance
/// needs elsewhere.
#[test]
fn first_homes_follow_the_ring() {
    let weights = equal(3);
    let ring = Ring::new(&weights);
    let placement = vec![None; 1024];
    let homes = homes_for(&orphans(&placement), &placement, &weights, &ring);
    let preferred = homes
        .iter()
        .filter(|(shard, node)| ring.preferred(*shard) == Some(*node))
        .count();
    assert!(preferred > 900, "{preferred} of 1024 are where they prefer");
    let mut settled = placement;
    settle(&mut settled, &homes);
    assert!(is_balanced(&settled, &weights));
}

/// Who comes back gets mostly what it had.
#[test]
fn moves_follow_the_ring() {
    let (three, four) = (equal(3), equal(4));
    let mut placement = vec![None; 1024];
    let first = homes_for(&orphans(&placement), &placement, &three, &Ring::new(&three));
    settle(&mut placement, &first);
    let ring = Ring::new(&four);
    let moves = rebalance(&placement, &four, &ring);
    assert_eq!(moves.len(), 256);
    let preferred = moves
        .iter()
        .filter(|step| ring.preferred(step.shard) == Some(step.to))
        .count();
    assert!(preferred > 200, "{preferred} of 256 prefer the new node");
}

#[test]
fn any_first_part_of_a_plan_makes_progress() {
    let weights = equal(3);
    let ring = Ring::new(&weights);
    let mut placement = placed(&[50, 0, 50]);
    let mut total = 0;
    loop {
        let plan = rebalance(&placement, &weights, &ring);
        if plan.is_empty() {
            break;
        }
        let wave = &plan[..plan.len().min(10)];
        total += wave.len();
        carry_out(&mut placement, wave);
    }
    assert_eq!(total, 33, "not more moves than all at once");
}

fn weights() -> impl Strategy<Value = Weights> {
    prop::collection::btree_map((1_u64..30).prop_map(NodeNr), 1_u32..5, 1..6)
}

/// Any placement of up to 60 shards on these nodes.
fn placement_on(weights: &Weights) -> impl Strategy<Value = Placement> + use<> {
    let nodes: Vec<NodeNr> = weights.keys().copied().collect();
    prop::collection::vec(prop::sample::select(nodes).prop_map(Some), 1..60)
}

fn cluster() -> impl Strategy<Value = (Weights, Placement)> {
    weights().prop_flat_map(|weights| {
        let placement = placement_on(&weights);
        (Just(weights), placement)
    })
}

/// The fewest moves that lead to any balanced cluster, by trying all of them.
fn fewest_moves(placement: &Placement, weights: &Weights) -> u32 {
    let shares: Vec<_> = shares(placement.len() as u32, weights)
        .into_values()
        .collect();
    let counts: Vec<u32> = counts(placement, weights).into_values().collect();
    let mut best = u32::MAX;
    for choice in 0..1_u32 << shares.len() {
        let targets: Vec<u32> = (0..)
            .zip(&shares)
            .map(|(bit, share)| {
                if choice >> bit & 1 == 1 {
                    share.most
                } else {
                    share.least
                }
            })
            .collect();
        if targets.iter().sum::<u32>() == placement.len() as u32 {
            let moves = counts
                .iter()
                .zip(&targets)
                .map(|(count, target)| count.saturating_sub(*target))
                .sum();
            best = best.min(moves);
        }
    }
    best
}

proptest! {
    #[test]
    fn a_plan_balances_with_the_fewest_moves((weights, placement) in cluster()) {
        let ring = Ring::new(&weights);
        let plan = rebalance(&placement, &weights, &ring);
        prop_assert_eq!(plan.len() as u32, fewest_moves(&placement, &weights));
        let mut after = placement;
        carry_out(&mut after, &plan);
        prop_assert!(is_balanced(&after, &weights));
    }

    #[test]
    fn every_orphan_gets_one_home_and_balance_is_kept(
        (weights, placement) in cluster(),
        lost in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
    ) {
        let ring = Ring::new(&weights);
        let mut placement = placement;
        let moves = rebalance(&placement, &weights, &ring);
        carry_out(&mut placement, &moves);
        for index in lost {
            let index = index.index(placement.len());
            placement[index] = None;
        }
        let orphans = orphans(&placement);
        let homes = homes_for(&orphans, &placement, &weights, &ring);
        prop_assert_eq!(homes.iter().map(|home| home.0).collect::<Vec<_>>(), orphans);
        settle(&mut placement, &homes);
        prop_assert!(is_balanced(&placement, &weights), "{:?}", counts(&placement, &weights));
    }

    /// A node that comes is the only one to get shards, and one that goes the only
    /// one to lose some.
    #[test]
    fn a_join_or_leave_moves_no_more_than_it_must(nodes in 1_u64..8, shards in 1_usize..300) {
        let before = equal(nodes);
        let mut placement = vec![None; shards];
        let first = homes_for(&orphans(&placement), &placement, &before, &Ring::new(&before));
        settle(&mut placement, &first);

        let after = equal(nodes + 1);
        let comer = NodeNr(nodes + 1);
        let moves = rebalance(&placement, &after, &Ring::new(&after));
        prop_assert!(moves.iter().all(|step| step.to == comer), "{:?}", moves);
        prop_assert!(moves.len() <= shards.div_ceil(nodes as usize + 1));
        carry_out(&mut placement, &moves);

        let goer = NodeNr(1);
        let mut rest = after;
        rest.remove(&goer);
        for home in placement.iter_mut().filter(|home| **home == Some(goer)) {
            *home = None;
        }
        let ring = Ring::new(&rest);
        let homes = homes_for(&orphans(&placement), &placement, &rest, &ring);
        settle(&mut placement, &homes);
        prop_assert_eq!(rebalance(&placement, &rest, &ring), vec![]);
    }

    /// Node numbers decide ties, and nothing else does: however the nodes became
    /// known, the plan is the same.
    #[test]
    fn no_plan_depends_on_the_order_of_nodes(
        ((weights, placement), shuffled) in cluster().prop_flat_map(|(weights, placement)| {
            let nodes: Vec<_> = weights.clone().into_iter().collect();
            (Just((weights, placement)), Just(nodes).prop_shuffle())
        })
    ) {
        let mut again = Weights::new();
        for (node, weight) in shuffled {
            again.insert(node, weight);
        }
        let (ring, ring_again) = (Ring::new(&weights), Ring::new(&again));
        prop_assert_eq!(
            rebalance(&placement, &weights, &ring),
            rebalance(&placement, &again, &ring_again)
        );
        let lost = vec![None; placement.len()];
        prop_assert_eq!(
            homes_for(&orphans(&lost), &lost, &weights, &ring),
            homes_for(&orphans(&lost), &lost, &again, &ring_again)
        );
    }
}
