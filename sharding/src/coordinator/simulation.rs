//! A cluster without clocks and networks: one committed log, a leader's coordinator,
//! nodes that follow the log as far as they are told to, and a journal that knows
//! only its fences. After every step it checks I-1 and I-2.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr};
use uuid::Uuid;

use super::{Action, Coordinator, CoordinatorSettings};
use crate::allocation::shares;
use crate::cluster_state::{ClusterCommand, ClusterState, DrainedBy, Home, Member, MemberStatus};
use crate::failure_detector::{DetectorSettings, FailureDetector};
use crate::peer::Heartbeat;

pub(super) struct World {
    pub(super) now: Instant,
    /// As committed, and as the leader sees it.
    pub(super) state: ClusterState,
    pub(super) nodes: BTreeMap<NodeNr, Node>,
    pub(super) leader: Coordinator,
    /// Proposed and not committed yet.
    pub(super) proposals: Vec<ClusterCommand>,
    /// Committed already, and to be committed again much later.
    pub(super) repeats: Vec<ClusterCommand>,
    /// How many shards began to be handed off.
    pub(super) moves: usize,
    /// How often the leader wanted to hand leadership over.
    pub(super) handovers: usize,
    /// Whether somebody can be elected instead.
    pub(super) successors: bool,
    settings: CoordinatorSettings,
    detector: DetectorSettings,
    log: Vec<ClusterCommand>,
    journal: Journal,
    owners: BTreeMap<(ShardNr, Epoch), SessionUuid>,
    recovered: BTreeSet<(ShardNr, Epoch, SessionUuid)>,
}

/// What the journal refuses.
#[derive(Default)]
struct Journal {
    sessions: BTreeSet<SessionUuid>,
    shards: BTreeMap<(SessionUuid, ShardNr), Epoch>,
}

impl Journal {
    fn fence_shard(&mut self, session: SessionUuid, shard: ShardNr, epoch: Epoch) {
        let fenced = self.shards.entry((session, shard)).or_insert(epoch);
        *fenced = epoch.max(*fenced);
    }

    fn accepts(&self, session: SessionUuid, shard: ShardNr, epoch: Epoch) -> bool {
        let fenced = self.shards.get(&(session, shard));
        !self.sessions.contains(&session) && fenced.is_none_or(|fenced| *fenced < epoch)
    }
}

pub(super) struct Node {
    pub(super) nr: NodeNr,
    pub(super) incarnation: u64,
    pub(super) alive: bool,
    /// Its heartbeats reach the leader.
    pub(super) heard: bool,
    /// It never drains a shard by itself.
    pub(super) stuck: bool,
    pub(super) journal_in_reach: bool,
    /// It has seen itself as a member in this incarnation.
    joined: bool,
    version: &'static str,
    /// Its own copy, up to `applied` of the log.
    view: ClusterState,
    applied: usize,
}

impl Node {
    pub(super) fn session(&self) -> SessionUuid {
        session(self.nr, self.incarnation)
    }
}

pub(super) fn session(node: NodeNr, incarnation: u64) -> SessionUuid {
    SessionUuid(Uuid::from_u64_pair(node.0, incarnation))
}

impl World {
    pub(super) fn new(number_of_shards: u32, settings: CoordinatorSettings) -> Self {
        let now = Instant::now();
        let detector = DetectorSettings::default();
        let leader = Coordinator::new(NodeNr(1), settings, FailureDetector::new(detector, now));
        Self {
            now,
            state: ClusterState::new(Uuid::nil(), 1, number_of_shards),
            nodes: BTreeMap::new(),
            leader,
            proposals: Vec::new(),
            repeats: Vec::new(),
            moves: 0,
            handovers: 0,
            successors: true,
            settings,
            detector,
            log: Vec::new(),
            journal: Journal::default(),
            owners: BTreeMap::new(),
            recovered: BTreeSet::new(),
        }
    }

    /// A node that was never here before asks to join.
    pub(super) fn add_node(&mut self, version: &'static str) -> NodeNr {
        let nr = NodeNr(self.nodes.len() as u64 + 1);
        let view = ClusterState::new(Uuid::nil(), 1, self.state.number_of_shards());
        self.nodes.insert(
            nr,
            Node {
                nr,
                incarnation: 0,
                alive: false,
                heard: true,
                stuck: false,
                journal_in_reach: true,
                joined: false,
                version,
                view,
                applied: 0,
            },
        );
        self.restart(nr, version);
        nr
    }

    /// The process ends, if it was running, and starts again: it fences its earlier
    /// sessions, then asks to join.
    pub(super) fn restart(&mut self, nr: NodeNr, version: &'static str) {
        let node = self.nodes.get_mut(&nr).unwrap();
        for incarnation in 1..=node.incarnation {
            self.journal.sessions.insert(session(nr, incarnation));
        }
        node.incarnation += 1;
        node.alive = true;
        node.joined = false;
        node.version = version;
        self.ask_to_join(nr);
    }

