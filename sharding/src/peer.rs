//! What nodes say to each other, and how it travels.
//!
//! Values only: a transport moves them. Two exist: `peer/loopback.rs`, in one process,
//! for tests and simulation, and gRPC in the `node` crate. Every message carries a
//! [`PeerHeader`], so that one that was meant for another cluster, generation or
//! node is refused. Next: `control_plane.rs` for calls, `region.rs` for commands.

pub mod loopback;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use perennial_persistence::command::{Answer, Request};
use perennial_persistence::command_error::CommandError;
use perennial_persistence::engine::EntityDescription;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::registry::NodeNr;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::trace::Trace;
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::cluster_state::ClusterCommand;

/// From whom, to whom, and in which cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerHeader {
    /// Of the database's cluster row.
    pub cluster_id: Uuid,
    /// Of the database's cluster row.
    pub generation: u32,
    /// Who says it.
    pub from: NodeNr,
    /// The sender's session.
    pub session: SessionUuid,
    /// Whom it is for: addresses are reused, node numbers are not.
    pub to: NodeNr,
}

/// Something asked of another node, answered once.
#[derive(Debug, Clone, PartialEq)]
pub enum PeerRequest {
    /// A message of the raft group; opaque outside `raft/`.
    Raft(Bytes),
    /// To the leader: I am alive.
    Heartbeat(Heartbeat),
    /// To the leader: commit this. A node joins by proposing that it does.
    Propose(ClusterCommand),
    /// To a voter: the leader steps back, take over.
    Elect,
    /// To the leader: live entities by node, as of their last heartbeats.
    LiveEntities,
    /// To an owner: what is this entity doing?
    Describe(PersistenceId),
    /// To an owner: take this entity out of memory.
    Passivate(PersistenceId),
    /// To an owner: delete this entity for good.
    Delete(PersistenceId),
    /// To anybody: how are you?
    Figures,
}

impl PeerRequest {
    /// Whether it is asked for somebody outside, who waits for it alone, and may take
    /// long. The cluster depends on all others being answered soon, so a transport must
    /// not let them wait behind errands.
    #[must_use]
    pub fn is_errand(&self) -> bool {
        match self {
            Self::Raft(_) | Self::Heartbeat(_) | Self::Propose(_) | Self::Elect => false,
            Self::LiveEntities
            | Self::Describe(_)
            | Self::Passivate(_)
            | Self::Delete(_)
            | Self::Figures => true,
        }
    }
}

/// The answer to a [`PeerRequest`].
#[derive(Debug, Clone, PartialEq)]
pub enum PeerResponse {
    /// To a raft message; opaque outside `raft/`.
    Raft(Bytes),
    /// The heartbeat arrived, and a quorum has confirmed after it that the receiver
    /// leads.
    HeartbeatSeen,
    /// Committed at this index.
    Committed {
        /// Log index.
        index: u64,
    },
    /// Not the leader: ask that one.
    NotLeader {
        /// As far as known.
        leader: Option<NodeNr>,
    },
    /// The sender's session is not the member's any more: it must rejoin.
    SessionOver,
    /// Live entities by node.
    LiveEntities(Vec<(NodeNr, u64)>),
    /// Epoch of the shard and what the entity is doing; `None` when the receiver
    /// does not own it.
    Described(Option<(Epoch, EntityDescription)>),
    /// The number at which the entity's next life begins, or why it is not deleted;
    /// `None` when the receiver does not own its shard.
    Deleted(Option<Result<SequenceNr, CommandError>>),
    /// What the receiver measures about itself.
    Figures(Box<NodeFigures>),
    /// Done.
    Done,
}

/// What a node measures about itself, for people. Nothing is decided by it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeFigures {
    /// Commands of clients that it answered lately, by the second.
    pub commands_per_second: f64,
    /// Those of them that failed, not counting what entities rejected.
    pub failures_per_second: f64,
    /// Events it stored lately, by the second.
    pub events_per_second: f64,
    /// Commands it answered lately, by the class of their time; the node crate knows
    /// the classes.
    pub latencies: Vec<u32>,
    /// Commands it answered in each of the last seconds, the latest last.
    pub history: Vec<u32>,
    /// Entities in its memory.
    pub live_entities: u64,
    /// Commands that wait for its entities.
    pub commands_waiting: u64,
    /// Entities that recover.
    pub recoveries_running: u64,
    /// Entities that wait for a permit to recover.
    pub recoveries_waiting: u64,
    /// Permits it has.
    pub recoveries_max: u64,
    /// Whether its journal answers.
    pub journal_in_reach: bool,
    /// Index of the cluster's state that it goes by.
    pub index: u64,
    /// Since it started.
    pub uptime: Duration,
}

