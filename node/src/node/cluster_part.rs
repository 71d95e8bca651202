//! A node's part in its cluster: all of a node but its ports.
//!
//! It enters the cluster, takes its part in the raft group, leads when it is elected,
//! routes and runs entities, and lives session after session. How messages travel
//! is up to whoever starts it: gRPC in `builder.rs`, a simulated network in the
//! `sim` crate. It knows no client. Next: `membership.rs`, its sessions.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use perennial_persistence::engine::EngineSettings;
use perennial_persistence::entity_types::EntityTypes;
use perennial_persistence::registry::{Incarnation, NodeAddresses, NodeNr, Registry};
use perennial_persistence::storage::Storage;
use perennial_sharding::cluster_figures::record_cluster;
use perennial_sharding::cluster_state::{Member, MemberStatus};
use perennial_sharding::control_plane::ControlPlane;
use perennial_sharding::forming::disk::NodeDisk;
use perennial_sharding::forming::entry::{Entered, Entry};
use perennial_sharding::forming::presence::{PresenceEnd, stay_present};
use perennial_sharding::heartbeats::JournalReach;
use perennial_sharding::leader::{Leader, LeaderSettings};
use perennial_sharding::lease::LivenessTimes;
use perennial_sharding::peer::{PeerTransport, SharedPeerHandler};
use perennial_sharding::raft::store::StoreIdentity;
use perennial_sharding::raft::{RaftControlPlane, RaftSettings};
use perennial_sharding::region::{Region, RegionSettings};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

use super::NodeError;
use super::engine_place::EnginePlace;
use super::membership::{Ended, Membership};
use super::peers::Peers;
use crate::config::Reads;
use crate::figures::FigureSource;

/// Giving leadership away takes less, or does not succeed.
const HANDOVER_MAX: Duration = Duration::from_secs(10);
/// What is said at the end, to a cluster that can do without.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// What a node's part in a cluster is made of.
#[derive(Clone)]
pub struct ClusterPartSetup {
    /// The entities it can run.
    pub types: EntityTypes,
    /// Shared by all nodes of the cluster.
    pub storage: Storage,
    /// What this node keeps.
    pub disk: Arc<dyn NodeDisk>,
    /// To the other nodes.
    pub transport: Arc<dyn PeerTransport>,
    /// Where this node is.
    pub addresses: NodeAddresses,
    /// Fixed by whoever comes first.
    pub number_of_shards: u32,
    /// The node's share of the shards relative to others.
    pub weight: u32,
    /// Of the raft group.
    pub raft: RaftSettings,
    /// From 0 to 1, drawn for each start; see
    /// [`RaftNode::luck`](perennial_sharding::raft::RaftNode::luck).
    pub luck: f64,
    /// Of heartbeats and leases.
    pub times: LivenessTimes,
    /// What the leader goes by.
    pub leader: LeaderSettings,
    /// Limits and times of the region.
    pub region: RegionSettings,
    /// Limits and times of the engine.
    pub engine: EngineSettings,
    /// What confirms replies that stored nothing.
    pub reads: Reads,
}

/// A node's part in its cluster. Dropped without [`ClusterPart::end`], it ends like
/// that of a node that was killed.
pub struct ClusterPart {
    incarnation: Incarnation,
    region: Region,
    control: RaftControlPlane,
    leader: Leader<RaftControlPlane>,
    figures: FigureSource,
    peers: SharedPeerHandler,
    membership: Arc<Membership>,
    /// Set once it has joined.
    member_task: Option<AbortOnDropHandle<Ended>>,
    presence_task: AbortOnDropHandle<PresenceEnd>,
    _close_on_drop: DropGuard,
}

impl ClusterPart {
    /// Enters the cluster: forms it, or waits until it is formed. Messages of other
    /// nodes can be handed to [`ClusterPart::peers`] when this returns, and have to be
    /// before it joins. Safe to cancel.
    ///
    /// # Errors
    /// [`NodeError`]; nothing is left running.
    pub async fn enter(setup: ClusterPartSetup) -> Result<Self, NodeError> {
        Self::enter_at(setup, EnginePlace::default()).await
    }

