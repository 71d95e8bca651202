//! What a cluster is to be: how many nodes of which kind, with which journal and
//! settings.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use perennial::node::{NodeBuilder, SharedJournal};
use tokio::sync::Mutex;

use super::LocalCluster;
use crate::database::{self, TestDatabase};

static TURN: Mutex<()> = Mutex::const_new(());

/// The times of the cluster by default, in milliseconds.
const TIMES: &[(&str, f64)] = &[
    ("cluster.heartbeat_interval", 200.0),
    ("cluster.lease", 1500.0),
    ("cluster.lease_grace", 1500.0),
    ("cluster.down_after", 2000.0),
    ("cluster.raft.heartbeat", 100.0),
    ("cluster.raft.election_min", 500.0),
    ("cluster.raft.election_max", 1000.0),
    ("sharding.homeless_max", 15_000.0),
];
/// By how much they are longer: on a machine at rest, and at the most.
const PATIENCE: std::ops::RangeInclusive<f64> = 2.0..=10.0;
/// Enough for a few nodes; each one that moves costs a fence and a commit.
const SHARDS: &str = "60";
/// Nodes that come get their shards wave by wave: most of a test was waiting for the
/// next wave.
const REBALANCE_INTERVAL: &str = "100ms";

/// Says what a cluster is to be.
pub struct LocalClusterBuilder {
    nodes: usize,
    kind: Kind,
    journal: Journal,
    settings: Vec<(String, String)>,
    binary: Option<PathBuf>,
    data_dirs: Option<DataDirs>,
    direct: bool,
}

/// Where a node keeps its data.
pub(super) type DataDirs = Arc<dyn Fn(usize) -> PathBuf + Send + Sync>;

#[derive(Clone)]
pub(super) enum Kind {
    Threads(Arc<dyn Fn() -> NodeBuilder + Send + Sync>),
    Processes,
}

pub(super) enum Journal {
    Memory,
    Postgres { url: String, server: SocketAddr },
}

impl LocalCluster {
    /// Nodes as threads of this process, each of what the function makes: with the
    /// entity types to be tested. The journal is in memory unless another is given.
    pub fn of_threads(
        nodes: usize,
        builder: impl Fn() -> NodeBuilder + Send + Sync + 'static,
    ) -> LocalClusterBuilder {
        LocalClusterBuilder::new(nodes, Kind::Threads(Arc::new(builder)))
    }

    /// Nodes as processes of the stock binary. They need a database.
    #[must_use]
    pub fn of_processes(nodes: usize) -> LocalClusterBuilder {
        LocalClusterBuilder::new(nodes, Kind::Processes)
    }
}

impl LocalClusterBuilder {
    fn new(nodes: usize, kind: Kind) -> Self {
        Self {
            nodes,
            kind,
            journal: Journal::Memory,
            settings: patient(),
            binary: None,
            data_dirs: None,
            direct: false,
        }
    }

    /// With the journal in this database, which every node reaches by a link of its
    /// own.
    ///
    /// # Errors
    /// When the database's server has no address.
    pub async fn postgres(mut self, database: &TestDatabase) -> Result<Self> {
        let server = database::server_address(database).await?;
        self.journal = Journal::Postgres {
            url: database.url_text(),
            server,
        };
        Ok(self)
    }

    /// A setting of all nodes, by its key. Without others, the cluster is more patient
    /// than by default, for the sake of busy machines, and has fewer shards.
    #[must_use]
    pub fn setting(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// With the times and the number of shards that a node has by default, and whatever
    /// is set after this.
    #[must_use]
    pub fn default_settings(mut self) -> Self {
        self.settings.clear();
        self
    }

    /// Without proxies: no link can be broken, nothing costs more than it does in
    /// earnest, and a process that is gone refuses connections.
    #[must_use]
    pub fn direct(mut self) -> Self {
        self.direct = true;
        self
    }

    /// Processes of another binary than the stock one.
    #[must_use]
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.binary = Some(path.into());
        self
    }

    /// Processes keep their data there, by their number, instead of in folders of
    /// their own.
    #[must_use]
    pub fn data_dirs(
        mut self,
        data_dir: impl Fn(usize) -> PathBuf + Send + Sync + 'static,
    ) -> Self {
        self.data_dirs = Some(Arc::new(data_dir));
        self
    }

    /// Starts all nodes at once and waits until they share the shards.
    ///
    /// # Errors
    /// When a node does not start, or the cluster does not come to rest.
    pub async fn start(self) -> Result<LocalCluster> {
        let shared = match (&self.kind, &self.journal) {
            (Kind::Threads(_), Journal::Memory) => Some(SharedJournal::in_memory()),
            (Kind::Processes, Journal::Memory) => {
                anyhow::bail!("processes share no memory: give their cluster a database")
            }
            (_, Journal::Postgres { .. }) => None,
        };
        let turn = match self.kind {
            Kind::Processes => Some(TURN.lock().await),
            Kind::Threads(_) => None,
        };
        if !self.settings.is_empty() {
            println!("the nodes have {}", listed(&self.settings));
        }
        let mut cluster = LocalCluster {
            _turn: turn,
            kind: self.kind,
            journal: self.journal,
            shared,
            settings: self.settings,
            binary: self.binary,
            data_dirs: self.data_dirs,
            direct: self.direct,
            hosts: Vec::new(),
        };
        for _ in 0..self.nodes {
            cluster.add_stopped().await?;
        }
        cluster.restart_all().await?;
        Ok(cluster)
    }
}

fn listed(settings: &[(String, String)]) -> String {
    let each = settings.iter().map(|(key, value)| format!("{key}={value}"));
    each.collect::<Vec<_>>().join(", ")
}

/// Times by which a node of a busy machine is not taken for a dead one: the longer,
/// the more the machine has to do.
fn patient() -> Vec<(String, String)> {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().and_then(|load| load.parse().ok());
    let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
    let (least, most) = (*PATIENCE.start(), *PATIENCE.end());
    let patience = (least + load.unwrap_or(0.0) / cores / 2.0).min(most);
    let longer = |(key, millis): &(&str, f64)| {
        let millis = (millis * patience) as u64;
        ((*key).to_owned(), format!("{millis}ms"))
    };
    let others = [
        ("sharding.number_of_shards", SHARDS),
        ("sharding.rebalance.interval", REBALANCE_INTERVAL),
    ];
    let others = others.map(|(key, value)| (key.to_owned(), value.to_owned()));
    TIMES.iter().map(longer).chain(others).collect()
}
