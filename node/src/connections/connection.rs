//! One connection: bytes in and out, and what is known of the other end.
//!
//! It fails by itself when the other end does not say what it wants in time, or
//! takes nothing of what is sent to it. It ends when the other end has hung up too, or
//! has had time to (`lingering.rs`).

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tokio_rustls::server::TlsStream;

use super::counts::Counted;
use super::lingering::Lingering;
use super::protection::ConnectionFacts;
use crate::tls::client_certificate::ClientCertificate;

/// Bytes every HTTP/2 connection begins with. Once they are there, the protocol's
/// own questions find out who has gone.
const PREFACE_LEN: usize = 24;

/// A connection that was counted, and has shaken hands if it had to.
pub(crate) struct Connection {
    io: Io,
    facts: ConnectionFacts,
    certificate: Option<ClientCertificate>,
    beginning: Option<Beginning>,
    write_timeout: Duration,
    write_stalled: Option<Pin<Box<Sleep>>>,
    /// Since everything is said.
    lingering: Option<Lingering>,
    _counted: Counted,
}

enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Until the first bytes are there.
struct Beginning {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
}

/// What `Connection` is made of.
pub(super) struct Parts {
    pub(super) facts: ConnectionFacts,
    pub(super) counted: Counted,
    /// When the first bytes have to be there.
    pub(super) begun_by: Instant,
    pub(super) write_timeout: Duration,
}

impl Connection {
    pub(super) fn plain(stream: TcpStream, parts: Parts) -> Self {
        Self::new(Io::Plain(stream), None, parts)
    }

    pub(super) fn encrypted(stream: TlsStream<TcpStream>, parts: Parts) -> Self {
        // Only there if it was verified: see `credentials.rs`.
        let shown = stream.get_ref().1.peer_certificates();
        let first = shown.and_then(|chain| chain.first());
        let certificate = first.and_then(|first| ClientCertificate::of_verified(first));
        Self::new(Io::Tls(Box::new(stream)), certificate, parts)
    }

    fn new(io: Io, certificate: Option<ClientCertificate>, parts: Parts) -> Self {
        Self {
            io,
            facts: parts.facts,
            certificate,
            beginning: Some(Beginning {
                missing: PREFACE_LEN,
                deadline: Box::pin(sleep_until(parts.begun_by)),
            }),
            write_timeout: parts.write_timeout,
            write_stalled: None,
            lingering: None,
            _counted: parts.counted,
        }
    }

    pub(crate) fn facts(&self) -> ConnectionFacts {
        self.facts
    }

    pub(super) fn certificate(&self) -> Option<ClientCertificate> {
        self.certificate.clone()
    }

    /// Fails when writing makes no progress for too long.
    fn watch_writing<T>(
        &mut self,
        context: &mut Context<'_>,
        progress: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.write_stalled = None;
            return progress;
        }
        let timeout = self.write_timeout;
        let stalled = self
            .write_stalled
            .get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(timed_out("the other end takes nothing")))
    }
}

fn timed_out(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = match &mut this.io {
            Io::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Io::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        let Some(beginning) = &mut this.beginning else {
            return read;
        };
        match read {
            Poll::Ready(Ok(())) => {
                let len = buffer.filled().len() - before;
                beginning.missing = beginning.missing.saturating_sub(len);
                if beginning.missing == 0 {
                    this.beginning = None;
                }
                Poll::Ready(Ok(()))
            }
            Poll::Pending => {
                ready!(beginning.deadline.as_mut().poll(context));
                Poll::Ready(Err(timed_out("nothing was asked in time")))
            }
            failed => failed,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let progress = match &mut this.io {
            Io::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Io::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        };
        this.watch_writing(context, progress)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let progress = match &mut this.io {
            Io::Plain(stream) => Pin::new(stream).poll_flush(context),
            Io::Tls(stream) => Pin::new(stream).poll_flush(context),
        };
        this.watch_writing(context, progress)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingering.is_none() {
            let progress = match &mut this.io {
                Io::Plain(stream) => Pin::new(stream).poll_shutdown(context),
                Io::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            };
            ready!(this.watch_writing(context, progress))?;
        }
        let stream = match &mut this.io {
            Io::Plain(stream) => stream,
            // Nobody wants to know what is in there.
            Io::Tls(stream) => stream.get_mut().0,
        };
        let lingering = this.lingering.get_or_insert_with(Lingering::new);
        lingering.poll(context, stream).map(Ok)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let progress = match &mut this.io {
            Io::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Io::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        };
        this.watch_writing(context, progress)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(stream) => stream.is_write_vectored(),
            Io::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
