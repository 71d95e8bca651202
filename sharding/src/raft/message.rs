//! Raft's messages as bytes: one for the protocol's version, the rest postcard.

use bytes::Bytes;
use openraft::error::{InstallSnapshotError, RaftError};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::types::Types;

/// Of the messages between members of a raft group.
const PROTOCOL: u8 = 1;

/// To a member.
#[derive(Serialize, Deserialize)]
pub(super) enum RaftRequest {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<u64>),
    Snapshot(InstallSnapshotRequest<Types>),
}

/// From a member.
#[derive(Serialize, Deserialize)]
pub(super) enum RaftResponse {
    Append(Result<AppendEntriesResponse<u64>, RaftError<u64>>),
    Vote(Result<VoteResponse<u64>, RaftError<u64>>),
    Snapshot(Result<InstallSnapshotResponse<u64>, RaftError<u64, InstallSnapshotError>>),
}

/// Why bytes are no message.
#[derive(Debug, thiserror::Error)]
pub(super) enum MessageError {
    #[error(
        "the raft message has protocol {found:?}, and this node speaks {PROTOCOL}: let all nodes run versions that \
         fit together"
    )]
    Protocol { found: Option<u8> },
    #[error("the raft message cannot be read: {0}")]
    Malformed(#[from] postcard::Error),
}

pub(super) fn encode(message: &impl Serialize) -> Result<Bytes, MessageError> {
    let bytes = postcard::to_extend(message, vec![PROTOCOL])?;
    Ok(bytes.into())
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, MessageError> {
    match bytes.split_first() {
        Some((&PROTOCOL, rest)) => Ok(postcard::from_bytes(rest)?),
        other => Err(MessageError::Protocol {
            found: other.map(|(protocol, _)| *protocol),
        }),
    }
}