    /// As [`ClusterPart::enter`], with the engine in a place that others look at.
    pub(super) async fn enter_at(
        setup: ClusterPartSetup,
        place: EnginePlace,
    ) -> Result<Self, NodeError> {
        let registry = Arc::clone(&setup.storage.registry);
        let entry = Entry {
            registry: Arc::clone(&registry),
            disk: Arc::clone(&setup.disk),
            number_of_shards: setup.number_of_shards,
            addresses: setup.addresses.clone(),
            transport: Arc::clone(&setup.transport),
            settings: setup.raft,
            luck: setup.luck,
        };
        let entered = entry.enter().await?;
        let Entered {
            cluster,
            incarnation,
            control,
        } = entered.clone();
        let node = incarnation.node;
        let region = Region::new(
            node,
            cluster.number_of_shards,
            Arc::clone(&setup.transport),
            setup.region,
        );
        let leader = Leader::new(
            node,
            Arc::new(control.clone()),
            Arc::clone(&registry),
            setup.transport,
            setup.leader,
        );
        let figures = FigureSource::new(place.clone(), control.clone());
        let peers = Peers {
            me: StoreIdentity {
                cluster_id: cluster.cluster_id,
                generation: cluster.generation,
                node,
            },
            control: control.clone(),
            leader: leader.clone(),
            region: region.clone(),
            figures: figures.clone(),
        };
        let addresses = setup.addresses;
        let presence = stay_present(Arc::clone(&registry), entered, addresses.clone());
        let presence_task = AbortOnDropHandle::new(tokio::spawn(presence));
        let membership = Membership {
            member: Member {
                node,
                incarnation: incarnation.number,
                session: incarnation.session,
                address: addresses.address,
                peer_address: addresses.peer_address,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                weight: setup.weight,
                status: MemberStatus::Joining,
                removing: false,
            },
            control: control.clone(),
            region: region.clone(),
            leader: leader.clone(),
            times: setup.times,
            journal_reach: JournalReach::default(),
            types: setup.types,
            storage: setup.storage,
            engine_settings: setup.engine,
            reads: setup.reads,
            disk: setup.disk,
            place,
            stopping: CancellationToken::new(),
            removed: CancellationToken::new(),
        };
        let closing = CancellationToken::new();
        let part = Self {
            incarnation,
            region,
            control,
            leader,
            figures,
            peers: Arc::new(peers),
            membership: Arc::new(membership),
            member_task: None,
            presence_task,
            _close_on_drop: closing.clone().drop_guard(),
        };
        part.spawn_work(&closing, registry);
        Ok(part)
    }

