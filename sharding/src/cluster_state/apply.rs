//! What each [`ClusterCommand`] does to the [`ClusterState`].
//!
//! Commands are proposed from what a node knew some time ago and may arrive twice,
//! late or in another order, so each arm first asks whether the command still
//! fits and otherwise does nothing. Two rules carry the promises:
//!
//! * an epoch is only ever raised, and with every new owner ([`give`], I-1);
//! * a session that lost a shard without having handed it off stays in the shard's
//!   `unfenced` set until the journal is known to refuse it (I-2). Such a session is
//!   always condemned as well.
//!
//! Nothing here panics: all nodes would, at the same command. Next: `events.rs`, in
//! which words it is told, and `queries.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use perennial_persistence::planted::{self, Bug};
use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr};
use uuid::Uuid;

use super::events::{told_assigned, told_begun};
use super::{ClusterCommand, ClusterState, DrainedBy, Home, Member, MemberStatus, Shard};

impl ClusterState {
    /// A cluster without members, whose shards have no owners.
    ///
    /// Epochs begin at `generation << 32`, so that those of a later generation,
    /// formed because raft's state was lost, are above all earlier ones.
    #[must_use]
    pub fn new(cluster_id: Uuid, generation: u32, number_of_shards: u32) -> Self {
        let shard = Shard {
            home: Home::Unassigned,
            epoch: Epoch(u64::from(generation) << 32),
            unfenced: BTreeSet::new(),
        };
        Self {
            cluster_id,
            generation,
            index: 0,
            members: BTreeMap::new(),
            shards: vec![shard; number_of_shards as usize],
            condemned: BTreeMap::new(),
            recent_events: VecDeque::new(),
            handed_off: 0,
        }
    }

    /// Applies the command that raft committed at `index`. Returns whether anything
    /// but the index changed: a command that no longer fits changes nothing.
    pub fn apply(&mut self, index: u64, command: &ClusterCommand) -> bool {
        self.index = self.index.max(index);
        match command {
            ClusterCommand::Join { member, at } => self.join(member, *at),
            ClusterCommand::Up { node, session, at } => self.up(*node, *session, *at),
            ClusterCommand::Leave {
                node,
                session,
                remove,
                at,
            } => self.leave(*node, *session, *remove, *at),
            ClusterCommand::Down { node, session, at } => self.down(*node, *session, *at),
            ClusterCommand::Remove { node, at } => self.remove(*node, *at),
            ClusterCommand::Fenced { session, at } => self.fenced_by_others(*session, *at),
            ClusterCommand::Assign { shards, at } => self.assign_all(shards, *at),
            ClusterCommand::BeginHandoff { shards, at } => self.begin_handoffs(shards, *at),
            ClusterCommand::Drained {
                shard,
                session,
                epoch,
                by,
                at,
            } => self.drained(*shard, *session, *epoch, *by, *at),
        }
    }

    /// Only an incarnation later than the known one joins: repeated and overtaken
    /// joins change nothing.
    ///
    /// The node fenced all its earlier sessions before it asked to join. That clears
    /// the session it had as a member. Sessions condemned before it was removed and
    /// came back stay condemned: somebody will fence them, at no harm.
    fn join(&mut self, member: &Member, at: u64) -> bool {
        let known = self.members.get(&member.node);
        if known.is_some_and(|known| known.incarnation >= member.incarnation)
            || self.condemned.contains_key(&member.session)
        {
            return false;
        }
        let text = match known {
            Some(_) => format!(
                "node {} ({}) came back, version {}",
                member.node.0, member.address, member.version
            ),
            None => format!(
                "node {} ({}) joined, version {}",
                member.node.0, member.address, member.version
            ),
        };
        if let Some(former) = known.map(|known| known.session) {
            self.take_from(member.node, former, at);
            self.fenced(former);
        }
        self.members.insert(
            member.node,
            Member {
                status: MemberStatus::Joining,
                removing: false,
                weight: member.weight.max(1),
                ..member.clone()
            },
        );
        self.tell(at, text);
        true
    }

    fn up(&mut self, node: NodeNr, session: SessionUuid, at: u64) -> bool {
        let Some(member) = self.member_with(node, session) else {
            return false;
        };
        if member.status != MemberStatus::Joining {
            return false;
        }
        member.status = MemberStatus::Up;
        self.tell(at, format!("node {} is up", node.0));
        true
    }

    /// Also marks a member that is down for removal.
    fn leave(&mut self, node: NodeNr, session: SessionUuid, remove: bool, at: u64) -> bool {
        let Some(member) = self.member_with(node, session) else {
            return false;
        };
        let before = (member.status, member.removing);
        if member.status != MemberStatus::Down {
            member.status = MemberStatus::Leaving;
        }
        member.removing |= remove;
        if before == (member.status, member.removing) {
            return false;
        }
        let text = if member.removing {
            format!("node {} is to be removed", node.0)
        } else {
            format!("node {} is leaving", node.0)
        };
        self.tell(at, text);
        true
    }

    fn down(&mut self, node: NodeNr, session: SessionUuid, at: u64) -> bool {
        let Some(member) = self.member_with(node, session) else {
            return false;
        };
        let before = member.status;
        if before == MemberStatus::Down {
            return false;
        }
        member.status = MemberStatus::Down;
        self.condemned.insert(session, node);
        let lost = self.take_from(node, session, at);
        for &shard in &lost {
            self.shards[shard].unfenced.insert(session);
        }
        let text = match (before, lost.len()) {
            (MemberStatus::Leaving, 0) => format!("node {} has stopped", node.0),
            (_, 0) => format!("node {} is down", node.0),
            (_, 1) => format!("node {} is down: 1 shard needs a new home", node.0),
            (_, lost) => format!("node {} is down: {lost} shards need a new home", node.0),
        };
        self.tell(at, text);
        true
    }

