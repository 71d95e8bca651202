//! A node: the composition root, where journal, engine, region and ports are put
//! together, started and stopped.
//!
//! # Start
//! 1. The data directory is locked, so that no other process uses it.
//! 2. The ports are bound and their certificates read (`ports.rs`): a port in use is
//!    found before anything is changed.
//! 3. The HTTP port serves: alive, not ready.
//! 4. The journal is opened (and its schema brought up to date, if asked for). `serve`
//!    waits for a database that is not there yet (`journal_wait.rs`).
//! 5. The cluster and the node's place in it are looked up, and an incarnation is
//!    begun: from here on no earlier session of this node can write (I-2).
//! 6. The node takes its part in the raft group, and forms the cluster if nobody
//!    has. The port for other nodes serves.
//! 7. The region starts, then the engine; the node joins (`membership.rs`).
//! 8. The gRPC services start. When the node is up, it is ready.
//!
//! A node whose session is over, because others took it for dead, begins another one
//! by itself. A cluster of one goes the same way as any.
//!
//! # Stop
//! All of it within `node.drain_timeout`, whatever peers or clients do: each step has
//! a part of it at most.
//! 1. Not ready any more, so that nobody is sent here.
//! 2. The node leaves: its shards are handed to others, to which it sends on what
//!    still comes. What others still sent here is answered or returned before it
//!    goes on.
//! 3. No new connections; streams take no more commands and finish those they
//!    took; who watches the health is told and let go; calls under way are finished.
//! 4. Leadership goes to another node.
//! 5. The engine finishes what it accepted and ends; the cluster is told.
//! 6. All ports close, the data directory is free.
//!
//! Killed instead, nothing acknowledged is lost (I-5): others take over, and the next
//! start recovers from the journal.

mod builder;
mod client_access;
mod cluster_part;
pub(crate) mod cluster_view;
pub(crate) mod engine_place;
mod error;
mod journal_url;
mod journal_wait;
mod membership;
mod peers;
mod ports;
mod ready;
mod reform;
mod shared_journal;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::event_sourced::EventSourced;
use perennial_persistence::persistence_id::{InvalidPersistenceId, PersistenceId};
use perennial_persistence::registry::NodeNr;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tonic_health::server::HealthReporter;

pub use self::builder::NodeBuilder;
pub use self::cluster_part::{ClusterPart, ClusterPartSetup};
pub use self::error::NodeError;
pub use self::journal_url::migrate_journal;
pub use self::membership::Ended;
pub use self::reform::reform_cluster;
pub use self::shared_journal::SharedJournal;
use crate::entity_carrier::EntityRoad;
use crate::entity_ref::EntityRef;
use crate::grpc::server;
use crate::http::Readiness;
use crate::intake::Intake;

/// Where clients reach a node unless it is told otherwise.
pub const GRPC_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7400);
/// Where health and metrics are unless told otherwise.
pub const HTTP_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7401);
/// Where other nodes reach a node unless told otherwise.
pub const PEER_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7402);

/// For whoever reads the HTTP port to hang up.
const HTTP_CLOSE_MAX: Duration = Duration::from_secs(1);
/// What the engine of a node that failed gets to answer what it had accepted.
const ENGINE_STOP_MAX: Duration = Duration::from_secs(5);

/// Until when each step of a stop may take, so that one that hangs leaves time to
/// those that follow, and all of them stay within the drain time-out.
struct StopTimes {
    drained: Instant,
    calls_finished: Instant,
    ended: Instant,
}

impl StopTimes {
    fn within(drain_timeout: Duration, now: Instant) -> Self {
        let part = |hundredths: u32| now + drain_timeout * hundredths / 100;
        Self {
            drained: part(60),
            calls_finished: part(75),
            ended: part(95),
        }
    }
}

/// A running node. Dropped without [`Node::stop`], it closes its ports and ends
/// like one that was killed.
pub struct Node {
    node_id: NodeNr,
    grpc_address: SocketAddr,
    http_address: SocketAddr,
    peer_address: SocketAddr,
    journal: String,
    drain_timeout: Duration,
    intake: Arc<Intake>,
    cluster_part: ClusterPart,
    health: HealthReporter,
    readiness: Readiness,
    readiness_task: AbortOnDropHandle<()>,
    stopping: CancellationToken,
    streams: TaskTracker,
    grpc_task: JoinHandle<()>,
    http_task: JoinHandle<()>,
    peer_task: JoinHandle<()>,
    close_on_drop: DropGuard,
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

    /// Where other nodes reach it, with the real port.
    #[must_use]
    pub fn peer_address(&self) -> SocketAddr {
        self.peer_address
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

    /// Opens the way for deliveries to the entities of the cluster, through this node.
    pub fn open_road(&self, road: &EntityRoad) {
        road.open(&self.intake);
    }

    /// Runs until `asked` completes or the node is taken out of the cluster, then
    /// stops.
    ///
    /// # Errors
    /// When the node has to end by itself.
    pub async fn run_until(mut self, asked: impl Future<Output = ()>) -> Result<(), NodeError> {
        let error = tokio::select! {
            () = asked => {
                self.stop().await;
                return Ok(());
            }
            ended = self.cluster_part.over() => match ended {
                Ended::Removed => {
                    tracing::info!("this node was taken out of the cluster: stopping");
                    self.stop().await;
                    return Ok(());
                }
                Ended::Failed(error) => error,
            },
            // Without an error they end only when they are asked to.
            _ = &mut self.grpc_task => NodeError::TaskEnded { task: "the gRPC port" },
            _ = &mut self.peer_task => NodeError::TaskEnded {
                task: "the port for other nodes",
            },
        };
        // Nothing can be finished any more, but what was accepted is answered.
        let engine_until = Instant::now() + ENGINE_STOP_MAX;
        self.cluster_part.stop_engine(engine_until).await;
        Err(error)
    }

    /// Stops in the order described in the module's documentation.
    pub async fn stop(mut self) {
        tracing::info!(
            within = ?self.drain_timeout,
            "stopping: what was accepted is finished first"
        );
        let until = StopTimes::within(self.drain_timeout, Instant::now());
        // It must not be ready again because of what the cluster says meanwhile.
        self.readiness_task.abort();
        let _ = (&mut self.readiness_task).await;
        self.readiness.set(false);
        server::set_health(&self.health, false).await;
        self.cluster_part.drain(until.drained).await;
        self.stopping.cancel();
        server::end_watches(&self.health).await;
        self.streams.close();
        self.finish_calls(until.calls_finished).await;
        self.cluster_part.end(until.ended).await;
        drop(self.close_on_drop);
        // A scraper that does not hang up must not keep the node.
        let hung_up = until.ended.min(Instant::now() + HTTP_CLOSE_MAX);
        let _ = timeout_at(hung_up, self.http_task).await;
        tracing::info!("stopped");
    }

    async fn finish_calls(&mut self, deadline: Instant) {
        let calls = async {
            self.streams.wait().await;
            let _ = (&mut self.grpc_task).await;
        };
        if timeout_at(deadline, calls).await.is_err() {
            tracing::warn!(
                "clients kept calls open for most of node.drain_timeout: they are cut off"
            );
            self.grpc_task.abort();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod start_test;
