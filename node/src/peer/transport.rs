//! Asks other nodes and opens streams to them, over gRPC.
//!
//! Each node has three connections, made when first needed: one for what the cluster
//! itself depends on, one for errands and one for commands, so that a heartbeat never
//! waits behind megabytes of commands, or behind deletions that take minutes. An
//! address is resolved anew at each connect. Nothing is retried here: who asks
//! knows whether asking twice is harmless. Next: `server.rs`, the other end.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use perennial_sharding::peer::{
    ForwardStream, Peer, PeerError, PeerHeader, PeerRequest, PeerResponse, PeerTransport,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use super::kept::Kept;
use super::{CONTROL_LEN_MAX, Malformed, PeerLimits, calls, frames, header_to_wire};
use crate::proto::peer as wire;
use crate::tls::connector::Connector;
use crate::tls::credentials::PeerTls;
use wire::control_service_client::ControlServiceClient;
use wire::forward_service_client::ForwardServiceClient;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a node may take to accept a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(3);
/// A connection on which nothing is said for so long is tried.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// One that does not answer that for so long is gone.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes that may be sent ahead on a stream of commands. Its connection carries
/// nothing else.
const FORWARD_WINDOW: u32 = 4 << 20;
/// Batches of frames on their way to or from the stream's task.
pub(super) const BATCHES_MAX: usize = 16;

/// The peers of a node, over gRPC.
#[derive(Debug)]
pub struct GrpcTransport {
    limits: PeerLimits,
    source: Option<IpAddr>,
    tls: Option<watch::Receiver<PeerTls>>,
    connections: Mutex<Kept<Connections>>,
}

#[derive(Debug, Clone)]
struct Connections {
    address: String,
    control: ControlServiceClient<Channel>,
    errands: ControlServiceClient<Channel>,
    forward: ForwardServiceClient<Channel>,
}

impl GrpcTransport {
    /// No connection is made before it is needed. With a `source`, they come from
    /// that address of this machine.
    #[must_use]
    pub fn new(limits: PeerLimits, source: Option<IpAddr>) -> Self {
        Self {
            limits,
            source,
            tls: None,
            connections: Mutex::default(),
        }
    }

    /// With TLS: each connection shows the certificate of its moment and trusts the
    /// authority of its moment.
    #[must_use]
    pub(crate) fn encrypted(self, tls: watch::Receiver<PeerTls>) -> Self {
        Self {
            tls: Some(tls),
            ..self
        }
    }

    fn connections(&self, peer: &Peer) -> Result<Connections, PeerError> {
        // Whole between any two statements, so usable after a panic.
        let mut known = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(connections) = known.get(peer.node)
            && connections.address == peer.address
        {
            return Ok(connections.clone());
        }
        let connections = self.connections_to(&peer.address).map_err(|error| {
            let message = format!("its address cannot be used: {error}");
            unreachable(peer, message)
        })?;
        known.insert(peer.node, connections.clone());
        Ok(connections)
    }

    fn connections_to(&self, address: &str) -> Result<Connections, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .local_address(self.source)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let control = || {
            let control = ControlServiceClient::new(self.lazily(&endpoint));
            control.max_decoding_message_size(CONTROL_LEN_MAX)
        };
        let (control, errands) = (control(), control());
        let forward = endpoint
            .initial_stream_window_size(FORWARD_WINDOW)
            .initial_connection_window_size(FORWARD_WINDOW);
        let forward = ForwardServiceClient::new(self.lazily(&forward));
        Ok(Connections {
            address: address.to_owned(),
            control,
            errands,
            forward: forward.max_decoding_message_size(self.limits.forward_len_max),
        })
    }

    fn lazily(&self, endpoint: &Endpoint) -> Channel {
        match self.tls.clone() {
            None => endpoint.connect_lazy(),
            Some(tls) => {
                let current = move || Arc::clone(&tls.borrow().client);
                let connector = Connector::new(current, self.source, CONNECT_TIMEOUT);
                endpoint.connect_with_connector_lazy(connector)
            }
        }
    }
}

