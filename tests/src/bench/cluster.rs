//! What a cluster costs, on one machine: one node against several, a command of a
//! node's own entity against one that has to be sent on, a handoff, a takeover.
//!
//! All processes share the processors with client and database, so several nodes can
//! only be slower than one here: what is measured is what the way through another
//! node adds.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use perennial::proto::v1::{GetClusterResponse, SendRequest};
use perennial_persistence::persistence_id::PersistenceId;
use perennial_sharding::shard_id::shard_of;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::client::{Client, Failure};
use crate::database::{self, PostgresServer, PostgresSetup, TestDatabase};
use crate::eventually::eventually;
use crate::http;
use crate::node_process::{NodeOptions, NodeProcess};
use crate::process_usage::{cpu_time, cpu_time_with_children};

const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// Commands of one at a time, to measure a hop.
const HOPS: usize = 2_000;

/// What is measured, and for how long.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Nodes of the cluster that is compared with one node.
    #[arg(long, default_value_t = 3)]
    pub nodes: usize,
    /// Commands under way at any time, on all nodes together.
    #[arg(long, default_value_t = 256)]
    pub outstanding: usize,
    /// Counters among which each command chooses; all are live in the takeover.
    #[arg(long, default_value_t = 10_000)]
    pub entities: usize,
    /// Length of each measurement, after a warm-up of a fifth of it.
    #[arg(long, default_value_t = 5)]
    pub seconds: u64,
}

/// Measures one node, then a cluster of several.
///
/// # Errors
/// When a process cannot be started, or a command fails.
pub async fn run(options: &Options) -> Result<Value> {
    let mut server = None;
    let alone = Cluster::start(1, &mut server).await?;
    let one = alone.load(options, &alone.everything(options)).await?;
    drop(alone);
    let mut cluster = Cluster::start(options.nodes, &mut server).await?;
    let several = cluster.load(options, &cluster.everything(options)).await?;
    let local = cluster
        .load(options, &cluster.by_home(options, 0).await?)
        .await?;
    let forwarded = cluster
        .load(options, &cluster.by_home(options, 1).await?)
        .await?;
    let hop = cluster.hop(options).await?;
    let takeover = cluster.takeover(options).await?;
    let handoff = cluster.handoff(options).await?;
    Ok(json!({
        "bench": "cluster",
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
        "nodes": options.nodes,
        "outstanding": options.outstanding,
        "entities": options.entities,
        "seconds": options.seconds,
        "one_node": one,
        "several_nodes": several,
        "local": local,
        "forwarded": forwarded,
        "hop": hop,
        "handoff": handoff,
        "takeover": takeover,
    }))
}

/// Processes that share a database, without anything between them.
struct Cluster {
    nodes: Vec<NodeProcess>,
    clients: Vec<Client>,
    postgres: Option<u32>,
    _database: TestDatabase,
}

/// What each node's client sends to.
type Targets = Vec<Vec<String>>;

impl Cluster {
    async fn start(nodes: usize, server: &mut Option<PostgresServer>) -> Result<Self> {
        let server = server.get_or_insert_with(|| {
            PostgresServer::start_with(PostgresSetup {
                durable: true,
                ..PostgresSetup::default()
            })
        });
        let database = TestDatabase::on(&server.url_text()).await;
        let options = NodeOptions::default()
            .journal(database.url_text())
            .setting("sharding.passivation.active_entity_limit", "1000000");
        let mut started = Vec::new();
        for _ in 0..nodes {
            let mut node = NodeProcess::stopped(options.clone())?;
            node.spawn()?;
            started.push(node);
        }
        let mut clients = Vec::new();
        for node in &mut started {
            node.ready().await?;
            clients.push(Client::connect(&node.address()).await?);
        }
        let cluster = Self {
            nodes: started,
            clients,
            postgres: database::server_pid(&database).await?,
            _database: database,
        };
        cluster.settled(nodes).await?;
        Ok(cluster)
    }

    /// Waits until so many nodes are up and every shard is in its home.
    async fn settled(&self, nodes: usize) -> Result<()> {
        let settled = eventually("the cluster to settle", SETTLED_WITHIN, async || {
            for client in &self.clients {
                // A node that is gone has nothing to say.
                let Ok(cluster) = client.cluster().await else {
                    continue;
                };
                let up = cluster
                    .members
                    .iter()
                    .filter(|member| member.status == "up");
                let owned = cluster.shards.iter().all(|shard| shard.state == "owned");
                if up.count() != nodes || !owned {
                    return None;
                }
            }
            Some(())
        });
        settled.await
    }

    /// Every node gets commands for all counters.
    fn everything(&self, options: &Options) -> Targets {
        let all: Vec<String> = (0..options.entities).map(name).collect();
        vec![all; self.clients.len()]
    }