/// A sign of life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Counts the sender's heartbeats.
    pub number: u64,
    /// Whether the sender's journal answers.
    pub journal_in_reach: bool,
    /// Entities in the sender's memory.
    pub live_entities: u64,
    /// Index of the sender's state.
    pub index: u64,
}

/// A request on its way to its shard's owner. It cannot be taken back: what nobody
/// waits for any more is answered all the same, and the answer is dropped here.
#[derive(Debug, Clone)]
pub struct Forwarded {
    /// The sender's number for it, unique on the stream.
    pub correlation_id: u64,
    /// Index of the state by which it was routed; the receiver catches up first.
    pub routed_at: u64,
    /// The entity's shard.
    pub shard: ShardNr,
    /// Of the shard, by the sender's state.
    pub epoch: Epoch,
    /// Whom it is for.
    pub persistence_id: PersistenceId,
    /// What is asked.
    pub request: Request,
    /// What was left of its time when it was sent.
    pub time_left: Option<Duration>,
    /// To which it belongs; mostly none.
    pub trace: Trace,
}

/// From the owner of a shard.
#[derive(Debug, Clone)]
pub enum BackFrame {
    /// The answer.
    Answer {
        /// Of the request.
        correlation_id: u64,
        /// What came of it.
        answer: Answer,
    },
    /// Not begun, because the receiver does not own the shard (any more): route it
    /// anew, by a state of at least this index.
    Returned {
        /// Of the request.
        correlation_id: u64,
        /// Index of the receiver's state.
        index: u64,
    },
    /// So many more requests may be sent.
    Credit(u32),
}

/// Why a peer could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// Nobody listens there: the process is gone, or was never there.
    #[error("node {} at {address} refuses connections: is it running?", .node.0)]
    Refused {
        /// Whom.
        node: NodeNr,
        /// Where.
        address: String,
    },
    /// No answer, or the connection broke; the request may have been handled.
    #[error("node {} at {address} does not answer: {message}", .node.0)]
    Unreachable {
        /// Whom.
        node: NodeNr,
        /// Where.
        address: String,
        /// What the transport said.
        message: String,
    },
    /// The node there is not the one meant, or of another cluster or generation.
    #[error("node {} was not found at {address}: {message}", .node.0)]
    WrongPeer {
        /// Whom.
        node: NodeNr,
        /// Where.
        address: String,
        /// Who is there instead.
        message: String,
    },
}

/// Where a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Whom.
    pub node: NodeNr,
    /// Host and port, resolved anew at each connect.
    pub address: String,
}

/// The two ends of a stream of commands at its sender. Dropping either ends it.
#[derive(Debug)]
pub struct ForwardStream {
    /// To the owner; a full channel means: wait.
    pub frames: mpsc::Sender<Vec<Forwarded>>,
    /// From the owner; closed when the stream is lost.
    pub back: mpsc::Receiver<Vec<BackFrame>>,
}

/// The same stream at its receiver.
#[derive(Debug)]
pub struct AcceptedStream {
    /// Whose commands come.
    pub header: PeerHeader,
    /// From the sender; closed when the stream is lost.
    pub frames: mpsc::Receiver<Vec<Forwarded>>,
    /// To the sender.
    pub back: mpsc::Sender<Vec<BackFrame>>,
}

/// Carries messages to other nodes.
#[async_trait]
pub trait PeerTransport: Send + Sync + 'static {
    /// Asks a node. Gives up after `deadline`. Safe to cancel; the node may handle
    /// the request all the same.
    ///
    /// # Errors
    /// [`PeerError`]: only `Refused` and `WrongPeer` say that it was not handled.
    async fn call(
        &self,
        peer: &Peer,
        header: PeerHeader,
        request: PeerRequest,
        deadline: Duration,
    ) -> Result<PeerResponse, PeerError>;

    /// Opens a stream of commands to a node.
    ///
    /// # Errors
    /// [`PeerError`].
    async fn open(&self, peer: &Peer, header: PeerHeader) -> Result<ForwardStream, PeerError>;
}

/// Receives what a transport brings; the transport checks nothing.
#[async_trait]
pub trait PeerHandler: Send + Sync + 'static {
    /// Answers a request.
    ///
    /// # Errors
    /// [`PeerError::WrongPeer`] when the header is not for this node.
    async fn handle(
        &self,
        header: PeerHeader,
        request: PeerRequest,
    ) -> Result<PeerResponse, PeerError>;

    /// Takes a stream of commands over, for as long as it lasts.
    ///
    /// # Errors
    /// [`PeerError::WrongPeer`] when the header is not for this node.
    async fn accept(&self, stream: AcceptedStream) -> Result<(), PeerError>;
}

/// A handler that is shared with a transport.
pub type SharedPeerHandler = Arc<dyn PeerHandler>;
