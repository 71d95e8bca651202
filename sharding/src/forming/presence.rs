//! What a node tells and asks the registry as long as it is there: it gives signs of
//! life, hears of new nodes, and notices when the cluster has gone on without it.

use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::registry::{NodeAddresses, NodeNr, Registry, RegistryError};
use tokio::time::sleep;

use super::entry::Entered;

/// How often a node gives a sign of life.
pub const SIGN_INTERVAL: Duration = Duration::from_secs(2);

/// Why a node cannot stay as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PresenceEnd {
    /// Another node has announced the same peer address: this one must stop.
    #[error(
        "another node has announced the peer address {address} of node {}: give each node an address of its own with \
         --advertise-peer", .node.0
    )]
    AddressTaken {
        /// This node.
        node: NodeNr,
        /// Of both.
        address: String,
    },
    /// The cluster was formed anew: this node must enter it again.
    #[error(
        "the cluster has been formed anew: generation {now} has taken the place of {before}; entering it again"
    )]
    NewGeneration {
        /// This node's.
        before: u32,
        /// In the registry.
        now: u32,
    },
}

/// Runs until the node cannot stay as it is. A database out of reach is waited for.
pub async fn stay_present(
    registry: Arc<dyn Registry>,
    entered: Entered,
    addresses: NodeAddresses,
) -> PresenceEnd {
    let mut out_of_reach = false;
    loop {
        match look(&*registry, &entered, &addresses).await {
            Ok(Some(end)) => return end,
            Ok(None) => out_of_reach = false,
            Err(error) if !out_of_reach => {
                tracing::warn!(%error, "no sign of life can be given to the registry");
                out_of_reach = true;
            }
            Err(_) => {}
        }
        sleep(SIGN_INTERVAL).await;
    }
}

async fn look(
    registry: &dyn Registry,
    entered: &Entered,
    addresses: &NodeAddresses,
) -> Result<Option<PresenceEnd>, RegistryError> {
    let node = entered.incarnation.node;
    if !registry.give_sign(node, addresses).await? {
        return Ok(Some(PresenceEnd::AddressTaken {
            node,
            address: addresses.peer_address.clone(),
        }));
    }
    let (before, now) = (
        entered.cluster.generation,
        registry.formation().await?.generation,
    );
    if now != before {
        return Ok(Some(PresenceEnd::NewGeneration { before, now }));
    }
    for row in registry.nodes().await? {
        let peers = entered.control.addresses();
        peers.insert(row.node, row.incarnation, &row.addresses.peer_address);
    }
    Ok(None)
}
