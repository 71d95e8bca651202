//! Where nodes are, by number.
//!
//! Raft knows members by number only. Their addresses come from the replicated
//! state and, for nodes that are not in it yet or have moved while there was no
//! leader, from the database's registry: the later incarnation's counts. A name is
//! resolved anew at each connect, by the transport.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use perennial_persistence::registry::NodeNr;

use crate::cluster_state::ClusterState;
use crate::peer::Peer;

/// So many nodes are known at most besides the members; the lowest numbers, most
/// likely the longest gone, are forgotten first.
const NODES_MAX: usize = 1_000;

/// Where nodes are; clones share it.
#[derive(Debug, Clone, Default)]
pub struct AddressBook {
    book: Arc<Mutex<Book>>,
}

#[derive(Debug, Default)]
struct Book {
    addresses: BTreeMap<NodeNr, Known>,
    /// Who is in the replicated state, and so never forgotten.
    members: BTreeSet<NodeNr>,
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
        let mut book = self.book();
        book.insert(node, incarnation, peer_address);
        book.forget_some();
    }

    /// Where a node is, if that is known.
    #[must_use]
    pub fn find(&self, node: NodeNr) -> Option<Peer> {
        let book = self.book();
        book.addresses.get(&node).map(|known| peer(node, known))
    }

    /// Every node that is known but this one, the youngest first.
    #[must_use]
    pub fn others(&self, me: NodeNr) -> Vec<Peer> {
        let book = self.book();
        let others = book.addresses.iter().rev().filter(|(node, _)| **node != me);
        others.map(|(node, known)| peer(*node, known)).collect()
    }

    /// Takes over what the replicated state says.
    pub(crate) fn learn(&self, state: &ClusterState) {
        let mut book = self.book();
        if !book.members.iter().eq(state.members.keys()) {
            book.members = state.members.keys().copied().collect();
        }
        for (node, member) in &state.members {
            book.insert(*node, member.incarnation, &member.peer_address);
        }
        book.forget_some();
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Nothing in here panics between two changes that belong together.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn insert(&mut self, node: NodeNr, incarnation: u64, peer_address: &str) {
        let known = self.addresses.get(&node);
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
        self.addresses.insert(node, known);
    }

    /// Keeps to the bound. Raft finds members only here, and those that have been
    /// there for longest have the lowest numbers: they do not count.
    fn forget_some(&mut self) {
        let bound = NODES_MAX + self.members.len();
        while self.addresses.len() > bound {
            let members = &self.members;
            let mut others = self.addresses.keys().filter(|node| !members.contains(node));
            let Some(oldest) = others.next().copied() else {
                return;
            };
            self.addresses.remove(&oldest);
        }
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
    use perennial_persistence::writer::SessionUuid;
    use uuid::Uuid;

    use super::*;
    use crate::cluster_state::{Member, MemberStatus};

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

    /// However many have come and gone: raft finds them here only.
    #[test]
    fn i10_the_bound_lets_no_member_be_forgotten() {
        let book = AddressBook::default();
        let mut state = ClusterState::new(Uuid::nil(), 1, 1);
        for node in 1..=3 {
            let member = member(node);
            state.members.insert(member.node, member);
        }
        book.learn(&state);
        for node in 4..4 + 2 * NODES_MAX as u64 {
            book.insert(NodeNr(node), 1, "somewhere");
        }
        for node in (1..=3).map(NodeNr) {
            assert_eq!(book.find(node).unwrap().address, "a member's");
        }
        assert_eq!(book.others(NodeNr(1)).len(), NODES_MAX + 2);

        // Who is no member any more is forgotten like others.
        state.members.remove(&NodeNr(1));
        book.learn(&state);
        assert_eq!(book.find(NodeNr(1)), None);
        assert!(book.find(NodeNr(2)).is_some());
        assert_eq!(book.others(NodeNr(2)).len(), NODES_MAX + 1);
    }

    fn member(node: u64) -> Member {
        Member {
            node: NodeNr(node),
            incarnation: 1,
            session: SessionUuid(Uuid::nil()),
            address: String::new(),
            peer_address: "a member's".to_owned(),
            version: String::new(),
            weight: 1,
            status: MemberStatus::Up,
            removing: false,
        }
    }
}
