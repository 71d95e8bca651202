//! Says what a node is to be, and starts it. The order is explained in `node.rs`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use perennial_persistence::entity_types::{EntityTypes, RegistrationError};
use perennial_persistence::event_sourced::EventSourced;
use perennial_persistence::payload::CodecId;
use perennial_persistence::registry::NodeAddresses;
use perennial_persistence::storage::{Storage, StorageUrl, migrate};
use perennial_sharding::forming::disk::{MemoryDisk, NodeDisk};
use perennial_sharding::peer::PeerTransport;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tonic_health::server::HealthReporter;

use super::client_access::{client_access, follow_keys};
use super::cluster_part::{ClusterPart, ClusterPartSetup};
use super::cluster_view::ClusterView;
use super::engine_place::EnginePlace;
use super::journal_url::journal_url;
use super::journal_wait::until_there;
use super::ports::{Addresses, Ports};
use super::ready::{follow_readiness, until_up};
use super::shared_journal::SharedJournal;
use super::{ENGINE_STOP_MAX, Ended, GRPC_ADDRESS, HTTP_ADDRESS, Node, NodeError, PEER_ADDRESS};
use crate::admission::Admission;
use crate::config::Settings;
use crate::connections::http1;
use crate::data_dir::DataDir;
use crate::grpc::audit::Audit;
use crate::grpc::cluster_service::ClusterService;
use crate::grpc::entity_service::EntityService;
use crate::grpc::event_service::EventService;
use crate::grpc::gate::Gate;
use crate::grpc::server::{self, Services};
use crate::http::{self, Readiness};
use crate::intake::Intake;
use crate::metrics;
use crate::peer::PeerLimits;
use crate::peer::server as peer_server;
use crate::peer::transport::GrpcTransport;
use crate::status_page::StatusPage;
use crate::telemetry::tracer::Tracer;

/// How often the recorder folds what was measured into its summaries.
const METRICS_UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Says what a node is to be; [`NodeBuilder::start`] makes it.
#[derive(Clone)]
pub struct NodeBuilder {
    settings: Settings,
    grpc_address: SocketAddr,
    http_address: SocketAddr,
    peer_address: SocketAddr,
    advertise: Option<String>,
    advertise_peer: Option<String>,
    shared_journal: Option<SharedJournal>,
    insecure: bool,
    data_dir: Option<PathBuf>,
    migrate: bool,
    wait_for_journal: bool,
    types: EntityTypes,
    registration: Result<(), RegistrationError>,
}

impl Default for NodeBuilder {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            grpc_address: GRPC_ADDRESS,
            http_address: HTTP_ADDRESS,
            peer_address: PEER_ADDRESS,
            advertise: None,
            advertise_peer: None,
            shared_journal: None,
            insecure: false,
            data_dir: None,
            migrate: false,
            wait_for_journal: false,
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

    /// What the node is to be told, as it stands now.
    pub(crate) fn told(&self) -> &Settings {
        &self.settings
    }

