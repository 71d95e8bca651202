//! Resident memory of a node by the number of counters that are live and idle, and
//! by the number of those that were passivated.
//!
//! A first thousand counters warm the node up; what grows after that is divided by
//! the counters that came after them.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::bench::BUILD;
use crate::bench::place::{JournalKind, Place};
use crate::client::{Client, Failure, command};
use crate::node_process::{NodeOptions, NodeProcess};
use crate::process_usage::resident_bytes;

/// Counters that are not counted.
const WARM_UP: usize = 1_000;

/// How many counters.
#[derive(Debug, Clone, clap::Args)]
pub struct MemoryOptions {
    /// Where the counters are stored.
    #[arg(long, value_enum, default_value = "sqlite")]
    pub journal: JournalKind,
    /// Commands under way at any time.
    #[arg(long, default_value_t = 256)]
    pub outstanding: usize,
    /// Numbers of counters, ascending.
    #[arg(long, value_delimiter = ',', default_value = "10000,100000,1000000")]
    pub counters: Vec<usize>,
}

/// Measures live counters, then, with another node, passivated ones.
///
/// # Errors
/// When a process cannot be started, or any command fails.
pub async fn run(options: &MemoryOptions) -> Result<Value> {
    ensure!(
        options.counters.is_sorted() && options.counters.first() > Some(&WARM_UP),
        "--counters are numbers above {WARM_UP}, ascending"
    );
    let live = grow(options, usize::MAX).await?;
    let passivated = grow(options, WARM_UP).await?;
    Ok(json!({
        "bench": "memory",
        "build": BUILD,
        "journal": options.journal.name(),
        "live": live,
        "passivated": passivated,
    }))
}

/// A node that keeps so many counters at most, after more and more were touched.
async fn grow(options: &MemoryOptions, limit: usize) -> Result<Vec<Value>> {
    let place = Place::make(options.journal).await?;
    let limit = limit.min(10_000_000).to_string();
    let node = NodeOptions::default()
        .journal(place.url())
        .setting("sharding.passivation.active_entity_limit", &limit)
        .setting("sharding.passivation.idle_timeout", "1h");
    let node = NodeProcess::start(node).await?;
    let client = Client::connect(&node.address()).await?;
    touch(&client, options.outstanding, 0..WARM_UP).await?;
    let first = resident_bytes(node.pid())?;
    let mut touched = WARM_UP;
    let mut report = Vec::new();
    for &counters in &options.counters {
        touch(&client, options.outstanding, touched..counters).await?;
        touched = counters;
        let resident = resident_bytes(node.pid())?;
        let each = resident.saturating_sub(first) as f64 / (counters - WARM_UP) as f64;
        report.push(json!({
            "counters": counters,
            "resident_bytes": resident,
            "bytes_per_counter": each.round(),
        }));
    }
    Ok(report)
}

async fn touch(
    client: &Client,
    outstanding: usize,
    counters: std::ops::Range<usize>,
) -> Result<()> {
    let one = json!({"add": 1});
    let adds = counters.map(|counter| command("counter", &format!("c{counter}"), &one));
    let mut failed = None;
    let answered = |_, response| failed = failed.take().or_else(|| Failure::in_response(&response));
    client.pipeline(outstanding, adds, answered).await?;
    ensure!(failed.is_none(), "a command failed: {failed:?}");
    Ok(())
}
