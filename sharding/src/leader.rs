//! What the leader of a cluster does: hears heartbeats, and performs what its
//! coordinator decides.
//!
//! Every node has one; it sleeps while another node leads. Each term begins with a new
//! [`Coordinator`] and an empty failure detector. A heartbeat is acknowledged only
//! after a quorum has confirmed, *after it arrived*, that this node still leads:
//! leases that an isolated leader extends would outlive its successor's patience. No
//! decision is made here. Next: `coordinator.rs`, which makes them;
//! `leader/duties.rs`, what takes longer; `heartbeats.rs`, the node's side.

mod duties;
#[cfg(test)]
mod leader_test;
#[cfg(test)]
mod test_cluster;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use perennial_persistence::planted::{self, Bug};
use perennial_persistence::registry::{NodeNr, Registry};
use perennial_persistence::writer::SessionUuid;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::cluster_state::{ClusterCommand, ClusterState};
use crate::control_plane::ControlPlane;
use crate::coordinator::{Action, Coordinator, CoordinatorSettings};
use crate::failure_detector::{DetectorSettings, FailureDetector};
use crate::peer::{Heartbeat, Peer, PeerHeader, PeerRequest, PeerResponse, PeerTransport};
use crate::wall_clock::unix_millis;
use duties::Duties;

/// Between two ticks at least: many shards are reported as drained within it, and are
/// dealt with together.
const TICK_MIN: Duration = Duration::from_millis(10);
/// Between two ticks at most, when nothing happens: how late a death is noticed.
const TICK_MAX: Duration = Duration::from_millis(100);
/// Before a new leader asks again for a quorum that confirms it.
const CONFIRM_PAUSE: Duration = Duration::from_millis(50);
/// What is committed is soon applied here; if not, the next tick repeats it.
const APPLY_MAX: Duration = Duration::from_secs(1);
/// For the leader to say how many entities are live.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);

/// How the leader goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderSettings {
    /// Of decisions.
    pub coordinator: CoordinatorSettings,
    /// Of who is alive.
    pub detector: DetectorSettings,
    /// Where refused connections count as death: a node is called when nothing was
    /// heard of it for so long. Two heartbeats.
    pub probe_after: Duration,
}

/// A node's part as leader; clones are the same.
pub struct Leader<C> {
    inner: Arc<Inner<C>>,
}

impl<C> Clone for Leader<C> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

struct Inner<C> {
    me: NodeNr,
    control: Arc<C>,
    registry: Arc<dyn Registry>,
    transport: Arc<dyn PeerTransport>,
    settings: LeaderSettings,
    /// While this node leads.
    coordinator: Mutex<Option<Coordinator>>,
}

