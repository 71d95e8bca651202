//! Nodes of one process with leaders, heartbeats and leases, around a control plane
//! that is one log in memory: it elects whom it is told to, and an isolated node sees
//! nothing new and confirms nothing.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use perennial_persistence::lease::ReadLease;
use perennial_persistence::registry::{NodeNr, Registry};
use perennial_persistence::storage::memory::MemoryStorage;
use perennial_persistence::writer::SessionUuid;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::{Leader, LeaderSettings};
use crate::cluster_state::{ClusterCommand, ClusterState, DrainedBy, Member, MemberStatus};
use crate::control_plane::{ControlPlane, Leadership, ProposeError};
use crate::coordinator::CoordinatorSettings;
use crate::failure_detector::DetectorSettings;
use crate::heartbeats::{Signs, beat};
use crate::lease::LivenessTimes;
use crate::peer::loopback::{LoopbackNetwork, loopback_address};
use crate::peer::{
    AcceptedStream, PeerError, PeerHandler, PeerHeader, PeerRequest, PeerResponse, PeerTransport,
};

pub(crate) const SHARDS: u32 = 12;
/// So many handovers find no successor before one does.
const HANDOVERS_IN_VAIN: usize = 1;
/// More than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// The one log, and what each node has of it.
#[derive(Default)]
struct Log {
    state: Option<ClusterState>,
    leadership: Leadership,
    isolated: BTreeSet<NodeNr>,
    /// How often leadership was to be handed over.
    handovers: usize,
    views: BTreeMap<NodeNr, (watch::Sender<Arc<ClusterState>>, watch::Sender<Leadership>)>,
}

impl Log {
    fn elect(&mut self, node: NodeNr) {
        self.leadership = Leadership {
            leader: Some(node),
            term: self.leadership.term + 1,
        };
        self.publish();
    }

    fn publish(&self) {
        let state = Arc::new(self.state.clone().unwrap());
        for (node, (states, leadership)) in &self.views {
            if !self.isolated.contains(node) {
                states.send_replace(Arc::clone(&state));
                leadership.send_if_modified(|now| {
                    let changed = *now != self.leadership;
                    *now = self.leadership;
                    changed
                });
            }
        }
    }
}

/// A node's end of it.
#[derive(Clone)]
pub(crate) struct TestControl {
    me: NodeNr,
    log: Arc<Mutex<Log>>,
}

impl ControlPlane for TestControl {
    fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.log.lock().unwrap().views[&self.me].0.subscribe()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.log.lock().unwrap().views[&self.me].1.subscribe()
    }

    async fn propose(&self, command: ClusterCommand) -> Result<u64, ProposeError> {
        sleep(Duration::from_millis(2)).await;
        {
            let mut log = self.log.lock().unwrap();
            if !log.isolated.contains(&self.me) && log.leadership.leader.is_some() {
                let state = log.state.as_mut().unwrap();
                let index = state.index + 1;
                state.apply(index, &command);
                log.publish();
                return Ok(index);
            }
        }
        sleep(Duration::from_secs(1)).await;
        Err(ProposeError::NoLeader {
            message: "isolated".to_owned(),
        })
    }

    async fn confirm_leadership(&self) -> Result<(), ProposeError> {
        sleep(Duration::from_millis(1)).await;
        let confirmed = {
            let log = self.log.lock().unwrap();
            !log.isolated.contains(&self.me) && log.leadership.leader == Some(self.me)
        };
        if confirmed {
            return Ok(());
        }
        sleep(Duration::from_millis(500)).await;
        Err(ProposeError::NoLeader {
            message: "no quorum".to_owned(),
        })
    }

    async fn hand_over_leadership(&self, within: Duration) -> bool {
        let attempt = {
            let mut log = self.log.lock().unwrap();
            log.handovers += 1;
            log.handovers
        };
        if attempt <= HANDOVERS_IN_VAIN {
            sleep(within).await;
            return false;
        }
        let mut log = self.log.lock().unwrap();
        let other = log.views.keys().find(|node| **node != self.me).copied();
        if let Some(other) = other {
            log.elect(other);
        }
        other.is_some()
    }
}

