//! Calls between nodes on the wire: raft, heartbeats, joining, looking at an entity.
//!
//! What the control plane says is encoded by the serde types of the sharding
//! crate, so that its messages are defined in one place; the rest is typed.

use std::time::Duration;

use perennial_persistence::engine::{EntityDescription, EntityState};
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::registry::NodeNr;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::writer::Epoch;
use perennial_sharding::peer::{NodeFigures, PeerRequest, PeerResponse};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Malformed, command_error};
use crate::proto::peer as wire;
use wire::call_request::Request;
use wire::call_response::Response;
use wire::deleted::Outcome;
use wire::described::Entity;
use wire::live_entities::OfNode;

pub(super) fn request_to_wire(request: PeerRequest) -> Result<Request, Malformed> {
    Ok(match request {
        PeerRequest::Raft(bytes) => Request::Raft(bytes),
        PeerRequest::Heartbeat(heartbeat) => Request::Heartbeat(encoded("heartbeat", &heartbeat)?),
        PeerRequest::Propose(command) => Request::Propose(encoded("propose", &command)?),
        PeerRequest::Elect => Request::Elect(wire::Nothing {}),
        PeerRequest::LiveEntities => Request::LiveEntities(wire::Nothing {}),
        PeerRequest::Describe(id) => Request::Describe(id.as_str().to_owned()),
        PeerRequest::Passivate(id) => Request::Passivate(id.as_str().to_owned()),
        PeerRequest::Delete(id) => Request::Delete(id.as_str().to_owned()),
        PeerRequest::Figures => Request::Figures(wire::Nothing {}),
    })
}

pub(super) fn request_of_wire(request: Option<Request>) -> Result<PeerRequest, Malformed> {
    Ok(match request.ok_or(Malformed::missing("request"))? {
        Request::Raft(bytes) => PeerRequest::Raft(bytes),
        Request::Heartbeat(bytes) => PeerRequest::Heartbeat(decoded("heartbeat", &bytes)?),
        Request::Propose(bytes) => PeerRequest::Propose(decoded("propose", &bytes)?),
        Request::Elect(wire::Nothing {}) => PeerRequest::Elect,
        Request::LiveEntities(wire::Nothing {}) => PeerRequest::LiveEntities,
        Request::Describe(text) => PeerRequest::Describe(persistence_id(&text)?),
        Request::Passivate(text) => PeerRequest::Passivate(persistence_id(&text)?),
        Request::Delete(text) => PeerRequest::Delete(persistence_id(&text)?),
        Request::Figures(wire::Nothing {}) => PeerRequest::Figures,
    })
}

pub(super) fn response_to_wire(response: PeerResponse) -> Response {
    let nothing = wire::Nothing {};
    match response {
        PeerResponse::Raft(bytes) => Response::Raft(bytes),
        PeerResponse::HeartbeatSeen => Response::HeartbeatSeen(nothing),
        PeerResponse::Committed { index } => Response::Committed(index),
        PeerResponse::NotLeader { leader } => Response::NotLeader(wire::NotLeader {
            leader: leader.map(|node| node.0),
        }),
        PeerResponse::SessionOver => Response::SessionOver(nothing),
        PeerResponse::LiveEntities(nodes) => {
            let of_node = |(NodeNr(node), live_entities)| OfNode {
                node,
                live_entities,
            };
            let nodes = nodes.into_iter().map(of_node).collect();
            Response::LiveEntities(wire::LiveEntities { nodes })
        }
        PeerResponse::Described(described) => Response::Described(wire::Described {
            entity: described.map(entity_to_wire),
        }),
        PeerResponse::Deleted(deleted) => Response::Deleted(wire::Deleted {
            outcome: deleted.map(|deleted| match deleted {
                Ok(nr) => Outcome::SequenceNr(nr.get()),
                Err(error) => Outcome::Error(command_error::to_wire(error)),
            }),
        }),
        PeerResponse::Figures(figures) => Response::Figures(figures_to_wire(*figures)),
        PeerResponse::Done => Response::Done(nothing),
    }
}

