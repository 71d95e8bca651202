//! A link that can be broken on purpose: to a database, or between two nodes.
//!
//! It moves bytes and knows nothing of what they mean. Each direction of a link is
//! broken by itself. A proxy before a node has one link for each other node that
//! connects, told apart by the address it connects from; the rest share one.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// What one direction of a link does with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// It passes them on.
    Open,
    /// It passes them on until they contain this text, and is stalled then. So what
    /// is stalled is certainly the statement that is meant, and not one by which the
    /// client looked whether the link is alive.
    StallsAt(&'static str),
    /// It keeps them, and connections stay: an answer never comes. Passed on when
    /// the link is mended, as the network does with what was lost.
    Stalled,
    /// It passes each piece on this much later, and takes the next one only then: a
    /// slow link as well as a long one.
    Slow(Duration),
    /// Every connection is closed, and new ones at once.
    Cut,
}

/// Both directions of a link. Clones are the same link.
#[derive(Debug, Clone)]
pub struct Link {
    to_server: watch::Sender<Flow>,
    to_client: watch::Sender<Flow>,
}

impl Link {
    fn open() -> Self {
        Self {
            to_server: watch::Sender::new(Flow::Open),
            to_client: watch::Sender::new(Flow::Open),
        }
    }

    /// Mends or breaks both directions.
    pub fn set(&self, flow: Flow) {
        self.set_to_server(flow);
        self.set_to_client(flow);
    }

    /// Mends or breaks what clients send.
    pub fn set_to_server(&self, flow: Flow) {
        self.to_server.send_replace(flow);
    }

    /// Mends or breaks what clients get.
    pub fn set_to_client(&self, flow: Flow) {
        self.to_client.send_replace(flow);
    }

    fn is_cut(&self) -> bool {
        [&self.to_server, &self.to_client]
            .iter()
            .any(|flow| *flow.borrow() == Flow::Cut)
    }

    async fn cut(&self) {
        let (mut to_server, mut to_client) =
            (self.to_server.subscribe(), self.to_client.subscribe());
        let is_cut = |flow: &Flow| *flow == Flow::Cut;
        // The senders live as long as `self`.
        tokio::select! {
            _ = to_server.wait_for(is_cut) => {}
            _ = to_client.wait_for(is_cut) => {}
        }
    }
}

/// Passes connections on to one address. They are cut when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    upstream: Arc<Mutex<SocketAddr>>,
    links: Arc<Links>,
    accepting: AbortHandle,
}

#[derive(Debug)]
struct Links {
    by_source: HashMap<IpAddr, Link>,
    others: Link,
}

impl Proxy {
    /// Listens on a free port and passes everything on to `upstream`.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(upstream: SocketAddr) -> Result<Self> {
        Self::start_for(upstream, []).await
    }

    /// As [`Proxy::start`], with a link of its own for each of these addresses that
    /// clients connect from.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start_for(
        upstream: SocketAddr,
        sources: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let upstream = Arc::new(Mutex::new(upstream));
        let links = Arc::new(Links {
            by_source: sources.into_iter().map(|ip| (ip, Link::open())).collect(),
            others: Link::open(),
        });
        let accepting = accept(listener, Arc::clone(&upstream), Arc::clone(&links));
        Ok(Self {
            address,
            upstream,
            links,
            accepting: tokio::spawn(accepting).abort_handle(),
        })
    }

    /// Where clients connect instead of upstream.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The link of clients that connect from this address.
    #[must_use]
    pub fn link_from(&self, source: IpAddr) -> &Link {
        self.links.of(source)
    }

    /// Mends or breaks all links in both directions.
    pub fn set(&self, flow: Flow) {
        let links = self.links.by_source.values();
        for link in links.chain([&self.links.others]) {
            link.set(flow);
        }
    }

    /// New connections go there.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        *self.upstream.lock().unwrap_or_else(PoisonError::into_inner) = upstream;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Links {
    fn of(&self, source: IpAddr) -> &Link {
        self.by_source.get(&source).unwrap_or(&self.others)
    }
}

