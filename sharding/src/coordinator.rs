//! What the leader does next: who is up or down, where shards go, what has to be
//! forced.
//!
//! Sans-I/O. A [`Coordinator`] belongs to one term of one leader. At each tick it is
//! given the state, the time and what its failure detector has heard, and returns at
//! most one plan; what it returned before and has not come true, it returns again.
//! All that must survive it is in the state, so a new leader begins with an empty
//! one. In order of urgency:
//!
//! 1. joining nodes that are alive become up, dead nodes down, empty ones are removed;
//! 2. shards without an owner get one, whether their former owner is fenced or not:
//!    the new owner waits for that, and fences it;
//! 3. handoffs that take too long are ended by fencing the owner for that shard;
//! 4. shards of leaving nodes are handed off; if there are none, those that
//!    balance the cluster;
//! 5. a leader that is to be removed itself, and has no shards any more, hands
//!    leadership over: its successor removes it.
//!
//! **Ending a handoff.** The old owner stops serving a shard at the latest
//! `handoff_timeout` after it learnt of the handoff. The leader waits a little longer,
//! from when the owner *said* in a heartbeat that it knows. An owner that does not
//! say so in that time, nor in `down_after`, does not follow the log and cannot be
//! trusted to have stopped: it is ignored until its lease has run out, and then taken
//! for dead.
//!
//! **When not to balance.** While a node is joining (better once than twice), while a
//! handoff is overdue or a session is not fenced (the journal may be the reason),
//! while some node is out of the journal's reach, and while versions differ: in a
//! rolling update each node comes back empty and takes over what the next one drains,
//! so that fewer shards move than if each came back to its share at once. Should versions differ for good,
//! balancing resumes when nobody has joined for a minute.
//!
//! Next: `leader.rs`, which feeds it and performs what it asks.

#[cfg(test)]
mod coordinator_test;
mod handoff_watch;
#[cfg(test)]
mod histories_test;
#[cfg(test)]
mod simulation;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr};

use crate::allocation::{Weights, homes_for, rebalance};
use crate::cluster_state::{ClusterCommand, ClusterState, Home, Member, MemberStatus};
use crate::failure_detector::{FailureDetector, Verdict};
use crate::ring::Ring;
use handoff_watch::{HandoffWatch, Overdue};

/// Versions may differ for so long after the latest join before balancing resumes:
/// longer than a node of a rolling update takes to be replaced.
const VERSIONS_DIFFER_MAX: Duration = Duration::from_secs(60);

/// How the coordinator goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoordinatorSettings {
    /// Shards that lost their owner wait this long for a node that is just joining:
    /// it may be the owner, come back. Two heartbeats.
    pub joining_patience: Duration,
    /// How long an owner may take to drain a shard.
    pub handoff_timeout: Duration,
    /// Between two waves of moves that balance the cluster.
    pub rebalance_interval: Duration,
    /// So many shards may be handed off at once; at least 1.
    pub max_simultaneous: usize,
}

impl CoordinatorSettings {
    /// The defaults for a cluster of so many shards: 10 % of them move at once.
    #[must_use]
    pub fn for_shards(number_of_shards: u32) -> Self {
        Self {
            joining_patience: Duration::from_millis(400),
            handoff_timeout: Duration::from_secs(10),
            rebalance_interval: Duration::from_secs(1),
            max_simultaneous: (number_of_shards as usize / 10).max(1),
        }
    }
}

/// What the coordinator wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Commit this.
    Propose(ClusterCommand),
    /// Make the journal refuse the session's writes to the shard up to this epoch,
    /// then commit that it is drained.
    FenceShard {
        /// The shard.
        shard: ShardNr,
        /// The owner that has not drained it.
        session: SessionUuid,
        /// Of the shard.
        epoch: Epoch,
    },
    /// Let another node lead: this one is to be removed, and nobody removes itself.
    HandOverLeadership,
}

