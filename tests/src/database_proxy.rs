//! A link between a node and its database that can be broken on purpose.
//!
//! It moves bytes and knows nothing of what they mean.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// What the link does with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// It passes them on.
    Open,
    /// It passes them on until a client sends these bytes, and is stalled then. So
    /// what is stalled is certainly the statement that is meant, and not one by
    /// which the client looked whether the link is alive.
    StallsAt(&'static str),
    /// It keeps them, and connections stay: an answer never comes.
    Stalled,
    /// Every connection is closed, and new ones at once.
    Cut,
}

/// A link to one address. It is cut for good when this is dropped.
#[derive(Debug)]
pub struct DatabaseProxy {
    address: SocketAddr,
    link: watch::Sender<Link>,
    accepting: AbortHandle,
}

impl DatabaseProxy {
    /// Listens on a free port and passes everything on to `upstream`.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(upstream: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let link = watch::Sender::new(Link::Open);
        let accepting = tokio::spawn(accept(listener, upstream, link.clone())).abort_handle();
        Ok(Self {
            address,
            link,
            accepting,
        })
    }

    /// Where the node connects instead of the database.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Mends or breaks the link.
    pub fn set(&self, link: Link) {
        self.link.send_replace(link);
    }
}

impl Drop for DatabaseProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, upstream: SocketAddr, link: watch::Sender<Link>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        if *link.borrow() == Link::Cut {
            continue;
        }
        let Ok(database) = TcpStream::connect(upstream).await else {
            continue;
        };
        // Without this every small answer would wait for an acknowledgement.
        let _ = (client.set_nodelay(true), database.set_nodelay(true));
        let mut cut = link.subscribe();
        let link = link.clone();
        connections.spawn(async move {
            let (client_reads, client_writes) = client.into_split();
            let (database_reads, database_writes) = database.into_split();
            tokio::select! {
                _ = pump(client_reads, database_writes, link.clone()) => {}
                _ = pump(database_reads, client_writes, link.clone()) => {}
                _ = cut.wait_for(|link| *link == Link::Cut) => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Ends when either side does.
async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    link: watch::Sender<Link>,
) -> Result<()> {
    let mut state = link.subscribe();
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let len = from.read(&mut bytes).await?;
        if len == 0 {
            return Ok(());
        }
        let chunk = &bytes[..len];
        link.send_if_modified(|link| match *link {
            Link::StallsAt(mark) if contains(chunk, mark.as_bytes()) => {
                *link = Link::Stalled;
                true
            }
            _ => false,
        });
        let passes = |link: &Link| matches!(link, Link::Open | Link::StallsAt(_));
        state.wait_for(passes).await?;
        to.write_all(chunk).await?;
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
