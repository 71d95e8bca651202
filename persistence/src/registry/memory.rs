//! The in-memory registry. Ids are counted, not drawn, so that equal runs are
//! equal. Next: `storage/memory.rs`, its tables.

use std::collections::BTreeMap;

use async_trait::async_trait;
use uuid::Uuid;

use crate::registry::{ClusterIdentity, Incarnation, NodeNr, Registry, RegistryError};
use crate::storage::memory::{MemoryStorage, Session};
use crate::writer::{Epoch, SessionUuid, ShardNr};

/// A registry over [`MemoryStorage`].
pub struct MemoryRegistry {
    storage: MemoryStorage,
}

impl MemoryRegistry {
    pub(crate) fn new(storage: MemoryStorage) -> Self {
        Self { storage }
    }
}

#[async_trait]
impl Registry for MemoryRegistry {
    async fn cluster(&self, number_of_shards: u32) -> Result<ClusterIdentity, RegistryError> {
        let mut tables = self.storage.tables();
        let cluster = tables.cluster.get_or_insert_with(|| ClusterIdentity {
            cluster_id: Uuid::from_u64_pair(0, 1),
            number_of_shards,
            generation: 1,
        });
        if cluster.number_of_shards != number_of_shards {
            return Err(RegistryError::NumberOfShards {
                stored: cluster.number_of_shards,
                configured: number_of_shards,
            });
        }
        Ok(cluster.clone())
    }

    async fn mint_node(&self) -> Result<NodeNr, RegistryError> {
        let mut tables = self.storage.tables();
        let last = tables.nodes.last_key_value().map_or(0, |(node, _)| node.0);
        let node = NodeNr(last + 1);
        tables.nodes.insert(node, 0);
        Ok(node)
    }

    async fn begin_incarnation(&self, node: NodeNr) -> Result<Incarnation, RegistryError> {
        let mut tables = self.storage.tables();
        let Some(counter) = tables.nodes.get_mut(&node) else {
            return Err(RegistryError::NodeUnknown { node });
        };
        *counter += 1;
        let number = *counter;
        let session = SessionUuid(Uuid::from_u64_pair(node.0, number));
        for earlier in tables
            .sessions
            .values_mut()
            .filter(|earlier| earlier.node == node)
        {
            earlier.fenced = true;
        }
        let opened = Session {
            node,
            fenced: false,
            fenced_shards: BTreeMap::new(),
        };
        tables.sessions.insert(session, opened);
        Ok(Incarnation {
            node,
            number,
            session,
        })
    }

    async fn fence(
        &self,
        session: SessionUuid,
        shard: Option<(ShardNr, Epoch)>,
    ) -> Result<(), RegistryError> {
        let mut tables = self.storage.tables();
        // A session that is not known may not write anyway.
        if let Some(session) = tables.sessions.get_mut(&session) {
            match shard {
                None => session.fenced = true,
                Some((shard, epoch)) => {
                    let fenced = session.fenced_shards.entry(shard).or_default();
                    *fenced = epoch.max(*fenced);
                }
            }
        }
        Ok(())
    }
}