    fn ask_to_join(&mut self, nr: NodeNr) {
        let node = &self.nodes[&nr];
        let member = Member {
            node: nr,
            incarnation: node.incarnation,
            session: node.session(),
            address: format!("10.0.0.{}:7400", nr.0),
            peer_address: format!("10.0.0.{}:7402", nr.0),
            version: node.version.to_owned(),
            weight: 1 + (nr.0 % 2) as u32,
            status: MemberStatus::Joining,
            removing: false,
        };
        self.proposals.push(ClusterCommand::Join { member, at: 0 });
    }

    pub(super) fn kill(&mut self, nr: NodeNr) {
        self.nodes.get_mut(&nr).unwrap().alive = false;
    }

    pub(super) fn leave(&mut self, nr: NodeNr, remove: bool) {
        let session = self.nodes[&nr].session();
        self.proposals.push(ClusterCommand::Leave {
            node: nr,
            session,
            remove,
            at: 0,
        });
    }

    /// Another node leads; it knows nothing of what its predecessor heard.
    pub(super) fn elect(&mut self, nr: NodeNr) {
        let detector = FailureDetector::new(self.detector, self.now);
        self.leader = Coordinator::new(nr, self.settings, detector);
    }

    pub(super) fn tick(&mut self) {
        let actions = self.leader.tick(&self.state, self.now, 0);
        for action in actions {
            match action {
                Action::Propose(command) => self.proposals.push(command),
                Action::FenceShard {
                    shard,
                    session,
                    epoch,
                } => {
                    self.journal.fence_shard(session, shard, epoch);
                    self.proposals.push(ClusterCommand::Drained {
                        shard,
                        session,
                        epoch,
                        by: DrainedBy::Force,
                        at: 0,
                    });
                }
                Action::HandOverLeadership => self.hand_over_leadership(),
            }
        }
    }

    /// Somebody who is up leads now, if anybody can.
    fn hand_over_leadership(&mut self) {
        self.handovers += 1;
        let fit = |node: &NodeNr| self.successors && self.nodes[node].alive;
        let up: Vec<NodeNr> = self.state.members_up().map(|member| member.node).collect();
        if let Some(successor) = up.into_iter().find(fit) {
            assert_ne!(successor, self.leader.me, "who is up stays");
            self.elect(successor);
        }
    }

    /// Commits a proposal; the others are overtaken.
    pub(super) fn commit(&mut self, index: usize) {
        let command = self.proposals.remove(index);
        self.commit_command(command);
    }

    /// Something that was committed before is committed again.
    pub(super) fn repeat(&mut self, index: usize) {
        let command = self.repeats.remove(index);
        self.commit_command(command);
    }

    fn commit_command(&mut self, command: ClusterCommand) {
        let before = self.state.clone();
        self.log.push(command);
        let command = self.log.last().unwrap();
        self.state.apply(self.log.len() as u64, command);
        self.check_state(&before);
    }

    /// A heartbeat is sent, and arrives.
    pub(super) fn heartbeat(&mut self, nr: NodeNr) {
        let node = &self.nodes[&nr];
        if node.alive && node.heard && node.view.is_current(nr, node.session()) {
            let heartbeat = Heartbeat {
                number: 0,
                journal_in_reach: node.journal_in_reach,
                live_entities: 0,
                index: node.view.index,
            };
            let detector = &mut self.leader.detector;
            let _ = detector.heard(nr, node.session(), heartbeat, self.now);
        }
    }

    /// A node applies so much more of the log.
    pub(super) fn follow(&mut self, nr: NodeNr, entries: usize) {
        let node = self.nodes.get_mut(&nr).unwrap();
        let until = (node.applied + entries).min(self.log.len());
        for index in node.applied..until {
            node.view.apply(index as u64 + 1, &self.log[index]);
        }
        node.applied = until;
    }

    /// A node does what follows from its own view, which may be old.
    pub(super) fn work(&mut self, nr: NodeNr) {
        let node = &self.nodes[&nr];
        if !node.alive {
            return;
        }
        if node.journal_in_reach {
            for &condemned in node.view.condemned.keys() {
                self.journal.sessions.insert(condemned);
                self.proposals.push(ClusterCommand::Fenced {
                    session: condemned,
                    at: 0,
                });
            }
        }
        let mine = node.session();
        let mut begun = Vec::new();
        for (shard, _) in node.view.shards() {
            let Some(owner) = node.view.owner_of(shard) else {
                continue;
            };
            if owner.session != mine {
                continue;
            }
            if owner.handing_off_to.is_none() {
                if owner.may_recover {
                    begun.push((shard, owner.epoch, mine));
                }
            } else if !node.stuck && node.journal_in_reach {
                self.journal.fence_shard(mine, shard, owner.epoch);
                self.proposals.push(ClusterCommand::Drained {
                    shard,
                    session: mine,
                    epoch: owner.epoch,
                    by: DrainedBy::Owner,
                    at: 0,
                });
            }
        }
        for recovery in begun {
            if self.recovered.insert(recovery) {
                self.check_fences(recovery);
            }
        }
        self.mind_membership(nr);
    }

