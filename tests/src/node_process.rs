//! A real node: a `perennial dev` process of its own that can be killed.
//!
//! Its ports are free ones, its data directory a temporary one that outlives
//! restarts, and what it prints goes to a file that is shown when a test fails.
//! How its entities are spoken to is in `client.rs` and `cli.rs`.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use tempfile::TempDir;

use crate::eventually::eventually;
use crate::{binaries, http};

/// How long a node may take to become ready; generous, for busy machines.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a node may take to end after SIGTERM: its drain time-out and some.
const ENDED_WITHIN: Duration = Duration::from_secs(40);
/// How often other ports are tried when somebody took the free ones meanwhile.
const PORT_ATTEMPTS_MAX: usize = 5;
/// How much of a node's output is shown.
const SHOWN_LINES: usize = 100;

/// What a node is started with; the defaults are those of `perennial dev`.
#[derive(Debug, Clone, Default)]
pub struct NodeOptions {
    binary: Option<PathBuf>,
    journal: Option<String>,
    data_dir: Option<PathBuf>,
    environment: Vec<(String, String)>,
    peer_ip: Option<IpAddr>,
    advertise_peer: Option<SocketAddr>,
    serve: bool,
}

impl NodeOptions {
    /// `perennial serve` instead of `perennial dev`; it needs a journal.
    #[must_use]
    pub fn serve(mut self) -> Self {
        self.serve = true;
        self
    }

    /// Another binary than the stock one.
    #[must_use]
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.binary = Some(path.into());
        self
    }

    /// Another journal than SQLite in the data directory.
    #[must_use]
    pub fn journal(mut self, url: impl Into<String>) -> Self {
        self.journal = Some(url.into());
        self
    }

    /// A data directory that exists longer than the node.
    #[must_use]
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(path.into());
        self
    }

    /// Where the node listens for other nodes, and calls them from, on a machine that
    /// has several addresses.
    #[must_use]
    pub fn peer_ip(mut self, ip: IpAddr) -> Self {
        self.peer_ip = Some(ip);
        self
    }

    /// Where other nodes are told to find it, as that of a proxy.
    #[must_use]
    pub fn advertise_peer(mut self, address: SocketAddr) -> Self {
        self.advertise_peer = Some(address);
        self
    }

    /// A setting by its key in the settings table, as `persistence.stash_capacity`.
    #[must_use]
    pub fn setting(mut self, key: &str, value: &str) -> Self {
        let variable = format!("PERENNIAL_{}", key.replace('.', "__").to_uppercase());
        self.environment.push((variable, value.to_owned()));
        self
    }
}

/// A node as a process. It is killed when this is dropped.
#[derive(Debug)]
pub struct NodeProcess {
    options: NodeOptions,
    own_dir: TempDir,
    ports: Ports,
    running: Option<Child>,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    grpc: SocketAddr,
    http: SocketAddr,
    peer: SocketAddr,
}

impl Ports {
    fn find(options: &NodeOptions) -> Result<Self> {
        let [grpc, http, mut peer] = free_ports()?;
        if let Some(ip) = options.peer_ip {
            // The port of one address is nearly always free on another.
            peer.set_ip(ip);
        }
        Ok(Self { grpc, http, peer })
    }
}

impl NodeProcess {
    /// Starts a node and waits until it is ready.
    ///
    /// # Errors
    /// When it ends instead, or takes too long; with what it printed.
    pub async fn start(options: NodeOptions) -> Result<Self> {
        let mut node = Self::stopped(options)?;
        node.restart().await?;
        Ok(node)
    }

    /// A node that is not started yet, to be [spawned](Self::spawn) together with
    /// others.
    ///
    /// # Errors
    /// When there is no room for its data.
    pub fn stopped(options: NodeOptions) -> Result<Self> {
        Ok(Self {
            ports: Ports::find(&options)?,
            options,
            own_dir: TempDir::with_prefix("perennial-node-")?,
            running: None,
        })
    }

