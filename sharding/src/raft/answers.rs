//! What a member answers its peers.
//!
//! A message is first checked to be for this node: raft must never take one node for
//! another. Next: `network.rs`, the other end.

use super::control::{RaftControlPlane, Shared};
use super::message::{RaftRequest, RaftResponse, decode, encode};
use super::parting_vote::compared;
use super::store::StoreIdentity;
use crate::peer::{PeerError, PeerHeader, PeerRequest, PeerResponse};

impl RaftControlPlane {
    /// Answers what concerns the raft group; `None` for any other request.
    ///
    /// # Errors
    /// [`PeerError::WrongPeer`] when the header is not for this node: raft must never
    /// take one node for another, which an address that was used before makes easy.
    /// Another [`PeerError`] when the request cannot be read, or its outcome is not
    /// known.
    pub async fn handle(
        &self,
        header: &PeerHeader,
        request: &PeerRequest,
    ) -> Option<Result<PeerResponse, PeerError>> {
        let shared = &self.shared;
        let of_raft = matches!(
            request,
            PeerRequest::Raft(_) | PeerRequest::Propose(_) | PeerRequest::Elect
        );
        if of_raft && let Err(error) = shared.check(header) {
            return Some(Err(error));
        }
        match request {
            PeerRequest::Raft(message) => Some(shared.answer(header, message).await),
            PeerRequest::Propose(command) => {
                Some(shared.propose_for(header, command.clone()).await)
            }
            PeerRequest::Elect => {
                let elected = shared.raft.trigger().elect().await;
                Some(match elected {
                    Ok(()) => Ok(PeerResponse::Done),
                    Err(error) => Err(shared.unanswered(error.to_string())),
                })
            }
            _ => None,
        }
    }
}

impl Shared {
    async fn answer(&self, header: &PeerHeader, message: &[u8]) -> Result<PeerResponse, PeerError> {
        let request = decode(message).map_err(|error| self.unanswered(error.to_string()))?;
        let answer = match request {
            RaftRequest::Append(append) => {
                RaftResponse::Append(self.raft.append_entries(append).await)
            }
            RaftRequest::Vote(mut vote) => {
                vote.last_log_id = compared(self.me, &self.store.image(), vote.last_log_id);
                RaftResponse::Vote(self.raft.vote(vote).await)
            }
            RaftRequest::Snapshot(part) => {
                RaftResponse::Snapshot(self.raft.install_snapshot(part).await)
            }
        };
        let answer = encode(&answer).map_err(|error| {
            tracing::error!(%error, to = header.from.0, "an answer of raft cannot be encoded");
            self.unanswered(error.to_string())
        })?;
        Ok(PeerResponse::Raft(answer))
    }

    fn check(&self, header: &PeerHeader) -> Result<(), PeerError> {
        let StoreIdentity {
            cluster_id,
            generation,
            node,
        } = self.network.headers.from;
        if (header.cluster_id, header.generation, header.to) == (cluster_id, generation, node) {
            return Ok(());
        }
        Err(PeerError::WrongPeer {
            node: header.to,
            address: self.address(),
            message: format!(
                "here is node {}, generation {generation} of cluster {cluster_id}, and the message is for generation \
                 {} of cluster {}",
                node.0, header.generation, header.cluster_id
            ),
        })
    }

    pub(super) fn unanswered(&self, message: String) -> PeerError {
        PeerError::Unreachable {
            node: self.me,
            address: self.address(),
            message,
        }
    }

    /// Where this node is, as far as known.
    fn address(&self) -> String {
        let found = self.network.addresses.find(self.me);
        found.map_or_else(String::new, |peer| peer.address)
    }
}
