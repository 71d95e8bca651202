//! Who a starting node is: the one of its data directory, or a new one.
//!
//! The registry of the database has the last word; this compares it with what
//! the directory remembers.

use perennial_persistence::registry::{ClusterIdentity, Incarnation, NodeNr, Registry};

use super::NodeError;
use crate::data_dir::{DataDir, NodeIdentity};

/// Begins an incarnation of this node in its cluster. When it returns, every
/// earlier session of the node is fenced (promise I-2).
pub(super) async fn begin_incarnation(
    registry: &dyn Registry,
    cluster: &ClusterIdentity,
    data_dir: Option<&DataDir>,
) -> Result<Incarnation, NodeError> {
    let Some(data_dir) = data_dir else {
        // A journal in memory began empty with this process: so did the node.
        return Ok(registry
            .begin_incarnation(registry.mint_node().await?)
            .await?);
    };
    let identity = match data_dir.identity()? {
        Some(identity) if identity.cluster_id != cluster.cluster_id => {
            return Err(NodeError::ForeignDataDir {
                path: data_dir.path().to_owned(),
                node: identity.node,
                ours: identity.cluster_id,
                theirs: cluster.cluster_id,
            });
        }
        Some(identity) => identity,
        None => mint(registry, cluster, data_dir).await?,
    };
    let incarnation = begin(registry, data_dir, identity).await?;
    if is_restored_disk(identity.incarnation, incarnation.number) {
        tracing::warn!(
            node = identity.node,
            remembered = identity.incarnation,
            in_database = incarnation.number,
            "the data directory is older than the database says, as after restoring a disk: joining as a new node"
        );
        let fresh = mint(registry, cluster, data_dir).await?;
        return begin(registry, data_dir, fresh).await;
    }
    Ok(incarnation)
}

/// Begins the next incarnation of a node that has run until now, after `last`.
///
/// # Errors
/// [`NodeError::Fenced`] when another process has started as this node meanwhile: it
/// would be fenced, and fence this one, without end.
pub(super) async fn begin_again(
    registry: &dyn Registry,
    data_dir: Option<&DataDir>,
    last: &Incarnation,
) -> Result<Incarnation, NodeError> {
    let rows = registry.nodes().await?;
    let row = rows.iter().find(|row| row.node == last.node);
    if row.is_some_and(|row| row.incarnation > last.number) {
        return Err(NodeError::Fenced);
    }
    let Some(data_dir) = data_dir else {
        return Ok(registry.begin_incarnation(last.node).await?);
    };
    let Some(identity) = data_dir.identity()? else {
        return Err(NodeError::DataDirLost {
            path: data_dir.path().to_owned(),
        });
    };
    begin(registry, data_dir, identity).await
}

/// Whether another copy of the directory has started the node meanwhile.
///
/// The directory counts a start before the database does, so it can only be
/// ahead: it is behind if starts happened that it has not seen.
fn is_restored_disk(remembered: u64, begun: u64) -> bool {
    begun > remembered + 1
}

async fn mint(
    registry: &dyn Registry,
    cluster: &ClusterIdentity,
    data_dir: &DataDir,
) -> Result<NodeIdentity, NodeError> {
    let NodeNr(node) = registry.mint_node().await?;
    let identity = NodeIdentity {
        node,
        cluster_id: cluster.cluster_id,
        incarnation: 0,
    };
    // A crash before this only skips a number.
    data_dir.set_identity(&identity)?;
    Ok(identity)
}

async fn begin(
    registry: &dyn Registry,
    data_dir: &DataDir,
    identity: NodeIdentity,
) -> Result<Incarnation, NodeError> {
    data_dir.set_identity(&NodeIdentity {
        incarnation: identity.incarnation + 1,
        ..identity
    })?;
    let incarnation = registry.begin_incarnation(NodeNr(identity.node)).await?;
    data_dir.set_identity(&NodeIdentity {
        incarnation: incarnation.number,
        ..identity
    })?;
    Ok(incarnation)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::SystemTime;

    use perennial_persistence::storage::memory::MemoryStorage;
    use uuid::Uuid;

    use super::*;

    struct World {
        registry: std::sync::Arc<dyn Registry>,
        cluster: ClusterIdentity,
        _parent: tempfile::TempDir,
        data_dir: DataDir,
    }

    async fn world() -> World {
        let storage = MemoryStorage::with_clock(1, SystemTime::now).storage();
        let cluster = storage.registry.cluster(16).await.unwrap();
        let parent = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(parent.path()).unwrap();
        World {
            registry: storage.registry,
            cluster,
            _parent: parent,
            data_dir,
        }
    }

    impl World {
        async fn start(&self) -> Result<Incarnation, NodeError> {
            begin_incarnation(&*self.registry, &self.cluster, Some(&self.data_dir)).await
        }
    }

    #[tokio::test]
    async fn a_restarted_node_is_the_same_one() {
        let world = world().await;
        let first = world.start().await.unwrap();
        let second = world.start().await.unwrap();
        assert_eq!(first.node, second.node);
        assert_eq!(second.number, first.number + 1);
        assert_ne!(first.session, second.session);
    }

    #[tokio::test]
    async fn a_node_begins_again_unless_another_process_is_that_node_now() {
        let world = world().await;
        let first = world.start().await.unwrap();
        let addresses = perennial_persistence::registry::NodeAddresses {
            address: "a:1".into(),
            peer_address: "a:2".into(),
        };
        world.registry.announce(first.node, &addresses).await.unwrap();
        let dir = Some(&world.data_dir);
        let second = begin_again(&*world.registry, dir, &first).await.unwrap();
        assert_eq!((second.node, second.number), (first.node, first.number + 1));
        assert_eq!(world.data_dir.identity().unwrap().unwrap().incarnation, second.number);

        let other = world.registry.begin_incarnation(first.node).await.unwrap();
        let error = begin_again(&*world.registry, dir, &second).await.unwrap_err();
        assert!(matches!(error, NodeError::Fenced), "{error}");
        // The other one was left alone.
        let third = begin_again(&*world.registry, None, &other).await.unwrap();
        assert_eq!(third.number, other.number + 1);
    }

    #[tokio::test]
    async fn a_crash_while_starting_does_no_harm() {
        let world = world().await;
        let first = world.start().await.unwrap();
        let mut identity = world.data_dir.identity().unwrap().unwrap();
        // Counted in the directory, and never begun in the database.
        identity.incarnation += 1;
        world.data_dir.set_identity(&identity).unwrap();
        assert_eq!(world.start().await.unwrap().node, first.node);
        assert_eq!(world.start().await.unwrap().node, first.node);
    }

    #[tokio::test]
    async fn a_restored_disk_is_a_new_node() {
        let world = world().await;
        let first = world.start().await.unwrap();
        let backup = world.data_dir.identity().unwrap().unwrap();
        world.start().await.unwrap();
        world.data_dir.set_identity(&backup).unwrap();
        assert_ne!(world.start().await.unwrap().node, first.node);
    }

    #[tokio::test]
    async fn a_directory_of_another_cluster_is_refused() {
        let world = world().await;
        world.start().await.unwrap();
        let mut identity = world.data_dir.identity().unwrap().unwrap();
        identity.cluster_id = Uuid::from_u128(7);
        world.data_dir.set_identity(&identity).unwrap();
        let error = world.start().await.unwrap_err();
        assert!(matches!(error, NodeError::ForeignDataDir { .. }), "{error}");
    }
}
