//! When a node takes commands: when it is a member that is up, sees a leader, and
//! does not stop. An outage of the journal does not count: it would take all nodes
//! out of service at once, and they answer with an error that says more.

use std::sync::Arc;

use perennial_persistence::registry::NodeNr;
use perennial_sharding::cluster_state::{ClusterState, MemberStatus};
use perennial_sharding::control_plane::ControlPlane;
use perennial_sharding::raft::RaftControlPlane;
use tonic_health::server::HealthReporter;

use crate::grpc::server;
use crate::http::Readiness;

/// Returns when the node is up, with every shard in a home.
pub(super) async fn until_up(control: &RaftControlPlane, node: NodeNr) {
    let mut state = control.state();
    // An error means that raft has stopped, which ends the node by another way.
    let _ = state.wait_for(|state| is_up(state, node)).await;
}

/// Says whether the node takes commands, until it is dropped. Dropped half-way, what it
/// has said last may hold for some of the services only.
pub(super) async fn follow_readiness(
    control: RaftControlPlane,
    node: NodeNr,
    readiness: Readiness,
    health: HealthReporter,
) {
    let (mut state, mut leadership) = (control.state(), control.leadership());
    loop {
        let ready = is_up(&state.borrow_and_update(), node)
            && leadership.borrow_and_update().leader.is_some();
        if readiness.set(ready) != ready {
            server::set_health(&health, ready).await;
        }
        let changed = tokio::select! {
            changed = state.changed() => changed,
            changed = leadership.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

fn is_up(state: &Arc<ClusterState>, node: NodeNr) -> bool {
    let member = state.member(node);
    member.is_some_and(|member| member.status == MemberStatus::Up)
}
