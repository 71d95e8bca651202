//! Several nodes in one process, and an entity that remembers what it was told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use perennial_persistence::codec::Json;
use perennial_persistence::command::{Answer, CommandId, Reply, Request};
use perennial_persistence::command_error::CommandError;
use perennial_persistence::effect::Effect;
use perennial_persistence::engine::{EngineSettings, EntityEngine};
use perennial_persistence::entity_types::EntityTypes;
use perennial_persistence::event_sourced::EventSourced;
use perennial_persistence::handing_back::ReadGuard;
use perennial_persistence::journal::EventRange;
use perennial_persistence::lease::ReadLease;
use perennial_persistence::payload::Payload;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::registry::NodeNr;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::storage::memory::MemoryStorage;
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr};
use perennial_sharding::cluster_state::{ClusterCommand, ClusterState, Home, Member, MemberStatus};
use perennial_sharding::control_plane::{ControlPlane, Leadership, ProposeError};
use perennial_sharding::peer::loopback::LoopbackNetwork;
use perennial_sharding::peer::{
    AcceptedStream, PeerError, PeerHandler, PeerHeader, PeerRequest, PeerResponse,
};
use perennial_sharding::region::{Region, RegionSettings};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

pub(crate) const SHARDS: u32 = 8;
/// Longer than anything here takes when all is well.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Texts in the order in which they were added.
pub(crate) struct Notes;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Command {
    Add(String),
    /// As `Add`, without a reply that grows.
    Put(String),
    List,
    /// Refused, whatever the state.
    Refuse,
    /// Put aside until somebody has added something.
    AddWhenNotEmpty(String),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Added(String);

impl EventSourced for Notes {
    const ENTITY_TYPE: &'static str = "notes";
    type State = Vec<String>;
    type Command = Command;
    type Event = Added;
    type Reply = Vec<String>;
    type Codec = Json;

    fn handle(&self, state: &Vec<String>, command: Command) -> Effect<Self> {
        match command {
            Command::Add(text) => Effect::persist(Added(text))
                .then_reply(Clone::clone)
                .then_unstash_all(),
            Command::Put(text) => Effect::persist(Added(text)),
            Command::AddWhenNotEmpty(_) if state.is_empty() => Effect::stash(),
            Command::AddWhenNotEmpty(text) => Effect::persist(Added(text)).then_reply(Clone::clone),
            Command::List => Effect::reply(state.clone()),
            Command::Refuse => Effect::reject("REFUSED", "it is always refused"),
        }
    }

    fn apply(&self, state: &mut Vec<String>, Added(text): Added) {
        state.push(text);
    }
}

/// The state that all nodes agree on, at once or when they are let.
#[derive(Clone)]
pub(crate) struct Cluster {
    state: Arc<Mutex<ClusterState>>,
    views: Arc<Mutex<BTreeMap<NodeNr, View>>>,
}

struct View {
    seen: watch::Sender<Arc<ClusterState>>,
    follows: bool,
}

/// A node's end of a [`Cluster`].
pub(crate) struct Control {
    cluster: Cluster,
    seen: watch::Receiver<Arc<ClusterState>>,
}

impl Cluster {
    fn new() -> Self {
        let state = ClusterState::new(Uuid::from_u128(7), 1, SHARDS);
        Self {
            state: Arc::new(Mutex::new(state)),
            views: Arc::default(),
        }
    }

    pub(crate) fn commit(&self, command: &ClusterCommand) -> u64 {
        let mut state = self.state.lock().unwrap();
        let index = state.index + 1;
        state.apply(index, command);
        let newest = Arc::new(state.clone());
        for view in self.views.lock().unwrap().values() {
            if view.follows {
                view.seen.send_replace(Arc::clone(&newest));
            }
        }
        index
    }

    pub(crate) fn state(&self) -> ClusterState {
        self.state.lock().unwrap().clone()
    }

    /// Whether a node learns of what is committed from now on.
    pub(crate) fn set_follows(&self, node: NodeNr, follows: bool) {
        let newest = Arc::new(self.state());
        let mut views = self.views.lock().unwrap();
        let view = views.get_mut(&node).unwrap();
        view.follows = follows;
        if follows {
            view.seen.send_replace(newest);
        }
    }

    fn control(&self, node: NodeNr) -> Arc<Control> {
        let (sender, seen) = watch::channel(Arc::new(self.state()));
        let view = View {
            seen: sender,
            follows: true,
        };
        self.views.lock().unwrap().insert(node, view);
        let cluster = self.clone();
        Arc::new(Control { cluster, seen })
    }
}

impl ControlPlane for Control {
    fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.seen.clone()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        watch::channel(Leadership::default()).1
    }

    async fn propose(&self, command: ClusterCommand) -> Result<u64, ProposeError> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok(self.cluster.commit(&command))
    }

    async fn confirm_leadership(&self) -> Result<(), ProposeError> {
        Ok(())
    }

    async fn hand_over_leadership(&self, _: Duration) -> bool {
        unreachable!("regions do not lead")
    }
}

