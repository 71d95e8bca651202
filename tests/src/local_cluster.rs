//! A cluster on this machine, to test entities and the cluster itself with.
//!
//! Nodes are threads of the test, with any entity types, or processes of the stock
//! binary; both are used in the same way. Each node can be killed, restarted, asked
//! to stop, and paused, and every link between two nodes and to the database can be
//! broken in each direction.
//!
//! ```no_run
//! # async fn test() -> anyhow::Result<()> {
//! use perennial::samples::Counter;
//! use perennial_tests::client::command;
//! use perennial_tests::local_cluster::LocalCluster;
//! use serde_json::json;
//!
//! let builder = || perennial::Node::builder().entity(Counter);
//! let mut cluster = LocalCluster::of_threads(3, builder).start().await?;
//! let client = cluster.client(0).await?;
//! client.send(command("counter", "a", &json!({"add": 1}))).await?;
//! cluster.kill(1);
//! cluster.settled_without(&[1]).await?;
//! let (state, _) = client.state("counter", "a").await?;
//! assert_eq!(state, json!({"value": 1}));
//! cluster.restart(1).await?;
//! # Ok(())
//! # }
//! ```
//!
//! A journal in memory is shared by all nodes that are threads; with
//! [`LocalClusterBuilder::postgres`] each node has its own link to a database. What
//! breaks links is in `proxy.rs`, the two kinds of nodes in `node_process.rs` and
//! `node_thread.rs`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use perennial::node::{NodeBuilder, SharedJournal};
use perennial::proto::v1::GetClusterResponse;
use tokio::sync::{Mutex, MutexGuard};

use crate::client::Client;
use crate::database::{self, TestDatabase};
use crate::eventually::eventually;
use crate::node_process::{NodeOptions, NodeProcess};
use crate::node_thread::{NodeThread, ThreadOptions};
use crate::proxy::{Flow, Link, Proxy};

static TURN: Mutex<()> = Mutex::const_new(());

/// How long a cluster may take to come to rest; generous, for busy machines.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);
/// The times of the cluster by default, in milliseconds.
const TIMES: &[(&str, f64)] = &[
    ("cluster.heartbeat_interval", 200.0),
    ("cluster.lease", 1500.0),
    ("cluster.down_after", 2000.0),
    ("cluster.raft.heartbeat", 100.0),
    ("cluster.raft.election_min", 500.0),
    ("cluster.raft.election_max", 1000.0),
];
/// By how much they are longer: on a machine at rest, and at the most.
const PATIENCE: std::ops::RangeInclusive<f64> = 2.0..=10.0;
/// Enough for a few nodes; each one that moves costs a fence and a commit.
const SHARDS: &str = "60";
/// More nodes have no addresses of their own.
const NODES_MAX: usize = 100;

/// Says what a cluster is to be.
pub struct LocalClusterBuilder {
    nodes: usize,
    kind: Kind,
    journal: Journal,
    settings: Vec<(String, String)>,
}

#[derive(Clone)]
enum Kind {
    Threads(Arc<dyn Fn() -> NodeBuilder + Send + Sync>),
    Processes,
}

enum Journal {
    Memory,
    Postgres { url: String, server: SocketAddr },
}

/// A cluster on this machine. Its nodes end when it is dropped.
pub struct LocalCluster {
    kind: Kind,
    journal: Journal,
    shared: Option<SharedJournal>,
    settings: Vec<(String, String)>,
    hosts: Vec<Host>,
    /// Clusters of processes take turns: several at once are more than a machine
    /// that also builds can run.
    _turn: Option<MutexGuard<'static, ()>>,
}

/// A node, and the proxies before it and before its database.
struct Host {
    node: HostedNode,
    peers: Proxy,
    database: Option<Proxy>,
}

enum HostedNode {
    Thread(NodeThread),
    Process(NodeProcess),
}