/// Decides for one term of one leader.
#[derive(Debug)]
pub struct Coordinator {
    me: NodeNr,
    settings: CoordinatorSettings,
    /// Who is alive; to be fed with heartbeats.
    pub detector: FailureDetector,
    handoffs: HandoffWatch,
    /// Sessions with the time at which they became known to this coordinator.
    known: BTreeMap<NodeNr, (SessionUuid, Instant)>,
    balanced_at: Option<Instant>,
}

impl Coordinator {
    /// Of the node `me`, which has just begun to lead.
    #[must_use]
    pub fn new(me: NodeNr, settings: CoordinatorSettings, detector: FailureDetector) -> Self {
        Self {
            me,
            settings,
            handoffs: HandoffWatch::new(settings.handoff_timeout, detector.down_after()),
            detector,
            known: BTreeMap::new(),
            balanced_at: None,
        }
    }

    /// What is to be done now, by this state. `at` is the time for people, in
    /// milliseconds since 1970. Perform it, wait until the state reflects it, and
    /// tick again; what failed is asked for again.
    #[must_use]
    pub fn tick(&mut self, state: &ClusterState, now: Instant, at: u64) -> Vec<Action> {
        self.look(state, now);
        let members = self.members(state, now, at);
        if !members.is_empty() {
            return members;
        }
        if let Some(assign) = self.homes(state, now, at) {
            return vec![Action::Propose(assign)];
        }
        let mut actions = self.forced_ends(state, now);
        if let Some(begin) = self.handoffs(state, now, at) {
            actions.push(Action::Propose(begin));
        }
        if self.is_to_leave(state) {
            actions.push(Action::HandOverLeadership);
        }
        actions
    }

    /// Takes note of what is new in the state.
    fn look(&mut self, state: &ClusterState, now: Instant) {
        self.detector.watch(state, now);
        self.known.retain(|node, _| state.member(*node).is_some());
        for member in state.members.values() {
            let known = self
                .known
                .entry(member.node)
                .or_insert((member.session, now));
            if known.0 != member.session {
                *known = (member.session, now);
            }
        }
        self.handoffs.look(state, &self.detector, now);
    }

    /// Who is up, down, or no member any more.
    fn members(&self, state: &ClusterState, now: Instant, at: u64) -> Vec<Action> {
        let mut commands = Vec::new();
        for member in state.members.values() {
            let (node, session) = (member.node, member.session);
            let dead = self.detector.verdict(member, now) == Verdict::Dead;
            match member.status {
                MemberStatus::Joining | MemberStatus::Up | MemberStatus::Leaving if dead => {
                    commands.push(ClusterCommand::Down { node, session, at });
                }
                MemberStatus::Joining if self.detector.verdict(member, now) == Verdict::Alive => {
                    commands.push(ClusterCommand::Up { node, session, at });
                }
                _ if can_go(state, member) && node != self.me => {
                    commands.push(ClusterCommand::Remove { node, at });
                }
                _ => {}
            }
        }
        commands.into_iter().map(Action::Propose).collect()
    }

    /// Whether this node can be removed, if only it did not lead, and another is
    /// there to lead.
    fn is_to_leave(&self, state: &ClusterState) -> bool {
        let me = state.member(self.me);
        me.is_some_and(|me| can_go(state, me))
            && state.members_up().any(|other| other.node != self.me)
    }

    /// Homes for shards without an owner.
    fn homes(&self, state: &ClusterState, now: Instant, at: u64) -> Option<ClusterCommand> {
        let orphans: Vec<ShardNr> = state
            .shards()
            .filter(|(_, shard)| shard.home == Home::Unassigned)
            .map(|(nr, _)| nr)
            .collect();
        if orphans.is_empty() || self.somebody_is_about_to_join(state, now) {
            return None;
        }
        let weights = weights(state);
        let homes = homes_for(&orphans, &placement(state), &weights, &Ring::new(&weights));
        let shards: Vec<_> = homes
            .into_iter()
            .filter_map(|(shard, node)| Some((shard, node, state.session_up(node)?)))
            .collect();
        (!shards.is_empty()).then_some(ClusterCommand::Assign { shards, at })
    }

