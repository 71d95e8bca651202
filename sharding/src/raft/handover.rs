//! Gives leadership to another node, faster than an election after a failure.
//!
//! The leader falls silent, waits until a voter has all of its log, and asks that one
//! to stand for election, again and again: the other voters agree as soon as they have
//! not heard of the leader for half an election time-out. A leader that is silent for
//! longer than an election takes has nobody to hand over to: then it goes on.
//!
//! Nobody is asked earlier. Who stands takes no entries of the leader any more: one that
//! lacks some is never elected by those that have them, and as each attempt raises the
//! term, it would keep the others from being elected too.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::{EmptyNode, RaftMetrics};
use perennial_persistence::registry::NodeNr;
use tokio::time::{Instant, timeout};

use super::control::Shared;
use super::types::LogId;
use crate::cluster_state::MemberStatus;
use crate::peer::PeerRequest;

/// How often the successor is asked.
const ASK_INTERVAL: Duration = Duration::from_millis(50);
/// How often it is looked whether a voter has caught up.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Who is asked to stand for election.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Successor {
    node: NodeNr,
    /// Where its log ended when it was chosen, and the leader's.
    log_end: Option<u64>,
}

/// Keeps a leader silent, and takes that back when it is dropped: a follower may
/// stand for election again, a leader that found no successor goes on.
struct Silence<'a> {
    shared: &'a Shared,
}

impl<'a> Silence<'a> {
    fn begin(shared: &'a Shared) -> Self {
        shared.handing_over.store(true, Ordering::SeqCst);
        shared.raft.runtime_config().heartbeat(false);
        shared.raft.runtime_config().elect(false);
        Self { shared }
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        self.shared.raft.runtime_config().heartbeat(true);
        self.shared.raft.runtime_config().elect(true);
        self.shared.handing_over.store(false, Ordering::SeqCst);
    }
}

/// Returns whether another node leads, after `within` at the latest, or two election
/// time-outs if that is less.
pub(super) async fn hand_over(shared: &Shared, within: Duration) -> bool {
    let silent_max = shared.settings.election_max * 2;
    let deadline = Instant::now() + within.min(silent_max);
    let me = shared.me;
    if shared.leader() != Some(me) {
        return shared.leader().is_some();
    }
    if candidates(shared).is_empty() {
        return false;
    }
    tracing::info!("handing leadership over");
    let _silence = Silence::begin(shared);
    let mut leadership = shared.leadership.subscribe();
    let mut asked = None;
    while Instant::now() < deadline {
        // Released at once: raft waits for whoever looks at its metrics.
        let metrics: RaftMetrics<u64, EmptyNode> = shared.raft.metrics().borrow().clone();
        asked = successor(
            &candidates(shared),
            metrics.last_log_index,
            metrics.replication.as_ref(),
            asked,
        );
        let pause = match asked {
            Some(successor) => {
                ask(shared, successor.node).await;
                ASK_INTERVAL
            }
            None => LOOK_INTERVAL,
        };
        let other = leadership.wait_for(|now| now.leader.is_some_and(|leader| leader != me));
        match timeout(pause, other).await {
            Ok(Ok(_)) => return true,
            // Raft has stopped: nobody follows here any more.
            Ok(Err(_)) => return false,
            Err(_) => {}
        }
    }
    false
}

async fn ask(shared: &Shared, successor: NodeNr) {
    let Some(peer) = shared.network.addresses.find(successor) else {
        return;
    };
    let header = shared.network.headers.to(successor);
    let transport = &shared.network.transport;
    let asked = transport.call(&peer, header, PeerRequest::Elect, ASK_INTERVAL * 4);
    if let Err(error) = asked.await {
        tracing::debug!(to = successor.0, %error, "the successor cannot be asked to lead");
    }
}

/// The voters that may lead.
fn candidates(shared: &Shared) -> Vec<NodeNr> {
    let state = shared.state.borrow().clone();
    let metrics = shared.raft.metrics();
    let metrics = metrics.borrow();
    let voters = metrics.membership_config.voter_ids().map(NodeNr);
    let fit = voters.filter(|voter| {
        let member = state.members.get(voter);
        *voter != shared.me
            && member.is_some_and(|member| {
                !member.removing
                    && matches!(member.status, MemberStatus::Joining | MemberStatus::Up)
            })
    });
    fit.collect()
}

/// Whom to ask now, given where the log of this node ends, how far the others have it,
/// and who was asked before; nobody while all candidates lack entries.
///
/// There is no `replication` when this node does not lead any more, as when the one
/// that was asked has raised the term. That one is asked again, unless the log went on
/// after it was chosen: it never gets these entries, and an election finds another.
fn successor(
    candidates: &[NodeNr],
    log_end: Option<u64>,
    replication: Option<&BTreeMap<u64, Option<LogId>>>,
    asked: Option<Successor>,
) -> Option<Successor> {
    let asked = asked.filter(|asked| asked.log_end == log_end);
    let Some(replication) = replication else {
        return asked;
    };
    let has_all = |node: &&NodeNr| {
        let matched = replication.get(&node.0).copied().flatten();
        matched.map(|matched| matched.index) == log_end
    };
    asked.or_else(|| {
        let node = candidates.iter().find(has_all).copied()?;
        Some(Successor { node, log_end })
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod handover_test;
