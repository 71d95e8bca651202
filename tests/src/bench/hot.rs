//! One entity under many commands: how many of them share a round trip to the
//! journal (I-4, I-12: each is answered after the commit of all it was computed
//! from), and the floor: rows of one stream by an `INSERT` alone.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::bench::appending::Appending;
use crate::bench::bare_insert::BareInsert;
use crate::bench::closed_loop::Load;
use crate::bench::place::{JournalKind, Place};
use crate::bench::service::Run;
use crate::bench::usage::{one_decimal, ratio};
use crate::bench::{BUILD, Options, Shape};
use crate::client::Client;
use crate::node_process::{NodeOptions, NodeProcess};

/// Of the node: batches appended so far.
const ROUND_TRIPS: &str = "perennial_append_batch_size_count";

/// Measures one counter; `entities` is not looked at.
///
/// # Errors
/// When one of the processes cannot be started, or any command fails.
pub async fn run(options: &Options) -> Result<Value> {
    let place = Place::make(options.journal).await?;
    let node = NodeProcess::start(NodeOptions::default().journal(place.url())).await?;
    let client = Client::connect(&node.address()).await?;
    let mut load = Load::new(1, options.outstanding);
    let warm_up: Duration = options.length() / 5;
    load.run(Shape::Stream, &client, warm_up).await?;
    let before = node.metric_sum(ROUND_TRIPS)?;
    let (length, pid) = (options.length(), node.pid());
    let postgres = place.postgres();
    let run = Run::measure(&mut load, Shape::Stream, length, &client, pid, postgres).await;
    let run = run.with_context(|| node.output())?;
    let trips = node.metric_sum(ROUND_TRIPS)? - before;
    drop(node);

    let mut floor = None;
    if options.journal != JournalKind::Memory {
        let writers = BareInsert::open(&place.empty_tables().await?, 1).await?;
        let appending = floor.insert(Appending::new(writers, options.outstanding, postgres)?);
        appending
            .find_best_batch(options.outstanding, length / 10)
            .await?;
        appending.measure(length).await?;
    }
    Ok(json!({
        "bench": "hot",
        "build": BUILD,
        "journal": options.journal.name(),
        "outstanding": options.outstanding,
        "seconds": options.seconds,
        "service": run.to_json(),
        "commands_per_round_trip": one_decimal(run.count() as f64 / trips),
        "floor": floor.as_ref().map(Appending::to_json),
        "ratio": floor.as_ref().map(|floor| ratio(run.rate(), floor.rate())),
    }))
}