impl LocalClusterBuilder {
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
        let mut cluster = LocalCluster {
            _turn: turn,
            kind: self.kind,
            journal: self.journal,
            shared,
            settings: self.settings,
            hosts: Vec::new(),
        };
        for _ in 0..self.nodes {
            cluster.add_stopped().await?;
        }
        for host in &mut cluster.hosts {
            host.spawn()?;
        }
        for host in &mut cluster.hosts {
            host.ready().await?;
        }
        cluster.settled().await?;
        Ok(cluster)
    }
}

impl LocalCluster {
    /// Nodes as threads of this process, each of what the function makes: with the
    /// entity types to be tested. The journal is in memory unless another is given.
    pub fn of_threads(
        nodes: usize,
        builder: impl Fn() -> NodeBuilder + Send + Sync + 'static,
    ) -> LocalClusterBuilder {
        LocalClusterBuilder {
            nodes,
            kind: Kind::Threads(Arc::new(builder)),
            journal: Journal::Memory,
            settings: patient(),
        }
    }

    /// Nodes as processes of the stock binary. They need a database.
    #[must_use]
    pub fn of_processes(nodes: usize) -> LocalClusterBuilder {
        LocalClusterBuilder {
            nodes,
            kind: Kind::Processes,
            journal: Journal::Memory,
            settings: patient(),
        }
    }

    /// How many nodes were ever started here. They are counted from 0.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Whether no node was started.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Where clients connect to a node, as a URL.
    #[must_use]
    pub fn address(&self, node: usize) -> String {
        match &self.hosts[node].node {
            HostedNode::Thread(thread) => thread.address(),
            HostedNode::Process(process) => process.address(),
        }
    }