    /// Every node gets commands for counters of the node that is so many further.
    async fn by_home(&self, options: &Options, further: usize) -> Result<Targets> {
        let cluster = self.clients[0].cluster().await?;
        let mut by_node: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for id in (0..options.entities).map(name) {
            by_node.entry(home(&cluster, &id)?).or_default().push(id);
        }
        let nodes = self.nodes.len();
        let mut targets = Vec::new();
        for index in 0..nodes {
            let node = &self.nodes[(index + further) % nodes];
            let member = cluster
                .members
                .iter()
                .find(|member| node.address().ends_with(&member.address));
            let member = member.context("a node is no member")?;
            targets.push(by_node.get(&member.node_id).cloned().unwrap_or_default());
        }
        Ok(targets)
    }

    /// A closed loop over one stream to each node.
    async fn load(&self, options: &Options, targets: &Targets) -> Result<Value> {
        let length = Duration::from_secs(options.seconds);
        self.loops(options, targets, length / 5).await?;
        let before = self.cpu()?;
        let began = Instant::now();
        let mut latencies = self.loops(options, targets, length).await?;
        let elapsed = began.elapsed();
        let (nodes, postgres) = self.cpu()?;
        let count = latencies.len().max(1);
        let per_command = |used: Duration| round(used.as_secs_f64() * 1e6 / count as f64);
        latencies.sort_unstable();
        Ok(json!({
            "rate": (count as f64 / elapsed.as_secs_f64()).round(),
            "p50_ms": percentile_ms(&latencies, 0.50),
            "p99_ms": percentile_ms(&latencies, 0.99),
            "cpu_us_per_command": {
                "nodes": per_command(nodes.saturating_sub(before.0)),
                "postgres": per_command(postgres.saturating_sub(before.1)),
            },
        }))
    }

    async fn loops(
        &self,
        options: &Options,
        targets: &Targets,
        length: Duration,
    ) -> Result<Vec<Duration>> {
        let outstanding = (options.outstanding / self.clients.len()).max(1);
        let mut loops = JoinSet::new();
        for (client, ids) in self.clients.iter().zip(targets) {
            let (client, ids) = (client.clone(), ids.clone());
            loops.spawn(closed_loop(client, ids, outstanding, length));
        }
        let mut latencies = Vec::new();
        while let Some(measured) = loops.join_next().await {
            latencies.extend(measured??);
        }
        Ok(latencies)
    }