    /// Starts the node again over the same data, and on the same ports if they are
    /// still free.
    ///
    /// # Errors
    /// As [`NodeProcess::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.spawn()?;
        self.ready().await
    }

    /// As [`NodeProcess::restart`], without waiting.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        self.kill9();
        self.running = Some(self.spawned()?);
        Ok(())
    }

    /// Waits until the node is ready. Tries other ports when somebody took the free
    /// ones meanwhile.
    ///
    /// # Errors
    /// When it ends instead, or takes too long; with what it printed.
    pub async fn ready(&mut self) -> Result<()> {
        self.ready_somewhere(|_| ()).await
    }

    /// As [`NodeProcess::ready`]; `moved` is told whenever the node was started on other
    /// ports, before it is waited for: others may have to reach it first.
    ///
    /// # Errors
    /// As [`NodeProcess::ready`].
    pub async fn ready_somewhere(&mut self, moved: impl Fn(&Self)) -> Result<()> {
        for _ in 0..PORT_ATTEMPTS_MAX {
            let Some(child) = &mut self.running else {
                bail!("the node does not run");
            };
            let http = self.ports.http;
            let ended = eventually("the node to be ready", READY_WITHIN, async || {
                if let Ok(Some(status)) = child.try_wait() {
                    return Some(Some(status));
                }
                matches!(http::get(http, "/readyz"), Ok((200, _))).then_some(None)
            });
            match ended.await {
                Ok(None) => return Ok(()),
                Ok(Some(_))
                    if self
                        .output()
                        .to_lowercase()
                        .contains("address already in use") =>
                {
                    self.ports = Ports::find(&self.options)?;
                    self.running = Some(self.spawned()?);
                    moved(self);
                }
                Ok(Some(status)) => bail!("the node ended with {status}; {}", self.output()),
                Err(error) => return Err(error.context(self.output())),
            }
        }
        bail!("no free ports were found; {}", self.output())
    }

    /// Ends the node at once, as a crash would (SIGKILL).
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.running.take() {
            // Both fail only if the process is gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks the node to end (SIGTERM) and waits for it.
    ///
    /// # Errors
    /// When it does not end in time; it is then killed.
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal("TERM")?;
        self.ended().await
    }

    /// Stops the process where it is (SIGSTOP): it does nothing, and nobody is told.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> Result<()> {
        self.signal("STOP")
    }

    /// Lets a paused process go on (SIGCONT).
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> Result<()> {
        self.signal("CONT")
    }

    /// Sends a signal, by its name without `SIG`.
    ///
    /// # Errors
    /// When the node does not run.
    pub fn signal(&self, name: &str) -> Result<()> {
        let Some(child) = &self.running else {
            bail!("the node does not run");
        };
        let arguments = [format!("-{name}"), child.id().to_string()];
        let status = Command::new("kill").args(arguments).status()?;
        ensure!(status.success(), "kill -{name} failed: {status}");
        Ok(())
    }

    /// How the process ended, if it did so by itself since it was started.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        let status = self.running.as_mut()?.try_wait().ok().flatten()?;
        self.running = None;
        Some(status)
    }

    /// Waits for the end of the process.
    ///
    /// # Errors
    /// When it does not end in time; it is then killed.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        let Some(mut child) = self.running.take() else {
            bail!("the node does not run");
        };
        let ended = eventually("the node to end", ENDED_WITHIN, async || {
            child.try_wait().ok().flatten()
        });
        let ended = ended.await;
        if ended.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        ended.with_context(|| self.output())
    }

    /// Where clients connect, as a URL.
    #[must_use]
    pub fn address(&self) -> String {
        format!("http://{}", self.ports.grpc)
    }

    /// Where health and metrics are.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.ports.http
    }

    /// Where other nodes connect.
    #[must_use]
    pub fn peer_address(&self) -> SocketAddr {
        self.ports.peer
    }

    /// Whether it was started and neither killed nor waited for since.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// A metric of the node, summed over its labels; 0 when there is none.
    ///
    /// # Errors
    /// When the node does not answer.
    pub fn metric_sum(&self, name: &str) -> Result<f64> {
        let (status, metrics) = http::get(self.ports.http, "/metrics")?;
        ensure!(status == 200, "/metrics answers with status {status}");
        let lines = metrics.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with([' ', '{']))
        });
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(values.sum())
    }

    /// The process id.
    ///
    /// # Panics
    /// When the node was killed and not started again.
    #[must_use]
    pub fn pid(&self) -> u32 {
        match &self.running {
            Some(child) => child.id(),
            None => panic!("the node does not run"),
        }
    }

    /// Where the node keeps its data.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        let given = self.options.data_dir.clone();
        given.unwrap_or_else(|| self.own_dir.path().join("data"))
    }

    /// The end of what the node printed, all its runs together.
    #[must_use]
    pub fn output(&self) -> String {
        let text = std::fs::read(self.output_path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
        format!("the node's output ends with:\n{}", shown.join("\n"))
    }

    /// Where all that the node printed is.
    #[must_use]
    pub fn output_path(&self) -> PathBuf {
        self.own_dir.path().join("output")
    }

    fn spawned(&self) -> Result<Child> {
        let binary = match &self.options.binary {
            Some(path) => path.clone(),
            None => binaries::perennial()?,
        };
        let output = File::options()
            .create(true)
            .append(true)
            .open(self.output_path())?;
        let mut command = isolated(&binary);
        command
            .arg(if self.options.serve { "serve" } else { "dev" })
            .args(["--listen", &self.ports.grpc.to_string()])
            .args(["--http", &self.ports.http.to_string()])
            .args(["--peer-listen", &self.ports.peer.to_string()])
            .arg("--data-dir")
            .arg(self.data_dir())
            .envs(self.options.environment.iter().cloned())
            .current_dir(self.own_dir.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        if let Some(url) = &self.options.journal {
            command.args(["--journal", url]);
        }
        if let Some(address) = self.options.advertise_peer {
            command.args(["--advertise-peer", &address.to_string()]);
        }
        let spawned = command.spawn();
        spawned.with_context(|| format!("{} could not be started", binary.display()))
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            eprintln!("{}", self.output());
        }
    }
}

