//! Who owned which shard in which epoch, as the nodes say at any time: at most one
//! node for a shard and an epoch (I-1).

use std::collections::BTreeMap;
use std::fmt;

use perennial::proto::v1::GetClusterResponse;

/// All homes that were ever seen.
#[derive(Debug, Default)]
pub struct Ownership {
    homes: BTreeMap<(u32, u64), String>,
    /// Views that were looked at.
    pub views: u64,
}

/// Two nodes owned a shard in the same epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TwoHomes {
    shard: u32,
    epoch: u64,
    first: String,
    other: String,
}

impl fmt::Display for TwoHomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            shard,
            epoch,
            first,
            other,
        } = self;
        write!(
            f,
            "I-1: shard {shard} belonged to node {first} and to node {other} in epoch {epoch}"
        )
    }
}

impl Ownership {
    /// Takes in what a node says, and compares it with all that was ever said.
    pub fn observe(&mut self, view: &GetClusterResponse) -> Vec<TwoHomes> {
        self.views += 1;
        let mut found = Vec::new();
        for shard in &view.shards {
            if shard.node_id.is_empty() {
                continue;
            }
            let (number, epoch) = (shard.shard_id, shard.epoch);
            let home = self.homes.entry((number, epoch));
            let first = home.or_insert_with(|| shard.node_id.clone());
            if *first != shard.node_id {
                found.push(TwoHomes {
                    shard: number,
                    epoch,
                    first: first.clone(),
                    other: shard.node_id.clone(),
                });
            }
        }
        found
    }

    /// Homes that were seen: shards by epochs.
    #[must_use]
    pub fn homes(&self) -> usize {
        self.homes.len()
    }
}

#[cfg(test)]
mod tests {
    use perennial::proto::v1::get_cluster_response::Shard;

    use super::*;

    fn view(shard_id: u32, epoch: u64, node_id: &str) -> GetClusterResponse {
        let node_id = node_id.to_owned();
        let shard = Shard {
            shard_id,
            epoch,
            node_id,
            ..Shard::default()
        };
        GetClusterResponse {
            shards: vec![shard],
            ..GetClusterResponse::default()
        }
    }

    #[test]
    fn i1_two_homes_in_one_epoch_are_found() {
        let mut ownership = Ownership::default();
        for (shard, epoch, node) in [
            (1, 1, "a"),
            (1, 2, "b"),
            (2, 1, "b"),
            (1, 1, "a"),
            (3, 1, ""),
        ] {
            assert_eq!(ownership.observe(&view(shard, epoch, node)), []);
        }
        let found = ownership.observe(&view(1, 2, "a"));
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].to_string(),
            "I-1: shard 1 belonged to node b and to node a in epoch 2"
        );
        assert_eq!(ownership.homes(), 3);
    }
}
