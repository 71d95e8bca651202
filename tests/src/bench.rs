//! What a command costs, and what the same would cost at the least.
//!
//! A closed loop keeps a number of commands outstanding to counters chosen
//! uniformly at random ([`closed_loop`]), against a node in a process of its own.
//! In the same run two floors are measured: the same messages to a server that
//! only echoes them ([`echo`]), and the same events appended to the journal with
//! nothing around it ([`append`]).
//!
//! Processor time is that of whole processes: of the server, of this process as
//! the client (alone with the journal in [`append`]), and of all of Postgres.

pub mod append;
pub mod closed_loop;
pub mod cluster;
pub mod echo;
mod usage;

use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::binaries::build_perennial;
use crate::client::Client;
use crate::database::{self, PostgresServer, PostgresSetup, TestDatabase};
use crate::node_process::{NodeOptions, NodeProcess};
use closed_loop::Load;
use echo::EchoProcess;
use usage::Usage;

/// How commands reach the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `Send`, a call for each command.
    Commands,
    /// `SendStream`, one stream for all.
    Stream,
}

/// Where the node under test keeps its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum JournalKind {
    /// Nowhere: in memory.
    Memory,
    /// In an SQLite file in the temporary directory.
    Sqlite,
    /// In Postgres: that of `PERENNIAL_TEST_DATABASE_URL`, or a private server.
    Postgres,
}

/// What is measured, and for how long.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where the node under test keeps its events.
    #[arg(long, value_enum, default_value = "sqlite")]
    pub journal: JournalKind,
    /// Commands under way at any time.
    #[arg(long, default_value_t = 256)]
    pub outstanding: usize,
    /// Counters among which each command chooses.
    #[arg(long, default_value_t = 10_000)]
    pub entities: usize,
    /// Length of each measurement, after a warm-up of a fifth of it.
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
}

/// Measures a node and its floors.
///
/// # Errors
/// When one of the processes cannot be started, or any command fails.
pub async fn run(shape: Shape, options: &Options) -> Result<Value> {
    build_perennial()?;
    let mut server = None;
    let database = match options.journal {
        JournalKind::Postgres => Some(make_database(&mut server).await),
        JournalKind::Memory | JournalKind::Sqlite => None,
    };
    let postgres = match &database {
        Some(database) => database::server_pid(database).await?,
        None => None,
    };
    let folder = tempfile::TempDir::with_prefix("perennial-bench-")?;
    let journal = match (&database, options.journal) {
        (Some(database), _) => database.url_text(),
        (None, JournalKind::Memory) => "memory:".to_owned(),
        (None, _) => format!("sqlite:{}", folder.path().join("journal.sqlite").display()),
    };

    let node = NodeProcess::start(NodeOptions::default().journal(&journal)).await?;
    let client = Client::connect(&node.address()).await?;
    let service = measure(shape, options, &client, node.pid(), postgres).await;
    let service = service.with_context(|| node.output())?;
    drop(node);

    let echo = EchoProcess::start().await?;
    let client = Client::connect(&echo.address()).await?;
    let echoed = measure(shape, options, &client, echo.pid(), None).await?;
    drop(echo);

    let appended = append::measure(&journal, options, postgres).await?;
    Ok(json!({
        "bench": match shape { Shape::Commands => "commands", Shape::Stream => "stream" },
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
        "journal": format!("{:?}", options.journal).to_lowercase(),
        "outstanding": options.outstanding,
        "entities": options.entities,
        "seconds": options.seconds,
        "service": service,
        "echo": echoed,
        "append": appended,
    }))
}

/// On the server that the environment names, or a private one that waits for the
/// disk; the one that tests share does not.
async fn make_database(server: &mut Option<PostgresServer>) -> TestDatabase {
    if std::env::var_os("PERENNIAL_TEST_DATABASE_URL").is_some() {
        return TestDatabase::new().await;
    }
    let server = server.insert(PostgresServer::start_with(PostgresSetup {
        durable: true,
        ..PostgresSetup::default()
    }));
    TestDatabase::on(&server.url_text()).await
}

impl Options {
    fn length(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    fn warm_up(&self) -> Duration {
        self.length() / 5
    }
}

async fn measure(
    shape: Shape,
    options: &Options,
    client: &Client,
    server: u32,
    postgres: Option<u32>,
) -> Result<Value> {
    let mut load = Load::new(options.entities, options.outstanding);
    load.run(shape, client, options.warm_up()).await?;
    let before = Usage::now(Some(server), postgres)?;
    let measured = load.run(shape, client, options.length()).await?;
    let used = Usage::now(Some(server), postgres)?.since(&before);
    Ok(json!({
        "rate": measured.rate().round(),
        "p50_ms": measured.percentile_ms(0.50),
        "p99_ms": measured.percentile_ms(0.99),
        "cpu_us_per_command": used.per_command(measured.count()),
    }))
}
