//! What the nodes of a cluster agree on: its members, the home of every shard, and
//! the sessions that have to be fenced.
//!
//! A pure value. It changes only by [`ClusterCommand`]s, in the order in which raft
//! committed them, and so is the same on every node at the same index. It knows no
//! clock, no network and no journal; who is alive and where shards should be is
//! decided by `coordinator.rs`. Next: `cluster_state/apply.rs`, what each command
//! does, then `control_plane.rs`, which replicates the state.

mod apply;
#[cfg(test)]
mod apply_test;
mod events;
mod queries;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use events::RecentEvent;
pub use queries::Owner;

/// What the nodes of a cluster agree on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClusterState {
    /// Of the database's cluster row.
    pub cluster_id: Uuid,
    /// Of the database's cluster row; the upper half of every epoch.
    pub generation: u32,
    /// Log index of the last command that was applied; orders two states.
    pub index: u64,
    /// Every node that joined and was not removed.
    pub members: BTreeMap<NodeNr, Member>,
    /// By shard number.
    pub shards: Vec<Shard>,
    /// Sessions of nodes that were declared down, until they are fenced.
    pub condemned: BTreeMap<SessionUuid, NodeNr>,
    /// What happened lately, for people; the oldest first, bounded.
    pub recent_events: VecDeque<RecentEvent>,
    /// Shards that have arrived since the last time none was on its way, for people.
    pub handed_off: u32,
}

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Given by the database, never used twice.
    pub node: NodeNr,
    /// How often the node has started.
    pub incarnation: u64,
    /// Under which this incarnation writes.
    pub session: SessionUuid,
    /// Where clients reach it: host and port.
    pub address: String,
    /// Where other nodes reach it: host and port, a name rather than a number.
    pub peer_address: String,
    /// Of the program it runs.
    pub version: String,
    /// Its share of the shards relative to others; at least 1.
    pub weight: u32,
    /// Where it is in its life.
    pub status: MemberStatus,
    /// It is to be taken out of the cluster when its shards have gone.
    pub removing: bool,
}

/// Where a member is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MemberStatus {
    /// Known, but not given shards yet.
    Joining,
    /// Serves, and is given shards.
    Up,
    /// Serves until its shards have been handed off.
    Leaving,
    /// Declared dead, or stopped.
    Down,
}

/// A shard: whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shard {
    /// Its home.
    pub home: Home,
    /// Of the latest owner; the next owner gets a higher one (I-1).
    pub epoch: Epoch,
    /// Sessions that owned it, did not hand it off and are not fenced yet. Nobody
    /// may recover an entity of it before this is empty (I-2).
    pub unfenced: BTreeSet<SessionUuid>,
}

/// The home of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Home {
    /// Nobody's.
    Unassigned,
    /// A session of a node owns it. If the same session owned it in an earlier epoch,
    /// as after a handoff to a node that died, it has its appends of that epoch
    /// settled or fenced before it recovers anything: to the journal they are another
    /// owner's.
    Owned {
        /// The owner.
        node: NodeNr,
        /// The session that may write.
        session: SessionUuid,
    },
    /// The owner finishes what it accepted; then it goes to another node.
    HandingOff {
        /// The owner, as long as it is not drained.
        from: NodeNr,
        /// The owner's session.
        session: SessionUuid,
        /// Where it goes.
        to: NodeNr,
    },
}

/// A change of the state, as it is replicated. Each can be applied twice, or too
/// late, without harm: one that no longer fits changes nothing. The time each carries
/// is that of the node that proposed it, for people.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ClusterCommand {
    /// A node comes, or comes back with a new session. The node has fenced its own
    /// earlier sessions before, so shards they owned have no owner any more.
    Join {
        /// As which; its status is ignored.
        member: Member,
        /// Milliseconds since 1970, for people.
        at: u64,
    },
    /// A joining node is ready to own shards.
    Up {
        /// The node.
        node: NodeNr,
        /// Ignored unless it is the member's.
        session: SessionUuid,
        /// Milliseconds since 1970, for people.
        at: u64,
    },
    /// A node is to hand its shards off.
    Leave {
        /// The node.
        node: NodeNr,
        /// Ignored unless it is the member's.
        session: SessionUuid,
        /// Take it out of the cluster afterwards.
        remove: bool,
        /// Milliseconds since 1970, for people.
        at: u64,
    },
    /// A node is dead: its session is condemned, its shards have no owner.
    Down {
        /// The node.
        node: NodeNr,
        /// Ignored unless it is the member's.
        session: SessionUuid,
        /// Milliseconds since 1970, for people.
        at: u64,
    },
    /// A node without shards, down or leaving, is no member any more.
    Remove {
        /// The node.
        node: NodeNr,
        /// Milliseconds since 1970, for people.
        at: u64,
    },
    /// The journal refuses everything this session writes from now on.
    Fenced {
        /// The session.
        session: SessionUuid,
        /// Milliseconds since 1970, for people.
        at: u64,
    },
    /// Shards without an owner get one, each with its next epoch.
    Assign {
        /// Which to whom; those that have an owner, or whose node is not up with
        /// this session, are left as they are.
        shards: Vec<(ShardNr, NodeNr, SessionUuid)>,
        /// Milliseconds since 1970, for people.
        at: u64,
    },
    /// Owners are asked to hand shards off.
    BeginHandoff {
        /// Which, as of which epoch, to whom.
        shards: Vec<(ShardNr, Epoch, NodeNr)>,
        /// Milliseconds since 1970, for people.
        at: u64,
    },
    /// The owner has stopped the shard's entities and the journal refuses its
    /// session's writes to the shard under this epoch: the next owner may begin.
    Drained {
        /// The shard.
        shard: ShardNr,
        /// Ignored unless it is the owner's.
        session: SessionUuid,
        /// Ignored unless it is the shard's.
        epoch: Epoch,
        /// Who saw to it.
        by: DrainedBy,
        /// Milliseconds since 1970, for people.
        at: u64,
    },
}

/// Who saw to it that a shard is drained. The effect is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DrainedBy {
    /// Its owner, as it was asked to.
    Owner,
    /// The leader, by a fence, because the owner took too long.
    Force,
}