    /// How a node is named among others before it has a number.
    pub(crate) fn instance(&self) -> String {
        advertised(self.advertise.clone(), self.grpc_address)
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

    /// Where other nodes reach it; port 0 for any that is free. An address that is
    /// neither 0.0.0.0 nor 127.0.0.1 is also the one it calls others from.
    #[must_use]
    pub fn peer_listen(self, peer_address: SocketAddr) -> Self {
        Self {
            peer_address,
            ..self
        }
    }

    /// What other nodes are told to connect to, when it is not the address listened
    /// on: `HOST` or `HOST:PORT`. A name is resolved anew at each connect.
    #[must_use]
    pub fn advertise_peer(self, address: impl Into<String>) -> Self {
        Self {
            advertise_peer: Some(address.into()),
            ..self
        }
    }

    /// A journal it has together with other nodes of this process.
    #[must_use]
    pub fn shared_journal(self, journal: SharedJournal) -> Self {
        Self {
            shared_journal: Some(journal),
            ..self
        }
    }

    /// Allows addresses other machines can reach without encryption. Ports for which
    /// certificates are set are encrypted all the same.
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

    /// Waits at the start for a database that does not answer yet, and for a schema
    /// that has still to be made or brought up to date, for as long as it takes; the
    /// log says for what. Without it both are errors.
    #[must_use]
    pub fn wait_for_journal(self) -> Self {
        Self {
            wait_for_journal: true,
            ..self
        }
    }

    /// Starts the node. It takes commands when this returns.
    ///
    /// # Errors
    /// [`NodeError`]; nothing is left running.
    pub async fn start(self) -> Result<Node, NodeError> {
        self.registration.clone()?;
        let settings = &self.settings;
        let known: Vec<&str> = self.types.names().collect();
        let mut timeouts = settings.engine.idle_timeouts.keys();
        if let Some(name) = timeouts.find(|name| !known.contains(&name.as_str())) {
            return Err(NodeError::IdleTimeoutOfUnknownType {
                name: name.clone(),
                known: known.join(", "),
            });
        }
        let (url, data_dir) = self.places()?;
        let disk: Arc<dyn NodeDisk> = match data_dir {
            Some(path) => Arc::new(DataDir::open(&path)?),
            None => Arc::new(MemoryDisk::default()),
        };
        let recorder = metrics::install()?;
        let (access, keys) = client_access(settings, &self.types).await?;
        // Everything started below ends with this token: when the node stops, and
        // when starting fails half-way.
        let closing = CancellationToken::new();
        let close_on_drop = closing.clone().drop_guard();
        let wanted = Addresses {
            grpc: self.grpc_address,
            http: self.http_address,
            peer: self.peer_address,
        };
        let ports = Ports::bind(wanted, settings, self.insecure, &closing).await?;
        let (grpc_address, http_address) = (ports.grpc.address, ports.http.address);
        let peer_address = ports.peer.address;
        let addresses = NodeAddresses {
            address: advertised(self.advertise.clone(), grpc_address),
            peer_address: advertised(self.advertise_peer.clone(), peer_address),
        };

        let readiness = Readiness::default();
        let place = EnginePlace::default();
        let status_page = StatusPage::default();
        let pages = http::router(
            readiness.clone(),
            recorder.clone(),
            place.clone(),
            status_page.clone(),
            Arc::clone(&access),
        );
        let http_task = tokio::spawn(http1::serve(
            "http",
            ports.http.open(closing.clone()),
            pages,
            settings.limits.clone(),
            closing.clone(),
        ));
        tokio::spawn(closing.clone().run_until_cancelled_owned(keep_up(recorder)));

        let storage = self
            .patiently(async || self.open_storage(&url).await)
            .await?;
        let limits = PeerLimits::of_payload(settings.engine.max_payload);
        let transport = GrpcTransport::new(limits, source_of(peer_address));
        let transport: Arc<dyn PeerTransport> = Arc::new(match ports.peer_tls {
            Some(tls) => transport.encrypted(tls),
            None => transport,
        });
        let setup = ClusterPartSetup {
            types: self.types.clone(),
            storage: storage.clone(),
            disk,
            transport: Arc::clone(&transport),
            addresses,
            number_of_shards: settings.number_of_shards,
            weight: settings.weight,
            raft: settings.cluster.raft()?,
            luck: rand::random(),
            times: settings.cluster.liveness()?,
            leader: settings.leader(),
            region: settings.region()?,
            engine: settings.engine.clone(),
            reads: settings.cluster.reads,
        };
        let entering = async || ClusterPart::enter_at(setup.clone(), place.clone()).await;
        let mut cluster_part = self.patiently(entering).await?;
        let peer_task = tokio::spawn(peer_server::serve(
            ports.peer.open(closing.clone()),
            cluster_part.peers(),
            limits,
            closing.clone(),
        ));

        let served: Vec<_> = self
            .types
            .names()
            .filter_map(|name| Some((name, self.types.command_codec(name)?)))
            .collect();
        cluster_part.join().await?;
        let (node_id, control) = (cluster_part.node(), cluster_part.control().clone());

        let admission = Admission::new(settings.max_in_flight, settings.engine.max_payload);
        let intake = Arc::new(Intake::new(
            cluster_part.region().clone(),
            admission,
            Tracer::new(node_id, settings.telemetry.sampling),
            served,
            cluster_part.figures().commands(),
        ));
        let view = ClusterView {
            node: node_id,
            control: control.clone(),
            leader: cluster_part.leader().clone(),
            transport,
            figures: cluster_part.figures().clone(),
        };
        status_page.open(
            view.clone(),
            Arc::clone(&intake),
            Arc::clone(&storage.journal),
        );
        let stopping = closing.child_token();
        let streams = TaskTracker::new();
        let health = HealthReporter::new();
        server::set_health(&health, false).await;
        if let Some(follow) = keys.and_then(|keys| follow_keys(keys, &access)) {
            tokio::spawn(closing.clone().run_until_cancelled_owned(follow));
        }
        let audit = Arc::new(Audit::default());
        let services = Services {
            gate: Arc::new(Gate {
                access,
                audit: Arc::clone(&audit),
            }),
            entities: EntityService {
                intake: Arc::clone(&intake),
                journal: Arc::clone(&storage.journal),
                audit: Arc::clone(&audit),
                stopping: stopping.clone(),
                streams: streams.clone(),
                slow_reader_timeout: settings.limits.slow_reader_timeout,
            },
            events: EventService {
                intake: Arc::clone(&intake),
                journal: Arc::clone(&storage.journal),
                stopping: stopping.clone(),
                streams: streams.clone(),
                slow_reader_timeout: settings.limits.slow_reader_timeout,
            },
            cluster: ClusterService {
                intake: Arc::clone(&intake),
                view,
                audit,
            },
        };
        let serving = server::serve(
            ports.grpc.open(stopping.clone()),
            services,
            &health,
            settings.limits.clone(),
            stopping.clone(),
        )?;
        let grpc_task = tokio::spawn(serving);
        let ended = tokio::select! {
            () = until_up(&control, node_id) => None,
            ended = cluster_part.over() => Some(ended),
        };
        if let Some(ended) = ended {
            // Clients may have sent something already.
            let engine_until = Instant::now() + ENGINE_STOP_MAX;
            cluster_part.stop_engine(engine_until).await;
            return Err(match ended {
                Ended::Removed => NodeError::Removed,
                Ended::Failed(error) => error,
            });
        }
        let follow = follow_readiness(control.clone(), node_id, readiness.clone(), health.clone());
        let readiness_task = AbortOnDropHandle::new(tokio::spawn(follow));
        tracing::info!(
            node = node_id.0,
            incarnation = cluster_part.incarnation().number,
            grpc = %grpc_address,
            http = %http_address,
            peers = %peer_address,
            journal = %url,
            "ready"
        );
        Ok(Node {
            node_id,
            grpc_address,
            http_address,
            peer_address,
            journal: url.to_string(),
            drain_timeout: self.settings.drain_timeout,
            intake,
            cluster_part,
            health,
            readiness,
            readiness_task,
            stopping,
            streams,
            grpc_task,
            http_task,
            peer_task,
            close_on_drop,
        })
    }

    /// Where the journal and the node's data are.
    fn places(&self) -> Result<(StorageUrl, Option<PathBuf>), NodeError> {
        let data_dir = self.data_dir.clone();
        if let Some(shared) = &self.shared_journal {
            return Ok((shared.url().clone(), data_dir));
        }
        let url = journal_url(&self.settings, data_dir.as_deref())?;
        match (&url, data_dir) {
            // It ends with the process, and so does the node.
            (StorageUrl::Memory, _) => Ok((url, None)),
            (_, Some(path)) => Ok((url, Some(path))),
            (_, None) => Err(NodeError::DataDirRequired),
        }
    }

    /// What needs the journal, once it is there.
    async fn patiently<T>(
        &self,
        mut attempt: impl AsyncFnMut() -> Result<T, NodeError>,
    ) -> Result<T, NodeError> {
        if self.wait_for_journal {
            until_there(attempt).await
        } else {
            attempt().await
        }
    }

    async fn open_storage(&self, url: &StorageUrl) -> Result<Storage, NodeError> {
        let options = &self.settings.storage;
        if let Some(shared) = &self.shared_journal {
            return Ok(shared.open(options, self.migrate).await?);
        }
        if self.migrate {
            migrate(url).await?;
        }
        Ok(Storage::open(url, options).await?)
    }
}

/// The address to call other nodes from: that listened on, if it is a choice.
fn source_of(peer_address: SocketAddr) -> Option<IpAddr> {
    let ip = peer_address.ip();
    let no_choice = [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    (!no_choice.contains(&ip)).then_some(ip)
}

async fn keep_up(recorder: PrometheusHandle) {
    loop {
        tokio::time::sleep(METRICS_UPKEEP_INTERVAL).await;
        recorder.run_upkeep();
    }
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