    /// What goes on until it is over.
    fn spawn_work(&self, closing: &CancellationToken, registry: Arc<dyn Registry>) {
        let until_closed = |work: BoxFuture<'static, ()>| {
            tokio::spawn(closing.clone().run_until_cancelled_owned(work));
        };
        let leader = self.leader.clone();
        until_closed(Box::pin(async move { leader.lead().await }));
        let (control, node) = (self.control.clone(), self.node());
        until_closed(Box::pin(
            async move { record_cluster(&control, node).await },
        ));
        let figures = self.figures.clone();
        until_closed(Box::pin(async move { figures.keep_up().await }));
        let (reach, watched) = (self.membership.journal_reach.clone(), Arc::clone(&registry));
        until_closed(Box::pin(async move { reach.watch(&*watched).await }));
        let (region, control) = (self.region.clone(), Arc::new(self.control.clone()));
        until_closed(Box::pin(async move { region.run(control, registry).await }));
    }

    /// Joins the cluster, and lives as its member from then on, one session after
    /// the other. Waits as long as that takes.
    ///
    /// # Errors
    /// When the node can never join as it is: [`NodeError::Presence`], or its raft has
    /// failed.
    pub async fn join(&mut self) -> Result<(), NodeError> {
        let incarnation = self.incarnation;
        let lease = self.membership.host(&incarnation);
        let membership = Arc::clone(&self.membership);
        tokio::select! {
            () = membership.join(&incarnation) => {}
            error = broken(&mut self.presence_task, &self.control) => return Err(error),
        }
        let living = tokio::spawn(async move { membership.live(incarnation, lease).await });
        self.member_task = Some(AbortOnDropHandle::new(living));
        Ok(())
    }

    /// What messages of other nodes are handed to.
    #[must_use]
    pub fn peers(&self) -> SharedPeerHandler {
        Arc::clone(&self.peers)
    }

    /// The node's number, given by the database.
    #[must_use]
    pub fn node(&self) -> NodeNr {
        self.incarnation.node
    }

    /// The incarnation that it began with.
    #[must_use]
    pub fn incarnation(&self) -> &Incarnation {
        &self.incarnation
    }

    /// Where commands enter.
    #[must_use]
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// The replicated state.
    #[must_use]
    pub fn control(&self) -> &RaftControlPlane {
        &self.control
    }

    pub(super) fn leader(&self) -> &Leader<RaftControlPlane> {
        &self.leader
    }

    /// What the node measures about itself.
    pub(super) fn figures(&self) -> &FigureSource {
        &self.figures
    }

    /// Returns when it is over, though nobody asked. Safe to cancel.
    pub async fn over(&mut self) -> Ended {
        let living = async {
            match &mut self.member_task {
                Some(member_task) => member_task.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = living => ended.unwrap_or(Ended::Failed(NodeError::TaskEnded {
                task: "membership",
            })),
            error = broken(&mut self.presence_task, &self.control) => Ended::Failed(error),
        }
    }

    /// Hands all shards to other nodes, and waits until those know, until the deadline.
    /// From then on commands are sent on to them.
    pub async fn drain(&self, deadline: Instant) {
        self.membership.stopping.cancel();
        match timeout_at(deadline, self.membership.drain()).await {
            Ok(true) => self.part(deadline).await,
            // It keeps what nobody can be given.
            Ok(false) => {}
            Err(_) => {
                tracing::warn!("shards were not handed off in time: others take them over");
            }
        }
    }

    /// Waits until no other node has a command out here.
    async fn part(&self, deadline: Instant) {
        if timeout_at(deadline, self.region.part()).await != Ok(true) {
            tracing::warn!(
                "other nodes have not closed their streams of commands in time: what they have \
                 sent here last may fail with OWNER_LOST"
            );
        }
    }

    /// Ends it: leadership goes to another node, the engine finishes what it accepted,
    /// the cluster is told. Each of them has a part of the time until the deadline, so
    /// that a peer or a journal that hangs does not use it up. To be drained before,
    /// and given nothing to do any more.
    pub async fn end(mut self, deadline: Instant) {
        let began = Instant::now();
        let part = (deadline - began) / 4;
        let handing_over = self.control.hand_over_leadership(HANDOVER_MAX);
        let _ = timeout_at(began + part, handing_over).await;
        self.stop_engine(began + 3 * part).await;
        let farewell = deadline.min(Instant::now() + FAREWELL_MAX);
        let _ = timeout_at(farewell, self.membership.depart()).await;
        // Ended, not only told to end: it holds the data directory.
        if let Some(member_task) = &mut self.member_task
            && !member_task.is_finished()
        {
            member_task.abort();
            let _ = member_task.await;
        }
        let control = self.control.clone();
        drop(self);
        control.stop().await;
    }

    /// Lets the engine finish what it accepted, until the deadline.
    pub(super) async fn stop_engine(&self, deadline: Instant) {
        let Some(engine) = self.membership.place.get() else {
            return;
        };
        if timeout_at(deadline, engine.stop()).await.is_err() {
            tracing::warn!("entities were not finished in time: they recover from the journal");
        }
    }
}

/// Why a node cannot be a member, whether it has joined or not; returns when that is so.
async fn broken(
    presence: &mut AbortOnDropHandle<PresenceEnd>,
    control: &RaftControlPlane,
) -> NodeError {
    tokio::select! {
        ended = presence => match ended {
            Ok(end) => end.into(),
            Err(_) => NodeError::TaskEnded { task: "the node's presence" },
        },
        error = control.failed() => error.into(),
    }
}
