//! The port for other nodes: takes what they send and gives it to a
//! [`SharedPeerHandler`].
//!
//! What cannot be understood is refused here, with what is wrong with it; whether
//! it is meant for this node is the handler's to say. Calls and streams at once
//! are limited, so that nobody in the network can make the node hold more.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use perennial_sharding::peer::{
    AcceptedStream, BackFrame, Forwarded, PeerError, SharedPeerHandler,
};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Status, Streaming};
use tower::ServiceExt;

use super::transport::BATCHES_MAX;
use super::{CONTROL_LEN_MAX, Malformed, NODES_MAX, PeerLimits, calls, frames, header_of_wire};
use crate::connections::connection::Connection;
use crate::grpc::deadline::timeout_of;
use crate::proto::peer as wire;
use wire::control_service_server::{ControlService, ControlServiceServer};
use wire::forward_service_server::{ForwardService, ForwardServiceServer};

/// Calls of all nodes at once on which the cluster itself depends: each node has a few.
const CALLS_MAX: usize = 4 * NODES_MAX;
/// Errands of all nodes at once. They may take long, and have places of their own so
/// that nothing the cluster depends on is refused because of them.
const ERRANDS_MAX: usize = 1024;
/// Streams of commands at once; each node has one.
const STREAMS_MAX: usize = NODES_MAX;
/// Calls and streams of one connection at once; further ones wait in the sender.
const CONNECTION_CALLS_MAX: u32 = 256;
/// Calls that may be given up before they were looked at. A node that was paused, or
/// is busy, finds many of those; who sends them is a peer and no attacker, and must
/// not lose its connection for it.
const GIVEN_UP_MAX: usize = 1024;
/// How long a stream may take to say whom it is from.
const OPENING_TIMEOUT: Duration = Duration::from_secs(3);
/// A node that says nothing for so long is asked whether it is there.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// One that does not answer that for so long is gone.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes a node may send ahead on one stream, and on all of a connection.
const STREAM_WINDOW: u32 = 4 << 20;

/// Serves other nodes until `stopping` is cancelled; then every connection is cut off,
/// because who uses it has ended what it had under way, or never will. Dropped, too.
pub(crate) async fn serve(
    mut connections: mpsc::Receiver<Connection>,
    handler: SharedPeerHandler,
    limits: PeerLimits,
    stopping: CancellationToken,
) {
    let services = services(handler, limits);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(CONNECTION_CALLS_MAX)
        .max_pending_accept_reset_streams(GIVEN_UP_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW);
    let cut_off = stopping.child_token();
    let _cut_off_on_drop = cut_off.clone().drop_guard();
    loop {
        let connection = tokio::select! {
            connection = connections.recv() => connection,
            () = stopping.cancelled() => None,
        };
        let Some(connection) = connection else {
            return;
        };
        let services = services.clone();
        let service = tower::service_fn(move |request| answer(services.clone(), request));
        let remote = connection.facts().remote;
        let serving =
            builder.serve_connection(TokioIo::new(connection), TowerToHyperService::new(service));
        let serving = async move {
            if let Err(error) = serving.await {
                tracing::debug!(%remote, %error, "a connection of another node failed");
            }
        };
        // There are no more of them than counted connections.
        tokio::spawn(cut_off.clone().run_until_cancelled_owned(serving));
    }
}

fn services(handler: SharedPeerHandler, limits: PeerLimits) -> Router {
    let service = Arc::new(PeerService {
        handler,
        limits,
        calls: Semaphore::new(CALLS_MAX),
        errands: Semaphore::new(ERRANDS_MAX),
        streams: Arc::new(Semaphore::new(STREAMS_MAX)),
    });
    let control = ControlServiceServer::from_arc(Arc::clone(&service))
        .max_decoding_message_size(CONTROL_LEN_MAX);
    let forward =
        ForwardServiceServer::from_arc(service).max_decoding_message_size(limits.forward_len_max);
    let routes = Routes::new(control).add_service(forward);
    routes.prepare().into_axum_router()
}

/// Gives up when nobody waits any more, also if the connection does not say so.
async fn answer(
    services: Router,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let timeout = timeout_of(request.headers());
    let answering = services.oneshot(request);
    match timeout {
        None => answering.await,
        Some(timeout) => match tokio::time::timeout(timeout, answering).await {
            Ok(answer) => answer,
            Err(_) => Ok(Status::deadline_exceeded("nobody waits any more").into_http()),
        },
    }
}

struct PeerService {
    handler: SharedPeerHandler,
    limits: PeerLimits,
    calls: Semaphore,
    errands: Semaphore,
    streams: Arc<Semaphore>,
}

