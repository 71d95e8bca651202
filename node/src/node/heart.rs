//! Signs of life, and the leader's work.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use perennial_persistence::lease::Lease;
use perennial_persistence::registry::{NodeNr, Registry};
use perennial_persistence::writer::SessionUuid;
use perennial_sharding::cluster_state::ClusterCommand;
use perennial_sharding::control_plane::ControlPlane;
use perennial_sharding::coordinator::{Action, Coordinator, CoordinatorSettings};
use perennial_sharding::failure_detector::{DetectorSettings, FailureDetector};
use perennial_sharding::lease::LivenessTimes;
use perennial_sharding::peer::{
    Heartbeat, PeerHeader, PeerRequest, PeerResponse, PeerTransport,
};
use perennial_sharding::raft::RaftControlPlane;
use perennial_sharding::raft::store::StoreIdentity;

use super::engine_place::EnginePlace;

#[derive(Clone)]
pub(super) struct Heart {
    pub(super) me: StoreIdentity,
    pub(super) control: RaftControlPlane,
    pub(super) transport: Arc<dyn PeerTransport>,
    pub(super) registry: Arc<dyn Registry>,
    pub(super) times: LivenessTimes,
    pub(super) settings: CoordinatorSettings,
    pub(super) detector: DetectorSettings,
    pub(super) coordinator: Arc<Mutex<Option<(u64, Coordinator)>>>,
}

fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

impl Heart {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(u64, Coordinator)>> {
        self.coordinator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn header(&self, session: SessionUuid, to: NodeNr) -> PeerHeader {
        PeerHeader {
            cluster_id: self.me.cluster_id,
            generation: self.me.generation,
            from: self.me.node,
            session,
            to,
        }
    }

    pub(super) async fn handle(&self, header: &PeerHeader, request: PeerRequest) -> PeerResponse {
        let leader = self.control.leadership().borrow().leader;
        if leader != Some(self.me.node) {
            return PeerResponse::NotLeader { leader };
        }
        match request {
            PeerRequest::Heartbeat(heartbeat) => {
                if !self
                    .control
                    .state()
                    .borrow()
                    .is_current(header.from, header.session)
                {
                    return PeerResponse::SessionOver;
                }
                let counts = match &mut *self.lock() {
                    Some((_, coordinator)) => coordinator.detector.heard(
                        header.from,
                        header.session,
                        heartbeat,
                        now(),
                    ),
                    None => false,
                };
                if counts && self.control.confirm_leadership().await.is_ok() {
                    PeerResponse::HeartbeatSeen
                } else {
                    PeerResponse::NotLeader { leader: None }
                }
            }
            _ => match &*self.lock() {
                Some((_, coordinator)) => {
                    PeerResponse::LiveEntities(coordinator.detector.live_entities().collect())
                }
                None => PeerResponse::NotLeader { leader: None },
            },
        }
    }

    pub(super) async fn live_entities(&self) -> Vec<(NodeNr, u64)> {
        let leader = self.control.leadership().borrow().leader;
        let Some(leader) = leader else {
            return Vec::new();
        };
        let header = self.header(SessionUuid(uuid::Uuid::nil()), leader);
        let answer = if leader == self.me.node {
            self.handle(&header, PeerRequest::LiveEntities).await
        } else if let Some(peer) = self.control.addresses().find(leader) {
            let asked = self.transport.call(
                &peer,
                header,
                PeerRequest::LiveEntities,
                Duration::from_millis(500),
            );
            match asked.await {
                Ok(answer) => answer,
                Err(_) => return Vec::new(),
            }
        } else {
            return Vec::new();
        };
        match answer {
            PeerResponse::LiveEntities(nodes) => nodes,
            _ => Vec::new(),
        }
    }

    pub(super) async fn beat(&self, session: SessionUuid, lease: Lease, place: &EnginePlace) {
        let mut number = 0;
        let mut interval = tokio::time::interval(self.times.heartbeat_interval());
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let leader = self.control.leadership().borrow().leader;
            let Some(leader) = leader else { continue };
            number += 1;
            let reach = tokio::time::timeout(Duration::from_secs(1), self.registry.formation());
            let heartbeat = Heartbeat {
                number,
                journal_in_reach: matches!(reach.await, Ok(Ok(_))),
                live_entities: place.live_entities() as u64,
                index: self.control.state().borrow().index,
            };
            let sent = now();
            let header = self.header(session, leader);
            let request = PeerRequest::Heartbeat(heartbeat);
            let answer = if leader == self.me.node {
                Some(self.handle(&header, request).await)
            } else if let Some(peer) = self.control.addresses().find(leader) {
                let asked = self.transport.call(&peer, header, request, self.times.lease());
                asked.await.ok()
            } else {
                None
            };
            match answer {
                Some(PeerResponse::HeartbeatSeen) => lease.extend(sent + self.times.lease()),
                Some(PeerResponse::SessionOver) => return,
                _ => {}
            }
        }
    }

    pub(super) async fn lead(self) {
        let mut interval = tokio::time::interval(Duration::from_millis(50));
        loop {
            interval.tick().await;
            let leadership = *self.control.leadership().borrow();
            if leadership.leader != Some(self.me.node) {
                *self.lock() = None;
                continue;
            }
            let state = Arc::clone(&self.control.state().borrow());
            let at = super::unix_millis(SystemTime::now());
            let actions = {
                let mut place = self.lock();
                if place.as_ref().is_none_or(|(term, _)| *term != leadership.term) {
                    let detector = FailureDetector::new(self.detector, now());
                    *place = Some((
                        leadership.term,
                        Coordinator::new(self.me.node, self.settings, detector),
                    ));
                }
                match &mut *place {
                    Some((_, coordinator)) => coordinator.tick(&state, now(), at),
                    None => Vec::new(),
                }
            };
            for action in actions {
                match action {
                    Action::Propose(command) => {
                        let _ = self.control.propose(command).await;
                    }
                    Action::FenceShard {
                        shard,
                        session,
                        epoch,
                    } => {
                        if self.registry.fence(session, Some((shard, epoch))).await.is_ok() {
                            let drained = ClusterCommand::Drained {
                                shard,
                                session,
                                epoch,
                            };
                            let _ = self.control.propose(drained).await;
                        }
                    }
                }
            }
            for session in state.condemned.keys().copied() {
                if self.registry.fence(session, None).await.is_ok() {
                    let _ = self.control.propose(ClusterCommand::Fenced { session }).await;
                }
            }
        }
    }
}
