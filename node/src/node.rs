//! A node: the composition root, where journal, engine, region and ports are put
//! together, started and stopped.
//!
//! # Start
//! 1. The data directory is locked, so that no other process uses it.
//! 2. The ports are bound: a port in use is found before anything is changed.
//! 3. The HTTP port serves: alive, not ready.
//! 4. The journal is opened (and its schema brought up to date, if asked for).
//! 5. The cluster and the node's place in it are looked up, and an incarnation is
//!    begun: from here on no earlier session of this node can write (I-2).
//! 6. The engine starts, then the region, then the gRPC services.
//! 7. Ready.
//!
//! # Stop
//! 1. Not ready any more, so that nobody is sent here.
//! 2. No new connections; streams take no more commands and finish those they
//!    took; calls under way are finished. All that within `node.drain_timeout`.
//! 3. The engine finishes what it accepted and ends.
//! 4. The HTTP port closes, the data directory is free.
//!
//! Killed instead, nothing acknowledged is lost (I-5): the next start recovers
//! from the journal.

mod identity;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use perennial_persistence::engine::EntityEngine;
use perennial_persistence::entity_types::{EntityTypes, RegistrationError};
use perennial_persistence::event_sourced::EventSourced;
use perennial_persistence::persistence_id::{InvalidPersistenceId, PersistenceId};
use perennial_persistence::registry::{NodeNr, RegistryError};
use perennial_persistence::storage::{Storage, StorageError, StorageUrl, migrate};
use perennial_sharding::region::Region;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tonic_health::server::HealthReporter;
use uuid::Uuid;

use crate::admission::Admission;
use crate::config::Settings;
use crate::data_dir::{DataDir, DataDirError};
use crate::entity_ref::EntityRef;
use crate::grpc::cluster_service::ClusterService;
use crate::grpc::entity_service::EntityService;
use crate::grpc::event_service::EventService;
use crate::grpc::server::{self, ServeError, Services};
use crate::http::{self, Readiness};
use crate::intake::Intake;
use crate::metrics;

/// Where clients reach a node unless it is told otherwise.
pub const GRPC_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7400);
/// Where health and metrics are unless told otherwise.
pub const HTTP_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7401);

/// How often the recorder folds what was measured into its summaries.
const METRICS_UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// What the engine gets to finish even when clients used up the drain time.
const ENGINE_STOP_MIN: Duration = Duration::from_secs(5);

/// Why a node cannot start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// An entity type cannot be registered.
    #[error(transparent)]
    Registration(#[from] RegistrationError),
    /// No journal was given, and there is no data directory to put one in.
    #[error("no journal is configured: set persistence.journal.url, or give --journal")]
    JournalRequired,
    /// A durable journal was given, and no data directory.
    #[error("a durable journal needs a data directory, which keeps who the node is: give one")]
    DataDirRequired,
    /// An address others can reach, on a port without encryption.
    #[error(
        "{address} can be reached from other machines, and connections are not encrypted or authenticated: use a \
         loopback address such as 127.0.0.1, or `serve --insecure` in a network where everybody is trusted"
    )]
    NotLoopback {
        /// Given.
        address: SocketAddr,
    },
    /// A port cannot be bound.
    #[error("cannot listen on {address}: {source}; choose another address with {flag}")]
    Bind {
        /// Given.
        address: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The data directory belongs to another cluster.
    #[error(
        "the data directory {} belongs to node {node} of cluster {ours}, and the journal to cluster {theirs}: use \
         the journal of that cluster, or an empty data directory", .path.display()
    )]
    ForeignDataDir {
        /// The directory.
        path: PathBuf,
        /// The node in it.
        node: u64,
        /// The directory's cluster.
        ours: Uuid,
        /// The journal's cluster.
        theirs: Uuid,
    },
    /// The journal cannot be opened.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The database refused this node.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Metrics cannot be recorded.
    #[error("metrics cannot be recorded, because this process has another recorder: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    /// Another process writes in this node's place.
    #[error(
        "another process has started as this node and fenced its session: only one may run; nothing acknowledged is lost"
    )]
    Fenced,
    /// The gRPC port failed.
    #[error("the gRPC port failed: {0}")]
    Serve(#[from] ServeError),
    /// The gRPC port ended although nobody asked.
    #[error("the gRPC port ended unexpectedly: see the log for a panic")]
    ServerEnded,
}

