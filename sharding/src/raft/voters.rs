//! Who votes: the next change of the raft group's membership, if one is due.
//!
//! Pure: it sees the group, the replicated state and how long nodes have been down,
//! and names one change. It is asked again after each, and by each new leader, so a
//! change that was interrupted is simply found to be due again. `membership.rs`
//! makes the changes.
//!
//! * All members are in the group; those that left the cluster are taken out, a moment
//!   after: the log is how a node learns that it has left, and who owns its shards.
//! * An odd number of them votes, at most `voters`: of two nodes one, since a second
//!   voter would make the group stop with either of them.
//! * A voter stays one. It is replaced when it is to leave the cluster, or has been
//!   down for too long and another node can vote.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use perennial_persistence::registry::NodeNr;

use crate::cluster_state::{ClusterState, Member, MemberStatus};

/// The raft group as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Group {
    /// This node.
    pub leader: NodeNr,
    /// Voters; more than one set while a change is under way.
    pub configs: Vec<BTreeSet<NodeNr>>,
    /// Members that do not vote.
    pub learners: BTreeSet<NodeNr>,
    /// Members that have (nearly) all of the leader's log.
    pub caught_up: BTreeSet<NodeNr>,
}

/// A change of the group's membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupChange {
    /// A node is to get the log.
    Add(NodeNr),
    /// These vote from now on, nobody else.
    Voters(BTreeSet<NodeNr>),
    /// A node does not get the log any more.
    Remove(NodeNr),
}

/// For so long who has left the cluster still gets the log: several heartbeats, each of
/// which tells what is committed.
const HEARS_OF_IT: Duration = Duration::from_secs(1);

/// The change that is due, if any. `absent_for` tells how long nodes have been down, or
/// in the group and no members, as far as this leader has seen it.
#[must_use]
pub fn due_change(
    group: &Group,
    state: &ClusterState,
    absent_for: &BTreeMap<NodeNr, Duration>,
    voters_max: usize,
    replace_after: Duration,
) -> Option<GroupChange> {
    let current = group.configs.last()?;
    if group.configs.len() > 1 {
        // Half done: the old voters still have to agree to everything.
        return Some(GroupChange::Voters(current.clone()));
    }
    let in_group = |node: &NodeNr| current.contains(node) || group.learners.contains(node);
    if let Some(missing) = state.members.keys().find(|node| !in_group(node)) {
        return Some(GroupChange::Add(*missing));
    }
    // Before it has joined, a leader that forms the group is no member.
    if !state.members.contains_key(&group.leader) {
        return None;
    }
    let absent = |node: &NodeNr, at_least| {
        let time = absent_for.get(node);
        time.is_some_and(|time| *time >= at_least)
    };
    let long_down = |node: &NodeNr| absent(node, replace_after);
    let voters = choose(group, current, state, long_down, voters_max);
    if let Some(voters) = voters.filter(|voters| voters != current) {
        return Some(GroupChange::Voters(voters));
    }
    let left = |node: &&NodeNr| !state.members.contains_key(node) && absent(node, HEARS_OF_IT);
    group
        .learners
        .iter()
        .find(left)
        .copied()
        .map(GroupChange::Remove)
}

fn choose(
    group: &Group,
    current: &BTreeSet<NodeNr>,
    state: &ClusterState,
    long_down: impl Fn(&NodeNr) -> bool,
    voters_max: usize,
) -> Option<BTreeSet<NodeNr>> {
    let staying: Vec<&Member> = state.members.values().filter(|m| !m.removing).collect();
    let wanted = odd(staying.len().min(voters_max));
    let votes = |member: &&&Member| current.contains(&member.node);
    let (now, later): (Vec<&Member>, Vec<&Member>) = staying.iter().partition(votes);

    // In this order: the leader, the other voters, those that could vote, and only
    // then voters that have been down for long.
    let is_leader = |member: &&&Member| member.node == group.leader;
    let lasting = |member: &&&Member| !long_down(&member.node);
    let able = |member: &&&Member| {
        group.caught_up.contains(&member.node)
            && matches!(member.status, MemberStatus::Joining | MemberStatus::Up)
    };
    let ordered = now
        .iter()
        .filter(is_leader)
        .chain(now.iter().filter(|m| !is_leader(m)).filter(lasting))
        .chain(later.iter().filter(able))
        .chain(now.iter().filter(|m| !is_leader(m) && !lasting(m)));
    let chosen: BTreeSet<NodeNr> = ordered.take(wanted).map(|member| member.node).collect();

    let grows = chosen.is_superset(current);
    let pointless = grows && chosen.len().is_multiple_of(2);
    (!chosen.is_empty() && !pointless).then_some(chosen)
}

/// The largest odd number that is not above.
fn odd(number: usize) -> usize {
    if number.is_multiple_of(2) {
        number.saturating_sub(1)
    } else {
        number
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod voters_test;
