//! What can be read off a [`ClusterState`].
//!
//! Plain lookups, no decisions. Next: `allocation.rs`, which decides where shards
//! should be.

use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr};

use super::{ClusterState, Home, Member, MemberStatus, Shard};

/// Who owns a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The node.
    pub node: NodeNr,
    /// Under which it may write.
    pub session: SessionUuid,
    /// Of the shard.
    pub epoch: Epoch,
    /// Where the shard goes when it is drained; `None` while it stays.
    pub handing_off_to: Option<NodeNr>,
    /// No earlier owner can write any more, so its entities may recover (I-2).
    pub may_recover: bool,
}

impl ClusterState {
    /// How many shards there are; fixed.
    #[must_use]
    pub fn number_of_shards(&self) -> u32 {
        // Made from a u32 and never resized.
        self.shards.len() as u32
    }

    /// A shard; `None` if there are not so many.
    #[must_use]
    pub fn shard(&self, shard: ShardNr) -> Option<&Shard> {
        self.shards.get(shard.0 as usize)
    }

    /// Who owns a shard; `None` if nobody does, or there are not so many.
    #[must_use]
    pub fn owner_of(&self, shard: ShardNr) -> Option<Owner> {
        let shard = self.shard(shard)?;
        let (node, session, handing_off_to) = match shard.home {
            Home::Unassigned => return None,
            Home::Owned { node, session } => (node, session, None),
            Home::HandingOff { from, session, to } => (from, session, Some(to)),
        };
        Some(Owner {
            node,
            session,
            epoch: shard.epoch,
            handing_off_to,
            may_recover: shard.unfenced.is_empty(),
        })
    }

    /// All shards with their numbers, in order.
    pub fn shards(&self) -> impl Iterator<Item = (ShardNr, &Shard)> {
        (0..).map(ShardNr).zip(&self.shards)
    }

    /// The shards a node owns, also those it is handing off.
    pub fn shards_of(&self, node: NodeNr) -> impl Iterator<Item = ShardNr> {
        self.shards()
            .filter(move |(_, shard)| shard.home.owner() == Some(node))
            .map(|(nr, _)| nr)
    }

    /// The shards that are being handed off, each with its owner's session, epoch
    /// and receiver.
    pub fn handoffs(&self) -> impl Iterator<Item = (ShardNr, Owner, NodeNr)> {
        self.shards().filter_map(|(nr, _)| {
            let owner = self.owner_of(nr)?;
            Some((nr, owner, owner.handing_off_to?))
        })
    }

    /// A node that joined and was not removed.
    #[must_use]
    pub fn member(&self, node: NodeNr) -> Option<&Member> {
        self.members.get(&node)
    }

    /// The members that serve and are given shards, by number.
    pub fn members_up(&self) -> impl Iterator<Item = &Member> {
        self.members
            .values()
            .filter(|member| member.status == MemberStatus::Up)
    }

    /// The session of a node that is up.
    #[must_use]
    pub fn session_up(&self, node: NodeNr) -> Option<SessionUuid> {
        self.member(node)
            .filter(|member| member.status == MemberStatus::Up)
            .map(|member| member.session)
    }

    /// Whether this is the session of a member that is not down: one that may hold
    /// a lease.
    #[must_use]
    pub fn is_current(&self, node: NodeNr, session: SessionUuid) -> bool {
        self.member(node)
            .is_some_and(|member| member.session == session && member.status != MemberStatus::Down)
    }

    /// Whether this session of a node has left: the node leaves or was removed, and
    /// owns nothing. It is never given a shard again.
    #[must_use]
    pub fn has_left(&self, node: NodeNr, session: SessionUuid) -> bool {
        let goes = self.member(node).is_none_or(|member| {
            member.session == session && member.status == MemberStatus::Leaving
        });
        goes && self.shards_of(node).next().is_none()
    }
}

impl Shard {
    /// That of the next owner.
    #[must_use]
    pub fn next_epoch(&self) -> Epoch {
        Epoch(self.epoch.0 + 1)
    }
}

impl Home {
    /// The node that owns the shard, also while it hands it off.
    #[must_use]
    pub fn owner(&self) -> Option<NodeNr> {
        match *self {
            Self::Unassigned => None,
            Self::Owned { node, .. } | Self::HandingOff { from: node, .. } => Some(node),
        }
    }

    /// Where the shard is when what has begun has ended.
    #[must_use]
    pub fn destination(&self) -> Option<NodeNr> {
        match *self {
            Self::Unassigned => None,
            Self::Owned { node, .. } | Self::HandingOff { to: node, .. } => Some(node),
        }
    }

    /// Whether the node has the shard, or is to get it.
    #[must_use]
    pub fn involves(&self, node: NodeNr) -> bool {
        self.owner() == Some(node) || self.destination() == Some(node)
    }
}
