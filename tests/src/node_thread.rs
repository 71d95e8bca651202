//! A node in a thread of its own, with a runtime of its own: what is done to it
//! stops all of it at once, and nothing else.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, mpsc as gate};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail};
use perennial::Settings;
use perennial::config::Source;
use perennial::node::{NodeBuilder, SharedJournal};
use tempfile::TempDir;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::node_process::free_ports;

/// What a node is started with.
pub struct ThreadOptions {
    /// Makes a node with its entity types.
    pub builder: Arc<dyn Fn() -> NodeBuilder + Send + Sync>,
    /// By their keys.
    pub settings: Vec<(String, String)>,
    /// Another journal than SQLite in the data directory.
    pub journal: Option<String>,
    /// A journal that other nodes of this process have too.
    pub shared: Option<SharedJournal>,
    /// Where it listens for other nodes, and calls them from.
    pub peer_ip: IpAddr,
    /// Where they are told to find it instead.
    pub advertise_peer: Option<SocketAddr>,
}

/// A node in a thread. It is killed when this is dropped.
pub struct NodeThread {
    options: ThreadOptions,
    data: TempDir,
    grpc: SocketAddr,
    http: SocketAddr,
    peer: SocketAddr,
    running: Option<Running>,
}

struct Running {
    runtime: Handle,
    started: Option<oneshot::Receiver<Result<()>>>,
    ending: Option<oneshot::Sender<Ending>>,
    ended: oneshot::Receiver<Result<()>>,
    thread: JoinHandle<()>,
    /// While it is paused: dropped, the runtime goes on.
    paused: Option<gate::SyncSender<()>>,
}

enum Ending {
    Graceful,
    AtOnce,
}

impl fmt::Debug for NodeThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeThread")
            .field("grpc", &self.grpc)
            .field("peer", &self.peer)
            .field("running", &self.running.is_some())
            .finish_non_exhaustive()
    }
}

impl NodeThread {
    /// A node that is not started yet.
    ///
    /// # Errors
    /// When there is no room for its data, or no port.
    pub fn stopped(options: ThreadOptions) -> Result<Self> {
        let [grpc, http, mut peer] = free_ports()?;
        peer.set_ip(options.peer_ip);
        Ok(Self {
            options,
            data: TempDir::with_prefix("perennial-node-")?,
            grpc,
            http,
            peer,
            running: None,
        })
    }

    /// Begins to start the node; one that runs is killed first.
    ///
    /// # Errors
    /// When a setting is wrong, or there is no thread to be had.
    pub fn spawn(&mut self) -> Result<()> {
        self.kill();
        let builder = self.builder()?;
        let (started_sender, started) = oneshot::channel();
        let (ending, asked) = oneshot::channel();
        let (ended_sender, ended) = oneshot::channel();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let thread = std::thread::Builder::new().name(format!("node {}", self.grpc));
        let thread = thread.spawn(move || {
            let outcome = runtime.block_on(run(builder, started_sender, asked));
            // Everything that is left stops where it is, as in a kill.
            runtime.shutdown_background();
            let _ = ended_sender.send(outcome);
        })?;
        self.running = Some(Running {
            runtime: handle,
            started: Some(started),
            ending: Some(ending),
            ended,
            thread,
            paused: None,
        });
        Ok(())
    }

    /// Waits until the node takes commands.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn ready(&mut self) -> Result<()> {
        let running = self.running.as_mut().context("the node does not run")?;
        match running.started.take() {
            Some(started) => started.await.context("the node's thread ended")?,
            None => Ok(()),
        }
    }

    /// Ends it at once. Where a task of it stands, it stays.
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            if let Some(ending) = running.ending.take() {
                // It may have ended by itself.
                let _ = ending.send(Ending::AtOnce);
            }
            running.paused = None;
            let _ = running.thread.join();
        }
    }

    /// Asks it to stop and waits until it has.
    ///
    /// # Errors
    /// When it fails.
    pub async fn terminate(&mut self) -> Result<()> {
        let mut running = self.running.take().context("the node does not run")?;
        if let Some(ending) = running.ending.take() {
            let _ = ending.send(Ending::Graceful);
        }
        running.ended.await.context("the node's thread ended")?
    }

    /// Lets nothing of it run until [`NodeThread::resume`].
    ///
    /// # Errors
    /// When it does not run, or is paused already.
    pub fn pause(&mut self) -> Result<()> {
        let running = self.running.as_mut().context("the node does not run")?;
        if running.paused.is_some() {
            bail!("the node is paused already");
        }
        let (resume, paused) = gate::sync_channel::<()>(1);
        let (reached, waiting) = gate::sync_channel::<()>(1);
        running.runtime.spawn(async move {
            let _ = reached.send(());
            // Blocks the only thread the node has.
            let _ = paused.recv();
        });
        running.paused = Some(resume);
        waiting.recv().map_err(|_| anyhow!("the node has ended"))
    }

    /// Lets it go on.
    pub fn resume(&mut self) {
        if let Some(running) = &mut self.running {
            running.paused = None;
        }
    }

    /// Where clients connect, as a URL.
    #[must_use]
    pub fn address(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// Where health, metrics and the status page are.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Where other nodes connect.
    #[must_use]
    pub fn peer_address(&self) -> SocketAddr {
        self.peer
    }

    fn builder(&self) -> Result<NodeBuilder> {
        let mut settings = Settings::default();
        let journal = self.options.journal.as_ref();
        let journal = journal.map(|url| ("persistence.journal.url".to_owned(), url.clone()));
        for (key, value) in self.options.settings.iter().chain(&journal) {
            settings.set(key, value, Source::Flag("test"))?;
        }
        let mut builder = (self.options.builder)()
            .settings(settings)
            .listen(self.grpc)
            .http(self.http)
            .peer_listen(self.peer)
            .data_dir(self.data.path())
            .migrate();
        if let Some(address) = self.options.advertise_peer {
            builder = builder.advertise_peer(address.to_string());
        }
        if let Some(journal) = &self.options.shared {
            builder = builder.shared_journal(journal.clone());
        }
        // So that no other address of this machine has to be allowed.
        debug_assert!(self.peer.ip().is_loopback() && self.grpc.ip() == Ipv4Addr::LOCALHOST);
        Ok(builder)
    }
}

impl Drop for NodeThread {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn run(
    builder: NodeBuilder,
    started: oneshot::Sender<Result<()>>,
    asked: oneshot::Receiver<Ending>,
) -> Result<()> {
    let mut asked = asked;
    let node = tokio::select! {
        node = builder.start() => node,
        // Dropped without a word, it is killed too.
        _ = &mut asked => return Ok(()),
    };
    let node = match node {
        Ok(node) => node,
        Err(error) => {
            let _ = started.send(Err(error.into()));
            return Ok(());
        }
    };
    let _ = started.send(Ok(()));
    let (graceful, stopping) = oneshot::channel();
    let at_once = async {
        match asked.await {
            Ok(Ending::Graceful) => {
                let _ = graceful.send(());
                std::future::pending::<()>().await;
            }
            Ok(Ending::AtOnce) | Err(_) => {}
        }
    };
    let running = node.run_until(async {
        if stopping.await.is_err() {
            std::future::pending::<()>().await;
        }
    });
    tokio::select! {
        ended = running => Ok(ended?),
        () = at_once => Ok(()),
    }
}
