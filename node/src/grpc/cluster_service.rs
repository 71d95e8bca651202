//! `ClusterService`: the cluster as this node's state of it shows it, and what
//! people ask of it.
//!
//! Everything but the numbers of live entities is known here; those the leader has.
//! What is decided from the answers is decided elsewhere: draining a node only tells
//! the cluster that it is to leave. Next: `coordinator.rs` of the sharding crate.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use perennial_persistence::engine::EntityState;
use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::ShardNr;
use perennial_sharding::cluster_state::{self, ClusterCommand, ClusterState, Home, MemberStatus};
use perennial_sharding::control_plane::{ControlPlane, Leadership};
use perennial_sharding::wall_clock::unix_millis;
use tonic::{Request, Response, Status};

use super::audit::{AdminAction, Audit};
use super::client::Client;
use super::request::parse_entity;
use super::status::{ServiceError, status_of};
use crate::intake::Intake;
use crate::node::cluster_view::ClusterView;
use crate::proto::v1;
use crate::proto::v1::get_cluster_response::{Member, RecentEvent, Shard};

/// The service; one for a node.
pub(crate) struct ClusterService {
    pub(crate) intake: Arc<Intake>,
    pub(crate) view: ClusterView,
    pub(crate) audit: Arc<Audit>,
}

#[tonic::async_trait]
impl v1::cluster_service_server::ClusterService for ClusterService {
    async fn get_cluster(
        &self,
        _: Request<v1::GetClusterRequest>,
    ) -> Result<Response<v1::GetClusterResponse>, Status> {
        let live_entities = self.view.live_entities().await;
        let state = self.view.state();
        let Leadership { leader, term } = self.view.leadership();
        let voters = self.view.voters();
        let member = |member: &cluster_state::Member| Member {
            node_id: shown(member.node),
            address: member.address.clone(),
            peer_address: member.peer_address.clone(),
            session: member.session.to_string(),
            status: status_name(member.status).to_owned(),
            version: member.version.clone(),
            voter: voters.contains(&member.node),
            // No more than there are shards.
            shards_owned: state.shards_of(member.node).count() as u32,
            live_entities: live_entities.get(&member.node).copied().unwrap_or(0),
        };
        Ok(Response::new(v1::GetClusterResponse {
            cluster_id: state.cluster_id.to_string(),
            number_of_shards: state.number_of_shards(),
            leader_node_id: leader.map(shown).unwrap_or_default(),
            term,
            members: state.members.values().map(member).collect(),
            shards: state.shards().map(shown_shard).collect(),
            recent_events: state.recent_events.iter().map(shown_event).collect(),
        }))
    }

    async fn describe_entity(
        &self,
        request: Request<v1::DescribeEntityRequest>,
    ) -> Result<Response<v1::DescribeEntityResponse>, Status> {
        let asked = request.into_inner();
        let (_, persistence_id) = parse_entity(&self.intake, &asked.entity_type, &asked.entity_id)?;
        let _in_flight = self.intake.admission.admit().map_err(status_of)?;
        let described = self.intake.region.describe(&persistence_id).await;
        let placement = described.map_err(status_of)?;
        let ShardNr(shard_id) = placement.shard;
        let entity = placement.entity;
        Ok(Response::new(v1::DescribeEntityResponse {
            shard_id,
            node_id: placement.node.map(shown).unwrap_or_default(),
            epoch: placement.epoch.0,
            state: state_name(entity.state).to_owned(),
            sequence_nr: entity.sequence_nr.get(),
            queued: u32::try_from(entity.queued).unwrap_or(u32::MAX),
            waiting_for: entity.waiting_for.into_owned(),
        }))
    }

