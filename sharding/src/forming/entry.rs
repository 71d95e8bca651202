//! Enters a cluster: takes the steps that `forming.rs` decides on, until the node can
//! join.
//!
//! It may be interrupted anywhere, by a kill or by dropping the future, and be begun
//! again: each step is safe to repeat, and whatever was left half done is found and
//! finished, or of no use to anybody. It does not join by itself, because the node has
//! to answer its peers first; see [`Entered`].

use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::registry::{
    ClusterIdentity, Formation, Incarnation, NodeAddresses, NodeNr, NodeRow, Registry,
    RegistryError,
};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::disk::{DiskError, NodeDisk, NodeIdentity};
use super::identity::{begin_as_new_node, begin_incarnation};
use super::presence::SIGN_INTERVAL;
use super::{Step, View, next_step};
use crate::peer::PeerTransport;
use crate::raft::store::{RaftStore, RaftStoreError, StoreIdentity};
use crate::raft::{AddressBook, RaftControlPlane, RaftError, RaftNode, RaftSettings};

/// How often a waiting node looks whether the cluster is formed.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// A claim that has led to nothing for so long is taken over. Forming takes some
/// writes to disk and database.
pub const FORMING_PATIENCE: Duration = Duration::from_secs(5);
/// An address whose node has given no sign for so long is free.
pub const ADDRESS_FREE_AFTER: Duration = Duration::from_secs(3 * SIGN_INTERVAL.as_secs());

/// What a node needs to enter a cluster.
#[derive(Clone)]
pub struct Entry {
    /// Of the database the nodes share.
    pub registry: Arc<dyn Registry>,
    /// What this node keeps.
    pub disk: Arc<dyn NodeDisk>,
    /// Fixed by whoever comes first.
    pub number_of_shards: u32,
    /// Where the others find this node.
    pub addresses: NodeAddresses,
    /// To the other nodes.
    pub transport: Arc<dyn PeerTransport>,
    /// How patient the raft group is.
    pub settings: RaftSettings,
    /// From 0 to 1, drawn for each entry; see [`RaftNode::luck`].
    pub luck: f64,
}

/// A node that can join: it is a member of the raft group, or waits to be taken in.
///
/// What is left to do, in this order: answer peers with
/// [`RaftControlPlane::handle`], then [`RaftControlPlane::join`], and keep
/// [`stay_present`](super::presence::stay_present) running.
#[derive(Clone)]
pub struct Entered {
    /// Which cluster, and its generation.
    pub cluster: ClusterIdentity,
    /// Who this node is; its earlier sessions are fenced.
    pub incarnation: Incarnation,
    /// The raft group's member, started.
    pub control: RaftControlPlane,
}

