//! A node's life as a member of its cluster: one session after the other.
//!
//! A session begins in the database, which fences the one before (I-2); then an
//! engine writes under it, and the node joins. It is over when the journal refuses
//! it, or the cluster knows another one or none: then the engine is stopped and the
//! next session begins, while the process, its ports and its part in the raft group
//! stay. What happens within a session is decided elsewhere: who owns what in the
//! sharding crate, what entities do in the engine.

use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::engine::{EngineSettings, EntityEngine};
use perennial_persistence::entity_types::EntityTypes;
use perennial_persistence::handing_back::ReadGuard;
use perennial_persistence::lease::ReadLease;
use perennial_persistence::registry::{Incarnation, NodeNr};
use perennial_persistence::storage::Storage;
use perennial_persistence::writer::SessionUuid;
use perennial_sharding::cluster_state::{ClusterCommand, ClusterState, Member};
use perennial_sharding::control_plane::ControlPlane;
use perennial_sharding::forming::disk::NodeDisk;
use perennial_sharding::forming::entry::EntryError;
use perennial_sharding::forming::identity::begin_again;
use perennial_sharding::heartbeats::{JournalReach, Signs, beat};
use perennial_sharding::leader::Leader;
use perennial_sharding::lease::LivenessTimes;
use perennial_sharding::raft::RaftControlPlane;
use perennial_sharding::region::Region;
use perennial_sharding::wall_clock::unix_millis;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::NodeError;
use super::engine_place::EnginePlace;
use crate::config::Reads;

/// Pause before something that failed is tried again; doubles up to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_LAST: Duration = Duration::from_secs(2);
/// For so long a node that was taken out waits for the log to say so.
const LAST_NEWS_MAX: Duration = Duration::from_secs(2);
/// What an engine whose session is over gets to answer what it had accepted.
const ENGINE_STOP_MAX: Duration = Duration::from_secs(5);

/// What a session is begun with.
pub(super) struct Membership {
    /// The node's number, addresses and so on; incarnation and session are filled in.
    pub(super) member: Member,
    pub(super) control: RaftControlPlane,
    pub(super) region: Region,
    pub(super) leader: Leader<RaftControlPlane>,
    pub(super) times: LivenessTimes,
    pub(super) journal_reach: JournalReach,
    pub(super) types: EntityTypes,
    pub(super) storage: Storage,
    pub(super) engine_settings: EngineSettings,
    pub(super) reads: Reads,
    pub(super) disk: Arc<dyn NodeDisk>,
    pub(super) place: EnginePlace,
    /// No session begins after this.
    pub(super) stopping: CancellationToken,
    /// The node was taken out of the cluster.
    pub(super) removed: CancellationToken,
}

/// Why a node is no member any more and will not be one again.
#[derive(Debug)]
pub enum Ended {
    /// It was taken out of the cluster.
    Removed,
    /// It cannot go on.
    Failed(NodeError),
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// The journal refuses its writes.
    Fenced,
    /// The cluster took the node for dead, or knows a later session.
    NotCurrent,
    /// The node was taken out of the cluster.
    Removed,
}

impl Membership {
    fn node(&self) -> NodeNr {
        self.member.node
    }

    /// Starts an engine for a session that has begun in the database. It is given
    /// nothing before the node has joined.
    pub(super) fn host(&self, incarnation: &Incarnation) -> ReadLease {
        let lease = ReadLease::new(Instant::now().into_std());
        let read_guard = match self.reads {
            Reads::Lease => ReadGuard::Lease(lease.clone()),
            Reads::Journal => ReadGuard::Journal,
        };
        let engine = EntityEngine::start_in_cluster(
            self.types.clone(),
            self.storage.clone(),
            incarnation.session,
            self.engine_settings.clone(),
            self.region.engine_hooks(read_guard),
        );
        self.place.put(engine.clone(), lease.clone());
        self.region.host(engine, lease.clone());
        lease
    }

    /// Joins the cluster with a session, until the cluster says it has.
    pub(super) async fn join(&self, incarnation: &Incarnation) {
        let member = Member {
            incarnation: incarnation.number,
            session: incarnation.session,
            ..self.member.clone()
        };
        let mut pause = PAUSE_FIRST;
        loop {
            let at = unix_millis();
            match self.control.join(member.clone(), at).await {
                Ok(()) => return,
                Err(error) => tracing::warn!(%error, "joining the cluster takes long"),
            }
            wait(&mut pause).await;
        }
    }

    /// Lives session after session, from one that has been hosted and has joined.
    /// Dropped, the node's part in the cluster ends like that of one that was killed.
    pub(super) async fn live(&self, mut incarnation: Incarnation, mut lease: ReadLease) -> Ended {
        loop {
            let over = self.until_over(incarnation.session, lease).await;
            if over == Over::Removed {
                self.removed.cancel();
            }
            if self.stopping.is_cancelled() {
                return std::future::pending().await;
            }
            if over == Over::Removed {
                return Ended::Removed;
            }
            self.end_session().await;
            tracing::warn!(
                node = self.node().0,
                reason = ?over,
                "the session is over: rejoining with a new one"
            );
            incarnation = match self.begin_next().await {
                Ok(next) => next,
                Err(error) => return Ended::Failed(error),
            };
            lease = self.host(&incarnation);
            self.join(&incarnation).await;
            tracing::info!(
                node = self.node().0,
                incarnation = incarnation.number,
                "rejoined"
            );
        }
    }