#[tonic::async_trait]
impl ControlService for PeerService {
    async fn call(
        &self,
        request: tonic::Request<wire::CallRequest>,
    ) -> Result<tonic::Response<wire::CallResponse>, Status> {
        let call = request.into_inner();
        let header = header_of_wire(call.header)?;
        let request = calls::request_of_wire(call.request)?;
        let (places, limit) = match request.is_errand() {
            true => (&self.errands, ERRANDS_MAX),
            false => (&self.calls, CALLS_MAX),
        };
        let Ok(_permit) = places.try_acquire() else {
            return Err(Status::resource_exhausted(format!(
                "{limit} calls of nodes are under way here, which is the limit: ask again later"
            )));
        };
        let response = self.handler.handle(header, request).await;
        Ok(tonic::Response::new(wire::CallResponse {
            response: Some(calls::response_to_wire(response.map_err(refusal)?)),
        }))
    }
}

#[tonic::async_trait]
impl ForwardService for PeerService {
    type ForwardStream = ReceiverStream<Result<wire::BackBatch, Status>>;

    async fn forward(
        &self,
        request: tonic::Request<Streaming<wire::ForwardBatch>>,
    ) -> Result<tonic::Response<Self::ForwardStream>, Status> {
        let Ok(permit) = Arc::clone(&self.streams).try_acquire_owned() else {
            return Err(Status::resource_exhausted(format!(
                "{STREAMS_MAX} nodes send commands here, which is the limit: ask again later"
            )));
        };
        let mut incoming = request.into_inner();
        let opening = tokio::time::timeout(OPENING_TIMEOUT, incoming.message()).await;
        let opening =
            opening.map_err(|_| Status::deadline_exceeded("the stream said nothing"))??;
        let header = header_of_wire(opening.and_then(|batch| batch.header))?;

        let (frames, frames_receiver) = mpsc::channel(BATCHES_MAX);
        let (back_sender, back) = mpsc::channel(BATCHES_MAX);
        let accepted = AcceptedStream {
            header,
            frames: frames_receiver,
            back: back_sender,
        };
        let handler = Arc::clone(&self.handler);
        let mut accepting = Box::pin(async move { handler.accept(accepted).await });
        // A handler that refuses does so before it waits for anything.
        let accepting = match futures::poll!(&mut accepting) {
            Poll::Ready(accepted) => {
                accepted.map_err(refusal)?;
                None
            }
            Poll::Pending => Some(accepting),
        };
        let (outgoing, messages) = mpsc::channel(BATCHES_MAX);
        let limits = self.limits;
        tokio::spawn(async move {
            let carrying = carry(incoming, frames, back, outgoing, limits);
            tokio::pin!(carrying);
            if let Some(accepting) = accepting {
                tokio::select! {
                    _ = accepting => carrying.await,
                    () = &mut carrying => {}
                }
            } else {
                carrying.await;
            }
            drop(permit);
        });
        Ok(tonic::Response::new(ReceiverStream::new(messages)))
    }
}

type Outgoing = mpsc::Sender<Result<wire::BackBatch, Status>>;

/// Runs as long as a stream: until either end closes it or the connection is lost.
async fn carry(
    incoming: Streaming<wire::ForwardBatch>,
    frames: mpsc::Sender<Vec<Forwarded>>,
    back: mpsc::Receiver<Vec<BackFrame>>,
    outgoing: Outgoing,
    limits: PeerLimits,
) {
    // Side by side, so that commands that wait for room never hold up answers.
    let ended = tokio::select! {
        ended = take_in(incoming, frames) => ended,
        () = send_back(back, &outgoing, limits) => Ok(()),
        () = outgoing.closed() => Ok(()),
    };
    if let Err(status) = ended {
        tracing::warn!(error = status.message(), "a stream of commands is refused");
        // Without room nobody reads any more.
        let _ = outgoing.try_send(Err(status));
    }
}

async fn take_in(
    mut incoming: Streaming<wire::ForwardBatch>,
    frames: mpsc::Sender<Vec<Forwarded>>,
) -> Result<(), Status> {
    while let Some(batch) = incoming.message().await? {
        let batch = frames::forwards_of_wire(batch.frames)?;
        if frames.send(batch).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

async fn send_back(
    mut back: mpsc::Receiver<Vec<BackFrame>>,
    outgoing: &Outgoing,
    limits: PeerLimits,
) {
    while let Some(batch) = back.recv().await {
        for message in frames::backs_to_wire(batch, limits.forward_len_max) {
            if outgoing.send(Ok(message)).await.is_err() {
                return;
            }
        }
    }
}

impl From<Malformed> for Status {
    fn from(error: Malformed) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

/// The handler says that the message is not for this node; `transport.rs` knows it
/// by this code, which nothing else here has.
fn refusal(error: PeerError) -> Status {
    match error {
        PeerError::WrongPeer { message, .. } => Status::failed_precondition(message),
        error @ (PeerError::Refused { .. } | PeerError::Unreachable { .. }) => {
            Status::unavailable(error.to_string())
        }
    }
}
