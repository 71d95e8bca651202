//! `ClusterService` on a cluster of one node: every shard lives here, nothing
//! moves, and there is no consensus to have a term.

use std::sync::Arc;

use perennial_persistence::engine::{EntityEngine, EntityState};
use perennial_persistence::registry::{ClusterIdentity, Incarnation};
use perennial_persistence::writer::ShardNr;
use tonic::{Request, Response, Status};

use super::request::parse_entity;
use super::status::{ServiceError, status_of};
use crate::intake::Intake;
use crate::proto::v1;
use crate::proto::v1::get_cluster_response::{Member, RecentEvent, Shard};

/// Every shard of a cluster of one has had one owner.
const FIRST_EPOCH: u64 = 1;

/// The service; one for a node.
pub(crate) struct ClusterService {
    pub(crate) intake: Arc<Intake>,
    pub(crate) engine: EntityEngine,
    pub(crate) cluster: ClusterIdentity,
    pub(crate) incarnation: Incarnation,
    /// Where clients reach this node.
    pub(crate) address: String,
    pub(crate) started_at: std::time::SystemTime,
}

impl ClusterService {
    fn node_id(&self) -> String {
        self.incarnation.node.0.to_string()
    }
}

#[tonic::async_trait]
impl v1::cluster_service_server::ClusterService for ClusterService {
    async fn get_cluster(
        &self,
        _: Request<v1::GetClusterRequest>,
    ) -> Result<Response<v1::GetClusterResponse>, Status> {
        let node_id = self.node_id();
        let number_of_shards = self.cluster.number_of_shards;
        let member = Member {
            node_id: node_id.clone(),
            address: self.address.clone(),
            peer_address: String::new(),
            session: self.incarnation.session.to_string(),
            status: "up".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            voter: true,
            shards_owned: number_of_shards,
            live_entities: self.engine.live_entities() as u64,
        };
        let shard = |shard_id| Shard {
            shard_id,
            node_id: node_id.clone(),
            target_node_id: String::new(),
            epoch: FIRST_EPOCH,
            state: "owned".to_owned(),
        };
        let started = RecentEvent {
            at: Some(self.started_at.into()),
            text: format!(
                "node {node_id} started, incarnation {}",
                self.incarnation.number
            ),
        };
        Ok(Response::new(v1::GetClusterResponse {
            cluster_id: self.cluster.cluster_id.to_string(),
            number_of_shards,
            leader_node_id: node_id.clone(),
            term: 0,
            members: vec![member],
            shards: (0..number_of_shards).map(shard).collect(),
            recent_events: vec![started],
        }))
    }

    async fn describe_entity(
        &self,
        request: Request<v1::DescribeEntityRequest>,
    ) -> Result<Response<v1::DescribeEntityResponse>, Status> {
        let asked = request.into_inner();
        let (_, persistence_id) = parse_entity(&self.intake, &asked.entity_type, &asked.entity_id)?;
        let _in_flight = self.intake.admission.admit().map_err(status_of)?;
        let placement = self.intake.region.describe(&persistence_id).await;
        let ShardNr(shard_id) = placement.shard;
        let entity = placement.entity;
        Ok(Response::new(v1::DescribeEntityResponse {
            shard_id,
            node_id: self.node_id(),
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
        let node_id = request.into_inner().node_id;
        let known = self.node_id();
        Err(if node_id == known {
            ServiceError::SingleNode.into()
        } else {
            let node_id = node_id.chars().take(80).collect();
            ServiceError::NodeUnknown { node_id, known }.into()
        })
    }

    async fn passivate(
        &self,
        request: Request<v1::PassivateRequest>,
    ) -> Result<Response<v1::PassivateResponse>, Status> {
        let asked = request.into_inner();
        let (_, persistence_id) = parse_entity(&self.intake, &asked.entity_type, &asked.entity_id)?;
        let _in_flight = self.intake.admission.admit().map_err(status_of)?;
        self.intake.region.passivate(&persistence_id).await;
        Ok(Response::new(v1::PassivateResponse {}))
    }
}

fn state_name(state: EntityState) -> &'static str {
    match state {
        EntityState::Passive => "passive",
        EntityState::Recovering => "recovering",
        EntityState::Live => "live",
        EntityState::Passivating => "passivating",
        EntityState::BackingOff => "backing_off",
    }
}
