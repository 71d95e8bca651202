//! The cluster of a soak with everything around it: processes, proxies, Postgres, small
//! disks, and how clients find the nodes.

use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use perennial::proto::v1::GetClusterResponse;
use tokio::sync::watch;

use super::evidence::Evidence;
use crate::client::Client;
use crate::database::{PostgresServer, PostgresSetup, TestDatabase};
use crate::eventually::eventually;
use crate::local_cluster::LocalCluster;
use crate::node_process::NodeProcess;
use crate::small_disk::SmallDisk;

/// Room for a raft store.
const DISK_SIZE: &str = "48m";
/// A node that does not tell what it sees for so long is not asked.
const VIEW_WITHIN: Duration = Duration::from_secs(3);
/// How long the others may take to see that everybody is up.
const UP_WITHIN: Duration = Duration::from_secs(90);
/// More nodes than ever run have no disks made for them.
const DISKS: usize = 5;

/// The cluster and everything around it.
pub struct World {
    /// The nodes.
    pub cluster: LocalCluster,
    /// The server of the journal; shared with what restarts it.
    pub server: Arc<PostgresServer>,
    /// The database of the journal.
    pub database: Arc<TestDatabase>,
    /// What is left behind.
    pub evidence: Arc<Evidence>,
    /// Of the first nodes, if mounting is allowed.
    pub disks: Vec<SmallDisk>,
    /// Nodes that are gone for good.
    pub removed: Vec<usize>,
    addresses: watch::Sender<Vec<String>>,
}

/// What the nodes stand in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surroundings {
    /// Nothing: no link can be broken, and times are those of the nodes alone.
    Direct,
    /// A proxy on every link.
    WithProxies,
    /// And disks that can be filled up.
    WithSmallDisks,
}

impl World {
    /// Starts everything.
    ///
    /// # Errors
    /// When the nodes do not come up.
    pub async fn start(
        nodes: usize,
        settings: &[(String, String)],
        surroundings: Surroundings,
        evidence: Arc<Evidence>,
    ) -> Result<Self> {
        // Commits wait for the disk: what is measured is what a user would get.
        let setup = PostgresSetup {
            durable: true,
            ..PostgresSetup::default()
        };
        let server = Arc::new(PostgresServer::start_with(setup));
        let database = Arc::new(TestDatabase::on(&server.url_text()).await);
        let mut disks = Vec::new();
        while surroundings == Surroundings::WithSmallDisks && disks.len() < DISKS {
            match SmallDisk::mount(DISK_SIZE)? {
                Some(disk) => disks.push(disk),
                None => break,
            }
        }
        let mut builder = LocalCluster::of_processes(nodes)
            .postgres(&database)
            .await?
            .default_settings();
        if surroundings == Surroundings::Direct {
            builder = builder.direct();
        }
        for (key, value) in settings {
            builder = builder.setting(key, value);
        }
        if !disks.is_empty() {
            let paths: Vec<_> = disks.iter().map(|disk| disk.path().to_owned()).collect();
            // More than one node on a disk: they fill up together.
            builder = builder
                .data_dirs(move |node| paths[node % paths.len()].join(format!("data-{node}")));
        }
        let cluster = builder.start().await?;
        let addresses = watch::Sender::new(cluster.addresses());
        Ok(Self {
            cluster,
            server,
            database,
            evidence,
            disks,
            removed: Vec::new(),
            addresses,
        })
    }

    /// Where clients find nodes.
    #[must_use]
    pub fn addresses(&self) -> watch::Receiver<Vec<String>> {
        self.addresses.subscribe()
    }

    /// The nodes that were not removed.
    #[must_use]
    pub fn members(&self) -> Vec<usize> {
        let all = 0..self.cluster.len();
        all.filter(|node| !self.removed.contains(node)).collect()
    }

    /// Tells clients where the nodes are now.
    pub fn announce(&self) {
        let members = self.members().into_iter();
        let addresses = members.map(|node| self.cluster.address(node)).collect();
        self.addresses.send_replace(addresses);
    }

    /// Addresses of all nodes but one, for clients that know it is gone.
    #[must_use]
    pub fn addresses_without(&self, gone: usize) -> watch::Receiver<Vec<String>> {
        let members = self.members().into_iter().filter(|node| *node != gone);
        let addresses = members.map(|node| self.cluster.address(node)).collect();
        watch::Sender::new(addresses).subscribe()
    }

    /// What a node sees.
    ///
    /// # Errors
    /// When it does not answer soon.
    pub async fn view(&self, node: usize) -> Result<GetClusterResponse> {
        view(&self.cluster.address(node)).await
    }

    /// Who leads, as any node says that knows.
    ///
    /// # Errors
    /// When nobody leads for long.
    pub async fn leader(&self) -> Result<usize> {
        eventually("somebody to lead", UP_WITHIN, async || {
            for node in self.members() {
                if let Ok(Ok(Some(leader))) =
                    tokio::time::timeout(VIEW_WITHIN, self.cluster.leader(node)).await
                    && !self.removed.contains(&leader)
                {
                    return Some(leader);
                }
            }
            None
        })
        .await
    }

    /// Starts a node again and tells clients, whose port may have changed.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn restart(&mut self, node: usize) -> Result<()> {
        self.cluster.restart(node).await?;
        self.announce();
        Ok(())
    }

    /// Waits until all members are up in the eyes of each, and every shard has a home,
    /// which may be moving.
    ///
    /// # Errors
    /// When that does not happen in time; with what was seen last.
    pub async fn all_up(&self) -> Result<Duration> {
        let since = Instant::now();
        let members = self.members();
        let mut seen = String::new();
        let up = eventually("everybody to be up", UP_WITHIN, async || {
            for node in &members {
                let view = match self.view(*node).await {
                    Ok(view) => view,
                    Err(error) => {
                        seen = format!("node {node}: {error:#}");
                        return None;
                    }
                };
                let up = view.members.iter().filter(|member| member.status == "up");
                let up = up.count();
                let homeless = view.shards.iter().filter(|shard| shard.node_id.is_empty());
                let homeless = homeless.count();
                if up != members.len() || homeless > 0 {
                    seen = format!("node {node} sees {up} nodes up, {homeless} shards homeless");
                    return None;
                }
            }
            Some(())
        });
        up.await.with_context(|| seen.clone())?;
        Ok(since.elapsed())
    }

    /// Nodes that ended although nobody asked them to, and how.
    pub fn ended_by_themselves(&mut self) -> Vec<(usize, ExitStatus)> {
        let mut ended = Vec::new();
        for node in self.members() {
            let process = self.cluster.process_mut(node);
            if let Some(status) = process.and_then(NodeProcess::has_ended) {
                ended.push((node, status));
            }
        }
        ended
    }

    /// Keeps what the nodes printed.
    pub fn keep_output(&self) {
        for node in 0..self.cluster.len() {
            if let Some(process) = self.cluster.process(node) {
                let name = format!("node-{node}.log");
                if let Err(error) = self.evidence.copy(&process.output_path(), &name) {
                    self.evidence.event(&format!("{error:#}"));
                }
            }
        }
    }
}

/// What the node at this address sees.
///
/// # Errors
/// When it does not answer soon.
pub async fn view(address: &str) -> Result<GetClusterResponse> {
    let asked = async { Client::connect(address).await?.cluster().await };
    tokio::time::timeout(VIEW_WITHIN, asked)
        .await
        .context("no answer")?
}
