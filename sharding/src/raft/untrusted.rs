//! Raft messages as anybody could send them, for tests that feed them nonsense.

use openraft::raft::{AppendEntriesRequest, InstallSnapshotRequest, VoteRequest};
use openraft::{CommittedLeaderId, EntryPayload};
use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::SessionUuid;
use uuid::Uuid;

use super::message::{RaftRequest, RaftResponse, decode, encode};
use super::types::{Entry, LogId, SnapshotMeta, Vote};
use crate::cluster_state::ClusterCommand;

/// Reads a message as a member of the group does.
///
/// # Errors
/// What is wrong with it.
pub fn request(bytes: &[u8]) -> Result<(), String> {
    let read = decode::<RaftRequest>(bytes);
    read.map(drop).map_err(|error| error.to_string())
}

/// Reads an answer as who asked does.
///
/// # Errors
/// What is wrong with it.
pub fn response(bytes: &[u8]) -> Result<(), String> {
    let read = decode::<RaftResponse>(bytes);
    read.map(drop).map_err(|error| error.to_string())
}

/// Good messages, to be spoilt.
#[must_use]
pub fn examples() -> Vec<Vec<u8>> {
    let vote = Vote::new_committed(3, 1);
    let log_id = LogId::new(CommittedLeaderId::new(3, 1), 7);
    let down = ClusterCommand::Down {
        node: NodeNr(2),
        session: SessionUuid(Uuid::from_u128(5)),
        at: 1,
    };
    let append = RaftRequest::Append(AppendEntriesRequest {
        vote,
        prev_log_id: Some(log_id),
        entries: vec![
            Entry {
                log_id,
                payload: EntryPayload::Normal(down),
            };
            3
        ],
        leader_commit: Some(log_id),
    });
    let snapshot = RaftRequest::Snapshot(InstallSnapshotRequest {
        vote,
        meta: SnapshotMeta::default(),
        offset: 9,
        data: vec![7; 100],
        done: false,
    });
    let asked = RaftRequest::Vote(VoteRequest {
        vote,
        last_log_id: Some(log_id),
    });
    let encoded = [append, snapshot, asked].map(|message| encode(&message));
    // All of them can be written: there is nothing in them that postcard refuses.
    encoded.into_iter().flatten().map(Into::into).collect()
}
