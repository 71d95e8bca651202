//! Gives leadership to another node, faster than an election after a failure.
//!
//! The leader falls silent and asks the voter that is furthest to stand for
//! election, again and again: the other voters agree as soon as they have not heard
//! of the leader for half an election time-out.

use std::time::Duration;

use openraft::EmptyNode;
use perennial_persistence::registry::NodeNr;
use tokio::time::{Instant, sleep, timeout};

use super::control::Shared;
use crate::cluster_state::MemberStatus;
use crate::peer::PeerRequest;

/// How often the successor is asked.
const ASK_INTERVAL: Duration = Duration::from_millis(50);

/// Returns whether another node leads, after `within` at the latest.
pub(super) async fn hand_over(shared: &Shared, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    let me = shared.me;
    if shared.leader() != Some(me) {
        return shared.leader().is_some();
    }
    let Some(successor) = successor(shared) else {
        return false;
    };
    tracing::info!(to = successor.0, "handing leadership over");
    let runtime = shared.raft.runtime_config();
    runtime.heartbeat(false);
    runtime.elect(false);
    let mut leadership = shared.leadership.subscribe();
    let mut handed_over = false;
    while !handed_over && Instant::now() < deadline {
        if let Some(peer) = shared.network.addresses.find(successor) {
            let header = shared.network.headers.to(successor);
            let transport = &shared.network.transport;
            let asked = transport.call(&peer, header, PeerRequest::Elect, ASK_INTERVAL * 4);
            if let Err(error) = asked.await {
                tracing::debug!(%error, "the successor cannot be asked to lead");
            }
        }
        let other = leadership.wait_for(|now| now.leader.is_some_and(|leader| leader != me));
        handed_over = matches!(timeout(ASK_INTERVAL, other).await, Ok(Ok(_)));
        if !handed_over {
            // Without a leader for a moment there is nothing to wait for.
            sleep(ASK_INTERVAL / 2).await;
        }
    }
    // A follower may stand for election again; a leader that found no successor
    // goes on.
    runtime.heartbeat(true);
    runtime.elect(true);
    handed_over
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