/// Why a node cannot enter the cluster of a database.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// The database refused, or cannot be reached.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The disk belongs to another cluster.
    #[error(
        "this data directory belongs to node {} of cluster {ours}, and the journal to cluster {theirs}: use the \
         journal of that cluster, or an empty data directory", .node.0
    )]
    ForeignDisk {
        /// On the disk.
        node: NodeNr,
        /// On the disk.
        ours: Uuid,
        /// In the database.
        theirs: Uuid,
    },
    /// Another process runs as this node.
    #[error(
        "another process has started as node {} and fenced its session: only one may run; nothing acknowledged is lost", .node.0
    )]
    Superseded {
        /// This node.
        node: NodeNr,
    },
    /// Another node that is alive has the same peer address.
    #[error(
        "node {} is alive and says that peers reach it at {address}, as this node does: give each node an address of \
         its own with --advertise-peer", .node.0
    )]
    AddressInUse {
        /// The other one.
        node: NodeNr,
        /// Of both.
        address: String,
    },
    /// Who the node is cannot be read or written.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The raft store cannot be used.
    #[error(transparent)]
    Store(#[from] RaftStoreError),
    /// The raft group's member cannot start.
    #[error(transparent)]
    Raft(#[from] RaftError),
}

impl Entry {
    /// Enters the cluster: forms it, or waits until it is formed. Waits as long as
    /// that takes. Safe to cancel and to repeat.
    ///
    /// # Errors
    /// [`EntryError`].
    pub async fn enter(&self) -> Result<Entered, EntryError> {
        let registry = &*self.registry;
        let cluster = registry.cluster(self.number_of_shards).await?;
        let mut incarnation = begin_incarnation(registry, &cluster, &*self.disk).await?;
        self.take_address(incarnation.node).await?;
        let mut waiting = Waiting::default();
        let mut made = None;
        loop {
            let formation = registry.formation().await?;
            let cluster = ClusterIdentity {
                generation: formation.generation,
                ..cluster.clone()
            };
            let identity = self.identity_of(&cluster, incarnation.node)?;
            let view = View {
                node: incarnation.node,
                formation,
                stalled: waiting.is_over(formation, Instant::now()),
                session_generation: incarnation.generation,
                store_generation: identity.store_generation,
            };
            let step = next_step(&view);
            tracing::debug!(?view, ?step, "entering the cluster");
            match step {
                Step::Wait => sleep(LOOK_INTERVAL).await,
                Step::Claim => {
                    if let Some(NodeNr(other)) = formation.forming {
                        tracing::warn!(
                            other,
                            "a node that was to form the cluster has not done so: taking over"
                        );
                    }
                    registry.claim_forming(view.node, formation).await?;
                }
                Step::BeginIncarnation => {
                    incarnation = begin_incarnation(registry, &cluster, &*self.disk).await?;
                }
                Step::MakeStore => made = Some(self.make_store(&identity, cluster.generation)?),
                Step::Form | Step::Join => {
                    let store = match made.take() {
                        Some(store) => Some(store),
                        None => self.open_store(&identity)?,
                    };
                    let Some(store) = store else {
                        // What it voted for is not known any more.
                        tracing::warn!(
                            node = identity.node.0,
                            "the raft store of this node is lost: joining as a new node"
                        );
                        incarnation = begin_as_new_node(registry, &cluster, &*self.disk).await?;
                        registry.announce(incarnation.node, &self.addresses).await?;
                        continue;
                    };
                    let control = self.start(store, &incarnation).await?;
                    let formed = match step {
                        Step::Form => self.form(&control, &incarnation).await,
                        _ => Ok(true),
                    };
                    if matches!(formed, Ok(true)) {
                        return Ok(Entered {
                            cluster,
                            incarnation,
                            control,
                        });
                    }
                    // Closes the store as well.
                    control.stop().await;
                    formed?;
                    tracing::warn!("another node has taken over forming the cluster");
                }
            }
        }
    }

    /// Makes this node the raft group of a new cluster. Returns whether the cluster
    /// is formed by it.
    async fn form(
        &self,
        control: &RaftControlPlane,
        incarnation: &Incarnation,
    ) -> Result<bool, EntryError> {
        control.form(FORMING_PATIENCE).await?;
        // Sessions of a generation that was formed may still write, wherever they
        // are; nothing may be granted before they cannot (I-2).
        let generation = incarnation.generation;
        self.registry.fence_earlier_generations(generation).await?;
        let node = incarnation.node;
        let formed = self.registry.set_formed(node, generation).await?;
        if formed {
            tracing::info!(node = node.0, generation, "formed the cluster");
        }
        Ok(formed)
    }

    async fn start(
        &self,
        store: RaftStore,
        incarnation: &Incarnation,
    ) -> Result<RaftControlPlane, EntryError> {
        let addresses = AddressBook::default();
        for row in self.registry.nodes().await? {
            addresses.insert(row.node, row.incarnation, &row.addresses.peer_address);
        }
        let started = RaftControlPlane::start(RaftNode {
            store,
            number_of_shards: self.number_of_shards,
            session: incarnation.session,
            transport: Arc::clone(&self.transport),
            addresses,
            settings: self.settings.clone(),
            luck: self.luck,
        });
        Ok(started.await?)
    }

    /// Who the disk says the node is, which by now it does.
    fn identity_of(
        &self,
        cluster: &ClusterIdentity,
        node: NodeNr,
    ) -> Result<NodeIdentity, EntryError> {
        let identity = self.disk.identity()?;
        identity
            .filter(|identity| identity.node == node)
            .ok_or_else(|| EntryError::ForeignDisk {
                node: identity.map_or(node, |identity| identity.node),
                ours: identity.map_or(Uuid::nil(), |identity| identity.cluster_id),
                theirs: cluster.cluster_id,
            })
    }

    /// Writes down that the store is there only when it is, and removes the earlier
    /// one only after that: whatever is missing then was lost.
    fn make_store(
        &self,
        identity: &NodeIdentity,
        generation: u32,
    ) -> Result<RaftStore, EntryError> {
        let made = self.disk.make_store(StoreIdentity {
            cluster_id: identity.cluster_id,
            generation,
            node: identity.node,
        })?;
        self.disk.set_identity(&NodeIdentity {
            store_generation: generation,
            ..*identity
        })?;
        if let Err(error) = self.disk.remove_store(identity.store_generation) {
            tracing::warn!(%error, "an earlier raft store could not be removed: it is of no use any more");
        }
        Ok(made)
    }

    fn open_store(&self, identity: &NodeIdentity) -> Result<Option<RaftStore>, EntryError> {
        let opened = self.disk.open_store(StoreIdentity {
            cluster_id: identity.cluster_id,
            generation: identity.store_generation,
            node: identity.node,
        })?;
        Ok(opened)
    }

    /// Announces where this node is, unless another one that is alive says the same.
    async fn take_address(&self, node: NodeNr) -> Result<(), EntryError> {
        let address = &self.addresses.peer_address;
        let began = Instant::now();
        let mut first: Option<NodeRow> = None;
        loop {
            let rows = self.registry.nodes().await?;
            let mut others = rows.into_iter().filter(|row| row.node != node);
            let Some(other) = others.find(|row| row.addresses.peer_address == *address) else {
                break;
            };
            let known = first.get_or_insert_with(|| {
                tracing::info!(
                    other = other.node.0,
                    address,
                    "waiting whether the node that had this address is gone"
                );
                other.clone()
            });
            if (other.node, other.seen) != (known.node, known.seen) {
                return Err(EntryError::AddressInUse {
                    node: other.node,
                    address: address.clone(),
                });
            }
            if began.elapsed() > ADDRESS_FREE_AFTER {
                break;
            }
            sleep(LOOK_INTERVAL).await;
        }
        self.registry.announce(node, &self.addresses).await?;
        Ok(())
    }
}

/// Since when a formation has been as it is, by this node's clock.
#[derive(Default)]
struct Waiting {
    since: Option<(Formation, Instant)>,
}

impl Waiting {
    fn is_over(&mut self, formation: Formation, now: Instant) -> bool {
        match self.since {
            Some((seen, since)) if seen == formation => now - since >= FORMING_PATIENCE,
            _ => {
                self.since = Some((formation, now));
                false
            }
        }
    }
}
