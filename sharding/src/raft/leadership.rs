//! What a member tells its node, and people, about the group.

use std::sync::Arc;

use perennial_persistence::registry::NodeNr;
use tokio::sync::watch;

use super::figures::Figures;
use super::types::Raft;
use crate::cluster_state::{ClusterState, MemberStatus};
use crate::control_plane::Leadership;

/// Publishes who leads, as raft's metrics say it, and records them.
pub(super) async fn follow_leadership(raft: Raft, leadership: watch::Sender<Leadership>) {
    let mut metrics = raft.metrics();
    let mut figures = Figures::new(&metrics.borrow());
    loop {
        let now = {
            // Released at once: raft waits for whoever looks at its metrics.
            let metrics = metrics.borrow_and_update();
            figures.record(&metrics);
            let leader = metrics.current_leader.map(NodeNr);
            Leadership {
                // One that has stopped follows nobody, and does not lead.
                leader: leader.filter(|_| metrics.running_state.is_ok()),
                term: metrics.current_term,
            }
        };
        leadership.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// Two nodes look like a cluster that survives one of them, and are none.
pub(super) async fn warn_of_two(mut state: watch::Receiver<Arc<ClusterState>>) {
    let mut warned = false;
    loop {
        let members = {
            let state = state.borrow_and_update();
            let counted = state.members.values();
            let counted = counted.filter(|member| member.status != MemberStatus::Down);
            counted.count()
        };
        if members == 2 && !warned {
            tracing::warn!(
                "a cluster of two nodes tolerates no failure: without a majority nothing is decided; run three"
            );
        }
        warned = members == 2;
        if state.changed().await.is_err() {
            return;
        }
    }
}