    /// A member that still has a shard, or is about to get one, stays. Its session
    /// stays condemned if it was.
    fn remove(&mut self, node: NodeNr, at: u64) -> bool {
        let gone = self.members.get(&node).is_some_and(|member| {
            matches!(member.status, MemberStatus::Leaving | MemberStatus::Down)
        });
        if !gone || self.shards.iter().any(|shard| shard.home.involves(node)) {
            return false;
        }
        self.members.remove(&node);
        self.tell(at, format!("node {} was removed", node.0));
        true
    }

    fn fenced(&mut self, session: SessionUuid) -> bool {
        if self.condemned.remove(&session).is_none() {
            return false;
        }
        for shard in &mut self.shards {
            shard.unfenced.remove(&session);
        }
        true
    }

    fn fenced_by_others(&mut self, session: SessionUuid, at: u64) -> bool {
        let node = self.condemned.get(&session).copied();
        let changed = self.fenced(session);
        if let Some(node) = node {
            self.tell(
                at,
                format!("node {} is fenced: it cannot write any more", node.0),
            );
        }
        changed
    }

    fn assign_all(&mut self, shards: &[(ShardNr, NodeNr, SessionUuid)], at: u64) -> bool {
        let mut given = BTreeMap::new();
        for &(shard, node, session) in shards {
            if self.assign(shard, node, session) {
                *given.entry(node).or_insert(0) += 1;
            }
        }
        let text = told_assigned(&given);
        text.is_some_and(|text| {
            self.tell(at, text);
            true
        })
    }

    fn assign(&mut self, shard: ShardNr, node: NodeNr, session: SessionUuid) -> bool {
        let up = self.session_up(node) == Some(session);
        let Some(shard) = self.shards.get_mut(shard.0 as usize) else {
            return false;
        };
        let is_taken = shard.home != Home::Unassigned && !planted::is(Bug::ApplyTwice);
        if !up || is_taken {
            return false;
        }
        give(shard, node, session);
        true
    }

    /// Tells of the first wave of a movement.
    fn begin_handoffs(&mut self, shards: &[(ShardNr, Epoch, NodeNr)], at: u64) -> bool {
        let goes_on = self.is_handing_off();
        let mut begun = BTreeMap::new();
        for &(shard, epoch, to) in shards {
            if let Some(from) = self.begin_handoff(shard, epoch, to) {
                *begun.entry((from, to)).or_insert(0) += 1;
            }
        }
        if let Some(text) = told_begun(&begun).filter(|_| !goes_on) {
            self.tell(at, text);
        }
        !begun.is_empty()
    }

    /// Returns the owner that is to hand it off.
    fn begin_handoff(&mut self, shard: ShardNr, epoch: Epoch, to: NodeNr) -> Option<NodeNr> {
        let up = self.session_up(to).is_some();
        let shard = self.shards.get_mut(shard.0 as usize)?;
        let Home::Owned { node, session } = shard.home else {
            return None;
        };
        if !up || shard.epoch != epoch || node == to {
            return None;
        }
        shard.home = Home::HandingOff {
            from: node,
            session,
            to,
        };
        Some(node)
    }

    /// If the receiver has begun to leave meanwhile, the shard is nobody's: its
    /// former owner has let go of it, and the coordinator finds a better home.
    fn drained(
        &mut self,
        nr: ShardNr,
        drained: SessionUuid,
        epoch: Epoch,
        by: DrainedBy,
        at: u64,
    ) -> bool {
        let Some(shard) = self.shards.get(nr.0 as usize) else {
            return false;
        };
        let Home::HandingOff { from, session, to } = shard.home else {
            return false;
        };
        if session != drained || shard.epoch != epoch {
            return false;
        }
        let receiver = self.session_up(to);
        let shard = &mut self.shards[nr.0 as usize];
        match receiver {
            Some(session) => give(shard, to, session),
            None => shard.home = Home::Unassigned,
        }
        if by == DrainedBy::Force {
            let text = format!(
                "shard {nr} was taken from node {}, which took too long to hand it off",
                from.0
            );
            self.tell(at, text);
        }
        self.handed_off += u32::from(receiver.is_some());
        self.tell_when_all_have_arrived(at);
        true
    }

    /// Takes every shard from a session that has ended, and gives those that were
    /// on their way to its node back. The owner may have fenced itself already for
    /// the epoch in which it was handing off, so it goes on in the next one. Returns
    /// the indexes of the shards that lost their owner.
    fn take_from(&mut self, node: NodeNr, ended: SessionUuid, at: u64) -> Vec<usize> {
        let was_handing_off = self.is_handing_off();
        let mut lost = Vec::new();
        for (index, shard) in self.shards.iter_mut().enumerate() {
            match shard.home {
                Home::Owned { session, .. } | Home::HandingOff { session, .. }
                    if session == ended =>
                {
                    shard.home = Home::Unassigned;
                    lost.push(index);
                }
                Home::HandingOff { from, session, to } if to == node => give(shard, from, session),
                _ => {}
            }
        }
        if was_handing_off {
            self.tell_when_all_have_arrived(at);
        }
        lost
    }

    fn member_with(&mut self, node: NodeNr, session: SessionUuid) -> Option<&mut Member> {
        self.members
            .get_mut(&node)
            .filter(|member| member.session == session)
    }
}

/// The only place that makes an owner, and so raises the epoch (I-1).
fn give(shard: &mut Shard, node: NodeNr, session: SessionUuid) {
    if !planted::is(Bug::ReuseEpoch) {
        shard.epoch = shard.next_epoch();
    }
    shard.home = Home::Owned { node, session };
}