/// Says what a node is to be; [`NodeBuilder::start`] makes it.
pub struct NodeBuilder {
    settings: Settings,
    grpc_address: SocketAddr,
    http_address: SocketAddr,
    advertise: Option<String>,
    insecure: bool,
    data_dir: Option<PathBuf>,
    migrate: bool,
    types: EntityTypes,
    registration: Result<(), RegistrationError>,
}

impl Default for NodeBuilder {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            grpc_address: GRPC_ADDRESS,
            http_address: HTTP_ADDRESS,
            advertise: None,
            insecure: false,
            data_dir: None,
            migrate: false,
            types: EntityTypes::new(),
            registration: Ok(()),
        }
    }
}

impl NodeBuilder {
    /// Adds an entity type. A name that is malformed or taken is reported by
    /// [`NodeBuilder::start`].
    #[must_use]
    pub fn entity<E: EventSourced>(mut self, definition: E) -> Self {
        if self.registration.is_ok() {
            self.registration = self.types.register(definition);
        }
        self
    }

    /// The names of the types added so far.
    pub fn entity_types(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.types.names()
    }

    /// Limits, times, and where the journal is.
    #[must_use]
    pub fn settings(self, settings: Settings) -> Self {
        Self { settings, ..self }
    }

    /// Where clients reach it; port 0 for any that is free.
    #[must_use]
    pub fn listen(self, grpc_address: SocketAddr) -> Self {
        Self {
            grpc_address,
            ..self
        }
    }

    /// Where health and metrics are; port 0 for any that is free.
    #[must_use]
    pub fn http(self, http_address: SocketAddr) -> Self {
        Self {
            http_address,
            ..self
        }
    }

    /// What clients are told to connect to, when it is not the address listened
    /// on: `HOST` or `HOST:PORT`.
    #[must_use]
    pub fn advertise(self, address: impl Into<String>) -> Self {
        Self {
            advertise: Some(address.into()),
            ..self
        }
    }

    /// Allows addresses other machines can reach, without encryption.
    #[must_use]
    pub fn insecure(self) -> Self {
        Self {
            insecure: true,
            ..self
        }
    }

