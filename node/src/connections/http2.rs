//! Serves HTTP/2, for gRPC, on connections of the port for clients.
//!
//! Reasons for ending a connection, as the metric has them: `silent` (it did not
//! answer whether it is there, or took nothing), `flood` (it reset, pinged or sent
//! settings without end) and `protocol` (it broke the rules of HTTP/2).

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use perennial_persistence::command_error::{Applied, CommandError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;

use super::connection::Connection;
use super::protection::ConnectionFacts;
use super::{ConnectionLimits, refused};
use crate::grpc::deadline::timeout_of;
use crate::grpc::server::GatedServices;
use crate::grpc::status::status_of;
use crate::tls::client_certificate::ClientCertificate;

/// How much later than the client's deadline an answer of a service is still waited for.
const SERVICES_ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Bytes a client may send ahead on one stream, and on all of a connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// What calls under way get when their connection has reached its age.
const AGE_GRACE: Duration = Duration::from_secs(30);

/// Serves until there are no more connections and every call is finished; when
/// `stopping` is cancelled, clients are asked to go. How long that may take is the
/// caller's to limit; dropped, the connections that are left end with it.
pub(crate) async fn serve(
    port: &'static str,
    mut connections: mpsc::Receiver<Connection>,
    services: GatedServices,
    limits: ConnectionLimits,
    stopping: CancellationToken,
) {
    let limits = Arc::new(limits);
    let served = TaskTracker::new();
    let cut_off = CancellationToken::new();
    let _cut_off_on_drop = cut_off.clone().drop_guard();
    while let Some(connection) = connections.recv().await {
        let (services, limits, stopping) =
            (services.clone(), Arc::clone(&limits), stopping.clone());
        let serving = async move {
            let remote = connection.facts().remote;
            if let Err(error) = serve_one(connection, services, &limits, stopping).await {
                if let Some(reason) = fault(&*error) {
                    refused(port, reason);
                }
                tracing::debug!(%remote, error = &*error, "a connection failed");
            }
        };
        served.spawn(cut_off.clone().run_until_cancelled_owned(serving));
    }
    served.close();
    served.wait().await;
}

async fn serve_one(
    connection: Connection,
    services: GatedServices,
    limits: &ConnectionLimits,
    stopping: CancellationToken,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(limits.streams_per_connection)
        .max_header_list_size(limits.header_list_len)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout);
    let (facts, certificate) = (connection.facts(), connection.certificate());
    let service = tower::service_fn(move |request| {
        answer(services.clone(), request, facts, certificate.clone())
    });
    let serving =
        builder.serve_connection(TokioIo::new(connection), TowerToHyperService::new(service));
    tokio::pin!(serving);
    let age = async {
        match limits.connection_age {
            Some(age) => tokio::time::sleep(age).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        served = &mut serving => return Ok(served?),
        () = stopping.cancelled() => {
            serving.as_mut().graceful_shutdown();
            return Ok(serving.await?);
        }
        () = age => serving.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        served = &mut serving => Ok(served?),
        () = tokio::time::sleep(AGE_GRACE) => Ok(()),
    }
}

/// Adds what is known of the connection, and answers for a service that takes longer
/// than the client waits. Services look at the client's deadline themselves, and know
/// what became of a command; they count from when they have read the request, so they
/// are given time to say it.
async fn answer(
    services: GatedServices,
    mut request: Request<Incoming>,
    facts: ConnectionFacts,
    certificate: Option<ClientCertificate>,
) -> Result<Response<Body>, Infallible> {
    request.extensions_mut().insert(facts);
    if let Some(certificate) = certificate {
        request.extensions_mut().insert(certificate);
    }
    let timeout = timeout_of(request.headers());
    let answering = services.answer(request);
    let Some(timeout) = timeout else {
        return Ok(answering.await);
    };
    match tokio::time::timeout(timeout + SERVICES_ANSWER_WITHIN, answering).await {
        Ok(answer) => Ok(answer),
        Err(_) => {
            let applied = Applied::Unknown;
            Ok(status_of(CommandError::DeadlineExceeded { applied }).into_http())
        }
    }
}

/// What a client did to make its connection end like this, if it did something.
fn fault(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let mut causes = std::iter::successors(Some(error), |cause| Error::source(*cause));
    causes.find_map(|cause| {
        if let Some(error) = cause.downcast_ref::<h2::Error>() {
            return match error.reason() {
                Some(h2::Reason::ENHANCE_YOUR_CALM) if !error.is_remote() => Some("flood"),
                Some(h2::Reason::NO_ERROR | h2::Reason::CANCEL) => None,
                Some(_) if !error.is_remote() => Some("protocol"),
                _ => None,
            };
        }
        if let Some(error) = cause.downcast_ref::<hyper::Error>() {
            return error.is_timeout().then_some("silent");
        }
        let error = cause.downcast_ref::<io::Error>()?;
        (error.kind() == io::ErrorKind::TimedOut).then_some("silent")
    })
}