pub(crate) struct TestNode {
    pub(crate) nr: NodeNr,
    pub(crate) session: SessionUuid,
    pub(crate) lease: ReadLease,
    pub(crate) control: Arc<TestControl>,
    pub(crate) leader: Leader<TestControl>,
    pub(crate) journal_in_reach: Arc<AtomicBool>,
    /// Cleared when the leader has said that the session is over.
    pub(crate) beating: Arc<AtomicBool>,
    _tasks: JoinSet<()>,
}

struct Handler(Leader<TestControl>);

#[async_trait]
impl PeerHandler for Handler {
    async fn handle(
        &self,
        header: PeerHeader,
        request: PeerRequest,
    ) -> Result<PeerResponse, PeerError> {
        Ok(self.0.handle(&header, request).await)
    }

    async fn accept(&self, _: AcceptedStream) -> Result<(), PeerError> {
        Ok(())
    }
}

pub(crate) struct TestCluster {
    pub(crate) network: LoopbackNetwork,
    pub(crate) storage: MemoryStorage,
    registry: Arc<dyn Registry>,
    log: Arc<Mutex<Log>>,
    refused_means_dead: bool,
    /// Owners hand shards off when they are asked to.
    drains: bool,
}

impl TestCluster {
    pub(crate) async fn new() -> Self {
        let storage = MemoryStorage::new(1);
        let registry = storage.storage().registry;
        registry.cluster(SHARDS).await.unwrap();
        let log = Log {
            state: Some(ClusterState::new(Uuid::nil(), 1, SHARDS)),
            ..Log::default()
        };
        Self {
            network: LoopbackNetwork::new(1),
            storage,
            registry,
            log: Arc::new(Mutex::new(log)),
            refused_means_dead: false,
            drains: true,
        }
    }

    pub(crate) fn with_refused_means_dead(mut self) -> Self {
        self.refused_means_dead = true;
        self
    }

    pub(crate) fn with_owners_that_never_drain(mut self) -> Self {
        self.drains = false;
        self
    }

    /// So many nodes, of which the first leads, share the shards.
    pub(crate) async fn start(&self, nodes: usize) -> Vec<TestNode> {
        let mut started = Vec::new();
        for _ in 0..nodes {
            let node = self.registry.mint_node().await.unwrap();
            if started.is_empty() {
                self.elect(node);
            }
            started.push(self.start_node(node).await);
        }
        self.until("every node has its share", |state| {
            let share = SHARDS as usize / nodes;
            state.members_up().count() == nodes
                && state.handoffs().count() == 0
                && state
                    .members
                    .keys()
                    .all(|&node| state.shards_of(node).count() == share)
        })
        .await;
        started
    }

