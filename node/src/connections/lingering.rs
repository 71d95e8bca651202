//! The last of a connection on which everything is said: what the other end still sends
//! is read until it hangs up.
//!
//! A connection that is closed with bytes unread, or to which bytes come later, is reset
//! by the system. A client that writes into that does not get to read what was said to
//! it before: the answer to its call, or that the call was not taken.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// What the other end gets to hang up.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes that are read at most.
const DISCARDED_MAX: usize = 1024 * 1024;
/// Bytes that are read at a time.
const READ_LEN: usize = 4096;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Lingering {
    patience: Pin<Box<Sleep>>,
    discarded: usize,
}

impl Lingering {
    /// Begins now; needs a runtime.
    pub(super) fn new() -> Self {
        Self {
            patience: Box::pin(sleep(PATIENCE)),
            discarded: 0,
        }
    }

    /// Ready when the other end has hung up, or has had its time.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, stream: &mut TcpStream) -> Poll<()> {
        let mut nowhere = [0; READ_LEN];
        while self.discarded < DISCARDED_MAX && self.patience.as_mut().poll(context).is_pending() {
            let mut read = ReadBuf::new(&mut nowhere);
            let done = ready!(Pin::new(&mut *stream).poll_read(context, &mut read));
            let len = read.filled().len();
            if done.is_err() || len == 0 {
                break;
            }
            self.discarded += len;
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Both ends of a connection.
    pub(in crate::connections) async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        (client.unwrap(), accepted.unwrap().0)
    }

    async fn linger(mut stream: TcpStream) {
        stream.shutdown().await.unwrap();
        let mut lingering = Lingering::new();
        poll_fn(|context| lingering.poll(context, &mut stream)).await;
    }

    /// The client writes on after the last word, and then reads it.
    #[tokio::test]
    async fn what_was_said_is_heard_by_who_is_still_writing() {
        let (mut client, mut server) = pair().await;
        server.write_all(b"the last word").await.unwrap();
        let lingering = tokio::spawn(linger(server));
        for _ in 0..50 {
            client.write_all(&[0; 1000]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "the last word");
        assert!(!lingering.is_finished(), "the client is still there");
        drop(client);
        lingering.await.unwrap();
    }

    #[tokio::test]
    async fn who_does_not_stop_is_not_read_for_ever() {
        let (mut client, server) = pair().await;
        let lingering = tokio::spawn(linger(server));
        let mut written = 0;
        while client.write_all(&[0; 1000]).await.is_ok() {
            written += 1000;
            assert!(written < 100 << 20, "still read");
        }
        lingering.await.unwrap();
    }
}
