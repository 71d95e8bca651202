//! The cluster as this node knows it, for people: its own state of it, the numbers of
//! live entities, which the leader has, and what nodes measure about themselves, which
//! they are asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use perennial_persistence::registry::NodeNr;
use perennial_sharding::cluster_state::{ClusterState, Member, MemberStatus};
use perennial_sharding::control_plane::{ControlPlane, Leadership};
use perennial_sharding::leader::Leader;
use perennial_sharding::peer::{
    NodeFigures, Peer, PeerHeader, PeerRequest, PeerResponse, PeerTransport,
};
use perennial_sharding::raft::RaftControlPlane;

use crate::figures::FigureSource;

/// How long a node may take to say how it is.
const FIGURES_MAX: Duration = Duration::from_secs(1);

/// The cluster as this node knows it; cheap to clone.
#[derive(Clone)]
pub(crate) struct ClusterView {
    pub(super) node: NodeNr,
    pub(super) control: RaftControlPlane,
    pub(super) leader: Leader<RaftControlPlane>,
    pub(super) transport: Arc<dyn PeerTransport>,
    pub(super) figures: FigureSource,
}

impl ClusterView {
    /// This node.
    pub(crate) fn node(&self) -> NodeNr {
        self.node
    }

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

    /// What the nodes of this state measure about themselves; those that do not answer
    /// soon are left out.
    pub(crate) async fn figures(&self, state: &ClusterState) -> BTreeMap<NodeNr, NodeFigures> {
        let members = state.members.values();
        let alive = members.filter(|member| member.status != MemberStatus::Down);
        let asked = alive.map(|member| async move {
            let figures = if member.node == self.node {
                self.figures.now()
            } else {
                self.ask(state, member).await?
            };
            Some((member.node, figures))
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    async fn ask(&self, state: &ClusterState, member: &Member) -> Option<NodeFigures> {
        let peer = Peer {
            node: member.node,
            address: member.peer_address.clone(),
        };
        let header = PeerHeader {
            cluster_id: state.cluster_id,
            generation: state.generation,
            from: self.node,
            session: state.member(self.node)?.session,
            to: member.node,
        };
        let request = PeerRequest::Figures;
        match self
            .transport
            .call(&peer, header, request, FIGURES_MAX)
            .await
        {
            Ok(PeerResponse::Figures(figures)) => Some(*figures),
            _ => None,
        }
    }
}