    /// One command at a time to counters in memory: of the node asked, and of another.
    async fn hop(&self, options: &Options) -> Result<Value> {
        let mut p50 = Vec::new();
        for further in [0, 1] {
            let targets = self.by_home(options, further).await?;
            let ids = targets[0].iter().cycle().take(HOPS);
            let mut latencies = Vec::new();
            for id in ids {
                let sent = Instant::now();
                // Nothing is stored, so the way is what is measured.
                self.clients[0]
                    .send(command(id, br#""get""#))
                    .await
                    .map_err(failed)?;
                latencies.push(sent.elapsed());
            }
            latencies.sort_unstable();
            p50.push(percentile_ms(&latencies, 0.5));
        }
        Ok(json!({
            "local_read_p50_ms": p50[0],
            "forwarded_read_p50_ms": p50[1],
            "hop_ms": round(p50[1] - p50[0]),
        }))
    }

    /// Kills a node that does not lead, with all its entities in memory.
    async fn takeover(&mut self, options: &Options) -> Result<Value> {
        let cluster = self.clients[0].cluster().await?;
        let leads = |node: &NodeProcess| {
            let leader = cluster
                .members
                .iter()
                .find(|member| member.node_id == cluster.leader_node_id);
            leader.is_some_and(|leader| node.address().ends_with(&leader.address))
        };
        let victim = self.nodes.iter().position(|node| !leads(node));
        let victim = victim.context("no node but the leader")?;
        let affected = self.by_home(options, 0).await?.swap_remove(victim);
        let asked = self.clients[(victim + 1) % self.clients.len()].clone();
        self.nodes[victim].kill9();
        let killed = Instant::now();
        let mut callers = JoinSet::new();
        for part in affected.chunks(affected.len().div_ceil(64).max(1)) {
            let (client, part) = (asked.clone(), part.to_vec());
            callers.spawn(async move {
                let mut answered = Vec::new();
                for id in part {
                    while client.send(command(&id, br#""get""#)).await.is_err() {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    answered.push(Instant::now());
                }
                answered
            });
        }
        let mut answered = callers.join_all().await.concat();
        answered.sort_unstable();
        let (Some(first), Some(last)) = (answered.first(), answered.last()) else {
            bail!("the node had no entities");
        };
        let recovering = last.duration_since(*first).as_secs_f64();
        let value = json!({
            "entities": answered.len(),
            "first_answer_ms": first.duration_since(killed).as_millis() as u64,
            "last_answer_ms": last.duration_since(killed).as_millis() as u64,
            "recoveries_per_second": (answered.len() as f64 / recovering.max(0.001)).round(),
        });
        self.nodes[victim].restart().await?;
        self.clients[victim] = Client::connect(&self.nodes[victim].address()).await?;
        self.settled(self.nodes.len()).await?;
        Ok(value)
    }

    /// Drains a node under load, and asks all of them for how long shards had no home.
    async fn handoff(&self, options: &Options) -> Result<Value> {
        let before = self.homeless()?;
        let cluster = self.clients[0].cluster().await?;
        let last = self.nodes.last().context("no nodes")?;
        let member = cluster
            .members
            .iter()
            .find(|member| last.address().ends_with(&member.address));
        let node_id = member.context("a node is no member")?.node_id.clone();
        let targets = self.everything(options);
        let loading = self.loops(options, &targets, Duration::from_secs(options.seconds));
        let draining = async {
            let began = Instant::now();
            self.clients[0].drain(&node_id, false).await?;
            let drained = eventually("the node to be drained", SETTLED_WITHIN, async || {
                let cluster = self.clients[0].cluster().await.ok()?;
                let left = cluster.shards.iter().any(|shard| shard.node_id == node_id);
                (!left).then_some(())
            });
            drained.await?;
            Ok::<_, anyhow::Error>(began.elapsed())
        };
        let (loaded, drained) = tokio::join!(loading, draining);
        let (mut latencies, drained) = (loaded?, drained?);
        latencies.sort_unstable();
        let after = self.homeless()?;
        let (seconds, count) = (after.0 - before.0, after.1 - before.1);
        Ok(json!({
            "drained_ms": drained.as_millis() as u64,
            "times_without_home_seen": count,
            "mean_ms_without_home": round(seconds * 1000.0 / count.max(1.0)),
            "p999_ms_meanwhile": percentile_ms(&latencies, 0.999),
        }))
    }

    /// Seconds that shards had no home, as all nodes have seen it, and how often.
    fn homeless(&self) -> Result<(f64, f64)> {
        let mut total = (0.0, 0.0);
        for node in &self.nodes {
            let (status, body) = http::get(node.http_address(), "/metrics")?;
            ensure!(status == 200, "/metrics answers with status {status}");
            let value = |name: &str| {
                let mut lines = body.lines();
                let line = lines.find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
                line.unwrap_or(0.0)
            };
            total.0 += value("perennial_shard_homeless_seconds_sum");
            total.1 += value("perennial_shard_homeless_seconds_count");
        }
        Ok(total)
    }

    /// Processor time of all nodes, and of the database.
    fn cpu(&self) -> Result<(Duration, Duration)> {
        let nodes: Result<Duration> = self.nodes.iter().map(|node| cpu_time(node.pid())).sum();
        let postgres = self.postgres.map(cpu_time_with_children).transpose()?;
        Ok((nodes?, postgres.unwrap_or_default()))
    }
}

async fn closed_loop(
    client: Client,
    ids: Vec<String>,
    outstanding: usize,
    length: Duration,
) -> Result<Vec<Duration>> {
    ensure!(
        !ids.is_empty(),
        "a node has no counters: give it more with --entities"
    );
    let began = Instant::now();
    let sent = Mutex::new(Vec::new());
    // Nothing panics while it is held.
    let times = || sent.lock().unwrap_or_else(PoisonError::into_inner);
    let mut latencies = Vec::new();
    let mut failure = None;
    let mut next = 0;
    let commands = std::iter::from_fn(|| {
        times().push(Instant::now());
        let id = &ids[next % ids.len()];
        next += 1;
        (began.elapsed() < length).then(|| command(id, br#"{"add":1}"#))
    });
    let answered = |place: u64, response: _| {
        failure = failure.take().or_else(|| Failure::in_response(&response));
        // Places are counted from 0 in memory, so they fit.
        latencies.push(times()[place as usize].elapsed());
    };
    client.pipeline(outstanding, commands, answered).await?;
    match failure {
        Some(failure) => Err(failed(failure)),
        None => Ok(latencies),
    }
}

fn failed(failure: Failure) -> anyhow::Error {
    let Failure {
        code,
        reason,
        message,
        ..
    } = failure;
    anyhow::anyhow!("a command failed: {code} {reason}: {message}")
}

fn name(number: usize) -> String {
    format!("bench-{number}")
}

fn command(id: &str, payload: &'static [u8]) -> SendRequest {
    SendRequest {
        entity_type: "counter".to_owned(),
        entity_id: id.to_owned(),
        payload: Bytes::from_static(payload),
        ..SendRequest::default()
    }
}

/// The node that owns a counter's shard.
fn home(cluster: &GetClusterResponse, id: &str) -> Result<String> {
    let id = PersistenceId::new("counter", id)?;
    let shard = shard_of(&id, cluster.number_of_shards);
    let shard = cluster
        .shards
        .get(shard.0 as usize)
        .context("no such shard")?;
    Ok(shard.node_id.clone())
}

fn percentile_ms(sorted: &[Duration], part: f64) -> f64 {
    let place = (sorted.len() as f64 * part) as usize;
    let last = sorted.len().saturating_sub(1);
    let latency = sorted.get(place.min(last)).copied().unwrap_or_default();
    latency.as_micros() as f64 / 1000.0
}

/// To two decimals.
fn round(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}