    /// A node asks to join until it is a member, starts anew when its session is
    /// over or the journal refuses it, and ends when it was removed.
    fn mind_membership(&mut self, nr: NodeNr) {
        let node = self.nodes.get_mut(&nr).unwrap();
        let fenced = self.journal.sessions.contains(&node.session());
        let current = node.view.is_current(nr, node.session());
        let member = node.view.member(nr);
        node.joined |= member.is_some_and(|member| member.session == node.session());
        if node.joined && node.view.member(nr).is_none() {
            node.alive = false;
        } else if node.journal_in_reach && (node.joined && !current || fenced) {
            let version = node.version;
            self.restart(nr, version);
        } else if !node.joined {
            let waits = |command: &ClusterCommand| matches!(command, ClusterCommand::Join { member, .. } if member.node == nr);
            if !self.proposals.iter().any(waits) {
                self.ask_to_join(nr);
            }
        }
    }

    /// Everything works for this long: heartbeats, log, work and ticks.
    pub(super) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now += Duration::from_millis(100);
            self.step();
        }
    }

    /// One round of everything that works.
    pub(super) fn step(&mut self) {
        let nodes: Vec<NodeNr> = self.nodes.keys().copied().collect();
        for &nr in &nodes {
            self.heartbeat(nr);
        }
        self.tick();
        while !self.proposals.is_empty() {
            self.commit(0);
        }
        for &nr in &nodes {
            if self.nodes[&nr].alive {
                self.follow(nr, usize::MAX - self.log.len());
                self.work(nr);
            }
        }
        while !self.proposals.is_empty() {
            self.commit(0);
        }
    }

    /// Why the cluster is not at rest yet.
    pub(super) fn unrest(&self) -> Option<String> {
        for node in self.nodes.values().filter(|node| node.alive) {
            let member = self.state.member(node.nr);
            let status = member.filter(|member| member.session == node.session());
            match status.map(|member| member.status) {
                Some(MemberStatus::Up | MemberStatus::Leaving) => {}
                status => return Some(format!("node {} is {status:?}", node.nr.0)),
            }
        }
        for member in self.state.members.values() {
            if member.status != MemberStatus::Down && !self.nodes[&member.node].alive {
                return Some(format!("node {} is dead", member.node.0));
            }
            if member.removing {
                return Some(format!("node {} is to be removed", member.node.0));
            }
        }
        for (nr, _) in self.state.shards() {
            let Some(owner) = self.state.owner_of(nr) else {
                return Some(format!("shard {nr} has no owner"));
            };
            if !owner.may_recover {
                return Some(format!("shard {nr} waits for a fence"));
            }
            if owner.handing_off_to.is_some() {
                return Some(format!("shard {nr} is being handed off"));
            }
            if self.state.session_up(owner.node) != Some(owner.session) {
                return Some(format!("shard {nr} is at {owner:?}, which is not up"));
            }
            assert!(
                self.journal.accepts(owner.session, nr, owner.epoch),
                "shard {nr} is at {owner:?}, which cannot write to it"
            );
        }
        let weights = super::weights(&self.state);
        for (node, share) in shares(self.state.number_of_shards(), &weights) {
            let count = self.state.shards_of(node).count() as u32;
            if !(share.least..=share.most).contains(&count) {
                return Some(format!("node {} has {count} shards, not {share:?}", node.0));
            }
        }
        None
    }

    /// I-1, and what every state must be like.
    fn check_state(&mut self, before: &ClusterState) {
        for ((nr, shard), (_, was)) in self.state.shards().zip(before.shards()) {
            assert!(
                shard.epoch >= was.epoch,
                "I-1: the epoch of shard {nr} shrank"
            );
            if let Some(owner) = self.state.owner_of(nr) {
                let first = *self
                    .owners
                    .entry((nr, owner.epoch))
                    .or_insert(owner.session);
                assert_eq!(first, owner.session, "I-1: two owners of {nr} in one epoch");
                assert!(
                    self.state.is_current(owner.node, owner.session),
                    "shard {nr} is at {owner:?}, whose session has ended"
                );
            }
            if matches!(shard.home, Home::HandingOff { .. }) && shard.home != was.home {
                self.moves += 1;
            }
            for session in &shard.unfenced {
                assert!(
                    self.state.condemned.contains_key(session),
                    "{session} is not fenced and nobody is told to fence it"
                );
            }
        }
    }

    /// I-2: once the owner of an epoch has begun to recover, no owner of an earlier
    /// epoch can write.
    fn check_fences(&self, (shard, epoch, session): (ShardNr, Epoch, SessionUuid)) {
        for &(other, earlier, writer) in &self.recovered {
            if other != shard || writer == session {
                continue;
            }
            let (earlier, writer) = if earlier < epoch {
                (earlier, writer)
            } else {
                (epoch, session)
            };
            assert!(
                !self.journal.accepts(writer, shard, earlier),
                "I-2: {writer} still writes to {shard} in epoch {earlier}"
            );
        }
    }
}
