//! What nodes say to each other, over the simulated network.

use std::time::Duration;

use async_trait::async_trait;
use perennial_sharding::peer::{
    AcceptedStream, ForwardStream, Peer, PeerError, PeerHeader, PeerRequest, PeerResponse,
    PeerTransport,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::connection::{ARRIVED_MAX, End, pump};
use super::{Host, Network};

/// Batches that wait to be sent.
const GIVEN_MAX: usize = 64;
/// For a connection to be accepted.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// A node's end of the network.
pub(crate) struct Transport {
    pub(crate) network: Network,
    pub(crate) here: Host,
}

/// The peer address of a node's machine.
pub(crate) fn peer_address(machine: u32) -> String {
    format!("machine-{machine}:7402")
}

fn host_at(address: &str) -> Option<Host> {
    let machine = address.strip_prefix("machine-")?.strip_suffix(":7402")?;
    Some(Host::Node(machine.parse().ok()?))
}

/// The name of a request, for the trace.
fn name_of(request: &PeerRequest) -> &'static str {
    match request {
        PeerRequest::Raft(_) => "raft",
        PeerRequest::Heartbeat(_) => "heartbeat",
        PeerRequest::Propose(_) => "propose",
        PeerRequest::Elect => "elect",
        _ => "question",
    }
}

/// What is heard, or nothing for ever when it got lost on the way.
async fn heard<T>(answer: oneshot::Receiver<T>) -> T {
    match answer.await {
        Ok(answer) => answer,
        Err(_) => std::future::pending().await,
    }
}

#[async_trait]
impl PeerTransport for Transport {
    async fn call(
        &self,
        peer: &Peer,
        header: PeerHeader,
        request: PeerRequest,
        deadline: Duration,
    ) -> Result<PeerResponse, PeerError> {
        let Some(there) = host_at(&peer.address) else {
            return Err(refused(peer));
        };
        let what = name_of(&request);
        let (answer, answered) = oneshot::channel();
        let (network, here, called) = (self.network.clone(), self.here, peer.clone());
        self.network.post(here, there, what, move || {
            let answers = network.clone();
            let respond = move |response: Result<PeerResponse, PeerError>| {
                answers.post(there, here, what, move || {
                    let _ = answer.send(response);
                });
            };
            match network.listener(there) {
                None => respond(Err(refused(&called))),
                Some(listener) => {
                    listener.runtime.spawn(async move {
                        respond(listener.peers.handle(header, request).await);
                    });
                }
            }
        });
        match timeout(deadline, heard(answered)).await {
            Ok(answer) => answer,
            Err(_) => Err(unreachable(peer, format!("no answer within {deadline:?}"))),
        }
    }

    async fn open(&self, peer: &Peer, header: PeerHeader) -> Result<ForwardStream, PeerError> {
        let Some(there) = host_at(&peer.address) else {
            return Err(refused(peer));
        };
        let (accepted, opened) = oneshot::channel();
        let (network, here, called) = (self.network.clone(), self.here, peer.clone());
        self.network.post(here, there, "connect", move || {
            let Some(listener) = network.listener(there) else {
                network.post(there, here, "refuse", move || {
                    let _ = accepted.send(Err(refused(&called)));
                });
                return;
            };
            let (frames_arrived, frames) = mpsc::channel(ARRIVED_MAX);
            let (back, back_given) = mpsc::channel(GIVEN_MAX);
            let (back_arrived, back_received) = mpsc::channel(ARRIVED_MAX);
            let open: [Box<dyn std::any::Any + Send>; 2] = [
                Box::new(back_arrived.clone()),
                Box::new(frames_arrived.clone()),
            ];
            let id = network.connect([here, there], open);
            let stream = AcceptedStream {
                header,
                frames,
                back,
            };
            let ended = network.clone();
            let lost = network.lost(id, End::Accepter);
            let peers = listener.peers;
            listener.runtime.spawn(async move {
                tokio::select! {
                    _ = peers.accept(stream) => {}
                    () = lost.cancelled() => {}
                }
                ended.hang_up(id, End::Accepter);
            });
            listener.runtime.spawn(pump(
                network.clone(),
                id,
                End::Accepter,
                "back frames",
                back_given,
                back_arrived,
            ));
            let connected = network.clone();
            network.post(there, here, "accept", move || {
                let opened = Ok((id, frames_arrived, back_received));
                if accepted.send(opened).is_err() {
                    // Who connected has given up.
                    connected.hang_up(id, End::Opener);
                }
            });
        });
        let (id, arrived, back) = match timeout(CONNECT_MAX, heard(opened)).await {
            Ok(opened) => opened?,
            Err(_) => return Err(unreachable(peer, "not accepted in time".to_owned())),
        };
        let (frames, given) = mpsc::channel(GIVEN_MAX);
        tokio::spawn(pump(
            self.network.clone(),
            id,
            End::Opener,
            "frames",
            given,
            arrived,
        ));
        Ok(ForwardStream { frames, back })
    }
}

fn refused(peer: &Peer) -> PeerError {
    PeerError::Refused {
        node: peer.node,
        address: peer.address.clone(),
    }
}

fn unreachable(peer: &Peer, message: String) -> PeerError {
    PeerError::Unreachable {
        node: peer.node,
        address: peer.address.clone(),
        message,
    }
}