    /// Fences for the shards whose owners take too long.
    fn forced_ends(&mut self, state: &ClusterState, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        for overdue in self.handoffs.overdue(state, now) {
            match overdue {
                Overdue::Drain {
                    shard,
                    session,
                    epoch,
                } => actions.push(Action::FenceShard {
                    shard,
                    session,
                    epoch,
                }),
                Overdue::Notice { node, session } => self.detector.ignore(node, session),
            }
        }
        actions
    }

    /// The next wave of handoffs.
    fn handoffs(&mut self, state: &ClusterState, now: Instant, at: u64) -> Option<ClusterCommand> {
        let room = self
            .settings
            .max_simultaneous
            .max(1)
            .saturating_sub(state.handoffs().count());
        if room == 0 || self.detector.journal_in_doubt() {
            return None;
        }
        let weights = weights(state);
        let mut moves = self.drain(state, &weights);
        if moves.is_empty() && self.may_balance(state, now) {
            moves = rebalance(&placement(state), &weights, &Ring::new(&weights))
                .into_iter()
                .map(|step| (step.shard, step.to))
                .collect();
            self.balanced_at = Some(now);
        }
        let shards: Vec<_> = moves
            .into_iter()
            .take(room)
            .filter_map(|(shard, to)| Some((shard, state.shard(shard)?.epoch, to)))
            .collect();
        (!shards.is_empty()).then_some(ClusterCommand::BeginHandoff { shards, at })
    }

    /// Where the shards of leaving nodes go: as if they had no home.
    fn drain(&self, state: &ClusterState, weights: &Weights) -> Vec<(ShardNr, NodeNr)> {
        let leaving: Vec<ShardNr> = state
            .shards()
            .filter(|(_, shard)| match shard.home {
                Home::Owned { node, .. } => is_leaving(state.member(node)),
                _ => false,
            })
            .map(|(nr, _)| nr)
            .collect();
        if leaving.is_empty() {
            return Vec::new();
        }
        homes_for(&leaving, &placement(state), weights, &Ring::new(weights))
    }

    fn may_balance(&self, state: &ClusterState, now: Instant) -> bool {
        let joining = state
            .members
            .values()
            .any(|member| member.status == MemberStatus::Joining);
        let too_soon = self
            .balanced_at
            .is_some_and(|last| now < last + self.settings.rebalance_interval);
        !(joining
            || too_soon
            || !state.condemned.is_empty()
            || self.handoffs.is_one_overdue(now)
            || self.is_update_rolling(state, now))
    }

    fn is_update_rolling(&self, state: &ClusterState, now: Instant) -> bool {
        let versions: BTreeSet<&str> = state
            .members_up()
            .map(|member| member.version.as_str())
            .collect();
        let last_join = self.known.values().map(|(_, since)| *since).max();
        versions.len() > 1 && last_join.is_some_and(|last| now < last + VERSIONS_DIFFER_MAX)
    }

    fn somebody_is_about_to_join(&self, state: &ClusterState, now: Instant) -> bool {
        state.members.values().any(|member| {
            member.status == MemberStatus::Joining
                && self
                    .known
                    .get(&member.node)
                    .is_some_and(|(_, since)| now < *since + self.settings.joining_patience)
        })
    }
}

/// Whether a member is to be removed and nothing is left with it.
fn can_go(state: &ClusterState, member: &Member) -> bool {
    member.removing
        && matches!(member.status, MemberStatus::Leaving | MemberStatus::Down)
        && !state
            .shards
            .iter()
            .any(|shard| shard.home.involves(member.node))
}

fn is_leaving(member: Option<&Member>) -> bool {
    member.is_some_and(|member| member.status == MemberStatus::Leaving)
}

/// The nodes that may be given shards.
fn weights(state: &ClusterState) -> Weights {
    state
        .members_up()
        .map(|member| (member.node, member.weight))
        .collect()
}

/// Where each shard is once what has begun has ended. Those of leaving nodes, and on
/// their way to such, have no place yet.
fn placement(state: &ClusterState) -> Vec<Option<NodeNr>> {
    let place = |home: &Home| {
        home.destination()
            .filter(|node| state.session_up(*node).is_some())
    };
    state
        .shards
        .iter()
        .map(|shard| place(&shard.home))
        .collect()
}
