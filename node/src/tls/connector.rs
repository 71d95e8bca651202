//! Connects to other nodes with TLS, as tonic wants it.
//!
//! Each connection uses the certificate and the authorities of its moment, and a
//! name that is resolved anew.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Makes connections to one host after the other.
#[derive(Clone)]
pub(crate) struct Connector<C> {
    config: C,
    source: Option<IpAddr>,
    within: Duration,
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<TokioIo<TlsStream<TcpStream>>>> + Send>>;

impl<C> Connector<C> {
    /// `config` gives what is shown and trusted at the moment. Connections come from
    /// `source`, if that is given, and are made with their handshake `within` a time.
    pub(crate) fn new(config: C, source: Option<IpAddr>, within: Duration) -> Self {
        Self {
            config,
            source,
            within,
        }
    }
}

impl<C: Fn() -> Arc<ClientConfig>> tower::Service<Uri> for Connector<C> {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Connecting;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Connecting {
        let (config, source, within) = ((self.config)(), self.source, self.within);
        Box::pin(async move {
            let connected = timeout(within, connect(&uri, config, source)).await;
            connected.unwrap_or_else(|_| {
                let message = format!("no connection with TLS within {within:?}");
                Err(io::Error::new(io::ErrorKind::TimedOut, message))
            })
        })
    }
}

async fn connect(
    uri: &Uri,
    config: Arc<ClientConfig>,
    source: Option<IpAddr>,
) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
    let invalid = |problem: String| io::Error::new(io::ErrorKind::InvalidInput, problem);
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|error| invalid(format!("{host:?} is no name: {error}")))?;
    let mut last = invalid(format!("{host:?} has no address"));
    for address in lookup_host((host, uri.port_u16().unwrap_or(443))).await? {
        match connect_to(address, source).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                let encrypted = TlsConnector::from(config).connect(name, stream).await;
                return encrypted.map(TokioIo::new);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn connect_to(address: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(source) = source.filter(|source| source.is_ipv4() == address.is_ipv4()) {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.connect(address).await
}
