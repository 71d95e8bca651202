//! What takes the leader longer than a decision: fences, and calls to nodes that have
//! fallen silent.
//!
//! Each is asked for again at every tick until it has come true, so it is begun
//! unless it is under way, and tried only once at a time. All end with the term.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::{Inner, header, peer};
use crate::cluster_state::{ClusterCommand, ClusterState};
use crate::control_plane::ControlPlane;
use crate::peer::{PeerError, PeerRequest};

/// Under way at once; others wait for a later tick.
const DUTIES_MAX: usize = 64;
/// For one fence; it waits for appends in flight.
const FENCE_TIMEOUT: Duration = Duration::from_secs(10);
/// After a fence that failed, as the journal is out of reach.
const FENCE_PAUSE: Duration = Duration::from_millis(500);
/// For a node to accept or refuse a connection.
const PROBE_TIMEOUT: Duration = Duration::from_millis(200);

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
}

impl Duties {
    /// Has the journal refuse a condemned session, and says so.
    pub(super) fn fence_session<C: ControlPlane>(
        &mut self,
        inner: &Arc<Inner<C>>,
        session: SessionUuid,
    ) {
        let fenced = ClusterCommand::Fenced { session };
        let fence = fence(Arc::clone(inner), session, None, fenced);
        self.begin(Duty::FenceSession(session), fence);
    }

    /// Ends a handoff whose owner takes too long.
    pub(super) fn fence_shard<C: ControlPlane>(
        &mut self,
        inner: &Arc<Inner<C>>,
        session: SessionUuid,
        shard: ShardNr,
        epoch: Epoch,
    ) {
        let drained = ClusterCommand::Drained {
            shard,
            session,
            epoch,
        };
        let fence = fence(Arc::clone(inner), session, Some((shard, epoch)), drained);
        self.begin(Duty::FenceShard(session, shard, epoch), fence);
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

    fn begin(&mut self, duty: Duty, task: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.under_way.retain(|_, task| !task.is_finished());
        if self.under_way.len() < DUTIES_MAX && !self.under_way.contains_key(&duty) {
            self.under_way.insert(duty, self.tasks.spawn(task));
        }
    }
}

async fn fence<C: ControlPlane>(
    inner: Arc<Inner<C>>,
    session: SessionUuid,
    shard: Option<(ShardNr, Epoch)>,
    then: ClusterCommand,
) {
    let (of_shard, epoch) = (shard.map(|of| of.0.0), shard.map(|of| of.1.0));
    let failure = match timeout(FENCE_TIMEOUT, inner.registry.fence(session, shard)).await {
        Ok(Ok(())) => {
            tracing::info!(%session, of_shard, epoch, "fenced");
            if let Err(error) = inner.control.propose(then).await {
                tracing::debug!(%session, %error, "not reported as fenced yet");
            }
            return;
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {FENCE_TIMEOUT:?}"),
    };
    tracing::warn!(%session, of_shard, epoch, error = failure, "a session cannot be fenced yet: its shards wait");
    sleep(FENCE_PAUSE).await;
}
