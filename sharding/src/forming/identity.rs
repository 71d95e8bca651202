//! Who a starting node is: the one of its disk, or a new one.
//!
//! The disk counts the starts of its node, and the registry of the database has the
//! last word on whether a count is the highest. A node is never started from a disk
//! that knows of fewer starts than the database: it could vote twice, or write as an
//! incarnation that is over.

use perennial_persistence::registry::{
    ClusterIdentity, Incarnation, NodeNr, NodeRow, Registry, RegistryError,
};

use super::disk::{NodeDisk, NodeIdentity};
use super::entry::EntryError;

/// Begins an incarnation of the disk's node, or of a new one. When it returns, every
/// earlier session of the node is fenced (I-2). Safe to cancel and to repeat.
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
    if let Some(incarnation) = begin(registry, disk, identity).await? {
        return Ok(incarnation);
    }
    tracing::warn!(
        node = identity.node.0,
        remembered = identity.incarnation,
        "the data directory is older than the database says, as after restoring a disk: joining as a new node"
    );
    begin_as_new_node(registry, cluster, disk).await
}

/// Begins the next incarnation of a node that has run until now in the same process:
/// its session was fenced, or is of an earlier generation. When it returns, every
/// earlier session of the node is fenced (I-2). Safe to cancel and to repeat.
///
/// # Errors
/// [`EntryError::Superseded`] when another process has started as this node
/// meanwhile: each would fence the other, without end.
pub async fn begin_again(
    registry: &dyn Registry,
    disk: &dyn NodeDisk,
    node: NodeNr,
) -> Result<Incarnation, EntryError> {
    let superseded = EntryError::Superseded { node };
    // Not this node's disk any more?
    let identity = disk.identity()?.filter(|identity| identity.node == node);
    match identity {
        Some(identity) => begin(registry, disk, identity).await?.ok_or(superseded),
        None => Err(superseded),
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
    let superseded = EntryError::Superseded {
        node: identity.node,
    };
    begin(registry, disk, identity).await?.ok_or(superseded)
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

/// Begins the next incarnation of the disk's node; `None` when another copy of the
/// disk has begun one that this one does not know of.
///
/// The disk counts a start before the database hears of it, and goes on counting
/// when it hears nothing of the database. So the database is ahead of a disk only by
/// starts of others, and a request that arrives late asks for a number that is over:
/// it must neither fence the session of a later start, nor pass for a start of
/// somebody else.
async fn begin(
    registry: &dyn Registry,
    disk: &dyn NodeDisk,
    identity: NodeIdentity,
) -> Result<Option<Incarnation>, EntryError> {
    let rows = registry.nodes().await?;
    let is_ahead =
        |row: &NodeRow| row.node == identity.node && row.incarnation > identity.incarnation;
    if rows.iter().any(is_ahead) {
        return Ok(None);
    }
    let number = identity.incarnation + 1;
    disk.set_identity(&NodeIdentity {
        incarnation: number,
        ..identity
    })?;
    match registry.begin_numbered(identity.node, number).await {
        Ok(incarnation) => Ok(Some(incarnation)),
        Err(RegistryError::IncarnationOver { .. }) => {
            // The next start is to find that out as well.
            disk.set_identity(&identity)?;
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
