//! Temporary.

use std::time::Duration;

use perennial_persistence::registry::{ClusterIdentity, NodeAddresses, NodeNr, Registry};
use perennial_sharding::raft::store::{RaftStore, StoreIdentity};

use super::NodeError;
use crate::data_dir::DataDir;

pub(super) struct Formed {
    pub(super) store: RaftStore,
    pub(super) forms: bool,
    pub(super) identity: StoreIdentity,
}

pub(super) async fn form_or_find(
    registry: &dyn Registry,
    cluster: &ClusterIdentity,
    node: NodeNr,
    addresses: &NodeAddresses,
    data_dir: Option<&DataDir>,
) -> Result<Formed, NodeError> {
    registry.announce(node, addresses).await?;
    loop {
        let formation = registry.formation().await?;
        let (generation, forms) = if formation.formed {
            (formation.generation, false)
        } else if formation.forming.is_none() || formation.forming == Some(node) {
            let claimed = if formation.forming.is_none() {
                registry.claim_forming(node, formation).await?
            } else {
                formation
            };
            if claimed.forming != Some(node) {
                continue;
            }
            (claimed.generation, true)
        } else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let identity = StoreIdentity {
            cluster_id: cluster.cluster_id,
            generation,
            node,
        };
        let store = match data_dir {
            None => RaftStore::in_memory(identity),
            Some(dir) => {
                let path = dir.path().join(format!("raft-{generation}.redb"));
                if path.exists() {
                    RaftStore::open(&path, identity)
                } else {
                    RaftStore::create(&path, identity)
                }
            }
        };
        return Ok(Formed {
            store: store?,
            forms,
            identity,
        });
    }
}
