//! The replicated [`ClusterState`], as the rest of a node sees it.
//!
//! The only door to raft: openraft's types stay behind it, in `raft/`. Every node
//! has the state; changes go to the leader, wherever it is. Next: `cluster_state.rs`.

use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::registry::NodeNr;
use tokio::sync::watch;

use crate::cluster_state::{ClusterCommand, ClusterState};

/// Who leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leadership {
    /// As far as this node knows: one that was cut off takes itself for the leader
    /// for as long as it is; see [`ControlPlane::confirm_leadership`].
    pub leader: Option<NodeNr>,
    /// Never falls. A leader that was restarted before anybody missed it goes on in the
    /// same term; and a node with a higher number may take over within one.
    pub term: u64,
}

/// Why a change was not committed, or is not known to be.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// There is no leader, or it cannot be reached: try again.
    #[error("the cluster has no leader that can be reached: retry later ({message})")]
    NoLeader {
        /// What was tried.
        message: String,
    },
    /// It may be committed, or not: commands can be repeated.
    #[error("the leader did not say whether the change is committed: repeat it ({message})")]
    Unknown {
        /// What happened.
        message: String,
    },
}

/// The replicated state; cheap to clone. Shapes shown here are what users of it
/// rely on; raft fills them in.
pub trait ControlPlane: Send + Sync + 'static {
    /// The state as this node has applied it; changes with every applied command.
    fn state(&self) -> watch::Receiver<Arc<ClusterState>>;

    /// Who leads, as far as this node knows.
    fn leadership(&self) -> watch::Receiver<Leadership>;

    /// Commits a change, through the leader if that is another node. Returns the
    /// index at which it is applied here or will be. Gives up after some seconds. Safe
    /// to cancel; then it may be committed all the same.
    ///
    /// # Errors
    /// [`ProposeError`].
    fn propose(
        &self,
        command: ClusterCommand,
    ) -> impl Future<Output = Result<u64, ProposeError>> + Send;

    /// Returns when a quorum has confirmed, after this call, that this node leads, and
    /// everything that was committed before is in this node's state: look at the
    /// state afterwards, not before. Who asks at the same time shares the
    /// confirmation. Safe to cancel.
    ///
    /// # Errors
    /// [`ProposeError::NoLeader`] when it does not, or no quorum answers in time.
    fn confirm_leadership(&self) -> impl Future<Output = Result<(), ProposeError>> + Send;

    /// Gives leadership away, as before a planned stop. Returns whether another node
    /// leads; if not, this one goes on, or nobody does for the moment. Safe to cancel:
    /// then this one goes on.
    fn hand_over_leadership(&self, within: Duration) -> impl Future<Output = bool> + Send;
}