    /// Where the node keeps who it is, and its journal if none is configured.
    /// Only a node whose journal is in memory can do without.
    #[must_use]
    pub fn data_dir(self, path: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: Some(path.into()),
            ..self
        }
    }

    /// Brings the journal's schema up to date at the start. Without it an old
    /// schema is an error, so that an administrator decides when it changes.
    #[must_use]
    pub fn migrate(self) -> Self {
        Self {
            migrate: true,
            ..self
        }
    }

    /// Starts the node. It takes commands when this returns.
    ///
    /// # Errors
    /// [`NodeError`]; nothing is left running.
    pub async fn start(self) -> Result<Node, NodeError> {
        self.registration?;
        for address in [self.grpc_address, self.http_address] {
            if !self.insecure && !address.ip().is_loopback() {
                return Err(NodeError::NotLoopback { address });
            }
        }
        let settings = self.settings;
        let url = journal_url(&settings, self.data_dir.as_deref())?;
        let data_dir = match (&url, self.data_dir) {
            (StorageUrl::Memory, _) => None,
            (_, Some(path)) => Some(DataDir::open(&path)?),
            (_, None) => return Err(NodeError::DataDirRequired),
        };
        let (grpc_listener, grpc_address) = bind(self.grpc_address, "--listen").await?;
        let (http_listener, http_address) = bind(self.http_address, "--http").await?;

        // Everything started below ends with this token: when the node stops, and
        // when starting fails half-way.
        let closing = CancellationToken::new();
        let close_on_drop = closing.clone().drop_guard();
        let recorder = metrics::install()?;
        let readiness = Readiness::default();
        let engine_place = Arc::new(OnceLock::new());
        let pages = http::router(
            readiness.clone(),
            recorder.clone(),
            Arc::clone(&engine_place),
        );
        let closed = closing.clone().cancelled_owned();
        let http_task = tokio::spawn(async move {
            let serving = axum::serve(http_listener, pages).with_graceful_shutdown(closed);
            if let Err(error) = serving.await {
                tracing::error!(%error, "the HTTP port failed");
            }
        });
        tokio::spawn(closing.clone().run_until_cancelled_owned(async move {
            loop {
                tokio::time::sleep(METRICS_UPKEEP_INTERVAL).await;
                recorder.run_upkeep();
            }
        }));

        if self.migrate {
            migrate(&url).await?;
        }
        let storage = Storage::open(&url, &settings.storage).await?;
        let cluster = storage.registry.cluster(settings.number_of_shards).await?;
        let incarnation =
            identity::begin_incarnation(&*storage.registry, &cluster, data_dir.as_ref()).await?;
        let node_id = incarnation.node;

        let served: Vec<_> = self
            .types
            .names()
            .filter_map(|name| Some((name, self.types.command_codec(name)?)))
            .collect();
        let engine = EntityEngine::start(
            self.types,
            storage.clone(),
            incarnation.session,
            settings.engine.clone(),
        );
        // Set once, here.
        let _ = engine_place.set(engine.clone());
        let region = Region::single_node(engine.clone(), cluster.number_of_shards);
        let admission = Admission::new(settings.max_in_flight, settings.engine.max_payload);
        let intake = Arc::new(Intake::new(region, admission, served));

        let stopping = closing.child_token();
        let streams = TaskTracker::new();
        let health = HealthReporter::new();
        server::set_health(&health, true).await;
        let services = Services {
            entities: EntityService {
                intake: Arc::clone(&intake),
                journal: Arc::clone(&storage.journal),
                stopping: stopping.clone(),
                streams: streams.clone(),
            },
            events: EventService {
                intake: Arc::clone(&intake),
                journal: Arc::clone(&storage.journal),
                stopping: stopping.clone(),
                streams: streams.clone(),
            },
            cluster: ClusterService {
                intake: Arc::clone(&intake),
                engine: engine.clone(),
                cluster,
                incarnation,
                address: advertised(self.advertise, grpc_address),
                started_at: SystemTime::now(),
            },
        };
        let serving = server::serve(grpc_listener, services, &health, stopping.clone())?;
        let grpc_task = tokio::spawn(serving);
        readiness.set(true);
        tracing::info!(
            node = node_id.0,
            incarnation = incarnation.number,
            grpc = %grpc_address,
            http = %http_address,
            journal = %url,
            "ready"
        );
        Ok(Node {
            node_id,
            grpc_address,
            http_address,
            journal: url.to_string(),
            drain_timeout: settings.drain_timeout,
            intake,
            engine,
            health,
            readiness,
            stopping,
            streams,
            grpc_task,
            http_task,
            close_on_drop,
            _data_dir: data_dir,
        })
    }
}

/// A running node. Dropped without [`Node::stop`], it closes its ports and ends
/// like one that was killed.
pub struct Node {
    node_id: NodeNr,
    grpc_address: SocketAddr,
    http_address: SocketAddr,
    journal: String,
    drain_timeout: Duration,
    intake: Arc<Intake>,
    engine: EntityEngine,
    health: HealthReporter,
    readiness: Readiness,
    stopping: CancellationToken,
    streams: TaskTracker,
    grpc_task: JoinHandle<Result<(), ServeError>>,
    http_task: JoinHandle<()>,
    close_on_drop: DropGuard,
    _data_dir: Option<DataDir>,
}

impl Node {
    /// A node to be described and started.
    #[must_use]
    pub fn builder() -> NodeBuilder {
        NodeBuilder::default()
    }

    /// The node's number, given by the database.
    #[must_use]
    pub fn node_id(&self) -> NodeNr {
        self.node_id
    }

