//! Makes the changes of the raft group that `voters.rs` finds due, while this node
//! leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::{ChangeMembers, EmptyNode, RaftMetrics};
use perennial_persistence::registry::NodeNr;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::settings::RaftSettings;
use super::types::Raft;
use super::voters::{Group, GroupChange, due_change};
use crate::cluster_state::{ClusterState, Member, MemberStatus};

/// How often it is looked whether something is due, besides when the state changes.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// After that a change is asked for again.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);

/// A follower that lacks no more entries than this has caught up.
const ENTRIES_BEHIND_OF_CAUGHT_UP: u64 = 50;

/// Runs until it is dropped.
pub(super) async fn keep_up(
    me: NodeNr,
    raft: Raft,
    mut state: watch::Receiver<Arc<ClusterState>>,
    settings: RaftSettings,
) {
    let mut absent_since = BTreeMap::new();
    loop {
        let seen = Arc::clone(&state.borrow_and_update());
        let group = group_of(me, &raft);
        watch_the_absent(&mut absent_since, group.as_ref(), &seen, Instant::now());
        let change = group.and_then(|group| {
            let now = Instant::now();
            let absent_for = absent_since
                .iter()
                .map(|(node, since)| (*node, now - *since));
            due_change(
                &group,
                &seen,
                &absent_for.collect(),
                settings.voters,
                settings.voter_replacement_after,
            )
        });
        if let Some(change) = change {
            make(&raft, change).await;
        }
        tokio::select! {
            changed = state.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = sleep(LOOK_INTERVAL) => {}
        }
    }
}

/// Remembers since when members are down and, for the leader of a group, who of it is no
/// member.
fn watch_the_absent(
    absent_since: &mut BTreeMap<NodeNr, Instant>,
    group: Option<&Group>,
    state: &ClusterState,
    now: Instant,
) {
    let is_down = |member: &Member| member.status == MemberStatus::Down;
    let down = state.members.values().filter(|member| is_down(member));
    let in_group = group.map(|group| group.configs.iter().flatten().chain(&group.learners));
    let in_group = in_group.into_iter().flatten();
    let left = in_group.filter(|node| !state.members.contains_key(node));
    let absent: BTreeSet<NodeNr> = down
        .map(|member| member.node)
        .chain(left.copied())
        .collect();
    absent_since.retain(|node, _| absent.contains(node));
    for node in absent {
        absent_since.entry(node).or_insert(now);
    }
}

/// The group, if this node leads it.
fn group_of(me: NodeNr, raft: &Raft) -> Option<Group> {
    // Released at once: raft waits for whoever looks at its metrics.
    let metrics: RaftMetrics<u64, EmptyNode> = raft.metrics().borrow().clone();
    if metrics.current_leader != Some(me.0) {
        return None;
    }
    let membership = metrics.membership_config.membership();
    let last = metrics.last_log_index.unwrap_or(0);
    let caught_up = metrics.replication.iter().flatten();
    let caught_up = caught_up.filter_map(|(node, matched)| {
        let matched = matched.as_ref()?.index;
        (matched + ENTRIES_BEHIND_OF_CAUGHT_UP >= last).then_some(NodeNr(*node))
    });
    let configs = membership.get_joint_config().iter();
    Some(Group {
        leader: me,
        configs: configs
            .map(|config| config.iter().copied().map(NodeNr).collect())
            .collect(),
        learners: membership.learner_ids().map(NodeNr).collect(),
        caught_up: caught_up.collect(),
    })
}

async fn make(raft: &Raft, change: GroupChange) {
    let described = format!("{change:?}");
    let changes = match change {
        GroupChange::Add(NodeNr(node)) => {
            ChangeMembers::AddNodes(BTreeMap::from([(node, EmptyNode::new())]))
        }
        GroupChange::Voters(voters) => {
            ChangeMembers::ReplaceAllVoters(voters.into_iter().map(|node| node.0).collect())
        }
        GroupChange::Remove(NodeNr(node)) => ChangeMembers::RemoveNodes([node].into()),
    };
    // Who does not vote any more goes on learning, until it leaves the cluster.
    match timeout(CHANGE_TIMEOUT, raft.change_membership(changes, true)).await {
        Ok(Ok(_)) => tracing::info!(change = described, "the raft group has changed"),
        Ok(Err(error)) => {
            tracing::info!(change = described, %error, "the raft group could not change yet");
        }
        Err(_) => tracing::info!(change = described, "the raft group has not changed in time"),
    }
}
