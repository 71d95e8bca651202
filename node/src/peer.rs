//! How nodes talk to each other: the messages of `perennial-sharding` over gRPC.
//!
//! [`transport`] asks and opens streams, over connections that stay (`kept.rs`);
//! `server` takes what others send and gives it to a handler. What the messages look
//! like on the wire is in `calls.rs` and `frames.rs`; both refuse what is malformed,
//! because a port can be reached by anybody in the network. What the messages mean, and
//! whether their header fits this node, is not decided here but in
//! `perennial_sharding::peer` and by the handler.

mod calls;
mod command_error;
mod frames;
mod kept;
pub(crate) mod server;
pub mod transport;
pub(crate) mod untrusted;

use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::SessionUuid;
use perennial_sharding::peer::PeerHeader;
use uuid::Uuid;

use crate::proto::peer as wire;

/// Of all messages between nodes. A node that speaks another refuses them.
const VERSION: u32 = 1;

/// Bytes a message of the control plane may have. The largest are chunks of raft
/// snapshots.
const CONTROL_LEN_MAX: usize = 16 << 20;

/// Nodes that a cluster may have, as far as what is kept for each of them goes.
pub(crate) const NODES_MAX: usize = 1024;

/// Sizes of messages between nodes. They follow from `node.max_payload`, which
/// therefore should be the same on all nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerLimits {
    /// Bytes of one message of a stream of commands.
    forward_len_max: usize,
}

impl PeerLimits {
    /// For commands, replies and states of so many bytes.
    #[must_use]
    pub fn of_payload(max_payload: usize) -> Self {
        Self {
            // An entry of metadata of two bytes takes eight; names, ids and the
            // smaller frames of the same message come on top.
            forward_len_max: max_payload
                .saturating_mul(4)
                .saturating_add(2 * frames::MESSAGE_LEN),
        }
    }
}

/// A message of another node that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed message between nodes: {what} {problem}; do all nodes run a version that fits?")]
pub(crate) struct Malformed {
    /// The field.
    what: &'static str,
    /// What is wrong with it.
    problem: String,
}

impl Malformed {
    fn new(what: &'static str, problem: impl std::fmt::Display) -> Self {
        // Of input that may be huge, the beginning.
        let problem = problem.to_string().chars().take(200).collect();
        Self { what, problem }
    }

    fn missing(what: &'static str) -> Self {
        Self::new(what, "is missing")
    }
}

fn header_to_wire(header: &PeerHeader) -> wire::Header {
    wire::Header {
        version: VERSION,
        cluster_id: uuid_to_wire(header.cluster_id),
        generation: header.generation,
        from: header.from.0,
        session: uuid_to_wire(header.session.0),
        to: header.to.0,
    }
}

fn header_of_wire(header: Option<wire::Header>) -> Result<PeerHeader, Malformed> {
    let header = header.ok_or(Malformed::missing("header"))?;
    if header.version != VERSION {
        let problem = format!("is {}, this node speaks {VERSION}", header.version);
        return Err(Malformed::new("version", problem));
    }
    Ok(PeerHeader {
        cluster_id: uuid_of_wire("cluster_id", &header.cluster_id)?,
        generation: header.generation,
        from: NodeNr(header.from),
        session: SessionUuid(uuid_of_wire("session", &header.session)?),
        to: NodeNr(header.to),
    })
}

fn uuid_to_wire(uuid: Uuid) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(uuid.as_bytes())
}

fn uuid_of_wire(what: &'static str, bytes: &[u8]) -> Result<Uuid, Malformed> {
    Uuid::from_slice(bytes).map_err(|error| Malformed::new(what, error))
}

fn usize_of_wire(what: &'static str, number: u64) -> Result<usize, Malformed> {
    usize::try_from(number).map_err(|error| Malformed::new(what, error))
}

#[cfg(test)]
#[path = "peer/peer_test.rs"]
#[allow(clippy::unwrap_used)]
mod peer_test;

#[cfg(test)]
#[path = "peer/connections_test.rs"]
#[allow(clippy::unwrap_used)]
mod connections_test;
