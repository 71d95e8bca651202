//! Where nodes are, by number.
//!
//! Raft knows members by number only. Their addresses come from the replicated
//! state and, for nodes that are not in it yet or have moved while there was no
//! leader, from the database's registry: the later incarnation's counts. A name is
//! resolved anew at each connect, by the transport.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use perennial_persistence::registry::NodeNr;

use crate::cluster_state::ClusterState;
use crate::peer::Peer;

/// So many nodes are known at most; the lowest numbers, the longest gone, are
/// forgotten first.
const NODES_MAX: usize = 1_000;

/// Where nodes are; clones share it.
#[derive(Debug, Clone, Default)]
pub struct AddressBook {
    addresses: Arc<Mutex<BTreeMap<NodeNr, Known>>>,
}

#[derive(Debug)]
struct Known {
    incarnation: u64,
    address: String,
}

impl AddressBook {
    /// Notes where a node's peers reach it, host and port, since an incarnation.
    /// Nothing changes if a later one is known.
    pub fn insert(&self, node: NodeNr, incarnation: u64, peer_address: &str) {
        let mut addresses = self.addresses();
        let known = addresses.get(&node);
        if known.is_some_and(|known| {
            known.incarnation > incarnation
                || (known.incarnation == incarnation && known.address == peer_address)
        }) {
            return;
        }
        let known = Known {
            incarnation,
            address: peer_address.to_owned(),
        };
        addresses.insert(node, known);
        if addresses.len() > NODES_MAX {
            addresses.pop_first();
        }
    }

    /// Where a node is, if that is known.
    #[must_use]
    pub fn find(&self, node: NodeNr) -> Option<Peer> {
        let addresses = self.addresses();
        addresses.get(&node).map(|known| peer(node, known))
    }

    /// Every node that is known but this one, the youngest first.
    #[must_use]
    pub fn others(&self, me: NodeNr) -> Vec<Peer> {
        let addresses = self.addresses();
        let others = addresses.iter().rev().filter(|(node, _)| **node != me);
        others.map(|(node, known)| peer(*node, known)).collect()
    }

    /// Takes over what the replicated state says.
    pub(crate) fn learn(&self, state: &ClusterState) {
        for (node, member) in &state.members {
            self.insert(*node, member.incarnation, &member.peer_address);
        }
    }

    fn addresses(&self) -> MutexGuard<'_, BTreeMap<NodeNr, Known>> {
        // Nothing in here panics between two changes that belong together.
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn peer(node: NodeNr, known: &Known) -> Peer {
    Peer {
        node,
        address: known.address.clone(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_later_incarnations_address_counts() {
        let book = AddressBook::default();
        let node = NodeNr(3);
        assert_eq!(book.find(node), None);
        book.insert(node, 2, "second");
        book.insert(node, 1, "first");
        assert_eq!(book.find(node).unwrap().address, "second");
        book.insert(node, 2, "moved");
        assert_eq!(book.find(node).unwrap().address, "moved");
        book.insert(NodeNr(4), 1, "other");
        assert_eq!(book.others(node).len(), 1);
        assert_eq!(book.others(NodeNr(9))[0].node, NodeNr(4), "the youngest");
    }

    #[test]
    fn the_book_is_bounded() {
        let book = AddressBook::default();
        for node in 0..2 * NODES_MAX as u64 {
            book.insert(NodeNr(node), 1, "somewhere");
        }
        assert_eq!(book.others(NodeNr(0)).len(), NODES_MAX);
    }
}
