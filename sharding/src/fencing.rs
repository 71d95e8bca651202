//! Has the journal refuse what a session that is over might still write (I-2), and
//! tells the cluster.
//!
//! A condemned session is fenced by two kinds of nodes, in the same way, each for a
//! reason of its own:
//!
//! * the leader fences all of them (`leader/duties.rs`): also those that no shard
//!   waits for, and from the moment of the death, before the shards have new owners;
//! * a new owner fences those that its shards wait for (`region/keeper.rs`): it has
//!   to be sure that it is done, and the leader may be out of the journal's reach.
//!
//! Fencing is idempotent, so nobody has to agree on who does it.

use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::planted::{self, Bug};
use perennial_persistence::registry::{NodeNr, Registry};
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr};
use tokio::time::{sleep, timeout};

use crate::cluster_state::{ClusterCommand, ClusterState};
use crate::control_plane::ControlPlane;
use crate::wall_clock::unix_millis;

/// For one fence; it waits for appends in flight.
const FENCE_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause before a step is tried again; doubles up to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_LAST: Duration = Duration::from_secs(1);

/// The sessions that shards of a node wait for.
pub(crate) fn waited_for(
    state: &ClusterState,
    here: NodeNr,
) -> impl Iterator<Item = SessionUuid> + '_ {
    // Without condemned sessions, which is the rule, nobody waits for a fence.
    let shards = state.shards.iter().filter(|_| !state.condemned.is_empty());
    let of_here = shards.filter(move |shard| shard.home.owner() == Some(here));
    of_here.flat_map(|shard| shard.unfenced.iter().copied())
}

/// Fences a condemned session and says so, until the cluster knows. Returns the
/// session. Safe to cancel.
pub(crate) async fn fence_condemned<C: ControlPlane>(
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
        if !is_fenced && try_fence(&*registry, session, None).await {
            is_fenced = true;
            tracing::info!(%session, "a condemned session is fenced");
        }
        if is_fenced {
            let at = unix_millis();
            match control
                .propose(ClusterCommand::Fenced { session, at })
                .await
            {
                Ok(_) => return session,
                Err(error) => tracing::debug!(%session, %error, "not reported as fenced yet"),
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_LAST);
    }
    session
}

/// Fences a session, or only its writes to one shard up to an epoch. Returns whether
/// it is done; if not, it may be tried again at any time.
pub(crate) async fn try_fence(
    registry: &dyn Registry,
    session: SessionUuid,
    shard: Option<(ShardNr, Epoch)>,
) -> bool {
    if planted::is(Bug::SkipFence) && shard.is_none() {
        return true;
    }
    let (of_shard, epoch) = (shard.map(|of| of.0.0), shard.map(|of| of.1.0));
    let failure = match timeout(FENCE_TIMEOUT, registry.fence(session, shard)).await {
        Ok(Ok(())) => {
            tracing::debug!(%session, of_shard, epoch, "fenced");
            return true;
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {FENCE_TIMEOUT:?}"),
    };
    tracing::warn!(%session, of_shard, epoch, error = failure, "a session cannot be fenced yet: its shards wait");
    false
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::cluster_state::Home;

    #[test]
    fn an_owner_waits_for_former_owners_also_while_it_hands_off() {
        let session = |nr| SessionUuid(Uuid::from_u128(nr));
        let (node, to) = (NodeNr(1), NodeNr(2));
        let mut state = ClusterState::new(Uuid::nil(), 1, 3);
        state.condemned.insert(session(9), NodeNr(9));
        for (shard, home) in [
            Home::Unassigned,
            Home::Owned {
                node,
                session: session(1),
            },
            Home::HandingOff {
                from: node,
                session: session(1),
                to,
            },
        ]
        .into_iter()
        .enumerate()
        {
            state.shards[shard].home = home;
            state.shards[shard].unfenced.insert(session(9));
        }
        assert_eq!(waited_for(&state, node).count(), 2);
        assert_eq!(waited_for(&state, to).count(), 0);
    }
}
