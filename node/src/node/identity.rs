//! Who a node is when its session is over: still the same, unless another process is
//! that node now. Who a starting node is, is decided in `forming/identity.rs` of the
//! sharding crate.

use perennial_persistence::registry::{ClusterIdentity, Incarnation, Registry};
use perennial_sharding::forming::disk::NodeDisk;
use perennial_sharding::forming::identity::begin_incarnation;

use super::NodeError;

/// Begins the next incarnation of a node that has run until now, after `last`. When
/// it returns, every earlier session of the node is fenced (I-2).
///
/// # Errors
/// [`NodeError::Fenced`] when another process has started as this node meanwhile: the
/// two would fence each other without end. [`NodeError::Entry`] when the registry
/// cannot be asked.
pub(super) async fn begin_again(
    registry: &dyn Registry,
    cluster: &ClusterIdentity,
    disk: &dyn NodeDisk,
    last: &Incarnation,
) -> Result<Incarnation, NodeError> {
    let rows = registry.nodes().await?;
    let row = rows.iter().find(|row| row.node == last.node);
    if row.is_some_and(|row| row.incarnation > last.number) {
        return Err(NodeError::Fenced);
    }
    let next = begin_incarnation(registry, cluster, disk).await?;
    // The disk is not this node's any more, or somebody was faster.
    if next.node != last.node {
        return Err(NodeError::Fenced);
    }
    Ok(next)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::SystemTime;

    use perennial_persistence::registry::NodeAddresses;
    use perennial_persistence::storage::memory::MemoryStorage;
    use perennial_sharding::forming::disk::MemoryDisk;

    use super::*;

    #[tokio::test]
    async fn a_node_begins_again_unless_another_process_is_that_node_now() {
        let registry = MemoryStorage::with_clock(1, SystemTime::now)
            .storage()
            .registry;
        let registry = &*registry;
        let cluster = registry.cluster(16).await.unwrap();
        let disk = MemoryDisk::default();
        let first = begin_incarnation(registry, &cluster, &disk).await.unwrap();
        let addresses = NodeAddresses {
            address: "a:1".into(),
            peer_address: "a:2".into(),
        };
        registry.announce(first.node, &addresses).await.unwrap();
        let second = begin_again(registry, &cluster, &disk, &first)
            .await
            .unwrap();
        assert_eq!((second.node, second.number), (first.node, first.number + 1));

        // A copy of the disk, in another process.
        registry.begin_incarnation(first.node).await.unwrap();
        let error = begin_again(registry, &cluster, &disk, &second)
            .await
            .unwrap_err();
        assert!(matches!(error, NodeError::Fenced), "{error}");
    }
}
