//! The database's book of the cluster, its nodes and their sessions.
//!
//! This is what a node asks before it serves: which cluster does this database
//! belong to, who am I, and are my earlier sessions fenced? Where shards live is
//! not in it. Implementations stand beside the journals', in `registry/`.

#[cfg(feature = "testing")]
pub mod conformance;
pub mod memory;
pub(crate) mod postgres;
pub(crate) mod sqlite;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::writer::{Epoch, SessionUuid, ShardNr};

/// The cluster a database belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterIdentity {
    /// Drawn when the cluster row was inserted.
    pub cluster_id: Uuid,
    /// Fixed for the life of the cluster.
    pub number_of_shards: u32,
    /// Raised when raft state was lost and the journal kept; starts at 1.
    pub generation: u32,
}

/// Number of a node, minted by the database; never used twice.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct NodeNr(pub u64);

/// One run of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incarnation {
    /// The node.
    pub node: NodeNr,
    /// How often the node has started; grows by one with every start.
    pub number: u64,
    /// The session under which this incarnation writes.
    pub session: SessionUuid,
}

/// Why the registry refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The database cannot be reached.
    #[error("the database cannot be reached: {message}")]
    Unavailable {
        /// What the driver said.
        message: String,
        /// The driver's error.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The cluster was formed with another number of shards.
    #[error(
        "the cluster was formed with {stored} shards, this node is configured with {configured}: set \
         sharding.number_of_shards to {stored}"
    )]
    NumberOfShards {
        /// In the database.
        stored: u32,
        /// In the configuration.
        configured: u32,
    },
    /// The data directory belongs to a node the database does not know.
    #[error(
        "node {} is not known to this database: the data directory belongs to another cluster; use the \
         right database, or an empty data directory", .node.0
    )]
    NodeUnknown {
        /// The node in the data directory.
        node: NodeNr,
    },
}

/// The database's book of the cluster, its nodes and their sessions.
#[async_trait]
pub trait Registry: Send + Sync + 'static {
    /// The cluster of this database, made on first use.
    ///
    /// # Errors
    /// [`RegistryError::NumberOfShards`] when it was made with another number.
    async fn cluster(&self, number_of_shards: u32) -> Result<ClusterIdentity, RegistryError>;

    /// A node number that was never given out before.
    async fn mint_node(&self) -> Result<NodeNr, RegistryError>;

    /// Begins an incarnation: fences every earlier session of the node, waiting
    /// for its appends in flight, and opens a new one. When this returns no
    /// append of an earlier incarnation can take effect any more (I-2).
    ///
    /// # Errors
    /// [`RegistryError::NodeUnknown`] when the node was never minted here.
    async fn begin_incarnation(&self, node: NodeNr) -> Result<Incarnation, RegistryError>;

    /// Fences a session, as a whole or for one shard up to an epoch, inclusive.
    /// Waits for appends in flight. Idempotent.
    async fn fence(
        &self,
        session: SessionUuid,
        shard: Option<(ShardNr, Epoch)>,
    ) -> Result<(), RegistryError>;
}