pub(super) fn response_of_wire(response: Option<Response>) -> Result<PeerResponse, Malformed> {
    Ok(match response.ok_or(Malformed::missing("response"))? {
        Response::Raft(bytes) => PeerResponse::Raft(bytes),
        Response::HeartbeatSeen(wire::Nothing {}) => PeerResponse::HeartbeatSeen,
        Response::Committed(index) => PeerResponse::Committed { index },
        Response::NotLeader(wire::NotLeader { leader }) => PeerResponse::NotLeader {
            leader: leader.map(NodeNr),
        },
        Response::SessionOver(wire::Nothing {}) => PeerResponse::SessionOver,
        Response::LiveEntities(wire::LiveEntities { nodes }) => {
            let of_node = |of: OfNode| (NodeNr(of.node), of.live_entities);
            PeerResponse::LiveEntities(nodes.into_iter().map(of_node).collect())
        }
        Response::Described(wire::Described { entity }) => {
            PeerResponse::Described(entity.map(entity_of_wire).transpose()?)
        }
        Response::Deleted(wire::Deleted { outcome }) => PeerResponse::Deleted(match outcome {
            None => None,
            Some(Outcome::SequenceNr(nr)) => Some(Ok(SequenceNr::new(nr))),
            Some(Outcome::Error(error)) => Some(Err(command_error::of_wire(error)?)),
        }),
        Response::Figures(figures) => PeerResponse::Figures(Box::new(figures_of_wire(figures))),
        Response::Done(wire::Nothing {}) => PeerResponse::Done,
    })
}

fn figures_to_wire(figures: NodeFigures) -> wire::Figures {
    wire::Figures {
        commands_per_second: figures.commands_per_second,
        failures_per_second: figures.failures_per_second,
        events_per_second: figures.events_per_second,
        latencies: figures.latencies,
        history: figures.history,
        live_entities: figures.live_entities,
        commands_waiting: figures.commands_waiting,
        recoveries_running: figures.recoveries_running,
        recoveries_waiting: figures.recoveries_waiting,
        recoveries_max: figures.recoveries_max,
        journal_in_reach: figures.journal_in_reach,
        index: figures.index,
        uptime_seconds: figures.uptime.as_secs(),
    }
}

fn figures_of_wire(figures: wire::Figures) -> NodeFigures {
    NodeFigures {
        commands_per_second: figures.commands_per_second,
        failures_per_second: figures.failures_per_second,
        events_per_second: figures.events_per_second,
        latencies: figures.latencies,
        history: figures.history,
        live_entities: figures.live_entities,
        commands_waiting: figures.commands_waiting,
        recoveries_running: figures.recoveries_running,
        recoveries_waiting: figures.recoveries_waiting,
        recoveries_max: figures.recoveries_max,
        journal_in_reach: figures.journal_in_reach,
        index: figures.index,
        uptime: Duration::from_secs(figures.uptime_seconds),
    }
}

fn entity_to_wire((epoch, described): (Epoch, EntityDescription)) -> Entity {
    let state = match described.state {
        EntityState::Passive => wire::EntityState::Passive,
        EntityState::Recovering => wire::EntityState::Recovering,
        EntityState::Live => wire::EntityState::Live,
        EntityState::Passivating => wire::EntityState::Passivating,
        EntityState::BackingOff => wire::EntityState::BackingOff,
    };
    Entity {
        epoch: epoch.0,
        state: state.into(),
        sequence_nr: described.sequence_nr.get(),
        queued: described.queued as u64,
        waiting_for: described.waiting_for.into_owned(),
    }
}

fn entity_of_wire(entity: Entity) -> Result<(Epoch, EntityDescription), Malformed> {
    let state = match entity.state() {
        wire::EntityState::Passive => EntityState::Passive,
        wire::EntityState::Recovering => EntityState::Recovering,
        wire::EntityState::Live => EntityState::Live,
        wire::EntityState::Passivating => EntityState::Passivating,
        wire::EntityState::BackingOff => EntityState::BackingOff,
        wire::EntityState::Unspecified => return Err(Malformed::missing("state")),
    };
    let description = EntityDescription {
        state,
        sequence_nr: SequenceNr::new(entity.sequence_nr),
        queued: super::usize_of_wire("queued", entity.queued)?,
        waiting_for: entity.waiting_for.into(),
    };
    Ok((Epoch(entity.epoch), description))
}

fn persistence_id(text: &str) -> Result<PersistenceId, Malformed> {
    PersistenceId::parse(text).map_err(|error| Malformed::new("persistence_id", error))
}

fn encoded(what: &'static str, value: &impl Serialize) -> Result<bytes::Bytes, Malformed> {
    let bytes = postcard::to_stdvec(value).map_err(|error| Malformed::new(what, error))?;
    Ok(bytes.into())
}

fn decoded<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, Malformed> {
    postcard::from_bytes(bytes).map_err(|error| Malformed::new(what, error))
}
