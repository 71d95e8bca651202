//! Carries raft's messages to other members, through the node's peer transport.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::error::{
    InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{AnyError, EmptyNode};
use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::SessionUuid;

use super::address_book::AddressBook;
use super::message::{RaftRequest, RaftResponse, decode, encode};
use super::store::StoreIdentity;
use super::types::Types;
use crate::peer::{PeerHeader, PeerRequest, PeerResponse, PeerTransport};

/// How long a member that cannot be reached is left alone: short against an election
/// time-out, so that one that comes back hears of its leader in time.
const UNREACHABLE_BACKOFF: [Duration; 3] = [
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
];

/// Who this node is, in every message to a peer; clones share the session.
#[derive(Clone)]
pub(super) struct PeerHeaders {
    pub(super) from: StoreIdentity,
    pub(super) session: Arc<Mutex<SessionUuid>>,
}

impl PeerHeaders {
    pub(super) fn to(&self, to: NodeNr) -> PeerHeader {
        PeerHeader {
            cluster_id: self.from.cluster_id,
            generation: self.from.generation,
            from: self.from.node,
            session: *self.session.lock().unwrap_or_else(PoisonError::into_inner),
            to,
        }
    }
}

/// Makes the way to each member.
#[derive(Clone)]
pub(super) struct Network {
    pub(super) transport: Arc<dyn PeerTransport>,
    pub(super) addresses: AddressBook,
    pub(super) headers: PeerHeaders,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Member;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Member {
        Member {
            node: NodeNr(target),
            network: self.clone(),
        }
    }
}

/// The way to one member.
pub(super) struct Member {
    node: NodeNr,
    network: Network,
}

type CallError<E> = RPCError<u64, EmptyNode, RaftError<u64, E>>;

impl Member {
    /// Asks the member, giving up when openraft would.
    async fn ask<E: std::error::Error>(
        &self,
        request: &RaftRequest,
        option: &RPCOption,
    ) -> Result<RaftResponse, CallError<E>> {
        let Some(peer) = self.network.addresses.find(self.node) else {
            let message = format!("the address of node {} is not known yet", self.node.0);
            return Err(unreachable(AnyError::error(message)));
        };
        let request =
            encode(request).map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
        let header = self.network.headers.to(self.node);
        let answer = self
            .network
            .transport
            .call(&peer, header, PeerRequest::Raft(request), option.hard_ttl())
            .await;
        match answer {
            Ok(PeerResponse::Raft(bytes)) => {
                decode(&bytes).map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))
            }
            Ok(other) => Err(unreachable(AnyError::error(format!(
                "answered a raft message with {other:?}"
            )))),
            Err(error) => Err(RPCError::Unreachable(Unreachable::new(&error))),
        }
    }

    fn failed<E: std::error::Error>(&self, error: RaftError<u64, E>) -> CallError<E> {
        RPCError::RemoteError(RemoteError::new(self.node.0, error))
    }
}

impl RaftNetwork<Types> for Member {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, CallError<openraft::error::Infallible>> {
        match self.ask(&RaftRequest::Append(rpc), &option).await? {
            RaftResponse::Append(answer) => answer.map_err(|error| self.failed(error)),
            _ => Err(mixed_up()),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, CallError<openraft::error::Infallible>> {
        match self.ask(&RaftRequest::Vote(rpc), &option).await? {
            RaftResponse::Vote(answer) => answer.map_err(|error| self.failed(error)),
            _ => Err(mixed_up()),
        }
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<Types>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, CallError<InstallSnapshotError>> {
        match self.ask(&RaftRequest::Snapshot(rpc), &option).await? {
            RaftResponse::Snapshot(answer) => answer.map_err(|error| self.failed(error)),
            _ => Err(mixed_up()),
        }
    }

    fn backoff(&self) -> Backoff {
        let [first, second, further] = UNREACHABLE_BACKOFF;
        Backoff::new(
            [first, second]
                .into_iter()
                .chain(std::iter::repeat(further)),
        )
    }
}

fn mixed_up<E: std::error::Error>() -> CallError<E> {
    unreachable(AnyError::error("answered another raft message"))
}

fn unreachable<E: std::error::Error>(error: AnyError) -> CallError<E> {
    RPCError::Unreachable(Unreachable::from(error))
}
