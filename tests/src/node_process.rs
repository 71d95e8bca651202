//! A real node: a `perennial dev` process of its own that can be killed.
//!
//! Its ports are free ones, its data directory a temporary one that outlives
//! restarts, and what it prints goes to a file that is shown when a test fails.
//! How its entities are spoken to is in `client.rs` and `cli.rs`.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
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
}

impl NodeOptions {
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
}

impl Ports {
    fn find() -> Result<Self> {
        let [grpc, http] = free_ports()?;
        Ok(Self { grpc, http })
    }
}

impl NodeProcess {
    /// Starts a node and waits until it is ready.
    ///
    /// # Errors
    /// When it ends instead, or takes too long; with what it printed.
    pub async fn start(options: NodeOptions) -> Result<Self> {
        let mut node = Self {
            options,
            own_dir: TempDir::with_prefix("perennial-node-")?,
            ports: Ports::find()?,
            running: None,
        };
        node.run().await?;
        Ok(node)
    }

    /// Starts the node again over the same data, and on the same ports if they are
    /// still free.
    ///
    /// # Errors
    /// As [`NodeProcess::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.kill9();
        self.run().await
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
        let Some(mut child) = self.running.take() else {
            bail!("the node does not run");
        };
        let pid = child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status()?;
        let ended = eventually("the node to end after SIGTERM", ENDED_WITHIN, async || {
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

    fn output_path(&self) -> PathBuf {
        self.own_dir.path().join("output")
    }

    async fn run(&mut self) -> Result<()> {
        for _ in 0..PORT_ATTEMPTS_MAX {
            let mut child = self.spawn()?;
            let http = self.ports.http;
            let ended = eventually("the node to be ready", READY_WITHIN, async || {
                if let Ok(Some(status)) = child.try_wait() {
                    return Some(Some(status));
                }
                matches!(http::get(http, "/readyz"), Ok((200, _))).then_some(None)
            });
            let ended = ended.await;
            self.running = Some(child);
            match ended {
                Ok(None) => return Ok(()),
                Ok(Some(_))
                    if self
                        .output()
                        .to_lowercase()
                        .contains("address already in use") =>
                {
                    self.ports = Ports::find()?;
                }
                Ok(Some(status)) => bail!("the node ended with {status}; {}", self.output()),
                Err(error) => return Err(error.context(self.output())),
            }
        }
        bail!("no free ports were found; {}", self.output())
    }

    fn spawn(&self) -> Result<Child> {
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
            .arg("dev")
            .args(["--listen", &self.ports.grpc.to_string()])
            .args(["--http", &self.ports.http.to_string()])
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

/// Ports that were free just now; nobody promises that they stay so.
///
/// # Errors
/// When the system has none left.
pub fn free_ports<const N: usize>() -> Result<[SocketAddr; N]> {
    let listeners: Vec<TcpListener> = (0..N)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<_, _>>()?;
    let mut ports = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?;
    }
    ensure!(ports.iter().all(|port| port.port() != 0), "no free port");
    Ok(ports)
}
