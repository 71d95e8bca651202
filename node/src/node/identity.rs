//! Who a starting node is: the one of its data directory, or a new one.
//!
//! Decided in `forming/identity.rs` of the sharding crate; this says it in terms of
//! the data directory.

use perennial_persistence::registry::{ClusterIdentity, Incarnation, Registry};
use perennial_sharding::forming::disk::{MemoryDisk, NodeDisk};
use perennial_sharding::forming::entry::EntryError;
use perennial_sharding::forming::identity;

use super::NodeError;
use crate::data_dir::DataDir;

/// Begins an incarnation of this node in its cluster. When it returns, every
/// earlier session of the node is fenced (promise I-2).
pub(super) async fn begin_incarnation(
    registry: &dyn Registry,
    cluster: &ClusterIdentity,
    data_dir: Option<&DataDir>,
) -> Result<Incarnation, NodeError> {
    // A journal in memory began empty with this process: so did the node.
    let memory = MemoryDisk::default();
    let disk: &dyn NodeDisk = match data_dir {
        Some(data_dir) => data_dir,
        None => &memory,
    };
    let begun = identity::begin_incarnation(registry, cluster, disk).await;
    begun.map_err(|error| match error {
        EntryError::ForeignDisk { node, ours, theirs } => NodeError::ForeignDataDir {
            path: data_dir.map_or_else(Default::default, |dir| dir.path().to_owned()),
            node: node.0,
            ours,
            theirs,
        },
        EntryError::Registry(error) => NodeError::Registry(error),
        other => NodeError::Entry(other),
    })
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
