//! Serves HTTP/1, for probes, scrapers and browsers, on connections of the HTTP port.

use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::connection::Connection;
use super::{ConnectionLimits, refused};

/// Headers of a request; browsers send a tenth of it.
const HEADERS_MAX: usize = 100;
/// Bytes of a request that are read ahead, and of an answer that are written ahead.
const BUFFER_LEN: usize = 64 << 10;

/// Serves until `closing` is cancelled; requests under way are then finished. Dropped,
/// the connections end with it.
pub(crate) async fn serve(
    port: &'static str,
    mut connections: mpsc::Receiver<Connection>,
    pages: Router,
    limits: ConnectionLimits,
    closing: CancellationToken,
) {
    let mut served = JoinSet::new();
    loop {
        let connection = tokio::select! {
            connection = connections.recv() => connection,
            // Makes room in the set; there are no more tasks than counted connections.
            Some(_) = served.join_next() => continue,
            () = closing.cancelled() => None,
        };
        let Some(connection) = connection else {
            break;
        };
        let serving = serve_one(port, connection, pages.clone(), &limits, closing.clone());
        served.spawn(serving);
    }
    served.join_all().await;
}

fn serve_one(
    port: &'static str,
    connection: Connection,
    pages: Router,
    limits: &ConnectionLimits,
    closing: CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // Also how long a connection may do nothing between two requests.
        .header_read_timeout(limits.handshake_timeout)
        .max_headers(HEADERS_MAX)
        .max_buf_size(BUFFER_LEN);
    async move {
        let (facts, certificate) = (connection.facts(), connection.certificate());
        let pages = pages.map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(facts);
            if let Some(certificate) = certificate.clone() {
                request.extensions_mut().insert(certificate);
            }
            request
        });
        let serving =
            builder.serve_connection(TokioIo::new(connection), TowerToHyperService::new(pages));
        tokio::pin!(serving);
        let ended = tokio::select! {
            ended = &mut serving => ended,
            () = closing.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        if let Err(error) = ended {
            if error.is_timeout() {
                refused(port, "silent");
            } else if error.is_parse() {
                refused(port, "protocol");
            }
            tracing::debug!(remote = %facts.remote, %error, "a connection failed");
        }
    }
}
