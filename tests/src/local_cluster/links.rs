//! What connects the nodes of a cluster, and how it is broken: each direction between
//! two nodes by itself, and the way of each node to the database. The bytes are moved
//! by `proxy.rs`.

use std::net::{IpAddr, Ipv4Addr};

use super::LocalCluster;
use crate::proxy::{Flow, Link};

impl LocalCluster {
    /// From now on nothing that `from` sends reaches `to`, on connections of either.
    pub fn block(&self, from: usize, to: usize) {
        self.set_flow(from, to, Flow::Stalled);
    }

    /// Nothing passes between two nodes.
    pub fn partition(&self, one: usize, other: usize) {
        self.block(one, other);
        self.block(other, one);
    }

    /// Cuts a node off from all others.
    pub fn isolate(&self, node: usize) {
        for other in (0..self.len()).filter(|other| *other != node) {
            self.partition(node, other);
        }
    }

    /// What one node sends to another does this on its way, on connections of either.
    pub fn set_flow(&self, from: usize, to: usize, flow: Flow) {
        self.hosts[to]
            .peers()
            .link_from(peer_ip(from))
            .set_to_server(flow);
        self.hosts[from]
            .peers()
            .link_from(peer_ip(to))
            .set_to_client(flow);
    }

    /// Mends all links between nodes.
    pub fn heal(&self) {
        for host in &self.hosts {
            if let Some(peers) = &host.peers {
                peers.set(Flow::Open);
            }
        }
    }

    /// The link of a node to its database, if that is a server.
    #[must_use]
    pub fn database_link(&self, node: usize) -> Option<&Link> {
        let proxy = self.hosts[node].database.as_ref()?;
        Some(proxy.link_from(IpAddr::V4(Ipv4Addr::LOCALHOST)))
    }
}

/// Each node has an address of its own on this machine, by which the proxies know
/// who connects.
pub(super) fn peer_ip(node: usize) -> IpAddr {
    // Below `NODES_MAX`.
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2 + node as u8))
}
