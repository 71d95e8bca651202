//! Takes connections from a port, as far as there is room, and shakes hands with
//! each on its own: one that is slow keeps nobody else waiting.
//!
//! Whoever comes to the wrong port is told so (`turning_away.rs`). Reasons for
//! refusing, as the metric has them: `port_full`, `address_full`, `handshake` (no
//! trust, or nothing in common), `timeout`, `no_tls` and `unexpected_tls`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, Parts};
use super::counts::{Counted, Counts, Full};
use super::protection::ConnectionFacts;
use super::{ConnectionLimits, refused, turning_away};

/// Connections that have shaken hands and are not served yet.
const READY_MAX: usize = 64;
/// What connections get to shake hands when the port is closed.
const LAST_HANDSHAKES_MAX: Duration = Duration::from_secs(1);
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

/// Takes connections until `closing` is cancelled; then the port is free. Who had
/// connected before is still let in, and those who serve say good-bye as they should:
/// a client whose connection is cut instead does not know what it may repeat.
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
                () = closing.cancelled() => break,
                // Whoever served them has ended.
                () = ready.closed() => return,
            };
            match accepted {
                Ok((stream, remote)) => take(&door, &counts, stream, remote, &ready, &closing),
                Err(error) => failed(door.port, &error).await,
            }
        }
        for (stream, remote) in still_waiting(listener) {
            take(&door, &counts, stream, remote, &ready, &closing);
        }
    });
    connections
}

/// Connections that the system has made and nobody has taken. The port is free when
/// the last was asked for.
fn still_waiting(listener: TcpListener) -> impl Iterator<Item = (TcpStream, SocketAddr)> {
    // Asked directly: the runtime would say what it knew when it last looked.
    let listener = listener.into_std().ok();
    std::iter::from_fn(move || {
        let (stream, remote) = listener.as_ref()?.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        Some((TcpStream::from_std(stream).ok()?, remote))
    })
}

fn take(
    door: &Arc<Door>,
    counts: &Counts,
    stream: TcpStream,
    remote: SocketAddr,
    ready: &mpsc::Sender<Connection>,
    closing: &CancellationToken,
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
    let (door, ready, closing) = (Arc::clone(door), ready.clone(), closing.clone());
    // One for each counted connection, and it ends with the handshake.
    tokio::spawn(async move {
        let begun_by = Instant::now() + door.limits.handshake_timeout;
        let shaking = shake_hands(&door, stream, remote, counted, begun_by);
        let shaken = tokio::select! {
            shaken = timeout_at(begun_by, shaking) => shaken.unwrap_or(Err(Refusal::Timeout)),
            () = closed_for(&closing, LAST_HANDSHAKES_MAX) => Err(Refusal::Closed),
        };
        let refusal = match shaken {
            Ok(connection) => {
                // Fails when nobody serves them any more.
                let _ = ready.send(connection).await;
                return;
            }
            Err(refusal) => refusal,
        };
        if let Some(reason) = refusal.reason() {
            refused(door.port, reason);
        }
        tracing::debug!(port = door.port, %remote, %refusal, "a connection is refused");
    });
}

/// Waits until the port has been closed for so long.
async fn closed_for(closing: &CancellationToken, time: Duration) {
    closing.cancelled().await;
    sleep(time).await;
}

/// Why a connection comes to nothing.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("nothing was said in time")]
    Timeout,
    #[error("the port is closed, and nothing was said since")]
    Closed,
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
    /// For the metric. Who hangs up without a word, as some probes do, is not refused,
    /// nor is who has said nothing when the node stops.
    fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Timeout => Some("timeout"),
            Self::NoTls => Some("no_tls"),
            Self::UnexpectedTls => Some("unexpected_tls"),
            Self::Handshake(_) => Some("handshake"),
            Self::Lost(_) | Self::Closed => None,
        }
    }
}

async fn shake_hands(
    door: &Door,
    stream: TcpStream,
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
            turning_away::tell_not_to_use_tls(stream).await;
            return Err(Refusal::UnexpectedTls);
        }
        (Encryption::Required(_), false) => {
            turning_away::tell_to_use_tls(stream, first[0]).await;
            return Err(Refusal::NoTls);
        }
        (Encryption::Required(config) | Encryption::Welcome(config), true) => config(),
    };
    let accepting = TlsAcceptor::from(config).accept(stream);
    match accepting.into_fallible().await {
        Ok(stream) => Ok(Connection::encrypted(stream, parts(true))),
        Err((error, stream)) => {
            // The alert has been sent.
            turning_away::hang_up(stream).await;
            Err(Refusal::Handshake(error))
        }
    }
}

async fn failed(port: &str, error: &io::Error) {
    match error.kind() {
        // Of that one connection: it is gone.
        io::ErrorKind::ConnectionAborted
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::Interrupted => {}
        _ => {
            tracing::warn!(port, %error, "no connection can be taken: raise the limit of open files?");
            sleep(EXHAUSTED_PAUSE).await;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::TcpStream as Client;
    use std::thread;

    use super::*;

    /// I-9: a client that has connected when the node stops is let in and told to go.
    /// Cut off, it would not know what became of its command.
    #[tokio::test]
    async fn who_had_connected_is_let_in_when_the_port_closes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let clients = thread::spawn(move || {
            let connect = |_| {
                let mut client = Client::connect(address).unwrap();
                io::Write::write_all(&mut client, b"PRI").unwrap();
                client
            };
            (0..5).map(connect).collect::<Vec<_>>()
        });
        let clients = clients.join().unwrap();
        let door = Door {
            port: "client",
            encryption: Encryption::Off,
            limits: ConnectionLimits {
                connections: 10,
                per_address: 10,
                handshake_timeout: Duration::from_secs(60),
                slow_reader_timeout: Duration::from_secs(60),
                ..ConnectionLimits::UNSET
            },
        };
        let closing = CancellationToken::new();
        closing.cancel();
        let mut connections = accept(listener, door, closing);
        let mut let_in = Vec::new();
        while let Some(connection) = connections.recv().await {
            let_in.push(connection);
        }
        assert_eq!(let_in.len(), clients.len());
        let late = TcpStream::connect(address).await.unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::ConnectionRefused);
    }
}
