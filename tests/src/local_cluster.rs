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
//! a cluster is to be is said in `local_cluster/setup.rs`, what breaks its links in
//! `links.rs`, when it is at rest in `rest.rs`; the two kinds of nodes are in
//! `node_process.rs` and `node_thread.rs`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use perennial::node::SharedJournal;
use tokio::sync::MutexGuard;

use self::host::{Host, HostedNode};
use self::links::peer_ip;
use self::setup::{DataDirs, Journal, Kind};
use crate::client::Client;
use crate::database;
use crate::node_process::{NodeOptions, NodeProcess};
use crate::node_thread::{NodeThread, ThreadOptions};
use crate::proxy::Proxy;

mod host;
mod links;
mod rest;
mod setup;

pub use self::setup::LocalClusterBuilder;

/// More nodes have no addresses of their own.
const NODES_MAX: usize = 100;

/// A cluster on this machine. Its nodes end when it is dropped.
pub struct LocalCluster {
    kind: Kind,
    journal: Journal,
    shared: Option<SharedJournal>,
    settings: Vec<(String, String)>,
    binary: Option<PathBuf>,
    data_dirs: Option<DataDirs>,
    direct: bool,
    hosts: Vec<Host>,
    /// Clusters of processes take turns: several at once are more than a machine
    /// that also builds can run.
    _turn: Option<MutexGuard<'static, ()>>,
}

impl LocalCluster {
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
        self.hosts[node].node.address()
    }

    /// Where health, metrics and the status page of a node are.
    #[must_use]
    pub fn http_address(&self, node: usize) -> SocketAddr {
        match &self.hosts[node].node {
            HostedNode::Thread(thread) => thread.http_address(),
            HostedNode::Process(process) => process.http_address(),
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

    /// The process of a node, to be signalled or waited for; `None` for one that is a
    /// thread.
    #[must_use]
    pub fn process_mut(&mut self, node: usize) -> Option<&mut NodeProcess> {
        match &mut self.hosts[node].node {
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
        self.hosts[node].node.kill();
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

    /// Starts all nodes again at once, over the same data, and waits until they share
    /// the shards.
    ///
    /// # Errors
    /// As [`LocalClusterBuilder::start`].
    pub async fn restart_all(&mut self) -> Result<()> {
        for host in &mut self.hosts {
            host.spawn()?;
        }
        for host in &mut self.hosts {
            host.ready().await?;
        }
        self.settled().await
    }

    /// Asks a node to stop, as a service manager does, and waits until it has.
    ///
    /// # Errors
    /// When it fails, or does not stop in time.
    pub async fn terminate(&mut self, node: usize) -> Result<()> {
        self.hosts[node].node.terminate().await
    }

    /// Stops a node where it is: it does nothing, and nobody is told.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&mut self, node: usize) -> Result<()> {
        self.hosts[node].node.pause()
    }

    /// Lets a paused node go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&mut self, node: usize) -> Result<()> {
        self.hosts[node].node.resume()
    }

    /// What the nodes printed, if they are processes.
    #[must_use]
    pub fn outputs(&self) -> String {
        let processes = (0..self.len()).filter_map(|node| self.process(node));
        let outputs: Vec<String> = processes.map(NodeProcess::output).collect();
        outputs.join("\n")
    }

    async fn add_stopped(&mut self) -> Result<usize> {
        let index = self.hosts.len();
        ensure!(index < NODES_MAX, "at most {NODES_MAX} nodes");
        let peers = if self.direct {
            None
        } else {
            // Where the node listens is not known before it is made.
            let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
            Some(Proxy::start_for(nowhere, (0..NODES_MAX).map(peer_ip)).await?)
        };
        let advertise_peer = peers.as_ref().map(Proxy::address);
        let (database, journal) = match &self.journal {
            Journal::Memory => (None, None),
            Journal::Postgres { url, .. } if self.direct => (None, Some(url.clone())),
            Journal::Postgres { url, server } => {
                let proxy = Proxy::start(*server).await?;
                let url = database::url_by_way_of(url, proxy.address())?;
                (Some(proxy), Some(url))
            }
        };
        let node = match &self.kind {
            Kind::Processes => {
                let mut options = NodeOptions::default().peer_ip(peer_ip(index));
                if let Some(address) = advertise_peer {
                    options = options.advertise_peer(address);
                }
                for (key, value) in &self.settings {
                    options = options.setting(key, value);
                }
                if let Some(url) = journal {
                    options = options.journal(url);
                }
                if let Some(binary) = &self.binary {
                    options = options.binary(binary);
                }
                if let Some(data_dir) = &self.data_dirs {
                    options = options.data_dir(data_dir(index));
                }
                HostedNode::Process(NodeProcess::stopped(options)?)
            }
            Kind::Threads(builder) => HostedNode::Thread(NodeThread::stopped(ThreadOptions {
                builder: Arc::clone(builder),
                settings: self.settings.clone(),
                journal,
                shared: self.shared.clone(),
                peer_ip: peer_ip(index),
                advertise_peer,
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