struct Handler(Region);

#[async_trait]
impl PeerHandler for Handler {
    async fn handle(&self, _: PeerHeader, request: PeerRequest) -> Result<PeerResponse, PeerError> {
        Ok(match request {
            PeerRequest::Describe(id) => PeerResponse::Described(self.0.describe_here(&id).await),
            PeerRequest::Passivate(id) => {
                self.0.passivate_here(&id).await;
                PeerResponse::Done
            }
            PeerRequest::Delete(id) => PeerResponse::Deleted(self.0.delete_here(&id).await),
            _ => unreachable!("regions ask for nothing else"),
        })
    }

    async fn accept(&self, stream: AcceptedStream) -> Result<(), PeerError> {
        self.0.accept(stream).await
    }
}

/// A node: its region and its engine.
pub(crate) struct Node {
    pub(crate) nr: NodeNr,
    pub(crate) region: Region,
    pub(crate) engine: EntityEngine,
    pub(crate) lease: ReadLease,
    pub(crate) session: SessionUuid,
    pub(crate) guard: ReadGuard,
    runs: JoinHandle<()>,
}

impl Node {
    pub(crate) async fn ask(&self, id: &PersistenceId, command: &Command) -> Answer {
        self.region
            .ask(id.clone(), request(command, None), None)
            .await
    }

    pub(crate) async fn ask_with_id(
        &self,
        id: &PersistenceId,
        command: &Command,
        command_id: &str,
    ) -> Answer {
        let request = request(command, Some(command_id));
        self.region.ask(id.clone(), request, None).await
    }
}

/// Several nodes over one journal.
pub(crate) struct World {
    pub(crate) memory: MemoryStorage,
    pub(crate) network: LoopbackNetwork,
    pub(crate) cluster: Cluster,
    pub(crate) nodes: Vec<Node>,
    settings: RegionSettings,
}

impl World {
    /// So many nodes, none of which owns a shard.
    pub(crate) async fn new(nodes: usize) -> Self {
        Self::with(nodes, RegionSettings::default(), false).await
    }

    pub(crate) async fn with(
        nodes: usize,
        settings: RegionSettings,
        reads_by_journal: bool,
    ) -> Self {
        let mut world = Self {
            memory: MemoryStorage::new(2),
            network: LoopbackNetwork::new(1),
            cluster: Cluster::new(),
            nodes: Vec::new(),
            settings,
        };
        for _ in 0..nodes {
            world.add_node(reads_by_journal).await;
        }
        world
    }

    async fn add_node(&mut self, reads_by_journal: bool) {
        let storage = self.memory.storage();
        let nr = storage.registry.mint_node().await.unwrap();
        let incarnation = storage.registry.begin_incarnation(nr).await.unwrap();
        let session = incarnation.session;
        let member = Member {
            node: nr,
            incarnation: incarnation.number,
            session,
            address: format!("client-{}", nr.0),
            peer_address: format!("peer-{}", nr.0),
            version: "1".to_owned(),
            weight: 1,
            status: MemberStatus::Joining,
            removing: false,
        };
        self.cluster.commit(&ClusterCommand::Join { member, at: 0 });
        let up = ClusterCommand::Up {
            node: nr,
            session,
            at: 0,
        };
        self.cluster.commit(&up);
        let control = self.cluster.control(nr);
        let transport = Arc::new(self.network.transport());
        let region = Region::new(nr, SHARDS, transport, self.settings);
        let now = tokio::time::Instant::now().into_std();
        let lease = ReadLease::new(now);
        lease.extend(now + Duration::from_secs(3600 * 24));
        let guard = match reads_by_journal {
            true => ReadGuard::Journal,
            false => ReadGuard::Lease(lease.clone()),
        };
        let engine = self.start_engine(&region, session, guard.clone());
        region.host(engine.clone(), lease.clone());
        let address = format!("peer-{}", nr.0);
        let handler = Arc::new(Handler(region.clone()));
        self.network.listen(address, handler);
        let runs = tokio::spawn({
            let region = region.clone();
            async move { region.run(control, storage.registry).await }
        });
        self.nodes.push(Node {
            nr,
            region,
            engine,
            lease,
            session,
            guard,
            runs,
        });
    }

    fn start_engine(
        &self,
        region: &Region,
        session: SessionUuid,
        guard: ReadGuard,
    ) -> EntityEngine {
        let mut types = EntityTypes::new();
        types.register(Notes).unwrap();
        let settings = EngineSettings {
            workers: 2,
            ..EngineSettings::default()
        };
        let hooks = region.engine_hooks(guard);
        EntityEngine::start_in_cluster(types, self.memory.storage(), session, settings, hooks)
    }

