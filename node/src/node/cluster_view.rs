//! The cluster as this node knows it, for people: its own state of it, and the
//! numbers of live entities, which the leader has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use perennial_persistence::registry::NodeNr;
use perennial_sharding::cluster_state::ClusterState;
use perennial_sharding::control_plane::{ControlPlane, Leadership};
use perennial_sharding::leader::Leader;
use perennial_sharding::raft::RaftControlPlane;

/// The cluster as this node knows it; cheap to clone.
#[derive(Clone)]
pub(crate) struct ClusterView {
    pub(super) control: RaftControlPlane,
    pub(super) leader: Leader<RaftControlPlane>,
}

impl ClusterView {
    pub(crate) fn state(&self) -> Arc<ClusterState> {
        Arc::clone(&self.control.state().borrow())
    }

    pub(crate) fn leadership(&self) -> Leadership {
        *self.control.leadership().borrow()
    }

    pub(crate) fn voters(&self) -> BTreeSet<NodeNr> {
        self.control.voters().into_iter().collect()
    }

    pub(crate) fn control(&self) -> &RaftControlPlane {
        &self.control
    }

    /// By node, as of their last signs of life; none of them while no leader answers.
    pub(crate) async fn live_entities(&self) -> BTreeMap<NodeNr, u64> {
        self.leader.live_entities().await.into_iter().collect()
    }
}
