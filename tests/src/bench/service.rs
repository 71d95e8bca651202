//! A node under commands to many counters, each of which stores one event, and its
//! floors: the same messages to a server that only echoes them ([`super::echo`]),
//! and the same rows inserted with nothing around it (`journal.rs`).

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::bench::closed_loop::{Load, Measured};
use crate::bench::echo::EchoProcess;
use crate::bench::place::Place;
use crate::bench::usage::{Cost, Usage, one_decimal, ratio};
use crate::bench::{BUILD, Options, Shape, filling, journal};
use crate::client::Client;
use crate::node_process::{NodeOptions, NodeProcess};

/// What is measured of a node.
#[derive(Debug, Clone, clap::Args)]
pub struct ServiceOptions {
    /// What is sent.
    #[command(flatten)]
    pub load: Options,
    /// Measures a second time, with so many other counters in the journal.
    #[arg(long)]
    pub preload: Option<usize>,
}

/// Measures a node and its floors.
///
/// # Errors
/// When one of the processes cannot be started, or any command fails.
pub async fn run(shape: Shape, options: &ServiceOptions) -> Result<Value> {
    let load = &options.load;
    let place = Place::make(load.journal).await?;
    let node = NodeOptions::default().journal(place.url());
    let mut node = NodeProcess::stopped(node)?;
    let service = serve(shape, load, &place, &mut node).await?;
    let preloaded = match options.preload {
        Some(others) => {
            filling::fill_counters(&place.url(), "other", others, 1).await?;
            let again = serve(shape, load, &place, &mut node).await?;
            Some(json!({
                "others": others,
                "service": again.to_json(),
                "rate_ratio": ratio(again.rate(), service.rate()),
                "cpu_ratio": ratio(again.cost.total(), service.cost.total()),
            }))
        }
        None => None,
    };

    let echo = EchoProcess::start().await?;
    let client = Client::connect(&echo.address()).await?;
    let echoed = Run::of(shape, load, &client, echo.pid(), None).await?;
    drop(echo);

    let (append, floor) = journal::measure(&place, load).await?;
    let floors = floor.as_ref().and_then(|floor| {
        let append = floor.cost()?.total();
        Some(match shape {
            Shape::Commands => echoed.cost.total() + append,
            Shape::Stream => append,
        })
    });
    Ok(json!({
        "bench": match shape { Shape::Commands => "commands", Shape::Stream => "stream" },
        "build": BUILD,
        "journal": load.journal.name(),
        "outstanding": load.outstanding,
        "entities": load.entities,
        "seconds": load.seconds,
        "service": service.to_json(),
        "preloaded": preloaded,
        "echo": echoed.to_json(),
        "append": append.to_json(),
        "floor": floor.as_ref().map(super::appending::Appending::to_json),
        // Of a call: the echo and the insert; of a message on a stream: the insert.
        "cpu_us_over_floors": floors.map(|floors| one_decimal(service.cost.total() - floors)),
    }))
}

/// Starts the node for it, always the same one: another would join it.
async fn serve(
    shape: Shape,
    options: &Options,
    place: &Place,
    node: &mut NodeProcess,
) -> Result<Run> {
    node.restart().await?;
    let client = Client::connect(&node.address()).await?;
    let run = Run::of(shape, options, &client, node.pid(), place.postgres()).await;
    let run = run.with_context(|| node.output())?;
    node.kill9();
    Ok(run)
}

/// What came of a load.
pub(super) struct Run {
    measured: Measured,
    cost: Cost,
}

impl Run {
    async fn of(
        shape: Shape,
        options: &Options,
        client: &Client,
        server: u32,
        postgres: Option<u32>,
    ) -> Result<Self> {
        let mut load = Load::new(options.entities, options.outstanding);
        // Recoveries are measured elsewhere.
        load.touch_all(client).await?;
        let warm_up: Duration = options.length() / 5;
        load.run(shape, client, warm_up).await?;
        Self::measure(&mut load, shape, options.length(), client, server, postgres).await
    }

    /// Of a load that is warm.
    pub(super) async fn measure(
        load: &mut Load,
        shape: Shape,
        length: Duration,
        client: &Client,
        server: u32,
        postgres: Option<u32>,
    ) -> Result<Self> {
        let before = Usage::now(Some(server), postgres)?;
        let measured = load.run(shape, client, length).await?;
        let used = Usage::now(Some(server), postgres)?.since(&before);
        let cost = used.per_operation(measured.count() as u64);
        Ok(Self { measured, cost })
    }

    pub(super) fn rate(&self) -> f64 {
        self.measured.rate()
    }

    pub(super) fn count(&self) -> usize {
        self.measured.count()
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "rate": self.measured.rate().round(),
            "p50_ms": self.measured.percentile_ms(0.50),
            "p99_ms": self.measured.percentile_ms(0.99),
            "cpu_us_per_command": self.cost.to_json(),
        })
    }
}