    /// Begins an incarnation of a node, which joins.
    pub(crate) async fn start_node(&self, nr: NodeNr) -> TestNode {
        let control = Arc::new(TestControl {
            me: nr,
            log: Arc::clone(&self.log),
        });
        {
            let mut log = self.log.lock().unwrap();
            let state = Arc::new(log.state.clone().unwrap());
            let view = (watch::channel(state).0, watch::channel(log.leadership).0);
            log.views.insert(nr, view);
        }
        let incarnation = self.registry.begin_incarnation(nr).await.unwrap();
        let session = incarnation.session;
        let member = Member {
            node: nr,
            incarnation: incarnation.number,
            session,
            address: String::new(),
            peer_address: loopback_address(nr),
            version: "1".to_owned(),
            weight: 1,
            status: MemberStatus::Joining,
            removing: false,
        };
        control
            .propose(ClusterCommand::Join { member, at: 0 })
            .await
            .unwrap();
        let mut coordinator = CoordinatorSettings::for_shards(SHARDS);
        coordinator.max_simultaneous = 2;
        let transport: Arc<dyn PeerTransport> = Arc::new(self.network.transport());
        let settings = LeaderSettings {
            coordinator,
            detector: DetectorSettings {
                refused_means_dead: self.refused_means_dead,
                ..DetectorSettings::default()
            },
            probe_after: Duration::from_millis(400),
        };
        let registry = Arc::clone(&self.registry);
        let leader = Leader::new(nr, Arc::clone(&control), registry, transport, settings);
        let handler = Arc::new(Handler(leader.clone()));
        self.network.listen(loopback_address(nr), handler);

        let lease = ReadLease::new(Instant::now().into_std());
        let beating = Arc::new(AtomicBool::new(true));
        let journal_in_reach = Arc::new(AtomicBool::new(true));
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let leader = leader.clone();
            async move { leader.lead().await }
        });
        tasks.spawn({
            let (leader, control) = (leader.clone(), Arc::clone(&control));
            let (lease, beating) = (lease.clone(), Arc::clone(&beating));
            let journal = Arc::clone(&journal_in_reach);
            async move {
                let signs = || Signs {
                    journal_in_reach: journal.load(Ordering::Relaxed),
                    live_entities: nr.0 * 10,
                };
                let times = LivenessTimes::default();
                beat(&leader, &*control, times, session, &lease, signs).await;
                beating.store(false, Ordering::Relaxed);
            }
        });
        if self.drains {
            let registry = Arc::clone(&self.registry);
            tasks.spawn(drain(Arc::clone(&control), registry, session));
        }
        TestNode {
            nr,
            session,
            lease,
            control,
            leader,
            journal_in_reach,
            beating,
            _tasks: tasks,
        }
    }

    /// The process is gone.
    pub(crate) fn kill(&self, node: TestNode) {
        self.network.close(&loopback_address(node.nr));
        self.log.lock().unwrap().views.remove(&node.nr);
        drop(node);
    }

    pub(crate) fn elect(&self, node: NodeNr) {
        self.log.lock().unwrap().elect(node);
    }

    /// Neither log nor messages reach a node; if it leads it does not know better.
    pub(crate) fn isolate(&self, node: NodeNr) {
        let mut log = self.log.lock().unwrap();
        log.isolated.insert(node);
        let faults = self.network.faults();
        faults.isolate(node, log.views.keys().copied());
    }

    pub(crate) fn heal(&self, node: NodeNr) {
        let mut log = self.log.lock().unwrap();
        log.isolated.remove(&node);
        self.network.faults().heal_all();
        log.publish();
    }

    pub(crate) fn state(&self) -> ClusterState {
        self.log.lock().unwrap().state.clone().unwrap()
    }

    pub(crate) fn shards_of(&self, node: NodeNr) -> usize {
        self.state().shards_of(node).count()
    }

    /// Returns how long it took until the committed state was like that.
    pub(crate) async fn until(
        &self,
        what: &str,
        mut is: impl FnMut(&ClusterState) -> bool,
    ) -> Duration {
        let began = Instant::now();
        let reached = async {
            while !is(&self.state()) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        if timeout(LONG, reached).await.is_err() {
            panic!("not reached: {what}; {:#?}", self.state());
        }
        began.elapsed()
    }
}

/// An owner that hands shards off as soon as it is asked to.
async fn drain(control: Arc<TestControl>, registry: Arc<dyn Registry>, session: SessionUuid) {
    let mut states = control.state();
    loop {
        let state = Arc::clone(&states.borrow_and_update());
        for (shard, owner, _) in state.handoffs() {
            if owner.session == session {
                let epoch = owner.epoch;
                registry.fence(session, Some((shard, epoch))).await.unwrap();
                let drained = ClusterCommand::Drained {
                    shard,
                    session,
                    epoch,
                    by: DrainedBy::Owner,
                    at: 0,
                };
                let _ = control.propose(drained).await;
            }
        }
        if states.changed().await.is_err() {
            return;
        }
    }
}