    /// The node's session is over: it comes back with a new one.
    pub(crate) async fn rejoin(&mut self, index: usize) {
        let node = &self.nodes[index];
        let old = node.region.leave().unwrap();
        old.stop().await;
        let storage = self.memory.storage();
        let incarnation = storage.registry.begin_incarnation(node.nr).await.unwrap();
        let session = incarnation.session;
        let before = self.cluster.state().members[&node.nr].clone();
        let member = Member {
            incarnation: incarnation.number,
            session,
            ..before
        };
        self.cluster.commit(&ClusterCommand::Join { member, at: 0 });
        let engine = self.start_engine(&node.region, session, node.guard.clone());
        node.region.host(engine.clone(), node.lease.clone());
        let up = ClusterCommand::Up {
            node: node.nr,
            session,
            at: 0,
        };
        self.cluster.commit(&up);
        let node = &mut self.nodes[index];
        node.engine = engine;
        node.session = session;
    }

    /// Gives shards without an owner to a node.
    pub(crate) fn assign(&self, shards: impl IntoIterator<Item = u32>, node: usize) {
        let node = &self.nodes[node];
        let of = |shard| (ShardNr(shard), node.nr, node.session);
        self.cluster.commit(&ClusterCommand::Assign {
            shards: shards.into_iter().map(of).collect(),
            at: 0,
        });
    }

    /// Has the owners of shards hand them off.
    pub(crate) fn begin_handoff(&self, shards: impl IntoIterator<Item = u32>, to: usize) {
        let state = self.cluster.state();
        let to = self.nodes[to].nr;
        let of = |shard| (ShardNr(shard), state.shards[shard as usize].epoch, to);
        self.cluster.commit(&ClusterCommand::BeginHandoff {
            shards: shards.into_iter().map(of).collect(),
            at: 0,
        });
    }

    /// Returns when a node owns all these shards, and nobody else's writes to them are
    /// waited for.
    pub(crate) async fn owned(&self, shards: impl IntoIterator<Item = u32>, node: usize) {
        let node = self.nodes[node].nr;
        for shard in shards {
            self.until(|state| {
                let shard = &state.shards[shard as usize];
                matches!(shard.home, Home::Owned { node: owner, .. } if owner == node)
                    && shard.unfenced.is_empty()
            })
            .await;
        }
    }

    pub(crate) async fn until(&self, holds: impl Fn(&ClusterState) -> bool) {
        let waiting = async {
            while !holds(&self.cluster.state()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let waited = tokio::time::timeout(SOON, waiting).await;
        assert!(waited.is_ok(), "not in time: {:?}", self.cluster.state());
    }

    pub(crate) fn epoch(&self, shard: u32) -> Epoch {
        self.cluster.state().shards[shard as usize].epoch
    }

    /// A node is declared dead.
    pub(crate) fn down(&self, index: usize) {
        let node = &self.nodes[index];
        self.cluster.commit(&ClusterCommand::Down {
            node: node.nr,
            session: node.session,
            at: 0,
        });
    }

    /// A node is about to stop: it is given no shard any more.
    pub(crate) fn leave(&self, index: usize) {
        let node = &self.nodes[index];
        self.cluster.commit(&ClusterCommand::Leave {
            node: node.nr,
            session: node.session,
            remove: false,
            at: 0,
        });
    }

    /// The process is gone: nothing of it runs or answers any more.
    pub(crate) fn kill(&self, index: usize) {
        let node = &self.nodes[index];
        self.network.close(&format!("peer-{}", node.nr.0));
        node.runs.abort();
        self.cluster.set_follows(node.nr, false);
    }

    /// What the journal has of an entity.
    pub(crate) async fn stored(&self, id: &PersistenceId) -> Vec<String> {
        let range = EventRange {
            persistence_id: id.clone(),
            from: SequenceNr::new(1),
            to: SequenceNr::MAX,
            max_events: 1_000_000,
            max_bytes: usize::MAX,
        };
        let events = self.memory.storage().journal.read_events(&range).await;
        let text = |bytes: &[u8]| serde_json::from_slice::<Added>(bytes).unwrap().0;
        let events = events.unwrap();
        events.iter().map(|e| text(&e.payload.bytes)).collect()
    }
}

pub(crate) fn request(command: &Command, command_id: Option<&str>) -> Request {
    Request::Command {
        payload: Payload::json(serde_json::to_string(command).unwrap()),
        command_id: command_id.and_then(|id| CommandId::parse(id).unwrap()),
        expected_sequence_nr: None,
        metadata: None,
    }
}

/// An entity of a shard.
pub(crate) fn entity_in(shard: u32, nth: usize) -> PersistenceId {
    let ids = (0..).map(|n| PersistenceId::new("notes", &format!("n{n}")).unwrap());
    ids.filter(|id| perennial_sharding::shard_id::shard_of(id, SHARDS).0 == shard)
        .nth(nth)
        .unwrap()
}

pub(crate) fn add(text: impl Into<String>) -> Command {
    Command::Add(text.into())
}

pub(crate) fn texts(answer: Answer) -> Vec<String> {
    let Reply { payload, .. } = answer.unwrap();
    serde_json::from_slice(&payload.bytes).unwrap()
}

pub(crate) fn is_unavailable(answer: &Answer) -> bool {
    matches!(answer, Err(CommandError::ShardUnavailable { .. }))
}
