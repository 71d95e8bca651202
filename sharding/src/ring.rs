//! The consistent-hash ring: which node a shard prefers.
//!
//! Only a preference. Where shards are is said by the table (`cluster_state.rs`),
//! and how many a node may have by `allocation.rs`; the ring makes the same shards
//! go to the same nodes again, and few change their mind when a node comes or goes.
//! Every node has to compute the same ring, so the hash is fixed here: xxh3-64
//! over fixed bytes, with known answers tested. How entities map to shards has
//! nothing to do with it (`shard_id.rs`).

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use hashring::HashRing;
use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::ShardNr;
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

/// Points of a node of weight 1. With 256, preferences alone are within some 10 %
/// of even among a few nodes, and a ring of ten nodes takes 0.1 ms to build.
const POINTS_PER_WEIGHT: u32 = 256;

/// A node of a greater weight gets no more points: it only bounds the ring.
const WEIGHT_MAX: u32 = 64;

/// Which node a shard prefers.
pub struct Ring {
    points: HashRing<Point, Xxh3DefaultBuilder>,
}

/// One of a node's places on the ring.
#[derive(Debug, Clone, Copy)]
struct Point {
    node: NodeNr,
    nr: u32,
}

impl Hash for Point {
    // By hand: a derived implementation promises nothing about the bytes.
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let mut bytes = [0; 13];
        bytes[0] = b'n';
        bytes[1..9].copy_from_slice(&self.node.0.to_le_bytes());
        bytes[9..].copy_from_slice(&self.nr.to_le_bytes());
        hasher.write(&bytes);
    }
}

/// A shard's place on the ring.
struct ShardPoint(ShardNr);

impl Hash for ShardPoint {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let mut bytes = [0; 5];
        bytes[0] = b's';
        bytes[1..].copy_from_slice(&self.0.0.to_le_bytes());
        hasher.write(&bytes);
    }
}

impl Ring {
    /// The ring of these nodes by weight; a weight of 0 counts as 1.
    #[must_use]
    pub fn new(weights: &BTreeMap<NodeNr, u32>) -> Self {
        let points = weights.iter().flat_map(|(&node, &weight)| {
            let points = POINTS_PER_WEIGHT * weight.clamp(1, WEIGHT_MAX);
            (0..points).map(move |nr| Point { node, nr })
        });
        let mut ring = HashRing::with_hasher(Xxh3DefaultBuilder);
        // All at once, because each addition sorts the ring; in order of the nodes,
        // so that equal hashes would be in the same order everywhere.
        ring.batch_add(points.collect());
        Self { points: ring }
    }

    /// The node a shard prefers; `None` if there is no node.
    #[must_use]
    pub fn preferred(&self, shard: ShardNr) -> Option<NodeNr> {
        self.points.get(&ShardPoint(shard)).map(|point| point.node)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::hash::BuildHasher;

    use proptest::prelude::*;

    use super::*;

    const SHARDS: u32 = 1024;
    const POINT_3_255: u64 = 17_894_756_569_697_130_637;
    const SHARD_1023: u64 = 13_901_982_638_211_923_479;
    const FIRST_OF_THREE: [u64; 16] = [3, 1, 1, 3, 3, 1, 3, 2, 3, 1, 1, 3, 1, 3, 2, 1];

    fn ring(nodes: impl IntoIterator<Item = (u64, u32)>) -> Ring {
        let weights = nodes.into_iter().map(|(node, w)| (NodeNr(node), w));
        Ring::new(&weights.collect())
    }

    fn preferences(ring: &Ring) -> Vec<u64> {
        (0..SHARDS)
            .map(|shard| ring.preferred(ShardNr(shard)).unwrap().0)
            .collect()
    }

    #[test]
    fn an_empty_ring_prefers_nobody() {
        assert_eq!(ring([]).preferred(ShardNr(0)), None);
    }

    /// A change here would move shards in a cluster of two versions. Hashes and ring
    /// were computed by another program with another implementation of xxh3.
    #[test]
    fn known_answers() {
        let point = Point {
            node: NodeNr(3),
            nr: 255,
        };
        assert_eq!(Xxh3DefaultBuilder.hash_one(point), POINT_3_255);
        let shard = ShardPoint(ShardNr(1023));
        assert_eq!(Xxh3DefaultBuilder.hash_one(shard), SHARD_1023);
        let three = preferences(&ring([(1, 1), (2, 1), (3, 1)]));
        assert_eq!(three[..16], FIRST_OF_THREE);
    }

    #[test]
    fn preferences_are_roughly_even_by_weight() {
        let preferences = preferences(&ring([(1, 1), (2, 1), (3, 2)]));
        for (node, share) in [(1, 256), (2, 256), (3, 512)] {
            let count = preferences.iter().filter(|&&n| n == node).count();
            assert!(
                (share * 3 / 4..=share * 5 / 4).contains(&count),
                "node {node} is preferred by {count} shards"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Who comes is preferred by shards that preferred others; nobody else's
        /// preference changes. So for who goes, by reading it backwards.
        #[test]
        fn a_join_only_attracts(
            nodes in prop::collection::btree_map(0_u64..50, 1_u32..4, 1..6),
            comer in 100_u64..200,
            weight in 1_u32..4,
        ) {
            let before = preferences(&ring(nodes.clone()));
            let total: u32 = nodes.values().sum::<u32>() + weight;
            let after = preferences(&ring(nodes.into_iter().chain([(comer, weight)])));
            let mut moved = 0;
            for (before, after) in before.iter().zip(&after) {
                if before != after {
                    prop_assert_eq!(*after, comer);
                    moved += 1;
                }
            }
            prop_assert!(moved <= SHARDS * weight * 3 / 2 / total, "{} shards moved", moved);
        }
    }
}
