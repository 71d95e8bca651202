//! What a client knows of a call that failed without an answer of the service.
//!
//! Connections end: a node stops, or asks for a new one now and then. HTTP/2 has words
//! for what becomes of the calls that were just being made, but gRPC's Rust client does
//! not act on them, and gives them as errors like any other (others give such calls
//! again by themselves).

use std::error::Error;
use std::io;

use tonic::Status;

/// Whether a call was certainly not processed by anybody: it changed nothing and may be
/// given again, also a command without an id. `false` for an answer of the service, which
/// says so itself, and when it cannot be known.
///
/// That is so if
/// * nobody listens there;
/// * the connection ended while the call waited to be written, and hyper gave it back;
/// * the server ended the connection at an earlier call (GOAWAY, RFC 9113 6.8), or
///   refused this one before it did anything (REFUSED_STREAM, RFC 9113 8.7).
///
/// A call that hyper finds at the end of its connection after it has written its headers
/// looks as if it were behind that end. No message has been sent then either.
#[must_use]
pub fn was_not_processed(status: &Status) -> bool {
    let mut causes = std::iter::successors(Error::source(status), |cause| Error::source(*cause));
    causes.any(|cause| {
        if let Some(error) = cause.downcast_ref::<h2::Error>() {
            let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
            return error.is_remote() && (error.is_go_away() || refused);
        }
        if let Some(error) = cause.downcast_ref::<hyper::Error>() {
            return error.is_canceled();
        }
        let error = cause.downcast_ref::<io::Error>();
        error.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tonic::transport::Endpoint;

    use super::*;
    use crate::proto::v1::SendRequest;
    use crate::proto::v1::entity_service_client::EntityServiceClient;

    const PREFACE_LEN: usize = 24;
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const HEADERS: u8 = 1;
    /// The first call of a connection.
    const STREAM: u8 = 1;

    /// The end of a connection with this reason, at this stream.
    fn go_away(last: u8, reason: u8) -> Vec<u8> {
        [
            &[0, 0, 8, 7, 0, 0, 0, 0, 0],
            &[0, 0, 0, last, 0, 0, 0, reason][..],
        ]
        .concat()
    }

    fn reset(reason: u8) -> Vec<u8> {
        vec![0, 0, 4, 3, 0, 0, 0, 0, STREAM, 0, 0, 0, reason]
    }

    /// Reads until a call has begun.
    async fn call(stream: &mut TcpStream) {
        stream.read_exact(&mut [0; PREFACE_LEN]).await.unwrap();
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; len as usize];
            stream.read_exact(&mut payload).await.unwrap();
            if head[3] == HEADERS {
                return;
            }
        }
    }

    /// How a call fails that is answered like this, and whose connection then ends.
    async fn failure(answer: Vec<u8>) -> Status {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(SETTINGS).await.unwrap();
            call(&mut stream).await;
            stream.write_all(&answer).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        };
        let calling = async {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
            let mut client = EntityServiceClient::new(endpoint.connect_lazy());
            client.send(SendRequest::default()).await.unwrap_err()
        };
        tokio::join!(serving, calling).1
    }

    const NO_ERROR: u8 = 0;
    const REFUSED_STREAM: u8 = 7;
    const CANCEL: u8 = 8;
    const ENHANCE_YOUR_CALM: u8 = 11;

    /// I-8: such a command changed nothing.
    #[tokio::test]
    async fn i8_what_the_server_did_not_take_is_known() {
        for answer in [
            go_away(0, NO_ERROR),
            go_away(0, ENHANCE_YOUR_CALM),
            reset(REFUSED_STREAM),
        ] {
            let status = failure(answer.clone()).await;
            assert!(was_not_processed(&status), "{answer:?}: {status:?}");
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let mut client = EntityServiceClient::new(endpoint.connect_lazy());
        let status = client.send(SendRequest::default()).await.unwrap_err();
        assert!(was_not_processed(&status), "{status:?}");
    }

    /// I-8: such a command may have been applied.
    #[tokio::test]
    async fn i8_what_the_server_may_have_taken_is_not_said_to_be_unprocessed() {
        for answer in [
            vec![],
            go_away(STREAM, NO_ERROR),
            go_away(STREAM, ENHANCE_YOUR_CALM),
            reset(NO_ERROR),
            reset(CANCEL),
        ] {
            let status = failure(answer.clone()).await;
            assert!(!was_not_processed(&status), "{answer:?}: {status:?}");
        }
        assert!(!was_not_processed(&Status::internal("of the service")));
    }

    /// The connection ends while the call has not been written.
    #[tokio::test]
    async fn i8_what_hyper_gives_back_was_not_processed() {
        let (client, server) = tokio::io::duplex(1024);
        let executor = hyper_util::rt::TokioExecutor::new();
        let stream = hyper_util::rt::TokioIo::new(client);
        let handshake = hyper::client::conn::http2::handshake(executor, stream).await;
        let (mut calls, connection) = handshake.unwrap();
        drop(connection);
        let request = axum::http::Request::new(axum::body::Body::empty());
        let error = calls.send_request(request).await.unwrap_err();
        drop(server);
        let mut status = Status::cancelled("lost");
        status.set_source(std::sync::Arc::new(error));
        assert!(was_not_processed(&status), "{status:?}");
    }
}
