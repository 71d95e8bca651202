//! The in-memory registry. Ids are counted, not drawn, so that equal runs are
//! equal. Next: `storage/memory.rs`, its tables.

use std::collections::BTreeMap;

use async_trait::async_trait;
use uuid::Uuid;

use crate::planted::{self, Bug};
use crate::registry::{
    ClusterIdentity, Formation, Incarnation, NODES_LISTED_MAX, NodeAddresses, NodeNr, NodeRow,
    Registry, RegistryError,
};
use crate::storage::memory::{Cluster, MemoryStorage, Node, Session, Tables};
use crate::writer::{Epoch, SessionUuid, ShardNr};

/// A registry over [`MemoryStorage`].
pub struct MemoryRegistry {
    storage: MemoryStorage,
}

impl MemoryRegistry {
    pub(crate) fn new(storage: MemoryStorage) -> Self {
        Self { storage }
    }

    fn change_cluster(
        &self,
        change: impl FnOnce(&mut Cluster),
    ) -> Result<Formation, RegistryError> {
        let mut tables = self.storage.tables();
        let cluster = tables.cluster.as_mut().ok_or(RegistryError::NotACluster)?;
        change(cluster);
        Ok(formation(cluster))
    }

    /// Without a number it is the next.
    fn begin(&self, node: NodeNr, number: Option<u64>) -> Result<Incarnation, RegistryError> {
        let mut tables = self.storage.tables();
        let generation = tables
            .cluster
            .as_ref()
            .map_or(0, |cluster| cluster.identity.generation);
        let Some(stored) = tables.nodes.get_mut(&node) else {
            return Err(RegistryError::NodeUnknown { node });
        };
        let number = number.unwrap_or(stored.incarnation + 1);
        if number <= stored.incarnation {
            return Err(RegistryError::IncarnationOver {
                node,
                number,
                stored: stored.incarnation,
            });
        }
        stored.incarnation = number;
        let session = SessionUuid(Uuid::from_u64_pair(node.0, number));
        for earlier in tables
            .sessions
            .values_mut()
            .filter(|earlier| earlier.node == node)
        {
            earlier.fenced = !planted::is(Bug::SkipOwnFence);
        }
        let opened = Session {
            node,
            generation,
            fenced: false,
            fenced_shards: BTreeMap::new(),
        };
        tables.sessions.insert(session, opened);
        Ok(Incarnation {
            node,
            number,
            session,
            generation,
        })
    }
}

fn formation(cluster: &Cluster) -> Formation {
    Formation {
        generation: cluster.identity.generation,
        formed: cluster.formed,
        forming: cluster.forming,
    }
}

impl Tables {
    fn sign(&mut self, node: NodeNr, change: impl FnOnce(&mut Node)) {
        self.signs += 1;
        if let Some(node) = self.nodes.get_mut(&node) {
            node.seen += 1;
            node.last_sign = self.signs;
            change(node);
        }
    }
}

#[async_trait]
impl Registry for MemoryRegistry {
    async fn cluster(&self, number_of_shards: u32) -> Result<ClusterIdentity, RegistryError> {
        let mut tables = self.storage.tables();
        let cluster = tables.cluster.get_or_insert_with(|| Cluster {
            identity: ClusterIdentity {
                cluster_id: Uuid::from_u64_pair(0, 1),
                number_of_shards,
                generation: 1,
            },
            formed: false,
            forming: None,
        });
        let identity = &cluster.identity;
        if identity.number_of_shards != number_of_shards {
            return Err(RegistryError::NumberOfShards {
                stored: identity.number_of_shards,
                configured: number_of_shards,
            });
        }
        Ok(identity.clone())
    }

    async fn mint_node(&self) -> Result<NodeNr, RegistryError> {
        let mut tables = self.storage.tables();
        let last = tables.nodes.last_key_value().map_or(0, |(node, _)| node.0);
        let node = NodeNr(last + 1);
        tables.nodes.insert(node, Node::default());
        Ok(node)
    }

