//! The shard region: finds an entity's home and hands requests to it.
//!
//! Every request of a node enters here, wherever it comes from. The region turns
//! the entity's name into a shard, and the shard into a home by the state of the
//! cluster that this node has: it never asks another node where a shard is. A
//! request for an entity of this node goes to the engine at once. One for an entity
//! of another node goes there over the link between the two. One for a shard that
//! has no home at present waits, bounded in number and time.
//!
//! Parts: `region/slot.rs` (one shard) with `route.rs` (what happens to its commands,
//! pure), `link.rs` and `arrivals.rs` (between nodes), `keeper.rs` (in step with the
//! cluster), `departures.rs` (handoff, at the owner), `parting.rs` (its end, when the
//! owner stops), `errands.rs` (what is asked of an entity besides commands). It knows
//! nothing of gRPC nor of what entities do, and does not decide where shards live.
//! Next: `engine.rs` of the persistence crate, which takes the request to the entity.

mod arrivals;
mod departures;
mod errands;
mod figures;
mod inner;
mod keeper;
mod link;
mod link_events;
mod parcel;
mod parting;
mod route;
mod settings;
mod slot;

use std::sync::Arc;
use std::time::Instant;

use perennial_persistence::command::{Answer, ReplyTo, Request};
use perennial_persistence::command_error::CommandError;
use perennial_persistence::engine::EntityEngine;
use perennial_persistence::handing_back::{EngineHooks, ReadGuard};
use perennial_persistence::lease::ReadLease;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::registry::{NodeNr, Registry};
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::trace::Trace;
use perennial_persistence::writer::{Epoch, ShardNr};
use tokio::time::timeout;

use crate::control_plane::ControlPlane;
use crate::peer::{AcceptedStream, PeerError, PeerTransport};

pub use errands::EntityPlacement;
pub use settings::RegionSettings;

use inner::Inner;
use keeper::Keeper;
use route::Direction;
use slot::Host;

/// The epoch of every shard of a cluster of one: nothing ever moves.
const ONLY_EPOCH: Epoch = Epoch(1);

/// The shard region of a node; cheap to clone.
#[derive(Clone)]
pub struct Region {
    inner: Arc<Inner>,
    transport: Option<Arc<dyn PeerTransport>>,
}

impl Region {
    /// A region of a cluster of one: every shard lives here.
    ///
    /// # Panics
    /// When there are no shards, or more than 1,048,576, which configuration refuses.
    #[must_use]
    pub fn single_node(engine: EntityEngine, number_of_shards: u32) -> Self {
        let settings = RegionSettings::default();
        let inner = Inner::new(NodeNr::default(), number_of_shards, settings);
        let host = Arc::new(Host {
            session: engine.session(),
            engine,
            lease: None,
        });
        for shard in inner.shards() {
            let mut slot = inner.lock(shard);
            inner.redirect(&mut slot, Direction::Here(ONLY_EPOCH));
            slot.owned_here = Some(ONLY_EPOCH);
            slot.host = Some(Arc::clone(&host));
        }
        inner.set_host(Some(host));
        Self {
            inner: Arc::new(inner),
            transport: None,
        }
    }

    /// The region of a node of a cluster. It owns nothing before [`Region::host`], and
    /// is in step with the cluster while [`Region::run`] is polled.
    ///
    /// # Panics
    /// As [`Region::single_node`].
    #[must_use]
    pub fn new(
        node: NodeNr,
        number_of_shards: u32,
        transport: Arc<dyn PeerTransport>,
        settings: RegionSettings,
    ) -> Self {
        Self {
            inner: Arc::new(Inner::new(node, number_of_shards, settings)),
            transport: Some(transport),
        }
    }

    /// What an engine of this region is started with.
    #[must_use]
    pub fn engine_hooks(&self, read_guard: ReadGuard) -> EngineHooks {
        let inner = Arc::downgrade(&self.inner);
        EngineHooks {
            take_back: Arc::new(move |handed_back| match inner.upgrade() {
                Some(inner) => inner.take_back(handed_back),
                // Without a region there is nobody left to route for.
                None => (EngineHooks::default().take_back)(handed_back),
            }),
            read_guard,
        }
    }

    /// This node serves the shards that its engine's session owns, for as long as the
    /// lease holds. The engine is one that was started with
    /// [`Region::engine_hooks`].
    pub fn host(&self, engine: EntityEngine, lease: ReadLease) {
        let host = Host {
            session: engine.session(),
            engine,
            lease: Some(lease),
        };
        self.inner.set_host(Some(Arc::new(host)));
    }

