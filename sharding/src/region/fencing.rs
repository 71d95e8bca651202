//! The new owner of a dead node's shards has the journal refuse the dead node's
//! session, which may not be as dead as it seems, before it recovers anything (I-2).
//!
//! Any node may do it, as often as it likes; nobody may skip it. Next: `keeper.rs`,
//! which lets commands in when the cluster knows that it is done.

use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::registry::{NodeNr, Registry};
use perennial_persistence::writer::SessionUuid;

use crate::cluster_state::{ClusterCommand, ClusterState, Home};
use crate::control_plane::ControlPlane;

/// The pause before a step is tried again; doubles up to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_LAST: Duration = Duration::from_secs(1);

/// The sessions that shards of a node wait for.
pub(super) fn waited_for(
    state: &ClusterState,
    here: NodeNr,
) -> impl Iterator<Item = SessionUuid> + '_ {
    let is_here = move |home: &Home| matches!(home, Home::Owned { node, .. } if *node == here);
    // Without condemned sessions, which is the rule, nobody waits for a fence.
    let shards = state.shards.iter().filter(|_| !state.condemned.is_empty());
    let of_here = shards.filter(move |shard| is_here(&shard.home));
    of_here.flat_map(|shard| shard.unfenced.iter().copied())
}

/// Fences a session and says so, until the cluster knows. Returns the session.
pub(super) async fn fence<C: ControlPlane>(
    session: SessionUuid,
    control: Arc<C>,
    registry: Arc<dyn Registry>,
) -> SessionUuid {
    let is_condemned = || {
        let state = control.state();
        let state = state.borrow();
        state.condemned.contains_key(&session)
    };
    let mut is_fenced = false;
    let mut pause = PAUSE_FIRST;
    while is_condemned() {
        if !is_fenced {
            match registry.fence(session, None).await {
                Ok(()) => is_fenced = true,
                Err(error) => {
                    tracing::warn!(%session, %error, "a dead node's session cannot be fenced yet: its shards wait");
                }
            }
        }
        if is_fenced {
            match control.propose(ClusterCommand::Fenced { session }).await {
                Ok(_) => return session,
                Err(error) => tracing::debug!(%session, %error, "not reported as fenced yet"),
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_LAST);
    }
    session
}
