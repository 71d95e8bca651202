//! The database's book of the cluster, its nodes and their sessions.
//!
//! This is what a node asks before it serves: which cluster does this database
//! belong to, who forms it, who am I, where are the others, and are my earlier
//! sessions fenced? Where shards live is not in it. Implementations stand beside the
//! journals', in `registry/`.

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
    /// Grows with every start of the node.
    pub number: u64,
    /// The session under which this incarnation writes.
    pub session: SessionUuid,
    /// Of the cluster when the session began; 0 before there was one.
    pub generation: u32,
}

/// How far the forming of the cluster has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Formation {
    /// Which generation of the cluster.
    pub generation: u32,
    /// Whether it is formed: only then can nodes join.
    pub formed: bool,
    /// Who forms it, or has formed it.
    pub forming: Option<NodeNr>,
}

/// Where a node is: each host and port, a name rather than a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddresses {
    /// For clients.
    pub address: String,
    /// For other nodes.
    pub peer_address: String,
}

/// A node that has announced where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    /// The node.
    pub node: NodeNr,
    /// The number of its last start.
    pub incarnation: u64,
    /// Where it says it is.
    pub addresses: NodeAddresses,
    /// Grows with every sign of life: a node is alive while this changes.
    pub seen: u64,
}

/// What a database says when an incarnation was to begin.
struct Begun {
    /// The node's last incarnation then.
    last: i64,
    /// Session and generation, if it has begun.
    opened: Option<(SessionUuid, u32)>,
}

impl Begun {
    /// Without a number it was to be the next; without an answer the node is unknown.
    fn incarnation(
        begun: Option<Self>,
        node: NodeNr,
        number: Option<u64>,
    ) -> Result<Incarnation, RegistryError> {
        let begun = begun.ok_or(RegistryError::NodeUnknown { node })?;
        let stored = begun.last.unsigned_abs();
        let number = number.unwrap_or(stored);
        match begun.opened {
            Some((session, generation)) => Ok(Incarnation {
                node,
                number,
                session,
                generation,
            }),
            None => Err(RegistryError::IncarnationOver {
                node,
                number,
                stored,
            }),
        }
    }
}

/// As the databases store it: no node starts more often.
fn stored_incarnation(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// So many nodes are listed at most; a cluster is far smaller.
pub const NODES_LISTED_MAX: usize = 1_000;

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
    /// There is no cluster in this database yet.
    #[error("the database has no cluster yet: ask for the cluster first")]
    NotACluster,
    /// The data directory belongs to a node the database does not know.
    #[error(
        "node {} is not known to this database: the data directory belongs to another cluster; use the \
         right database, or an empty data directory", .node.0
    )]
    NodeUnknown {
        /// The node in the data directory.
        node: NodeNr,
    },
    /// The node has had an incarnation with this number, or a later one. Nothing was
    /// changed.
    #[error(
        "node {} has begun incarnation {stored}, so {number} is over: another process has started as this node, and only one may run", .node.0
    )]
    IncarnationOver {
        /// The node.
        node: NodeNr,
        /// That was to begin.
        number: u64,
        /// In the database.
        stored: u64,
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

    /// How far the forming of the cluster has come.
    ///
    /// # Errors
    /// [`RegistryError::NotACluster`] before [`Registry::cluster`] was called.
    async fn formation(&self) -> Result<Formation, RegistryError>;

    /// Makes `node` the one that forms the cluster, if the formation is still what
    /// was seen: unformed and, in any case, with somebody else or nobody forming it.
    /// Taking it from somebody raises the generation, so that what that one has made
    /// is of no use any more. Returns the formation as it is then.
    ///
    /// # Errors
    /// [`RegistryError::NotACluster`].
    async fn claim_forming(
        &self,
        node: NodeNr,
        seen: Formation,
    ) -> Result<Formation, RegistryError>;

    /// Declares the generation formed, if `node` is still the one that forms it.
    /// Returns whether it is; repeated, it says so again.
    async fn set_formed(&self, node: NodeNr, generation: u32) -> Result<bool, RegistryError>;

    /// Begins a new generation because what the nodes of this one agreed on is lost.
    /// Changes nothing if that has been done, or it was never formed. Returns the
    /// formation as it is then.
    ///
    /// # Errors
    /// [`RegistryError::NotACluster`].
    async fn reform(&self, generation: u32) -> Result<Formation, RegistryError>;

    /// Fences every session that began before this generation, of any node, waiting
    /// for appends in flight. A session that begins at the same time either counts
    /// as of this generation or is fenced (I-2). Idempotent.
    async fn fence_earlier_generations(&self, generation: u32) -> Result<(), RegistryError>;

    /// Announces where a node is. An address is of one node: whoever had announced
    /// the same peer address before has none any more.
    ///
    /// # Errors
    /// [`RegistryError::NodeUnknown`] when the node was never minted here.
    async fn announce(&self, node: NodeNr, addresses: &NodeAddresses) -> Result<(), RegistryError>;

    /// Gives a sign of life. Returns whether the address is still this node's;
    /// another one may have announced it.
    async fn give_sign(
        &self,
        node: NodeNr,
        addresses: &NodeAddresses,
    ) -> Result<bool, RegistryError>;

    /// Forgets where a node is, because it left the cluster for good.
    async fn withdraw(&self, node: NodeNr) -> Result<(), RegistryError>;

    /// The nodes that have announced where they are, the last seen first; at most
    /// [`NODES_LISTED_MAX`].
    async fn nodes(&self) -> Result<Vec<NodeRow>, RegistryError>;

    /// Begins an incarnation: fences every earlier session of the node, waiting
    /// for its appends in flight, and opens a new one. When this returns no
    /// append of an earlier incarnation can take effect any more (I-2).
    ///
    /// The database counts the incarnations. For who keeps nothing of its own: an
    /// answer that is lost leaves it open how far the database has counted, and what
    /// was given up may still come and fence the session that was begun after it. A
    /// node with a disk begins with [`Registry::begin_numbered`].
    ///
    /// # Errors
    /// [`RegistryError::NodeUnknown`] when the node was never minted here.
    async fn begin_incarnation(&self, node: NodeNr) -> Result<Incarnation, RegistryError>;

    /// Begins an incarnation as [`Registry::begin_incarnation`] does, under a number
    /// that the node itself has counted: greater than any it has ever asked for,
    /// whether it was answered or not. So what comes late changes nothing, and a
    /// refusal says that somebody else has counted.
    ///
    /// # Errors
    /// [`RegistryError::IncarnationOver`] unless the number is greater than that of
    /// the last incarnation; [`RegistryError::NodeUnknown`] when the node was never
    /// minted here.
    async fn begin_numbered(&self, node: NodeNr, number: u64)
    -> Result<Incarnation, RegistryError>;

    /// Fences a session, as a whole or for one shard up to an epoch, inclusive.
    /// Waits for appends in flight. Idempotent.
    async fn fence(
        &self,
        session: SessionUuid,
        shard: Option<(ShardNr, Epoch)>,
    ) -> Result<(), RegistryError>;
}
