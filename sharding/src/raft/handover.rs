//! Gives leadership to another node, faster than an election after a failure.
//!
//! The leader falls silent and asks the voter that is furthest to stand for
//! election, again and again: the other voters agree as soon as they have not heard
//! of the leader for half an election time-out. A leader that is silent for longer
//! than an election takes has nobody to hand over to: then it goes on.

use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::EmptyNode;
use perennial_persistence::registry::NodeNr;
use tokio::time::{Instant, timeout};

use super::control::Shared;
use crate::cluster_state::MemberStatus;
use crate::peer::PeerRequest;

/// How often the successor is asked.
const ASK_INTERVAL: Duration = Duration::from_millis(50);

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
    let Some(successor) = successor(shared) else {
        return false;
    };
    tracing::info!(to = successor.0, "handing leadership over");
    let _silence = Silence::begin(shared);
    let mut leadership = shared.leadership.subscribe();
    while Instant::now() < deadline {
        if let Some(peer) = shared.network.addresses.find(successor) {
            let header = shared.network.headers.to(successor);
            let transport = &shared.network.transport;
            let asked = transport.call(&peer, header, PeerRequest::Elect, ASK_INTERVAL * 4);
            if let Err(error) = asked.await {
                tracing::debug!(%error, "the successor cannot be asked to lead");
            }
        }
        let other = leadership.wait_for(|now| now.leader.is_some_and(|leader| leader != me));
        match timeout(ASK_INTERVAL, other).await {
            Ok(Ok(_)) => return true,
            // Raft has stopped: nobody follows here any more.
            Ok(Err(_)) => return false,
            Err(_) => {}
        }
    }
    false
}

/// The voter with the most of the log, of those that are up.
fn successor(shared: &Shared) -> Option<NodeNr> {
    let state = shared.state.borrow().clone();
    // Released at once: raft waits for whoever looks at its metrics.
    let metrics: openraft::RaftMetrics<u64, EmptyNode> = shared.raft.metrics().borrow().clone();
    let replication = metrics.replication?;
    let voters = metrics.membership_config.voter_ids().map(NodeNr);
    let fit = voters.filter(|voter| {
        let member = state.members.get(voter);
        *voter != shared.me
            && member.is_some_and(|member| {
                !member.removing
                    && matches!(member.status, MemberStatus::Joining | MemberStatus::Up)
            })
    });
    fit.max_by_key(|voter| replication.get(&voter.0).copied().flatten())
}