#[async_trait]
impl PeerTransport for GrpcTransport {
    async fn call(
        &self,
        peer: &Peer,
        header: PeerHeader,
        request: PeerRequest,
        deadline: Duration,
    ) -> Result<PeerResponse, PeerError> {
        let connections = self.connections(peer)?;
        let mut control = match request.is_errand() {
            true => connections.errands,
            false => connections.control,
        };
        let malformed = |error: Malformed| unreachable(peer, error.to_string());
        let mut call = Request::new(wire::CallRequest {
            header: Some(header_to_wire(&header)),
            request: Some(calls::request_to_wire(request).map_err(malformed)?),
        });
        // The other end stops working on it when nobody waits any more.
        call.set_timeout(deadline);
        let answer = match tokio::time::timeout(deadline, control.call(call)).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => return Err(error_of(peer, &status)),
            Err(_) => return Err(unreachable(peer, format!("no answer within {deadline:?}"))),
        };
        calls::response_of_wire(answer.response).map_err(malformed)
    }

    async fn open(&self, peer: &Peer, header: PeerHeader) -> Result<ForwardStream, PeerError> {
        let mut forward = self.connections(peer)?.forward;
        let (frames_sender, frames) = mpsc::channel(BATCHES_MAX);
        let (back, back_receiver) = mpsc::channel(BATCHES_MAX);
        let opening = wire::ForwardBatch {
            header: Some(header_to_wire(&header)),
            frames: Vec::new(),
        };
        // Both directions end together: gRPC itself keeps a call whose answers
        // nobody reads for as long as there is something to send.
        let ended = CancellationToken::new();
        let end_on_drop = ended.clone().drop_guard();
        let batches = ReceiverStream::new(frames)
            .flat_map(|batch| futures::stream::iter(frames::forwards_to_wire(batch)))
            .take_until(ended.cancelled_owned());
        let sent = futures::stream::once(async { opening }).chain(batches);
        let answered = match tokio::time::timeout(OPEN_TIMEOUT, forward.forward(sent)).await {
            Ok(Ok(answered)) => answered.into_inner(),
            Ok(Err(status)) => return Err(error_of(peer, &status)),
            Err(_) => {
                let message = format!("it did not accept a stream within {OPEN_TIMEOUT:?}");
                return Err(unreachable(peer, message));
            }
        };
        let peer = peer.clone();
        tokio::spawn(async move {
            bring_back(&peer, answered, back).await;
            drop(end_on_drop);
        });
        Ok(ForwardStream {
            frames: frames_sender,
            back: back_receiver,
        })
    }
}

/// Runs as long as the stream: ends when the other node or the network ends it,
/// or when nobody wants what comes back.
async fn bring_back(
    peer: &Peer,
    mut answered: Streaming<wire::BackBatch>,
    back: mpsc::Sender<Vec<perennial_sharding::peer::BackFrame>>,
) {
    loop {
        let message = tokio::select! {
            message = answered.message() => message,
            () = back.closed() => return,
        };
        let batch = match message {
            Ok(Some(batch)) => batch,
            Ok(None) => return,
            Err(status) => {
                let error = error_of(peer, &status);
                tracing::debug!(%error, "a stream of commands to another node was lost");
                return;
            }
        };
        match frames::backs_of_wire(batch.frames) {
            Ok(frames) => {
                if back.send(frames).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(node = peer.node.0, %error, "the stream of commands is closed");
                return;
            }
        }
    }
}

/// What a status of another node, or of the connection to it, means.
fn error_of(peer: &Peer, status: &Status) -> PeerError {
    let message = text_of(status);
    match status.code() {
        // Only the handler's refusal has this code: see `server.rs`.
        Code::FailedPrecondition => PeerError::WrongPeer {
            node: peer.node,
            address: peer.address.clone(),
            message,
        },
        _ if is_refused(status) => PeerError::Refused {
            node: peer.node,
            address: peer.address.clone(),
        },
        _ => unreachable(peer, message),
    }
}

fn unreachable(peer: &Peer, message: String) -> PeerError {
    PeerError::Unreachable {
        node: peer.node,
        address: peer.address.clone(),
        message,
    }
}

/// Whether the system said that nobody listens there.
fn is_refused(status: &Status) -> bool {
    causes(status).any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    })
}

fn text_of(status: &Status) -> String {
    let mut text = status.message().to_owned();
    for cause in causes(status) {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
    }
    text
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(status), |cause| cause.source())
}
