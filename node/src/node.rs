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

mod builder;
mod error;
mod identity;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::engine::EntityEngine;
use perennial_persistence::event_sourced::EventSourced;
use perennial_persistence::persistence_id::{InvalidPersistenceId, PersistenceId};
use perennial_persistence::registry::NodeNr;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tonic_health::server::HealthReporter;

pub use self::builder::{NodeBuilder, migrate_journal};
pub use self::error::NodeError;
use crate::data_dir::DataDir;
use crate::entity_ref::EntityRef;
use crate::grpc::server::{self, ServeError};
use crate::http::Readiness;
use crate::intake::Intake;

/// Where clients reach a node unless it is told otherwise.
pub const GRPC_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7400);
/// Where health and metrics are unless told otherwise.
pub const HTTP_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7401);
/// Where other nodes reach a node unless told otherwise.
pub const PEER_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7402);

/// What the engine gets to finish even when clients used up the drain time.
const ENGINE_STOP_MIN: Duration = Duration::from_secs(5);

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
