//! A member of the raft group: started, asked, and stopped.
//!
//! [`RaftControlPlane`] is what the rest of a node sees of raft. Next: `proposals.rs`
//! for how a change reaches the leader, `network.rs` and `answers.rs` for what travels between
//! members, `membership.rs` for who votes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::EmptyNode;
use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::SessionUuid;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::address_book::AddressBook;
use super::confirmation::Confirmations;
use super::error::RaftError;
use super::leadership::{follow_leadership, warn_of_two};
use super::log_store::LogStore;
use super::network::{Network, PeerHeaders};
use super::proposals::PROPOSALS_MAX;
use super::settings::RaftSettings;
use super::state_machine::StateMachine;
use super::store::RaftStore;
use super::types::Raft;
use super::{handover, membership};
use crate::cluster_state::{ClusterCommand, ClusterState, Member};
use crate::control_plane::{ControlPlane, Leadership, ProposeError};
use crate::peer::PeerTransport;

/// For all attempts together.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Raft ends with its tasks; a disk that does not answer must not hold that up.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// What a member of the raft group is started with.
pub struct RaftNode {
    /// Opened for this node; a new one is empty.
    pub store: RaftStore,
    /// Fixed when the cluster was formed.
    pub number_of_shards: u32,
    /// Under which this node writes at the moment.
    pub session: SessionUuid,
    /// To the other nodes.
    pub transport: Arc<dyn PeerTransport>,
    /// Where they are, as far as known; it learns from the replicated state.
    pub addresses: AddressBook,
    /// How patient the group is.
    pub settings: RaftSettings,
    /// From 0 to 1, drawn for each start: places this node's election time-out
    /// between the least and the most, so that not all stand at once.
    pub luck: f64,
}

/// A member of the raft group; clones are the same. It stops when all are dropped,
/// as after a kill, or with [`RaftControlPlane::stop`].
#[derive(Clone)]
pub struct RaftControlPlane {
    pub(super) shared: Arc<Shared>,
    _stop_on_drop: Arc<DropGuard>,
}

pub(super) struct Shared {
    pub(super) me: NodeNr,
    pub(super) raft: Raft,
    pub(super) state: watch::Receiver<Arc<ClusterState>>,
    pub(super) leadership: watch::Sender<Leadership>,
    pub(super) network: Network,
    pub(super) store: RaftStore,
    confirmations: Confirmations,
    pub(super) proposals: Semaphore,
    /// How often somebody was asked who need not lead.
    pub(super) asked_around: AtomicUsize,
    /// Set while leadership is given away: what is proposed meanwhile waits for the
    /// next leader, and nothing is confirmed, as each round would have the voters
    /// stand by the present one for longer.
    pub(super) handing_over: AtomicBool,
    pub(super) settings: RaftSettings,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

impl RaftControlPlane {
    /// Starts a member. With an empty store it waits until it is taken into a group,
    /// or [forms one](Self::form); with another it goes on where it stopped, and
    /// leads at once if it is the only voter.
    ///
    /// # Errors
    /// [`RaftError`].
    pub async fn start(node: RaftNode) -> Result<Self, RaftError> {
        node.settings.validate()?;
        let identity = node.store.identity();
        let me = identity.node;
        let fresh = ClusterState::new(
            identity.cluster_id,
            identity.generation,
            node.number_of_shards,
        );
        let unusable = |error: std::io::Error| RaftError::Store {
            message: error.to_string(),
        };
        let machine = StateMachine::new(node.store.clone(), fresh, node.addresses.clone())
            .map_err(unusable)?;
        let state = machine.published();
        let network = Network {
            transport: node.transport,
            addresses: node.addresses,
            headers: PeerHeaders {
                from: identity,
                session: Arc::new(Mutex::new(node.session)),
            },
        };
        let raft = Raft::new(
            me.0,
            node.settings.for_openraft(node.luck),
            network.clone(),
            LogStore::new(node.store.clone()),
            machine,
        )
        .await
        .map_err(|error| RaftError::stopped(&error))?;

        let (confirmations, rounds) =
            Confirmations::new(raft.clone(), state.clone(), node.settings.election_min);
        let shared = Arc::new(Shared {
            me,
            raft: raft.clone(),
            state: state.clone(),
            leadership: watch::channel(Leadership::default()).0,
            network,
            store: node.store,
            confirmations,
            proposals: Semaphore::new(PROPOSALS_MAX),
            asked_around: AtomicUsize::new(0),
            handing_over: AtomicBool::new(false),
            settings: node.settings.clone(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let follow = follow_leadership(raft.clone(), shared.leadership.clone());
        let keep_up = membership::keep_up(me, raft.clone(), state.clone(), node.settings);
        shared.spawn(rounds);
        shared.spawn(follow);
        shared.spawn(keep_up);
        shared.spawn(warn_of_two(state));
        shared.spawn_last(raft.clone());
        let control = Self {
            _stop_on_drop: Arc::new(shared.stopping.clone().drop_guard()),
            shared,
        };
        control.elect_only_voter().await?;
        Ok(control)
    }

    /// A restarted member that voted alone has nobody to wait for.
    async fn elect_only_voter(&self) -> Result<(), RaftError> {
        let raft = &self.shared.raft;
        let alone = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow();
            metrics.membership_config.voter_ids().eq([self.shared.me.0])
                && metrics.current_leader.is_none()
        };
        if alone {
            let elected = raft.trigger().elect().await;
            elected.map_err(|error| RaftError::stopped(&error))?;
        }
        Ok(())
    }

    /// Makes this node the only voter of a new group, and returns when it leads.
    /// Does nothing to a group that has been formed already. Safe to cancel and to
    /// repeat.
    ///
    /// # Errors
    /// [`RaftError::Stopped`], or [`RaftError::NotElected`].
    pub async fn form(&self, within: Duration) -> Result<(), RaftError> {
        use openraft::error::{InitializeError, RaftError as OpenraftError};

        let shared = &self.shared;
        let alone = std::collections::BTreeMap::from([(shared.me.0, EmptyNode::new())]);
        match shared.raft.initialize(alone).await {
            Ok(()) | Err(OpenraftError::APIError(InitializeError::NotAllowed(_))) => {}
            Err(error) => return Err(RaftError::stopped(&error)),
        }
        let mut leadership = shared.leadership.subscribe();
        let me = Some(shared.me);
        match timeout(within, leadership.wait_for(|now| now.leader == me)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(RaftError::NotElected {
                node: shared.me,
                within,
            }),
        }
    }

    /// Makes this node a member of the cluster, or a returning one, with a new
    /// session, and returns when its own state shows that. Safe to cancel and to
    /// repeat.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub async fn join(&self, member: Member, at: u64) -> Result<(), ProposeError> {
        let deadline = Instant::now() + PROPOSE_TIMEOUT;
        *self
            .shared
            .network
            .headers
            .session
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = member.session;
        let join = ClusterCommand::Join { member, at };
        let index = self.shared.propose_until(join, deadline).await?;
        let mut state = self.shared.state.clone();
        let applied = state.wait_for(|state| state.index >= index);
        match timeout_at(deadline, applied).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(ProposeError::Unknown {
                message: format!("the leader has not sent the log up to {index} yet"),
            }),
        }
    }

