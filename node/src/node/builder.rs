//! Says what a node is to be, and starts it. The order is explained in `node.rs`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use metrics_exporter_prometheus::PrometheusHandle;
use perennial_persistence::engine::EntityEngine;
use perennial_persistence::entity_types::{EntityTypes, RegistrationError};
use perennial_persistence::event_sourced::EventSourced;
use perennial_persistence::payload::CodecId;
use perennial_persistence::storage::{Storage, StorageUrl, migrate};
use perennial_sharding::region::Region;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::server::HealthReporter;

use super::identity::begin_incarnation;
use super::{GRPC_ADDRESS, HTTP_ADDRESS, Node, NodeError};
use crate::admission::Admission;
use crate::config::Settings;
use crate::data_dir::DataDir;
use crate::grpc::cluster_service::ClusterService;
use crate::grpc::entity_service::EntityService;
use crate::grpc::event_service::EventService;
use crate::grpc::server::{self, Services};
use crate::http::{self, Readiness};
use crate::intake::Intake;
use crate::metrics;

/// How often the recorder folds what was measured into its summaries.
const METRICS_UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

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

    /// What this program can read: the built-in codecs, and those of the types added.
    pub(crate) fn known_codecs(&self) -> Vec<CodecId> {
        let types = self.types.names();
        let own = types.filter_map(|name| self.types.command_codec(name));
        own.chain([CodecId::JSON, CodecId::PROTOBUF]).collect()
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
        let http_task = tokio::spawn(serve_http(http_listener, pages, closing.clone()));
        tokio::spawn(closing.clone().run_until_cancelled_owned(keep_up(recorder)));

        if self.migrate {
            migrate(&url).await?;
        }
        let storage = Storage::open(&url, &settings.storage).await?;
        let cluster = storage.registry.cluster(settings.number_of_shards).await?;
        let incarnation =
            begin_incarnation(&*storage.registry, &cluster, data_dir.as_ref()).await?;
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
fn journal_url(settings: &Settings, data_dir: Option<&Path>) -> Result<StorageUrl, NodeError> {
    match (&settings.journal_url, data_dir) {
        (Some(url), _) => Ok(url.clone()),
        (None, Some(data_dir)) => Ok(StorageUrl::sqlite(&data_dir.join("journal.sqlite"))),
        (None, None) => Err(NodeError::JournalRequired),
    }
}

async fn serve_http(listener: TcpListener, pages: axum::Router, closing: CancellationToken) {
    let serving = axum::serve(listener, pages).with_graceful_shutdown(closing.cancelled_owned());
    if let Err(error) = serving.await {
        tracing::error!(%error, "the HTTP port failed");
    }
}

async fn keep_up(recorder: PrometheusHandle) {
    loop {
        tokio::time::sleep(METRICS_UPKEEP_INTERVAL).await;
        recorder.run_upkeep();
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