    async fn until_over(&self, session: SessionUuid, lease: ReadLease) -> Over {
        let Some(engine) = self.place.get() else {
            return Over::NotCurrent;
        };
        let over = tokio::select! {
            () = engine.fenced() => Over::Fenced,
            () = self.beat(session, &lease) => Over::NotCurrent,
            () = self.until_not_current(session) => Over::NotCurrent,
        };
        match self.control.state().borrow().member(self.node()) {
            None => Over::Removed,
            // The cluster tells nodes that it has removed no more than that.
            Some(member) if member.removing => Over::Removed,
            Some(_) => over,
        }
    }

    /// Gives signs of life until the leader says that the session is over.
    async fn beat(&self, session: SessionUuid, lease: &ReadLease) {
        let signs = || Signs {
            journal_in_reach: self.journal_reach.is_in_reach(),
            live_entities: self.place.live_entities() as u64,
        };
        beat(
            &self.leader,
            &self.control,
            self.times,
            session,
            lease,
            signs,
        )
        .await;
    }

    /// Returns when the cluster's state has another session of the node, or none, or
    /// has declared it down.
    async fn until_not_current(&self, session: SessionUuid) {
        let mut state = self.control.state();
        let node = self.node();
        let over = |state: &Arc<ClusterState>| !state.is_current(node, session);
        if state.wait_for(over).await.is_err() {
            // Raft has stopped, which ends the node by another way.
            std::future::pending::<()>().await;
        }
    }

    async fn end_session(&self) {
        self.region.leave();
        let Some(engine) = self.place.take() else {
            return;
        };
        let stopped = tokio::time::timeout(ENGINE_STOP_MAX, engine.stop()).await;
        if stopped.is_err() {
            tracing::warn!("entities of the session that is over were not finished in time");
        }
    }

    async fn begin_next(&self) -> Result<Incarnation, NodeError> {
        let mut pause = PAUSE_FIRST;
        loop {
            let registry = &*self.storage.registry;
            match begin_again(registry, &*self.disk, self.node()).await {
                Ok(next) => return Ok(next),
                Err(EntryError::Registry(error)) => {
                    tracing::warn!(%error, "no new session can be begun yet");
                }
                Err(error) => return Err(error.into()),
            }
            wait(&mut pause).await;
        }
    }

    /// Tells the cluster that the node leaves, so that it is given no shard any more,
    /// and waits until it has none. Does not wait when nobody is there to take them, or
    /// to decide who does. Returns whether it has left.
    pub(super) async fn drain(&self) -> bool {
        tokio::select! {
            left = self.leave() => left,
            () = self.unheard() => {
                tracing::warn!(
                    unheard_for = ?self.unheard_max(),
                    "no leader has heard this node for long enough to take it for dead, so its \
                     shards cannot be handed off: if enough nodes run, they take them over"
                );
                false
            }
        }
    }

    fn unheard_max(&self) -> Duration {
        self.times.down_after() * 2
    }

    async fn leave(&self) -> bool {
        let Some(engine) = self.place.get() else {
            return false;
        };
        let (node, session) = (self.node(), engine.session());
        let mut state = self.control.state();
        let is_drained = move |state: &Arc<ClusterState>| is_drained(state, node, session);
        let is_to_leave = !is_drained(&state.borrow()) && !self.removed.is_cancelled();
        if is_to_leave {
            let leave = ClusterCommand::Leave {
                node,
                session,
                remove: false,
                at: unix_millis(),
            };
            if let Err(error) = self.control.propose(leave).await {
                tracing::warn!(%error, "the shards cannot be handed off: others take them over");
                return false;
            }
        }
        tokio::select! {
            drained = state.wait_for(is_drained) => {
                drained.is_ok_and(|state| state.has_left(node, session))
            }
            () = self.out_of_hearing() => true,
        }
    }

    /// Returns when the node has been without its lease for so long that a leader, if
    /// there is one, has taken it for dead, even one that had to be found first. Not when
    /// it was taken out: see [`Self::out_of_hearing`].
    async fn unheard(&self) {
        let mut heard = Instant::now();
        while heard.elapsed() < self.unheard_max() {
            tokio::time::sleep(self.times.heartbeat_interval()).await;
            if self.place.lease_holds() || self.removed.is_cancelled() {
                heard = Instant::now();
            }
        }
    }

    /// Returns when the node was taken out and what it still gets of the log, which says
    /// so, should have come.
    async fn out_of_hearing(&self) {
        self.removed.cancelled().await;
        tokio::time::sleep(LAST_NEWS_MAX).await;
    }

    /// Tells the cluster that the node has stopped, so that nobody waits for it to
    /// prove dead.
    pub(super) async fn depart(&self) {
        let Some(engine) = self.place.get() else {
            return;
        };
        let down = ClusterCommand::Down {
            node: self.node(),
            session: engine.session(),
            at: unix_millis(),
        };
        if let Err(error) = self.control.propose(down).await {
            tracing::debug!(%error, "the cluster will find out that this node has stopped");
        }
    }
}

/// Whether a session has no shards and is given none any more, or there is nobody else
/// to have them.
fn is_drained(state: &ClusterState, node: NodeNr, session: SessionUuid) -> bool {
    let others = state.members_up().any(|member| member.node != node);
    !others || !state.is_current(node, session) || state.has_left(node, session)
}

async fn wait(pause: &mut Duration) {
    tokio::time::sleep(*pause).await;
    *pause = (*pause * 2).min(PAUSE_LAST);
}
