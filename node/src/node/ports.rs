//! The ports of a node: which address may be opened how, and what is shown there.
//!
//! A port is bound before anything is changed, and served later. Certificates are
//! read here for the first time, so that a wrong one is found at the start; from then
//! on they are looked at until the node closes.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::NodeError;
use crate::config::Settings;
use crate::connections::ConnectionLimits;
use crate::connections::accepting::{Door, Encryption, accept};
use crate::connections::connection::Connection;
use crate::peer::NODES_MAX;
use crate::tls::TlsError;
use crate::tls::credentials::{ClientPortTls, PeerTls, for_clients, for_peers};
use crate::tls::reload::Reloading;

/// Connections of the HTTP port: probes, scrapers and people.
const HTTP_CONNECTIONS_MAX: usize = 512;
/// Of those, from one address, so that nobody keeps the probes out.
const HTTP_CONNECTIONS_PER_ADDRESS_MAX: usize = 128;
/// Connections of other nodes, of which each has three, and new ones before the old
/// ones are gone.
const PEER_CONNECTIONS_MAX: usize = 4 * NODES_MAX;
/// Of those, from one address, where several nodes may be: in IPv6 the addresses of one
/// network count together.
const PEER_CONNECTIONS_PER_ADDRESS_MAX: usize = 2 * NODES_MAX;

/// Where a node is to listen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses {
    pub(super) grpc: SocketAddr,
    pub(super) http: SocketAddr,
    pub(super) peer: SocketAddr,
}

/// The ports, bound.
pub(super) struct Ports {
    pub(super) grpc: Port,
    pub(super) http: Port,
    pub(super) peer: Port,
    /// What this node shows to nodes it connects to.
    pub(super) peer_tls: Option<watch::Receiver<PeerTls>>,
}

/// A port, bound; nobody is answered yet.
pub(super) struct Port {
    /// With the real number.
    pub(super) address: SocketAddr,
    listener: TcpListener,
    door: Door,
}

impl Port {
    /// Takes connections until `closing` is cancelled.
    pub(super) fn open(self, closing: CancellationToken) -> mpsc::Receiver<Connection> {
        accept(self.listener, self.door, closing)
    }
}

impl Ports {
    /// Binds all three. Certificates are looked at until `closing` is cancelled.
    pub(super) async fn bind(
        wanted: Addresses,
        settings: &Settings,
        insecure: bool,
        closing: &CancellationToken,
    ) -> Result<Self, NodeError> {
        let encrypted = Encrypted {
            clients: settings.tls.of_clients()?.is_some(),
            peers: settings.tls.of_peers()?.is_some(),
        };
        check_exposure(wanted, encrypted, insecure)?;
        let clients = client_tls(settings, closing)?;
        let peers = peer_tls(settings, closing)?;
        let limits = &settings.limits;
        let grpc = Door {
            port: "client",
            encryption: match clients.clone() {
                None => Encryption::Off,
                Some(tls) => Encryption::Required(Arc::new(move || Arc::clone(&tls.borrow().grpc))),
            },
            limits: limits.clone(),
        };
        let http = Door {
            port: "http",
            // Probes of Kubernetes and scrapers come without.
            encryption: match clients {
                None => Encryption::Off,
                Some(tls) => Encryption::Welcome(Arc::new(move || Arc::clone(&tls.borrow().http))),
            },
            limits: ConnectionLimits {
                connections: HTTP_CONNECTIONS_MAX.min(limits.connections),
                per_address: HTTP_CONNECTIONS_PER_ADDRESS_MAX.min(limits.per_address),
                ..limits.clone()
            },
        };
        let peer = Door {
            port: "peer",
            encryption: match peers.clone() {
                None => Encryption::Off,
                Some(tls) => {
                    Encryption::Required(Arc::new(move || Arc::clone(&tls.borrow().server)))
                }
            },
            limits: ConnectionLimits {
                connections: PEER_CONNECTIONS_MAX,
                per_address: PEER_CONNECTIONS_PER_ADDRESS_MAX,
                ..limits.clone()
            },
        };
        Ok(Self {
            grpc: bind(wanted.grpc, "--listen", grpc).await?,
            http: bind(wanted.http, "--http", http).await?,
            peer: bind(wanted.peer, "--peer-listen", peer).await?,
            peer_tls: peers,
        })
    }
}