    /// The session is over: nothing is given to its engine any more, which is
    /// returned, to be stopped. Commands wait until the node serves again or the
    /// shards have another home.
    pub fn leave(&self) -> Option<EntityEngine> {
        let host = self.inner.set_host(None)?;
        for shard in self.inner.shards() {
            self.inner.change(shard, |slot| {
                if matches!(slot.route.direction(), Direction::Here(_)) {
                    self.inner.redirect(slot, Direction::Nowhere);
                }
            });
        }
        Some(host.engine.clone())
    }

    /// Keeps the region in step with the cluster until the control plane ends. Poll
    /// it for as long as the node lives; when it is dropped, links break.
    pub async fn run<C: ControlPlane>(&self, control: Arc<C>, registry: Arc<dyn Registry>) {
        let Some(transport) = self.transport.clone() else {
            // A cluster of one is always in step.
            return std::future::pending().await;
        };
        let inner = Arc::clone(&self.inner);
        Keeper::new(inner, transport, control, registry).run().await;
    }

    /// Serves a stream of commands from another node until it ends.
    ///
    /// # Errors
    /// [`PeerError::WrongPeer`] when it is not for this node, or from another cluster
    /// or generation; [`PeerError::Unreachable`] after [`Region::part`]: nothing was
    /// taken from it.
    pub async fn accept(&self, stream: AcceptedStream) -> Result<(), PeerError> {
        if let Err(message) = self.inner.check(&stream.header) {
            return Err(PeerError::WrongPeer {
                node: stream.header.to,
                address: String::new(),
                message,
            });
        }
        let Some(_arriver) = self.inner.arrivers.enter() else {
            return Err(PeerError::Unreachable {
                node: stream.header.to,
                address: String::new(),
                message: "it stops and owns nothing any more".to_owned(),
            });
        };
        arrivals::serve(Arc::clone(&self.inner), stream).await;
        Ok(())
    }

    /// For a node that has left (see [`ClusterState::has_left`]) and is about to end:
    /// takes no more streams of other nodes, and waits until they have closed those
    /// there are, for they have nothing out here then. Returns whether they have, by
    /// [`RegionSettings::handoff_timeout`]: for that long they wait themselves. Safe to
    /// cancel.
    ///
    /// [`ClusterState::has_left`]: crate::cluster_state::ClusterState::has_left
    pub async fn part(&self) -> bool {
        let limit = self.inner.settings.handoff_timeout;
        timeout(limit, self.inner.arrivers.close()).await.is_ok()
    }

    /// The shard of an entity.
    #[must_use]
    pub fn shard_of(&self, persistence_id: &PersistenceId) -> ShardNr {
        self.inner.shard_of(persistence_id)
    }

    /// Commands that wait for a home of their shard.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.inner.waiting()
    }

    /// Sends a request to its entity. Never waits; always answers.
    pub fn deliver(
        &self,
        persistence_id: PersistenceId,
        request: Request,
        deadline: Option<Instant>,
        reply_to: ReplyTo,
    ) {
        self.deliver_traced(persistence_id, request, deadline, reply_to, Trace::NONE);
    }

    /// As [`Region::deliver`], for a request that belongs to a trace.
    pub fn deliver_traced(
        &self,
        persistence_id: PersistenceId,
        request: Request,
        deadline: Option<Instant>,
        reply_to: ReplyTo,
        trace: Trace,
    ) {
        let inner = &self.inner;
        inner.deliver(persistence_id, request, deadline, reply_to, trace);
    }

    /// Sends a request and waits for the answer. The deadline is checked before the
    /// entity handles the request; waiting no longer than that is the caller's
    /// business. Dropping the future does not take a request back that has begun.
    pub async fn ask(
        &self,
        persistence_id: PersistenceId,
        request: Request,
        deadline: Option<Instant>,
    ) -> Answer {
        let (reply_to, answer) = ReplyTo::ask();
        self.deliver(persistence_id, request, deadline, reply_to);
        // Dropped without an answer means that whoever had it broke down, at a
        // point that is not known.
        answer.await.unwrap_or(Err(CommandError::OwnerLost))
    }

    /// The state at a past number, on whatever node; see [`EntityEngine::state_at`].
    ///
    /// # Errors
    /// Those, and [`CommandError::ShardUnavailable`] while this node has no engine.
    pub async fn state_at(&self, persistence_id: &PersistenceId, nr: SequenceNr) -> Answer {
        let Some(host) = self.inner.host() else {
            let shard = self.shard_of(persistence_id).0;
            return Err(CommandError::ShardUnavailable { shard });
        };
        host.engine.state_at(persistence_id, nr).await
    }
}