/// A command that sees none of the developer's own settings.
#[must_use]
pub fn isolated(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PERENNIAL_") {
            command.env_remove(name);
        }
    }
    command
}

/// Ports that were free just now. Nobody promises that they stay so, but none is given
/// twice, and the system gives none of them to a connection that somebody makes.
///
/// # Errors
/// When the system has none left.
pub fn free_ports<const N: usize>() -> Result<[SocketAddr; N]> {
    // Processes that look at the same time begin at other places.
    static NEXT: LazyLock<AtomicU32> =
        LazyLock::new(|| AtomicU32::new(std::process::id().wrapping_mul(2_654_435_761)));
    let ports = ports_of_nobody();
    let mut free = Vec::new();
    for _ in ports.clone() {
        if free.len() == N {
            break;
        }
        let at = NEXT.fetch_add(1, Ordering::Relaxed) % ports.len() as u32;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports.start + at as u16));
        if TcpListener::bind(address).is_ok() {
            free.push(address);
        }
    }
    let found = free.len();
    let free = free.try_into();
    free.map_err(|_| anyhow!("{found} of {N} ports are free"))
}

/// Ports that are neither those of well-known services nor those that the system takes
/// for connections.
fn ports_of_nobody() -> Range<u16> {
    const FIRST: u16 = 10_240;
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let systems = range.ok().and_then(|range| {
        let first = range.split_whitespace().next()?;
        first.parse().ok()
    });
    match systems {
        Some(systems) if systems > FIRST + 1000 => FIRST..systems,
        _ => FIRST..32_768,
    }
}
