//! Who a starting node is: the one of its disk, or a new one.
//!
//! The registry of the database has the last word; this compares it with what the
//! disk remembers. A number is never used with less than its disk knew: such a node
//! could vote twice, or write as an incarnation that is over.

use perennial_persistence::registry::{ClusterIdentity, Incarnation, NodeNr, NodeRow, Registry};

use super::disk::{NodeDisk, NodeIdentity};
use super::entry::EntryError;

/// Begins an incarnation of the disk's node, or of a new one. When it returns, every
/// earlier session of the node is fenced (I-2).
///
/// # Errors
/// [`EntryError::ForeignDisk`] on a disk of another cluster.
pub async fn begin_incarnation(
    registry: &dyn Registry,
    cluster: &ClusterIdentity,
    disk: &dyn NodeDisk,
) -> Result<Incarnation, EntryError> {
    let identity = match disk.identity()? {
        Some(identity) if identity.cluster_id != cluster.cluster_id => {
            return Err(EntryError::ForeignDisk {
                node: identity.node,
                ours: identity.cluster_id,
                theirs: cluster.cluster_id,
            });
        }
        Some(identity) => identity,
        None => mint(registry, cluster, disk).await?,
    };
    let incarnation = begin(registry, disk, identity).await?;
    if is_restored_disk(identity.incarnation, incarnation.number) {
        tracing::warn!(
            node = identity.node.0,
            remembered = identity.incarnation,
            in_database = incarnation.number,
            "the data directory is older than the database says, as after restoring a disk: joining as a new node"
        );
        return begin_as_new_node(registry, cluster, disk).await;
    }
    Ok(incarnation)
}

/// Begins the next incarnation of a node that has run until now as `last`, in the
/// same process: its session was fenced, or is of an earlier generation.
///
/// # Errors
/// [`EntryError::Superseded`] when another process has started as this node
/// meanwhile: each would fence the other, without end.
pub async fn begin_again(
    registry: &dyn Registry,
    disk: &dyn NodeDisk,
    last: &Incarnation,
) -> Result<Incarnation, EntryError> {
    let node = last.node;
    let superseded = EntryError::Superseded { node };
    let rows = registry.nodes().await?;
    let later = |row: &NodeRow| row.node == node && row.incarnation > last.number;
    let identity = disk.identity()?.filter(|identity| identity.node == node);
    match identity {
        Some(identity) if !rows.iter().any(later) => begin(registry, disk, identity).await,
        _ => Err(superseded),
    }
}

/// Begins the first incarnation of a new node on this disk; what was there before is
/// not used any more.
pub(super) async fn begin_as_new_node(
    registry: &dyn Registry,
    cluster: &ClusterIdentity,
    disk: &dyn NodeDisk,
) -> Result<Incarnation, EntryError> {
    let identity = mint(registry, cluster, disk).await?;
    begin(registry, disk, identity).await
}

/// Whether another copy of the disk has started the node meanwhile.
///
/// The disk counts a start before the database does, so it can only be ahead: it is
/// behind if starts happened that it has not seen.
fn is_restored_disk(remembered: u64, begun: u64) -> bool {
    begun > remembered + 1
}

async fn mint(
    registry: &dyn Registry,
    cluster: &ClusterIdentity,
    disk: &dyn NodeDisk,
) -> Result<NodeIdentity, EntryError> {
    let node: NodeNr = registry.mint_node().await?;
    let identity = NodeIdentity {
        node,
        cluster_id: cluster.cluster_id,
        incarnation: 0,
        store_generation: 0,
    };
    // A crash before this only skips a number.
    disk.set_identity(&identity)?;
    Ok(identity)
}

async fn begin(
    registry: &dyn Registry,
    disk: &dyn NodeDisk,
    identity: NodeIdentity,
) -> Result<Incarnation, EntryError> {
    disk.set_identity(&NodeIdentity {
        incarnation: identity.incarnation + 1,
        ..identity
    })?;
    let incarnation = registry.begin_incarnation(identity.node).await?;
    disk.set_identity(&NodeIdentity {
        incarnation: incarnation.number,
        ..identity
    })?;
    Ok(incarnation)
}
