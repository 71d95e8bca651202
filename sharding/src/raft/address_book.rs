//! Where nodes are, by number.
//!
//! Raft knows members by number only. Their addresses come from the replicated
//! state and, for nodes that are not in it yet, from the database's registry; a
//! name is resolved anew at each connect, by the transport.

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
    addresses: Arc<Mutex<BTreeMap<NodeNr, String>>>,
}

impl AddressBook {
    /// Notes where a node's peers reach it: host and port.
    pub fn insert(&self, node: NodeNr, peer_address: impl Into<String>) {
        let mut addresses = self.addresses();
        addresses.insert(node, peer_address.into());
        if addresses.len() > NODES_MAX {
            addresses.pop_first();
        }
    }

    /// Where a node is, if that is known.
    #[must_use]
    pub fn find(&self, node: NodeNr) -> Option<Peer> {
        let address = self.addresses().get(&node).cloned()?;
        Some(Peer { node, address })
    }

    /// Every node that is known but this one, the youngest first.
    #[must_use]
    pub fn others(&self, me: NodeNr) -> Vec<Peer> {
        let addresses = self.addresses();
        let others = addresses.iter().rev().filter(|(node, _)| **node != me);
        others
            .map(|(node, address)| Peer {
                node: *node,
                address: address.clone(),
            })
            .collect()
    }

    /// Takes over what the replicated state says.
    pub(crate) fn learn(&self, state: &ClusterState) {
        let mut addresses = self.addresses();
        for (node, member) in &state.members {
            if addresses.get(node) != Some(&member.peer_address) {
                addresses.insert(*node, member.peer_address.clone());
            }
        }
    }

    fn addresses(&self) -> MutexGuard<'_, BTreeMap<NodeNr, String>> {
        // Nothing in here panics between two changes that belong together.
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
