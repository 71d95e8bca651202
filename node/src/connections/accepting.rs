//! Takes connections from a port, as far as there is room, and shakes hands with
//! each on its own: one that is slow keeps nobody else waiting.
//!
//! Whoever comes to the wrong port is told so, in the protocol it speaks. Reasons for
//! refusing, as the metric has them: `port_full`, `address_full`, `handshake` (no
//! trust, or nothing in common), `timeout`, `no_tls` and `unexpected_tls`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, Parts};
use super::counts::{Counted, Counts, Full};
use super::protection::ConnectionFacts;
use super::{ConnectionLimits, refused};

/// Connections that have shaken hands and are not served yet.
const READY_MAX: usize = 64;
/// Pause when the system has no room for another connection.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);
/// The first byte of TLS, and of nothing that speaks HTTP.
const TLS_HANDSHAKE: u8 = 0x16;

/// What a port shows to those who connect; the configuration is that of the moment.
#[derive(Clone)]
pub(crate) enum Encryption {
    /// Nobody may use TLS.
    Off,
    /// Everybody has to.
    Required(CurrentConfig),
    /// Each as it likes: the first byte tells.
    Welcome(CurrentConfig),
}

pub(crate) type CurrentConfig = Arc<dyn Fn() -> Arc<ServerConfig> + Send + Sync>;

/// A port that takes connections.
#[derive(Clone)]
pub(crate) struct Door {
    /// For the metrics: `client`, `http` or `peer`.
    pub(crate) port: &'static str,
    pub(crate) encryption: Encryption,
    pub(crate) limits: ConnectionLimits,
}

/// Takes connections until `closing` is cancelled; then the port is free.
pub(crate) fn accept(
    listener: TcpListener,
    door: Door,
    closing: CancellationToken,
) -> mpsc::Receiver<Connection> {
    let (ready, connections) = mpsc::channel(READY_MAX);
    tokio::spawn(async move {
        let counts = Counts::new(door.port, door.limits.connections, door.limits.per_address);
        let door = Arc::new(door);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = closing.cancelled() => return,
                // Whoever served them has ended.
                () = ready.closed() => return,
            };
            match accepted {
                Ok((stream, remote)) => take(&door, &counts, stream, remote, &ready),
                Err(error) => failed(door.port, &error).await,
            }
        }
    });
    connections
}

fn take(
    door: &Arc<Door>,
    counts: &Counts,
    stream: TcpStream,
    remote: SocketAddr,
    ready: &mpsc::Sender<Connection>,
) {
    let counted = match counts.admit(remote.ip()) {
        Ok(counted) => counted,
        Err(full) => {
            let reason = match full {
                Full::Port => "port_full",
                Full::Address => "address_full",
            };
            refused(door.port, reason);
            tracing::debug!(port = door.port, %remote, reason, "a connection is refused");
            // Without a word: words cost what is short.
            return;
        }
    };
    let (door, ready) = (Arc::clone(door), ready.clone());
    // One for each counted connection, and it ends with the handshake.
    tokio::spawn(async move {
        let begun_by = Instant::now() + door.limits.handshake_timeout;
        let shaking = shake_hands(&door, stream, remote, counted, begun_by);
        let refusal = match timeout_at(begun_by, shaking).await {
            Ok(Ok(connection)) => {
                // Fails when the port is closed meanwhile.
                let _ = ready.send(connection).await;
                return;
            }
            Ok(Err(refusal)) => refusal,
            Err(_) => Refusal::Timeout,
        };
        if let Some(reason) = refusal.reason() {
            refused(door.port, reason);
        }
        tracing::debug!(port = door.port, %remote, %refusal, "a connection is refused");
    });
}

/// Why a connection comes to nothing.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("nothing was said in time")]
    Timeout,
    #[error("it does not use TLS, which this port requires")]
    NoTls,
    #[error("it uses TLS, which this port does not: set node.tls.certificate and node.tls.key")]
    UnexpectedTls,
    #[error("the TLS handshake failed: {0}")]
    Handshake(io::Error),
    #[error("the connection was lost: {0}")]
    Lost(#[from] io::Error),
}

impl Refusal {
    /// For the metric. Who hangs up without a word, as some probes do, is not refused.
    fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Timeout => Some("timeout"),
            Self::NoTls => Some("no_tls"),
            Self::UnexpectedTls => Some("unexpected_tls"),
            Self::Handshake(_) => Some("handshake"),
            Self::Lost(_) => None,
        }
    }
}

async fn shake_hands(
    door: &Door,
    mut stream: TcpStream,
    remote: SocketAddr,
    counted: Counted,
    begun_by: Instant,
) -> Result<Connection, Refusal> {
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    let parts = |encrypted| Parts {
        facts: ConnectionFacts::new(local, remote, encrypted),
        counted,
        begun_by,
        write_timeout: door.limits.slow_reader_timeout,
    };
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    let uses_tls = first[0] == TLS_HANDSHAKE;
    let config = match (&door.encryption, uses_tls) {
        (Encryption::Off | Encryption::Welcome(_), false) => {
            return Ok(Connection::plain(stream, parts(false)));
        }
        (Encryption::Off, true) => {
            turn_away(&mut stream, TLS_ALERT).await;
            return Err(Refusal::UnexpectedTls);
        }
        (Encryption::Required(_), false) => {
            let words = if first[0] == b'P' {
                &go_away("this port requires TLS: connect with https")
            } else {
                HTTP1_REFUSAL
            };
            turn_away(&mut stream, words).await;
            return Err(Refusal::NoTls);
        }
        (Encryption::Required(config) | Encryption::Welcome(config), true) => config(),
    };
    match TlsAcceptor::from(config).accept(stream).await {
        Ok(stream) => Ok(Connection::encrypted(stream, parts(true))),
        Err(error) => Err(Refusal::Handshake(error)),
    }
}

/// A fatal alert of TLS: handshake_failure.
const TLS_ALERT: &[u8] = &[0x15, 3, 1, 0, 2, 2, 40];

const HTTP1_REFUSAL: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n\
      this port requires TLS: connect with https\n";

/// What an HTTP/2 client is told: empty settings, then the end of the connection because of
/// INADEQUATE_SECURITY, with words for people.
fn go_away(words: &str) -> Vec<u8> {
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const INADEQUATE_SECURITY: u32 = 0xc;
    // The words are ours, and short.
    let len = (8 + words.len()) as u8;
    let mut frames = SETTINGS.to_vec();
    frames.extend([0, 0, len, 7, 0, 0, 0, 0, 0]);
    frames.extend([0; 4]);
    frames.extend(INADEQUATE_SECURITY.to_be_bytes());
    frames.extend(words.as_bytes());
    frames
}

/// Says something and hangs up; within the time of the handshake.
async fn turn_away(stream: &mut TcpStream, words: &[u8]) {
    // Read, because a connection that is closed with bytes unread is reset, and what
    // was said to it is lost.
    let mut unread = [0; 1024];
    let _ = stream.try_read(&mut unread);
    // Who is gone needs no words.
    let _ = stream.write_all(words).await;
    let _ = stream.shutdown().await;
}

async fn failed(port: &str, error: &io::Error) {
    match error.kind() {
        // Of that one connection: it is gone.
        io::ErrorKind::ConnectionAborted
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::Interrupted => {}
        _ => {
            tracing::warn!(port, %error, "no connection can be taken: raise the limit of open files?");
            tokio::time::sleep(EXHAUSTED_PAUSE).await;
        }
    }
}