/// Which ports have certificates.
#[derive(Debug, Clone, Copy)]
struct Encrypted {
    clients: bool,
    peers: bool,
}

/// Beyond this machine a port is encrypted, or somebody has said `--insecure`. The HTTP
/// port is open either way: what it shows without TLS is decided for each page, by
/// [`may_be_shown`](crate::connections::protection::may_be_shown).
fn check_exposure(
    wanted: Addresses,
    encrypted: Encrypted,
    insecure: bool,
) -> Result<(), NodeError> {
    for (address, encrypted, flag, setting) in [
        (
            wanted.grpc,
            encrypted.clients,
            "--listen",
            "node.tls.certificate",
        ),
        (
            wanted.peer,
            encrypted.peers,
            "--peer-listen",
            "node.peer_tls.certificate",
        ),
    ] {
        if encrypted || address.ip().is_loopback() {
            continue;
        }
        if !insecure {
            return Err(NodeError::NotLoopback {
                address,
                flag,
                setting,
            });
        }
        tracing::warn!(%address, flag, "--insecure: anybody in the network can read and send here");
    }
    Ok(())
}

fn client_tls(
    settings: &Settings,
    closing: &CancellationToken,
) -> Result<Option<watch::Receiver<ClientPortTls>>, TlsError> {
    let Some((files, auth)) = settings.tls.of_clients()? else {
        return Ok(None);
    };
    let make = move |files: &_, contents: &_| for_clients(files, contents, auth);
    let (reloading, made) = Reloading::start(files, "client", make)?;
    tokio::spawn(closing.clone().run_until_cancelled_owned(reloading.run()));
    Ok(Some(made))
}

fn peer_tls(
    settings: &Settings,
    closing: &CancellationToken,
) -> Result<Option<watch::Receiver<PeerTls>>, TlsError> {
    let Some(files) = settings.tls.of_peers()? else {
        return Ok(None);
    };
    let (reloading, made) = Reloading::start(files, "peer", for_peers)?;
    tokio::spawn(closing.clone().run_until_cancelled_owned(reloading.run()));
    Ok(Some(made))
}

async fn bind(address: SocketAddr, flag: &'static str, door: Door) -> Result<Port, NodeError> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Port {
            address,
            listener,
            door,
        })
    };
    bound.await.map_err(|source| NodeError::Bind {
        address,
        flag,
        source,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ports_others_reach_are_encrypted_or_said_to_be_insecure() {
        let address = |open| {
            let ip = if open { "0.0.0.0:1" } else { "127.0.0.1:1" };
            ip.parse().unwrap()
        };
        for (grpc_open, clients, peer_open, peers, insecure, refused) in [
            (false, false, false, false, false, None),
            (true, false, false, false, false, Some("--listen")),
            (true, true, false, false, false, None),
            (true, true, true, false, false, Some("--peer-listen")),
            (true, true, true, true, false, None),
            (true, false, true, true, false, Some("--listen")),
            // With --insecure each port has TLS if it has a certificate.
            (true, false, true, true, true, None),
            (true, true, true, false, true, None),
            (true, false, true, false, true, None),
        ] {
            let wanted = Addresses {
                grpc: address(grpc_open),
                http: address(true),
                peer: address(peer_open),
            };
            let checked = check_exposure(wanted, Encrypted { clients, peers }, insecure);
            match (checked, refused) {
                (Ok(()), None) => {}
                (Err(NodeError::NotLoopback { flag, .. }), Some(expected)) => {
                    assert_eq!(flag, expected);
                }
                (checked, _) => panic!("{wanted:?} {clients} {peers} {insecure}: {checked:?}"),
            }
        }
    }
}