async fn accept(listener: TcpListener, upstream: Arc<Mutex<SocketAddr>>, links: Arc<Links>) {
    let mut connections = JoinSet::new();
    while let Ok((client, from)) = listener.accept().await {
        let link = links.of(from.ip()).clone();
        if link.is_cut() {
            continue;
        }
        let upstream = *upstream.lock().unwrap_or_else(PoisonError::into_inner);
        connections.spawn(async move {
            let Ok(server) = TcpStream::connect(upstream).await else {
                return;
            };
            // Without this every small answer would wait for an acknowledgement.
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let (client_reads, client_writes) = client.into_split();
            let (server_reads, server_writes) = server.into_split();
            tokio::select! {
                _ = pump(client_reads, server_writes, &link.to_server) => {}
                _ = pump(server_reads, client_writes, &link.to_client) => {}
                () = link.cut() => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Ends when either side does.
async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    flow: &watch::Sender<Flow>,
) -> Result<()> {
    let mut state = flow.subscribe();
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let len = from.read(&mut bytes).await?;
        let chunk = &bytes[..len];
        flow.send_if_modified(|flow| match *flow {
            Flow::StallsAt(mark) if contains(chunk, mark.as_bytes()) => {
                *flow = Flow::Stalled;
                true
            }
            _ => false,
        });
        let passes = |flow: &Flow| !matches!(flow, Flow::Stalled | Flow::Cut);
        let flow_now = *state.wait_for(passes).await?;
        if let Flow::Slow(delay) = flow_now {
            tokio::time::sleep(delay).await;
        }
        // Of a stalled link not even the end is seen on the other side.
        if len == 0 {
            return Ok(());
        }
        to.write_all(chunk).await?;
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);
    /// Long enough for what is on its way to arrive.
    const A_WHILE: Duration = Duration::from_millis(100);

    async fn echo_server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reads, mut writes) = socket.split();
                    tokio::io::copy(&mut reads, &mut writes).await
                });
            }
        });
        address
    }

    async fn connect_from(source: IpAddr, proxy: &Proxy) -> TcpStream {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(source, 0)).unwrap();
        socket.connect(proxy.address()).await.unwrap()
    }

    async fn comes_back(socket: &mut TcpStream, byte: u8) -> bool {
        socket.write_all(&[byte]).await.unwrap();
        let read = tokio::time::timeout(A_WHILE, socket.read_u8()).await;
        read.is_ok_and(|read| read.unwrap() == byte)
    }

    #[tokio::test]
    async fn a_slow_link_delays_what_passes() {
        const DELAY: Duration = Duration::from_millis(50);
        let server = echo_server().await;
        let proxy = Proxy::start(server).await.unwrap();
        proxy.set(Flow::Slow(DELAY));
        let mut socket = connect_from("127.0.0.1".parse().unwrap(), &proxy).await;
        let sent_at = std::time::Instant::now();
        socket.write_all(&[7]).await.unwrap();
        let read = tokio::time::timeout(SOON, socket.read_u8()).await;
        assert_eq!(read.unwrap().unwrap(), 7);
        assert!(sent_at.elapsed() >= 2 * DELAY, "there and back");
    }

    #[tokio::test]
    async fn each_direction_of_each_link_is_broken_by_itself() {
        let one: IpAddr = "127.0.0.2".parse().unwrap();
        let other: IpAddr = "127.0.0.3".parse().unwrap();
        let server = echo_server().await;
        let proxy = Proxy::start_for(server, [one, other]).await.unwrap();
        let mut from_one = connect_from(one, &proxy).await;
        let mut from_other = connect_from(other, &proxy).await;
        assert!(comes_back(&mut from_one, 1).await);

        type Break = fn(&Link, Flow);
        for set in [Link::set_to_server as Break, Link::set_to_client, Link::set] {
            set(proxy.link_from(one), Flow::Stalled);
            assert!(!comes_back(&mut from_one, 2).await);
            assert!(comes_back(&mut from_other, 3).await);
            set(proxy.link_from(one), Flow::Open);
            // Nothing was lost.
            let read = tokio::time::timeout(SOON, from_one.read_u8()).await;
            assert_eq!(read.unwrap().unwrap(), 2);
        }

        proxy.link_from(one).set(Flow::Cut);
        let ended = tokio::time::timeout(SOON, from_one.read_u8()).await;
        assert!(ended.unwrap().is_err());
        assert!(comes_back(&mut from_other, 4).await);
        proxy.set(Flow::Cut);
        let ended = tokio::time::timeout(SOON, from_other.read_u8()).await;
        assert!(ended.unwrap().is_err());
    }
}