    /// The addresses of all nodes.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        (0..self.len()).map(|node| self.address(node)).collect()
    }

    /// A connection to a node.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn client(&self, node: usize) -> Result<Client> {
        Client::connect(&self.address(node)).await
    }

    /// The process of a node; `None` for one that is a thread.
    #[must_use]
    pub fn process(&self, node: usize) -> Option<&NodeProcess> {
        match &self.hosts[node].node {
            HostedNode::Process(process) => Some(process),
            HostedNode::Thread(_) => None,
        }
    }

    /// The number the cluster knows a node by, as a node that runs says.
    ///
    /// # Errors
    /// When the node is no member.
    pub async fn node_id(&self, node: usize, asked: usize) -> Result<String> {
        let cluster = self.client(asked).await?.cluster().await?;
        let address = self.address(node);
        let member = cluster
            .members
            .into_iter()
            .find(|member| address.ends_with(&member.address));
        Ok(member.context("the node is no member")?.node_id)
    }

    /// Which of the nodes leads, as a node that runs says; `None` if it knows of
    /// none.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn leader(&self, asked: usize) -> Result<Option<usize>> {
        let cluster = self.client(asked).await?.cluster().await?;
        let leader = cluster
            .members
            .iter()
            .find(|member| member.node_id == cluster.leader_node_id);
        let Some(leader) = leader else {
            return Ok(None);
        };
        let leads = |node: &usize| self.address(*node).ends_with(&leader.address);
        Ok((0..self.len()).find(leads))
    }

    /// Starts one more node and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn add(&mut self) -> Result<usize> {
        let node = self.add_stopped().await?;
        self.restart(node).await?;
        Ok(node)
    }

    /// Ends a node at once, as a crash would.
    pub fn kill(&mut self, node: usize) {
        match &mut self.hosts[node].node {
            HostedNode::Thread(thread) => thread.kill(),
            HostedNode::Process(process) => process.kill9(),
        }
    }

    /// Starts a node again over the same data and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart(&mut self, node: usize) -> Result<()> {
        let host = &mut self.hosts[node];
        host.spawn()?;
        host.ready().await
    }

    /// Asks a node to stop, as a service manager does, and waits until it has.
    ///
    /// # Errors
    /// When it fails, or does not stop in time.
    pub async fn terminate(&mut self, node: usize) -> Result<()> {
        match &mut self.hosts[node].node {
            HostedNode::Thread(thread) => thread.terminate().await,
            HostedNode::Process(process) => {
                let status = process.terminate().await?;
                ensure!(status.success(), "{status}; {}", process.output());
                Ok(())
            }
        }
    }

    /// Stops a node where it is: it does nothing, and nobody is told.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&mut self, node: usize) -> Result<()> {
        match &mut self.hosts[node].node {
            HostedNode::Thread(thread) => thread.pause(),
            HostedNode::Process(process) => process.pause(),
        }
    }

    /// Lets a paused node go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&mut self, node: usize) -> Result<()> {
        match &mut self.hosts[node].node {
            HostedNode::Thread(thread) => {
                thread.resume();
                Ok(())
            }
            HostedNode::Process(process) => process.resume(),
        }
    }

    /// From now on nothing that `from` sends reaches `to`, on connections of either.
    pub fn block(&self, from: usize, to: usize) {
        self.set_flow(from, to, Flow::Stalled);
    }

    /// Nothing passes between two nodes.
    pub fn partition(&self, one: usize, other: usize) {
        self.block(one, other);
        self.block(other, one);
    }

    /// Cuts a node off from all others.
    pub fn isolate(&self, node: usize) {
        for other in (0..self.len()).filter(|other| *other != node) {
            self.partition(node, other);
        }
    }

    /// Mends all links between nodes.
    pub fn heal(&self) {
        for host in &self.hosts {
            host.peers.set(Flow::Open);
        }
    }

    /// The link of a node to its database, if that is a server.
    #[must_use]
    pub fn database_link(&self, node: usize) -> Option<&Link> {
        let proxy = self.hosts[node].database.as_ref()?;
        Some(proxy.link_from(IpAddr::V4(Ipv4Addr::LOCALHOST)))
    }

    /// Waits until all nodes are up, and every shard has a home and stays there, in
    /// the eyes of each of them.
    ///
    /// # Errors
    /// When that does not happen in time; with what the nodes say.
    pub async fn settled(&self) -> Result<()> {
        self.settled_without(&[]).await
    }

    /// As [`LocalCluster::settled`], for the nodes that are left.
    ///
    /// # Errors
    /// As [`LocalCluster::settled`].
    pub async fn settled_without(&self, gone: &[usize]) -> Result<()> {
        let there: Vec<usize> = (0..self.len())
            .filter(|node| !gone.contains(node))
            .collect();
        let mut seen = String::new();
        let settled = eventually("the cluster to settle", SETTLED_WITHIN, async || {
            for node in &there {
                let cluster = match self.client(*node).await {
                    Ok(client) => client.cluster().await,
                    Err(error) => Err(error),
                };
                seen = match cluster {
                    Ok(cluster) => match unrest(&cluster, there.len()) {
                        Some(unrest) => format!("node {node} says: {unrest}"),
                        None => continue,
                    },
                    Err(error) => format!("node {node} does not answer: {error:#}"),
                };
                return None;
            }
            Some(())
        });
        let settled = settled.await;
        settled.with_context(|| format!("{seen}\n{}", self.outputs()))
    }

    /// What the nodes printed, if they are processes.
    #[must_use]
    pub fn outputs(&self) -> String {
        let processes = (0..self.len()).filter_map(|node| self.process(node));
        let outputs: Vec<String> = processes.map(NodeProcess::output).collect();
        outputs.join("\n")
    }

    fn set_flow(&self, from: usize, to: usize, flow: Flow) {
        self.hosts[to]
            .peers
            .link_from(peer_ip(from))
            .set_to_server(flow);
        self.hosts[from]
            .peers
            .link_from(peer_ip(to))
            .set_to_client(flow);
    }

    async fn add_stopped(&mut self) -> Result<usize> {
        let index = self.hosts.len();
        ensure!(index < NODES_MAX, "at most {NODES_MAX} nodes");
        // Where the node listens is not known before it is made.
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        let peers = Proxy::start_for(nowhere, (0..NODES_MAX).map(peer_ip)).await?;
        let (database, journal) = match &self.journal {
            Journal::Memory => (None, None),
            Journal::Postgres { url, server } => {
                let proxy = Proxy::start(*server).await?;
                let url = database::url_by_way_of(url, proxy.address())?;
                (Some(proxy), Some(url))
            }
        };
        let node = match &self.kind {
            Kind::Processes => {
                let mut options = NodeOptions::default()
                    .peer_ip(peer_ip(index))
                    .advertise_peer(peers.address());
                for (key, value) in &self.settings {
                    options = options.setting(key, value);
                }
                if let Some(url) = journal {
                    options = options.journal(url);
                }
                HostedNode::Process(NodeProcess::stopped(options)?)
            }
            Kind::Threads(builder) => HostedNode::Thread(NodeThread::stopped(ThreadOptions {
                builder: Arc::clone(builder),
                settings: self.settings.clone(),
                journal,
                shared: self.shared.clone(),
                peer_ip: peer_ip(index),
                advertise_peer: peers.address(),
            })?),
        };
        self.hosts.push(Host {
            node,
            peers,
            database,
        });
        Ok(index)
    }
}