    async fn formation(&self) -> Result<Formation, RegistryError> {
        self.change_cluster(|_| ())
    }

    async fn claim_forming(
        &self,
        node: NodeNr,
        seen: Formation,
    ) -> Result<Formation, RegistryError> {
        self.change_cluster(|cluster| {
            if !cluster.formed && formation(cluster) == seen && cluster.forming != Some(node) {
                cluster.identity.generation += u32::from(cluster.forming.is_some());
                cluster.forming = Some(node);
            }
        })
    }

    async fn set_formed(&self, node: NodeNr, generation: u32) -> Result<bool, RegistryError> {
        let formation = self.change_cluster(|cluster| {
            if cluster.identity.generation == generation && cluster.forming == Some(node) {
                cluster.formed = true;
            }
        })?;
        Ok(formation
            == Formation {
                generation,
                formed: true,
                forming: Some(node),
            })
    }

    async fn reform(&self, generation: u32) -> Result<Formation, RegistryError> {
        self.change_cluster(|cluster| {
            if cluster.formed && cluster.identity.generation == generation {
                cluster.identity.generation += 1;
                cluster.formed = false;
                cluster.forming = None;
            }
        })
    }

    async fn fence_earlier_generations(&self, generation: u32) -> Result<(), RegistryError> {
        let mut tables = self.storage.tables();
        for session in tables.sessions.values_mut() {
            session.fenced |= session.generation < generation;
        }
        Ok(())
    }

    async fn announce(&self, node: NodeNr, addresses: &NodeAddresses) -> Result<(), RegistryError> {
        let mut tables = self.storage.tables();
        if !tables.nodes.contains_key(&node) {
            return Err(RegistryError::NodeUnknown { node });
        }
        for other in tables.nodes.values_mut() {
            let same = |theirs: &mut NodeAddresses| theirs.peer_address == addresses.peer_address;
            other.addresses.take_if(same);
        }
        tables.sign(node, |own| own.addresses = Some(addresses.clone()));
        Ok(())
    }

    async fn give_sign(
        &self,
        node: NodeNr,
        addresses: &NodeAddresses,
    ) -> Result<bool, RegistryError> {
        let mut tables = self.storage.tables();
        let own = tables.nodes.get(&node);
        let own = own.and_then(|own| own.addresses.as_ref());
        let is_ours = own.is_some_and(|own| own.peer_address == addresses.peer_address);
        if is_ours {
            tables.sign(node, |_| ());
        }
        Ok(is_ours)
    }

    async fn withdraw(&self, node: NodeNr) -> Result<(), RegistryError> {
        if let Some(node) = self.storage.tables().nodes.get_mut(&node) {
            node.addresses = None;
        }
        Ok(())
    }

    async fn nodes(&self) -> Result<Vec<NodeRow>, RegistryError> {
        let tables = self.storage.tables();
        let mut listed: Vec<(u64, NodeRow)> = Vec::new();
        for (node, stored) in &tables.nodes {
            if let Some(addresses) = &stored.addresses {
                let row = NodeRow {
                    node: *node,
                    incarnation: stored.incarnation,
                    addresses: addresses.clone(),
                    seen: stored.seen,
                };
                listed.push((stored.last_sign, row));
            }
        }
        listed.sort_by_key(|(last_sign, _)| std::cmp::Reverse(*last_sign));
        listed.truncate(NODES_LISTED_MAX);
        Ok(listed.into_iter().map(|(_, row)| row).collect())
    }

    async fn begin_incarnation(&self, node: NodeNr) -> Result<Incarnation, RegistryError> {
        self.begin(node, None)
    }

    async fn begin_numbered(
        &self,
        node: NodeNr,
        number: u64,
    ) -> Result<Incarnation, RegistryError> {
        self.begin(node, Some(number))
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
