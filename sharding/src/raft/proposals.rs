//! How a change reaches the leader, wherever that is.
//!
//! Each attempt has a deadline, and so have all of them together. What is certainly
//! not committed is told from what may be; both are tried again, because a command
//! can be committed twice without harm.

use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::error::{ClientWriteError, ForwardToLeader};
use perennial_persistence::registry::NodeNr;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::control::Shared;
use crate::cluster_state::ClusterCommand;
use crate::control_plane::ProposeError;
use crate::peer::{Peer, PeerError, PeerHeader, PeerRequest, PeerResponse};

/// Changes under way at this node, its own and those of others.
pub(super) const PROPOSALS_MAX: usize = 1_024;
/// For one attempt to have a change committed.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two attempts, when nobody could be asked.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// So long the leader alone is asked: longer than an election or a handover takes,
/// during which others know no more.
const LEADER_DOUBTED_AFTER: Duration = Duration::from_secs(2);
/// For one member to say whether it leads.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);

/// What came of one attempt to have a change committed.
enum Attempt {
    Committed {
        index: u64,
    },
    /// Certainly not; perhaps that one knows.
    NotLeader {
        leader: Option<NodeNr>,
    },
    /// Certainly not; this one cannot be asked.
    Refused {
        message: String,
    },
    Unknown {
        message: String,
    },
}

impl Shared {
    /// Asks the leader, whoever that is, until the change is committed or time is
    /// up. A change may so be committed twice, which commands allow for.
    pub(super) async fn propose_until(
        &self,
        command: ClusterCommand,
        deadline: Instant,
    ) -> Result<u64, ProposeError> {
        let began = Instant::now();
        let mut unknown = None;
        let mut tried = "nobody could be asked yet".to_owned();
        let mut hint = None;
        let mut in_doubt = false;
        while Instant::now() < deadline {
            let leader = hint.take().or_else(|| self.leader());
            // Who has been out of the group for long remembers a leader that may be
            // gone, and is told of no other: every other time it asks around.
            let leader = leader.filter(|_| !in_doubt);
            in_doubt = false;
            let attempt = match leader {
                Some(leader) if leader == self.me => {
                    timeout_at(deadline, self.propose_here(command.clone())).await
                }
                Some(leader) => match self.network.addresses.find(leader) {
                    Some(peer) => {
                        timeout_at(deadline, self.propose_there(&peer, command.clone())).await
                    }
                    None => Ok(Attempt::Refused {
                        message: format!(
                            "the address of the leader, node {}, is not known",
                            leader.0
                        ),
                    }),
                },
                // A newcomer hears of the leader from anybody.
                None => match self.somebody() {
                    Some(peer) => {
                        timeout_at(deadline, self.propose_there(&peer, command.clone())).await
                    }
                    None => Ok(Attempt::NotLeader { leader: None }),
                },
            };
            match attempt {
                Ok(Attempt::Committed { index }) => return Ok(index),
                Ok(Attempt::NotLeader { leader }) => {
                    hint = leader.filter(|leader| *leader != self.me);
                    tried = "no node that was asked leads".to_owned();
                    if hint.is_some() {
                        // Two that each take the other for the leader must not be
                        // asked without end at once.
                        sleep(RETRY_INTERVAL / 10).await;
                        continue;
                    }
                }
                Ok(Attempt::Refused { message }) => tried = message,
                Ok(Attempt::Unknown { message }) => unknown = Some(message),
                Err(_) => unknown = Some("no answer in time".to_owned()),
            }
            in_doubt = leader.is_some() && began.elapsed() >= LEADER_DOUBTED_AFTER;
            sleep(RETRY_INTERVAL).await;
        }
        Err(match unknown {
            Some(message) => ProposeError::Unknown { message },
            None => ProposeError::NoLeader { message: tried },
        })
    }

    /// Another node than the last time, one after the other: also from one change to
    /// the next, as time may be up before anybody was asked who is there.
    fn somebody(&self) -> Option<Peer> {
        let others = self.network.addresses.others(self.me);
        if others.is_empty() {
            return None;
        }
        let asked = self.asked_around.fetch_add(1, Ordering::Relaxed);
        Some(others[asked % others.len()].clone())
    }

    async fn propose_here(&self, command: ClusterCommand) -> Attempt {
        if self.handing_over.load(Ordering::SeqCst) {
            return Attempt::NotLeader { leader: None };
        }
        let Ok(_permit) = self.proposals.try_acquire() else {
            return Attempt::Refused {
                message: format!("{PROPOSALS_MAX} changes are under way at the leader"),
            };
        };
        match timeout(ATTEMPT_TIMEOUT, self.raft.client_write(command)).await {
            Ok(Ok(written)) => Attempt::Committed {
                index: written.log_id.index,
            },
            Ok(Err(openraft::error::RaftError::APIError(ClientWriteError::ForwardToLeader(
                ForwardToLeader { leader_id, .. },
            )))) => Attempt::NotLeader {
                leader: leader_id.map(NodeNr),
            },
            Ok(Err(error)) => Attempt::Unknown {
                message: error.to_string(),
            },
            Err(_) => Attempt::Unknown {
                message: format!("no quorum answered within {ATTEMPT_TIMEOUT:?}"),
            },
        }
    }

    async fn propose_there(&self, peer: &Peer, command: ClusterCommand) -> Attempt {
        let request = PeerRequest::Propose(command);
        let header = self.network.headers.to(peer.node);
        let within = ATTEMPT_TIMEOUT + ASK_TIMEOUT;
        let answer = self.network.transport.call(peer, header, request, within);
        match answer.await {
            Ok(PeerResponse::Committed { index }) => Attempt::Committed { index },
            Ok(PeerResponse::NotLeader { leader }) => Attempt::NotLeader { leader },
            Ok(other) => Attempt::Unknown {
                message: format!("node {} answered {other:?}", peer.node.0),
            },
            Err(error @ (PeerError::Refused { .. } | PeerError::WrongPeer { .. })) => {
                Attempt::Refused {
                    message: error.to_string(),
                }
            }
            Err(error) => Attempt::Unknown {
                message: error.to_string(),
            },
        }
    }

    /// Commits a change for another node, if this one leads.
    pub(super) async fn propose_for(
        &self,
        header: &PeerHeader,
        command: ClusterCommand,
    ) -> Result<PeerResponse, PeerError> {
        match self.propose_here(command).await {
            Attempt::Committed { index } => Ok(PeerResponse::Committed { index }),
            Attempt::NotLeader { leader } => Ok(PeerResponse::NotLeader { leader }),
            Attempt::Refused { message } => {
                tracing::warn!(from = header.from.0, message, "a change is not taken");
                Ok(PeerResponse::NotLeader { leader: None })
            }
            Attempt::Unknown { message } => Err(self.unanswered(message)),
        }
    }
}