impl Host {
    fn spawn(&mut self) -> Result<()> {
        match &mut self.node {
            HostedNode::Thread(thread) => thread.spawn()?,
            HostedNode::Process(process) => process.spawn()?,
        }
        self.follow();
        Ok(())
    }

    async fn ready(&mut self) -> Result<()> {
        match &mut self.node {
            HostedNode::Thread(thread) => thread.ready().await?,
            HostedNode::Process(process) => process.ready().await?,
        }
        // On other ports, if somebody else took them.
        self.follow();
        Ok(())
    }

    fn follow(&self) {
        self.peers.set_upstream(match &self.node {
            HostedNode::Thread(thread) => thread.peer_address(),
            HostedNode::Process(process) => process.peer_address(),
        });
    }
}

/// Times by which a node of a busy machine is not taken for a dead one: the longer,
/// the more the machine has to do.
fn patient() -> Vec<(String, String)> {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().and_then(|load| load.parse().ok());
    let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
    let (least, most) = (*PATIENCE.start(), *PATIENCE.end());
    let patience = (least + load.unwrap_or(0.0) / cores / 2.0).min(most);
    println!("the cluster is {patience:.1} times as patient as by default");
    let longer = |(key, millis): &(&str, f64)| {
        let millis = (millis * patience) as u64;
        ((*key).to_owned(), format!("{millis}ms"))
    };
    let shards = ("sharding.number_of_shards".to_owned(), SHARDS.to_owned());
    TIMES.iter().map(longer).chain([shards]).collect()
}

/// Each node has an address of its own on this machine, by which the proxies know
/// who connects.
fn peer_ip(node: usize) -> IpAddr {
    // Below `NODES_MAX`.
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2 + node as u8))
}

/// What keeps a cluster of so many nodes from being at rest.
fn unrest(cluster: &GetClusterResponse, nodes: usize) -> Option<String> {
    let up = cluster
        .members
        .iter()
        .filter(|member| member.status == "up");
    let up = up.count();
    if up != nodes {
        return Some(format!("{up} of {nodes} nodes are up"));
    }
    if cluster.leader_node_id.is_empty() {
        return Some("there is no leader".to_owned());
    }
    let restless = cluster.shards.iter().filter(|shard| shard.state != "owned");
    let restless = restless.count();
    if restless > 0 {
        return Some(format!("{restless} shards have no home, or move"));
    }
    let owned = cluster
        .members
        .iter()
        .filter(|member| member.status == "up");
    let owned: Vec<u32> = owned.map(|member| member.shards_owned).collect();
    let (least, most) = (owned.iter().min()?, owned.iter().max()?);
    (most - least > 1).then(|| format!("shards are not balanced: {owned:?}"))
}