    /// Returns when raft has stopped by itself, which it does when its store fails:
    /// the node must then end, for it can neither lead nor learn.
    pub async fn failed(&self) -> RaftError {
        let mut metrics = self.shared.raft.metrics();
        let failure = match metrics.wait_for(|m| m.running_state.is_err()).await {
            Ok(metrics) => metrics.running_state.clone().err(),
            Err(_) => None,
        };
        RaftError::Stopped {
            message: failure.map_or_else(|| "its task ended".to_owned(), |e| e.to_string()),
        }
    }

    /// The numbers of the voters, for people.
    #[must_use]
    pub fn voters(&self) -> Vec<NodeNr> {
        let metrics = self.shared.raft.metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.voter_ids().map(NodeNr).collect()
    }

    /// Where other nodes are, as far as this one knows.
    #[must_use]
    pub fn addresses(&self) -> &AddressBook {
        &self.shared.network.addresses
    }

    /// Stops the member and closes its store. Everything acknowledged is on disk.
    pub async fn stop(&self) {
        self.shared.stopping.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

impl ControlPlane for RaftControlPlane {
    fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.shared.state.clone()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.leadership.subscribe()
    }

    async fn propose(&self, command: ClusterCommand) -> Result<u64, ProposeError> {
        let deadline = Instant::now() + PROPOSE_TIMEOUT;
        self.shared.propose_until(command, deadline).await
    }

    async fn confirm_leadership(&self) -> Result<(), ProposeError> {
        if self.shared.handing_over.load(Ordering::SeqCst) {
            let message = "leadership is being handed over".to_owned();
            return Err(ProposeError::NoLeader { message });
        }
        self.shared.confirmations.confirm().await
    }

    async fn hand_over_leadership(&self, within: Duration) -> bool {
        handover::hand_over(&self.shared, within).await
    }
}

impl Shared {
    pub(super) fn leader(&self) -> Option<NodeNr> {
        self.leadership.borrow().leader
    }

    /// Runs a task until this member stops.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stopping = self.stopping.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = task => {}
                () = stopping.cancelled() => {}
            }
        });
    }

    /// Ends raft when this member stops.
    fn spawn_last(&self, raft: Raft) {
        let (stopping, store) = (self.stopping.clone(), self.store.clone());
        self.tasks.spawn(async move {
            stopping.cancelled().await;
            let ended = async {
                if let Err(error) = raft.shutdown().await {
                    tracing::warn!(%error, "raft did not end as it should");
                }
                store.close().await;
            };
            if timeout(STOP_TIMEOUT, ended).await.is_err() {
                tracing::warn!("the raft store is slow: it is left as after a kill");
            }
        });
    }
}
