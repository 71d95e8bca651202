//! Messages between nodes as anybody could send them, for tests that feed them
//! nonsense.

use perennial_persistence::command::Request;
use perennial_persistence::command_error::CommandError;
use perennial_persistence::payload::{CodecId, Payload};
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::registry::NodeNr;
use perennial_persistence::trace::Trace;
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr};
use perennial_sharding::cluster_state::ClusterCommand;
use perennial_sharding::peer::{BackFrame, Forwarded, Heartbeat, PeerHeader, PeerRequest};
use prost::Message;
use uuid::Uuid;

use super::{calls, frames, header_of_wire, header_to_wire};
use crate::proto::peer as wire;

/// Reads a call, or the answer to one, by its first byte.
///
/// # Errors
/// What is wrong with it.
pub fn call(bytes: &[u8]) -> Result<(), String> {
    let (which, bytes) = bytes.split_first().ok_or("nothing is there")?;
    if which % 2 == 0 {
        let call = wire::CallRequest::decode(bytes).map_err(|error| error.to_string())?;
        header_of_wire(call.header).map_err(|error| error.to_string())?;
        let request = calls::request_of_wire(call.request);
        request.map(drop).map_err(|error| error.to_string())
    } else {
        let answer = wire::CallResponse::decode(bytes).map_err(|error| error.to_string())?;
        let response = calls::response_of_wire(answer.response);
        response.map(drop).map_err(|error| error.to_string())
    }
}

/// Reads a batch of frames to the owner of a shard.
///
/// # Errors
/// What is wrong with it.
pub fn forward(bytes: &[u8]) -> Result<(), String> {
    let batch = wire::ForwardBatch::decode(bytes).map_err(|error| error.to_string())?;
    let frames = frames::forwards_of_wire(batch.frames);
    frames.map(drop).map_err(|error| error.to_string())
}

/// Reads a batch of frames from the owner of a shard.
///
/// # Errors
/// What is wrong with it.
pub fn back(bytes: &[u8]) -> Result<(), String> {
    let batch = wire::BackBatch::decode(bytes).map_err(|error| error.to_string())?;
    let frames = frames::backs_of_wire(batch.frames);
    frames.map(drop).map_err(|error| error.to_string())
}

/// Good messages, to be spoilt: calls, batches to an owner, batches from one.
#[must_use]
pub fn examples() -> [Vec<Vec<u8>>; 3] {
    let session = SessionUuid(Uuid::from_u128(5));
    let header = PeerHeader {
        cluster_id: Uuid::from_u128(1),
        generation: 2,
        from: NodeNr(3),
        session,
        to: NodeNr(4),
    };
    let down = ClusterCommand::Down {
        node: NodeNr(2),
        session,
        at: 1,
    };
    let beat = Heartbeat {
        number: 7,
        journal_in_reach: true,
        live_entities: 300,
        index: 9,
    };
    let requests = [
        PeerRequest::Raft(vec![1; 40].into()),
        PeerRequest::Heartbeat(beat),
        PeerRequest::Propose(down),
        PeerRequest::LiveEntities,
    ];
    let mut calls = Vec::new();
    for request in requests {
        let call = wire::CallRequest {
            header: Some(header_to_wire(&header)),
            request: calls::request_to_wire(request).ok(),
        };
        calls.push([vec![0], call.encode_to_vec()].concat());
    }
    let response = wire::CallResponse {
        response: Some(calls::response_to_wire(
            perennial_sharding::peer::PeerResponse::LiveEntities(vec![(NodeNr(1), 2); 3]),
        )),
    };
    calls.push([vec![1], response.encode_to_vec()].concat());
    let payload = Payload {
        codec: CodecId::JSON,
        manifest: "v2".into(),
        bytes: "{\"add\":5}".into(),
    };
    let forwarded = PersistenceId::new("counter", "a")
        .ok()
        .map(|persistence_id| Forwarded {
            correlation_id: 1,
            routed_at: 2,
            shard: ShardNr(3),
            epoch: Epoch(4),
            persistence_id,
            request: Request::Command {
                payload,
                command_id: None,
                expected_sequence_nr: None,
                metadata: None,
            },
            time_left: None,
            trace: Trace::NONE,
        });
    let forwards = frames::forwards_to_wire(forwarded.into_iter().collect());
    let backs = vec![
        BackFrame::Answer {
            correlation_id: 1,
            answer: Err(CommandError::OwnerLost),
        },
        BackFrame::Credit(9),
    ];
    let backs = frames::backs_to_wire(backs, 1 << 20);
    [
        calls,
        forwards.iter().map(Message::encode_to_vec).collect(),
        backs.iter().map(Message::encode_to_vec).collect(),
    ]
}
