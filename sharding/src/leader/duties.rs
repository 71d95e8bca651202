//! What takes the leader longer than a decision: fences, calls to nodes that have
//! fallen silent, and giving leadership away.
//!
//! Each is asked for again at every tick until it has come true, so it is begun
//! unless it is under way, and tried only once at a time. All end with the term.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::{Inner, header, peer};
use crate::cluster_state::{ClusterCommand, ClusterState, DrainedBy};
use crate::control_plane::ControlPlane;
use crate::fencing::{fence_condemned, try_fence};
use crate::peer::{PeerError, PeerRequest};
use crate::wall_clock::unix_millis;

/// Under way at once; others wait for a later tick.
const DUTIES_MAX: usize = 64;
/// After a fence that failed, as the journal is out of reach.
const FENCE_PAUSE: Duration = Duration::from_millis(500);
/// For a node to accept or refuse a connection.
const PROBE_TIMEOUT: Duration = Duration::from_millis(200);

/// For another node to be elected, where elections take long. The cluster decides
/// nothing meanwhile.
const HAND_OVER_MAX: Duration = Duration::from_secs(30);
/// After nobody could be elected, before it is tried again.
const HAND_OVER_PAUSE: Duration = Duration::from_secs(2);

/// What is under way.
#[derive(Default)]
pub(super) struct Duties {
    tasks: JoinSet<()>,
    under_way: BTreeMap<Duty, AbortHandle>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Duty {
    FenceSession(SessionUuid),
    FenceShard(SessionUuid, ShardNr, Epoch),
    Probe(NodeNr, SessionUuid),
    HandOver,
}

impl Duties {
    /// Has the journal refuse a condemned session, and says so.
    pub(super) fn fence_session<C: ControlPlane>(
        &mut self,
        inner: &Arc<Inner<C>>,
        session: SessionUuid,
    ) {
        let (control, registry) = (Arc::clone(&inner.control), Arc::clone(&inner.registry));
        self.begin(Duty::FenceSession(session), async move {
            fence_condemned(session, control, registry).await;
        });
    }

    /// Ends a handoff whose owner takes too long.
    pub(super) fn fence_shard<C: ControlPlane>(
        &mut self,
        inner: &Arc<Inner<C>>,
        session: SessionUuid,
        shard: ShardNr,
        epoch: Epoch,
    ) {
        let inner = Arc::clone(inner);
        self.begin(Duty::FenceShard(session, shard, epoch), async move {
            if !try_fence(&*inner.registry, session, Some((shard, epoch))).await {
                sleep(FENCE_PAUSE).await;
                return;
            }
            let drained = ClusterCommand::Drained {
                shard,
                session,
                epoch,
                by: DrainedBy::Force,
                at: unix_millis(),
            };
            if let Err(error) = inner.control.propose(drained).await {
                tracing::debug!(%shard, %error, "not reported as drained yet");
            }
        });
    }

    /// Calls a node that has fallen silent: if its address refuses the connection,
    /// its process is gone.
    pub(super) fn probe<C: ControlPlane>(
        &mut self,
        inner: &Arc<Inner<C>>,
        state: &ClusterState,
        node: NodeNr,
        session: SessionUuid,
    ) {
        let Some(peer) = peer(state, node) else {
            return;
        };
        let header = header(state, inner.me, None, node);
        let inner = Arc::clone(inner);
        self.begin(Duty::Probe(node, session), async move {
            let request = PeerRequest::LiveEntities;
            let call = inner.transport.call(&peer, header, request, PROBE_TIMEOUT);
            if let Err(PeerError::Refused { .. }) = call.await
                && let Some(coordinator) = &mut *inner.coordinator()
            {
                coordinator.detector.connection_refused(node, session);
            }
        });
    }

    /// Lets another node lead. Ends with this term if it succeeds.
    pub(super) fn hand_over<C: ControlPlane>(&mut self, inner: &Arc<Inner<C>>) {
        let control = Arc::clone(&inner.control);
        self.begin(Duty::HandOver, async move {
            if !control.hand_over_leadership(HAND_OVER_MAX).await {
                tracing::warn!(
                    "this node is to be removed and leads: no other could be elected yet"
                );
                sleep(HAND_OVER_PAUSE).await;
            }
        });
    }

    fn begin(&mut self, duty: Duty, task: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.under_way.retain(|_, task| !task.is_finished());
        if self.under_way.len() < DUTIES_MAX && !self.under_way.contains_key(&duty) {
            self.under_way.insert(duty, self.tasks.spawn(task));
        }
    }
}