impl<C> Inner<C> {
    fn coordinator(&self) -> MutexGuard<'_, Option<Coordinator>> {
        // Ticks and heartbeats leave it consistent between any two of their steps.
        self.coordinator
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: ControlPlane> Leader<C> {
    /// Of the node `me`. Does nothing before [`Self::lead`] runs.
    #[must_use]
    pub fn new(
        me: NodeNr,
        control: Arc<C>,
        registry: Arc<dyn Registry>,
        transport: Arc<dyn PeerTransport>,
        settings: LeaderSettings,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                me,
                control,
                registry,
                transport,
                settings,
                coordinator: Mutex::new(None),
            }),
        }
    }

    /// Leads whenever this node is elected, until the control plane ends. Dropped, it
    /// stops leading; what it has proposed may be committed all the same.
    pub async fn lead(&self) {
        let inner = &self.inner;
        let me = Some(inner.me);
        let mut leadership = inner.control.leadership();
        loop {
            let term = match leadership.wait_for(|now| now.leader == me).await {
                Ok(elected) => elected.term,
                Err(_) => return,
            };
            tracing::info!(term, "this node leads the cluster");
            tokio::select! {
                _ = leadership.wait_for(|now| now.leader != me || now.term != term) => {}
                () = self.lead_term() => {}
            }
            *inner.coordinator() = None;
            tracing::info!(term, "this node does not lead the cluster any more");
        }
    }

    /// Answers a [`PeerRequest::Heartbeat`], which may take a quorum round, or
    /// [`PeerRequest::LiveEntities`]. The header has been checked before. Only
    /// [`PeerResponse::HeartbeatSeen`] extends a lease.
    pub async fn handle(&self, header: &PeerHeader, request: PeerRequest) -> PeerResponse {
        let leader = self.inner.control.leadership().borrow().leader;
        if leader != Some(self.inner.me) {
            return PeerResponse::NotLeader { leader };
        }
        match request {
            PeerRequest::Heartbeat(heartbeat) => self.heard(header, heartbeat).await,
            PeerRequest::LiveEntities => match &*self.inner.coordinator() {
                Some(coordinator) => {
                    PeerResponse::LiveEntities(coordinator.detector.live_entities().collect())
                }
                None => PeerResponse::NotLeader { leader: None },
            },
            _ => PeerResponse::Done,
        }
    }

    async fn heard(&self, header: &PeerHeader, heartbeat: Heartbeat) -> PeerResponse {
        let (node, session) = (header.from, header.session);
        let control = &self.inner.control;
        let counts = {
            let state = Arc::clone(&control.state().borrow());
            let now = Instant::now().into_std();
            match &mut *self.inner.coordinator() {
                Some(coordinator) => {
                    coordinator.detector.watch(&state, now);
                    coordinator.detector.heard(node, session, heartbeat, now)
                }
                None => return PeerResponse::NotLeader { leader: None },
            }
        };
        if !planted::is(Bug::HeartbeatsWithoutQuorum) && control.confirm_leadership().await.is_err()
        {
            return PeerResponse::NotLeader { leader: None };
        }
        // By now the state has all that was decided before the heartbeat came.
        if !control.state().borrow().is_current(node, session) {
            PeerResponse::SessionOver
        } else if counts {
            PeerResponse::HeartbeatSeen
        } else {
            PeerResponse::Done
        }
    }

    /// How many entities are live on each node, as far as the leader knows; empty
    /// while nobody leads, or the leader does not answer.
    pub async fn live_entities(&self) -> Vec<(NodeNr, u64)> {
        let request = PeerRequest::LiveEntities;
        match self.ask_leader(None, request, ASK_TIMEOUT).await {
            Some(PeerResponse::LiveEntities(nodes)) => nodes,
            _ => Vec::new(),
        }
    }

    /// Asks whoever leads, which may be this node; `None` when nobody does or it does
    /// not answer. Without a session it is the one by which the cluster knows this
    /// node.
    pub(crate) async fn ask_leader(
        &self,
        session: Option<SessionUuid>,
        request: PeerRequest,
        deadline: Duration,
    ) -> Option<PeerResponse> {
        let inner = &self.inner;
        let leader = inner.control.leadership().borrow().leader?;
        let state = Arc::clone(&inner.control.state().borrow());
        let header = header(&state, inner.me, session, leader);
        if leader == inner.me {
            return timeout(deadline, self.handle(&header, request)).await.ok();
        }
        let peer = peer(&state, leader)?;
        let asked = inner.transport.call(&peer, header, request, deadline).await;
        asked
            .inspect_err(|error| tracing::debug!(%error, "the leader was not reached"))
            .ok()
    }

    async fn lead_term(&self) {
        let inner = &self.inner;
        // What predecessors decided is known then.
        while let Err(error) = inner.control.confirm_leadership().await {
            tracing::debug!(%error, "not confirmed as leader yet");
            sleep(CONFIRM_PAUSE).await;
        }
        let detector = FailureDetector::new(inner.settings.detector, Instant::now().into_std());
        let coordinator = Coordinator::new(inner.me, inner.settings.coordinator, detector);
        *inner.coordinator() = Some(coordinator);

        let mut states = inner.control.state();
        let mut duties = Duties::default();
        loop {
            let state = Arc::clone(&states.borrow_and_update());
            let proposals = self.tick(&state, &mut duties);
            self.propose(proposals, &mut states).await;
            sleep(TICK_MIN).await;
            // Woken by whatever changes, also by this node's own commands.
            if let Ok(Err(_)) = timeout(TICK_MAX - TICK_MIN, states.changed()).await {
                return;
            }
        }
    }

    /// Decides, begins what takes longer, and returns what is to be proposed.
    fn tick(&self, state: &ClusterState, duties: &mut Duties) -> Vec<ClusterCommand> {
        let inner = &self.inner;
        let now = Instant::now().into_std();
        let mut silent = Vec::new();
        let actions = match &mut *inner.coordinator() {
            Some(coordinator) => {
                let actions = coordinator.tick(state, now, unix_millis());
                if inner.settings.detector.refused_means_dead {
                    let after = inner.settings.probe_after;
                    silent.extend(coordinator.detector.silent_for(after, now));
                }
                actions
            }
            None => Vec::new(),
        };
        let mut proposals = Vec::new();
        for action in actions {
            match action {
                Action::Propose(command) => proposals.push(command),
                Action::FenceShard {
                    shard,
                    session,
                    epoch,
                } => duties.fence_shard(inner, session, shard, epoch),
                Action::HandOverLeadership => duties.hand_over(inner),
            }
        }
        for &session in state.condemned.keys() {
            duties.fence_session(inner, session);
        }
        for (node, session) in silent {
            duties.probe(inner, state, node, session);
        }
        proposals
    }

    /// Commits commands, and waits until they are applied here.
    async fn propose(
        &self,
        commands: Vec<ClusterCommand>,
        states: &mut watch::Receiver<Arc<ClusterState>>,
    ) {
        let proposals = commands
            .into_iter()
            .map(|command| self.inner.control.propose(command));
        let mut applied = 0;
        for result in join_all(proposals).await {
            match result {
                Ok(index) => applied = applied.max(index),
                Err(error) => tracing::warn!(%error, "a decision of the leader waits"),
            }
        }
        let _ = timeout(APPLY_MAX, states.wait_for(|state| state.index >= applied)).await;
    }
}

fn header(
    state: &ClusterState,
    me: NodeNr,
    session: Option<SessionUuid>,
    to: NodeNr,
) -> PeerHeader {
    let known = || state.member(me).map(|member| member.session);
    PeerHeader {
        cluster_id: state.cluster_id,
        generation: state.generation,
        from: me,
        session: session.or_else(known).unwrap_or(SessionUuid(Uuid::nil())),
        to,
    }
}

fn peer(state: &ClusterState, node: NodeNr) -> Option<Peer> {
    state.member(node).map(|member| Peer {
        node,
        address: member.peer_address.clone(),
    })
}