    async fn drain(
        &self,
        request: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::DrainResponse>, Status> {
        let client = Client::of(request.extensions())?;
        let v1::DrainRequest { node_id, remove } = request.into_inner();
        let draining = async {
            let leave = leave(&self.view.state(), &node_id, remove)?;
            Ok(self.view.control().propose(leave).await?)
        };
        let action = AdminAction::Drain {
            node_id: node_id.clone(),
            remove,
        };
        self.audit.admin(&client, &action, draining).await?;
        Ok(Response::new(v1::DrainResponse {}))
    }

    async fn passivate(
        &self,
        request: Request<v1::PassivateRequest>,
    ) -> Result<Response<v1::PassivateResponse>, Status> {
        let client = Client::of(request.extensions())?;
        let asked = request.into_inner();
        let passivating = async {
            let (_, persistence_id) =
                parse_entity(&self.intake, &asked.entity_type, &asked.entity_id)?;
            let _in_flight = self.intake.admission.admit()?;
            Ok(self.intake.region.passivate(&persistence_id).await?)
        };
        let action = AdminAction::Passivate {
            entity_type: asked.entity_type.clone(),
            entity_id: asked.entity_id.clone(),
        };
        self.audit.admin(&client, &action, passivating).await?;
        Ok(Response::new(v1::PassivateResponse {}))
    }
}

/// What tells the cluster that a node is to leave.
fn leave(
    state: &ClusterState,
    node_id: &str,
    remove: bool,
) -> Result<ClusterCommand, ServiceError> {
    let node = node_id.parse().ok().map(NodeNr);
    let Some(member) = node.and_then(|node| state.member(node)) else {
        let known: Vec<String> = state.members.keys().copied().map(shown).collect();
        return Err(ServiceError::NodeUnknown {
            node_id: node_id.chars().take(80).collect(),
            known: known.join(", "),
        });
    };
    let others = state.members_up().any(|other| other.node != member.node);
    if !others {
        return Err(ServiceError::SingleNode);
    }
    Ok(ClusterCommand::Leave {
        node: member.node,
        session: member.session,
        remove,
        at: unix_millis(),
    })
}

fn shown(node: NodeNr) -> String {
    node.0.to_string()
}

fn shown_shard((nr, shard): (ShardNr, &cluster_state::Shard)) -> Shard {
    let (node, target, state) = match shard.home {
        Home::Unassigned => (None, None, "unassigned"),
        Home::Owned { node, .. } if shard.unfenced.is_empty() => (Some(node), None, "owned"),
        Home::Owned { node, .. } => (Some(node), None, "fencing"),
        Home::HandingOff { from, to, .. } => (Some(from), Some(to), "handing_off"),
    };
    Shard {
        shard_id: nr.0,
        node_id: node.map(shown).unwrap_or_default(),
        target_node_id: target.map(shown).unwrap_or_default(),
        epoch: shard.epoch.0,
        state: state.to_owned(),
    }
}

fn shown_event(event: &cluster_state::RecentEvent) -> RecentEvent {
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(event.at));
    RecentEvent {
        at: at.map(Into::into),
        text: event.text.clone(),
    }
}

pub(crate) fn status_name(status: MemberStatus) -> &'static str {
    match status {
        MemberStatus::Joining => "joining",
        MemberStatus::Up => "up",
        MemberStatus::Leaving => "leaving",
        MemberStatus::Down => "down",
    }
}

pub(crate) fn state_name(state: EntityState) -> &'static str {
    match state {
        EntityState::Passive => "passive",
        EntityState::Recovering => "recovering",
        EntityState::Live => "live",
        EntityState::Passivating => "passivating",
        EntityState::BackingOff => "backing_off",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use perennial_persistence::writer::SessionUuid;
    use uuid::Uuid;

    use super::*;

    fn state(up: &[u64], down: &[u64]) -> ClusterState {
        let mut state = ClusterState::new(Uuid::nil(), 1, 4);
        let session = |node: u64| SessionUuid(Uuid::from_u128(node.into()));
        for (index, node) in up.iter().chain(down).copied().enumerate() {
            let member = cluster_state::Member {
                node: NodeNr(node),
                incarnation: 1,
                session: session(node),
                address: String::new(),
                peer_address: String::new(),
                version: String::new(),
                weight: 1,
                status: MemberStatus::Joining,
                removing: false,
            };
            let (node, session, at) = (member.node, member.session, 0);
            let index = 10 * index as u64;
            state.apply(index, &ClusterCommand::Join { member, at });
            state.apply(index + 1, &ClusterCommand::Up { node, session, at });
            if down.contains(&node.0) {
                state.apply(index + 2, &ClusterCommand::Down { node, session, at });
            }
        }
        state
    }

    #[test]
    fn a_node_can_leave_only_if_another_one_stays() {
        let both = state(&[1, 2], &[]);
        let command = leave(&both, "2", true).unwrap();
        let ClusterCommand::Leave { node, remove, .. } = command else {
            panic!("{command:?}");
        };
        assert_eq!((node, remove), (NodeNr(2), true));
        let alone = state(&[1], &[2]);
        let error = leave(&alone, "1", false).unwrap_err();
        assert!(matches!(error, ServiceError::SingleNode), "{error}");
        // One that is down has nothing to hand over.
        assert!(leave(&alone, "2", true).is_ok());
        for wrong in ["3", "", "one", "-1"] {
            let error = leave(&both, wrong, false).unwrap_err();
            assert!(error.to_string().contains("1, 2"), "{error}");
        }
    }

    #[test]
    fn a_shard_is_shown_as_it_is() {
        let mut state = state(&[1, 2], &[]);
        let session = SessionUuid(Uuid::from_u128(1));
        let shards = vec![
            (ShardNr(0), NodeNr(1), session),
            (ShardNr(1), NodeNr(1), session),
        ];
        state.apply(90, &ClusterCommand::Assign { shards, at: 0 });
        let epoch = state.shards[1].epoch;
        let shards = vec![(ShardNr(1), epoch, NodeNr(2))];
        state.apply(91, &ClusterCommand::BeginHandoff { shards, at: 0 });
        let shown: Vec<(String, String, String)> = state
            .shards()
            .map(shown_shard)
            .map(|shard| (shard.node_id, shard.target_node_id, shard.state))
            .collect();
        let row = |node: &str, to: &str, state: &str| (node.into(), to.into(), state.into());
        assert_eq!(
            shown,
            [
                row("1", "", "owned"),
                row("1", "2", "handing_off"),
                row("", "", "unassigned"),
                row("", "", "unassigned"),
            ]
        );
    }
}