    /// Where clients reach it, with the real port.
    #[must_use]
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc_address
    }

    /// Where health and metrics are, with the real port.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// The journal's URL, without its password.
    #[must_use]
    pub fn journal(&self) -> &str {
        &self.journal
    }

    /// A typed reference to an entity, which need not exist yet.
    ///
    /// # Errors
    /// [`InvalidPersistenceId`] for a malformed id.
    pub fn entity_ref<E: EventSourced>(
        &self,
        entity_id: &str,
    ) -> Result<EntityRef<E>, InvalidPersistenceId> {
        let persistence_id = PersistenceId::new(E::ENTITY_TYPE, entity_id)?;
        Ok(EntityRef::new(Arc::clone(&self.intake), persistence_id))
    }

    /// Runs until `asked` completes, then stops.
    ///
    /// # Errors
    /// When the node has to end by itself.
    pub async fn run_until(mut self, asked: impl Future<Output = ()>) -> Result<(), NodeError> {
        let engine = self.engine.clone();
        let ended = tokio::select! {
            () = asked => {
                self.stop().await;
                return Ok(());
            }
            () = engine.fenced() => Err(NodeError::Fenced),
            // Without an error it ends only when it is asked to.
            ended = &mut self.grpc_task => match ended {
                Ok(Err(error)) => Err(error.into()),
                Ok(Ok(())) | Err(_) => Err(NodeError::ServerEnded),
            },
        };
        // Nothing can be finished any more, but what was accepted is answered.
        let _ = tokio::time::timeout(ENGINE_STOP_MIN, engine.stop()).await;
        ended
    }

    /// Stops in the order described in the module's documentation.
    pub async fn stop(self) {
        tracing::info!(
            within = ?self.drain_timeout,
            "stopping: what was accepted is finished first"
        );
        self.readiness.set(false);
        server::set_health(&self.health, false).await;
        self.stopping.cancel();
        self.streams.close();
        let started = tokio::time::Instant::now();
        let mut grpc_task = self.grpc_task;
        let calls = async {
            self.streams.wait().await;
            let _ = (&mut grpc_task).await;
        };
        if tokio::time::timeout(self.drain_timeout, calls)
            .await
            .is_err()
        {
            tracing::warn!("clients kept calls open until node.drain_timeout: they are cut off");
            grpc_task.abort();
        }
        let left = self.drain_timeout.saturating_sub(started.elapsed());
        let engine_stop = self.engine.stop();
        if tokio::time::timeout(left.max(ENGINE_STOP_MIN), engine_stop)
            .await
            .is_err()
        {
            tracing::warn!("entities were not finished in time: they recover from the journal");
        }
        drop(self.close_on_drop);
        // A scraper that does not hang up must not keep the node.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.http_task).await;
        tracing::info!("stopped");
    }
}

/// Makes or updates the schema of the configured journal; which one that is,
/// without its password.
///
/// # Errors
/// [`NodeError::JournalRequired`] when none is configured, or what the journal
/// said; a database that is not ours is not touched.
pub async fn migrate_journal(settings: &Settings) -> Result<String, NodeError> {
    let url = journal_url(settings, None)?;
    migrate(&url).await?;
    Ok(url.to_string())
}

/// The configured journal, or one in the data directory.
fn journal_url(
    settings: &Settings,
    data_dir: Option<&std::path::Path>,
) -> Result<StorageUrl, NodeError> {
    match (&settings.journal_url, data_dir) {
        (Some(url), _) => Ok(url.clone()),
        (None, Some(data_dir)) => Ok(StorageUrl::sqlite(&data_dir.join("journal.sqlite"))),
        (None, None) => Err(NodeError::JournalRequired),
    }
}

async fn bind(
    address: SocketAddr,
    flag: &'static str,
) -> Result<(TcpListener, SocketAddr), NodeError> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound.await.map_err(|source| NodeError::Bind {
        address,
        flag,
        source,
    })
}

/// `HOST` gets the port that is listened on.
fn advertised(given: Option<String>, bound: SocketAddr) -> String {
    match given {
        None => bound.to_string(),
        Some(host)
            if host
                .rsplit_once(':')
                .is_some_and(|(_, port)| port.parse::<u16>().is_ok()) =>
        {
            host
        }
        Some(host) => format!("{host}:{}", bound.port()),
    }
}
