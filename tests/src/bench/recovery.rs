//! Cold entities, each touched once after a restart, and the floor: the same rows
//! read by `= ANY ($1)` alone (`bare_select.rs`). Both read through connections that are
//! open: the node is asked for as many other entities first, which have no past. How
//! long the first of those takes is the time until shards have homes and there is a
//! connection; it is printed by itself.
//!
//! Two kinds of entities: some with a snapshot and few events after it, some with
//! many events and no snapshot. Node and floor take turns. With `--long`, one entity
//! with so many events is recovered instead, and what matters is the memory.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use perennial::proto::v1::SendRequest;
use serde_json::{Value, json};

use crate::bench::bare_select::BareSelect;
use crate::bench::place::{JournalKind, Place};
use crate::bench::usage::{Cost, Usage, ratio};
use crate::bench::{BUILD, filling};
use crate::client::{self, Client, Failure};
use crate::node_process::{NodeOptions, NodeProcess};
use crate::process_usage::{peak_resident_bytes, resident_bytes};

/// Of the node: how many calls read where recoveries begin.
const CALLS: &str = "perennial_recovery_batch_size_count";

/// How often node and floor take turns.
const TURNS: u32 = 3;

/// What is recovered.
#[derive(Debug, Clone, clap::Args)]
pub struct RecoveryOptions {
    /// Where the entities are.
    #[arg(long, value_enum, default_value = "sqlite")]
    pub journal: JournalKind,
    /// Entities under way at any time.
    #[arg(long, default_value_t = 256)]
    pub outstanding: usize,
    /// Entities of each kind.
    #[arg(long, default_value_t = 10_000)]
    pub entities: usize,
    /// Recovers a single entity with so many events instead.
    #[arg(long)]
    pub long: Option<usize>,
    /// A setting of the node, as `persistence.max_concurrent_recoveries=100`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
}

/// A kind of entities.
pub(super) struct Kind {
    pub(super) name: &'static str,
    /// Events up to the snapshot; 0 when there is none.
    pub(super) in_snapshot: usize,
    /// Events after it.
    pub(super) events: usize,
}

const KINDS: [Kind; 2] = [
    Kind {
        name: "snapshot-and-10-events",
        in_snapshot: 100,
        events: 10,
    },
    Kind {
        name: "100-events",
        in_snapshot: 0,
        events: 100,
    },
];

/// How fast entities came.
pub(super) struct Speed {
    pub(super) entities: u64,
    /// Statements, or what the node says of itself.
    pub(super) calls: u64,
    pub(super) elapsed: Duration,
    pub(super) used: Usage,
}

/// A turn of the node.
struct Touched {
    speed: Speed,
    /// From ready to the first answer.
    first: Duration,
}

impl Speed {
    fn of_all(turns: &[Self]) -> Option<(f64, Cost)> {
        let entities = turns.iter().map(|turn| turn.entities).sum();
        let elapsed: Duration = turns.iter().map(|turn| turn.elapsed).sum();
        let used = turns.iter().map(|turn| turn.used);
        let used = used.reduce(|one, other| one.plus(&other))?;
        let rate = entities as f64 / elapsed.as_secs_f64();
        Some((rate, used.per_operation(entities)))
    }
}

/// Measures both kinds, or the long entity.
///
/// # Errors
/// When a process cannot be started, or an entity does not recover.
pub async fn run(options: &RecoveryOptions) -> Result<Value> {
    ensure!(
        options.journal != JournalKind::Memory,
        "a journal in memory has nothing after a restart: use --journal sqlite or postgres"
    );
    let place = Place::make(options.journal).await?;
    let mut report = json!({
        "bench": "recovery",
        "build": BUILD,
        "journal": options.journal.name(),
    });
    if let Some(events) = options.long {
        report["long"] = recover_long(&place, events).await?;
        return Ok(report);
    }
    let mut node = stopped_node(&place, options)?;
    for kind in &KINDS {
        report[kind.name] = recover_kind(&place, &mut node, kind, options).await?;
    }
    report["outstanding"] = options.outstanding.into();
    report["entities"] = options.entities.into();
    Ok(report)
}

/// A node that is not running. It is always the same one: another would join it.
fn stopped_node(place: &Place, options: &RecoveryOptions) -> Result<NodeProcess> {
    let limit = (options.entities * 2).to_string();
    let mut node = NodeOptions::default()
        .journal(place.url())
        .setting("sharding.passivation.active_entity_limit", &limit);
    for setting in &options.settings {
        let (key, value) = setting.split_once('=').context("--set takes KEY=VALUE")?;
        node = node.setting(key, value);
    }
    NodeProcess::stopped(node)
}

async fn recover_kind(
    place: &Place,
    node: &mut NodeProcess,
    kind: &Kind,
    options: &RecoveryOptions,
) -> Result<Value> {
    let (url, entities) = (place.url(), options.entities);
    let events = kind.in_snapshot + kind.events;
    filling::fill_counters(&url, kind.name, entities, events).await?;
    if kind.in_snapshot > 0 {
        filling::save_snapshots(&url, kind.name, entities, kind.in_snapshot).await?;
    }
    let mut floor = BareSelect::open(&place.tables()?, kind, entities, place.postgres()).await?;
    floor.find_best_batch().await?;
    let mut recoveries = Vec::new();
    let mut firsts = Vec::new();
    let mut reads = Vec::new();
    for _ in 0..TURNS {
        let touched = touch_all(place, node, kind, options).await?;
        recoveries.push(touched.speed);
        firsts.push(touched.first);
        node.kill9();
        reads.push(floor.read_all().await?);
    }
    let no_turns = "there were no turns";
    let (rate, cost) = Speed::of_all(&recoveries).context(no_turns)?;
    let calls: u64 = recoveries.iter().map(|turn| turn.calls).sum();
    let touched = u64::from(TURNS) * entities as u64;
    let first = firsts.iter().sum::<Duration>() / TURNS;
    let (floor_rate, floor_cost) = Speed::of_all(&reads).context(no_turns)?;
    Ok(json!({
        "first_answer_ms": first.as_millis() as u64,
        "rate": rate.round(),
        "batch": (touched as f64 / calls as f64).round(),
        "cpu_us_per_entity": cost.to_json(),
        "floor": {
            "rate": floor_rate.round(),
            "batch": floor.batch(),
            "cpu_us_per_entity": floor_cost.to_json(),
        },
        "ratio": ratio(rate, floor_rate),
        "cpu_ratio": ratio(cost.total(), floor_cost.total()),
    }))
}

/// Starts the node, warms it, and asks every entity for its value.
async fn touch_all(
    place: &Place,
    node: &mut NodeProcess,
    kind: &Kind,
    options: &RecoveryOptions,
) -> Result<Touched> {
    node.restart().await?;
    let client = Client::connect(&node.address()).await?;
    let warming = Instant::now();
    let mut first = None;
    let others = (0..options.outstanding).map(|number| get(&format!("warm-{number}")));
    let answered = |_, _| {
        first.get_or_insert_with(|| warming.elapsed());
    };
    let warmed = client.pipeline(options.outstanding, others, answered).await;
    warmed.with_context(|| node.output())?;
    let calls_before = node.metric_sum(CALLS)?;
    let requests: Vec<SendRequest> = (0..options.entities)
        .map(|number| get(&format!("{}-{number}", kind.name)))
        .collect();
    let expected = json!({"value": kind.in_snapshot + kind.events});
    let mut wrong = None;
    let before = Usage::now(Some(node.pid()), place.postgres())?;
    let began = Instant::now();
    let answered = |_, response: perennial::proto::v1::SendResponse| {
        let right = client::json(&response).is_ok_and(|value| value == expected);
        if !right {
            wrong = Some((Failure::in_response(&response), response));
        }
    };
    let touched = client
        .pipeline(options.outstanding, requests, answered)
        .await;
    touched.with_context(|| node.output())?;
    let elapsed = began.elapsed();
    let used = Usage::now(Some(node.pid()), place.postgres())?.since(&before);
    let calls = node.metric_sum(CALLS)? - calls_before;
    ensure!(wrong.is_none(), "expected {expected}, got {wrong:?}");
    let speed = Speed {
        entities: options.entities as u64,
        calls: calls as u64,
        elapsed,
        used,
    };
    let first = first.context("the node was asked for nothing")?;
    Ok(Touched { speed, first })
}

fn get(entity_id: &str) -> SendRequest {
    client::command("counter", entity_id, &json!("get"))
}

async fn recover_long(place: &Place, events: usize) -> Result<Value> {
    filling::fill_counters(&place.url(), "long", 1, events).await?;
    let node = NodeProcess::start(NodeOptions::default().journal(place.url())).await?;
    let client = Client::connect(&node.address()).await?;
    let warm = client.send(get("short")).await;
    ensure!(warm.is_ok(), "a new counter does not answer: {warm:?}");
    let resident = resident_bytes(node.pid())?;
    let before = Usage::now(Some(node.pid()), place.postgres())?;
    let began = Instant::now();
    let value = client.state("counter", "long-0").await?;
    let elapsed = began.elapsed();
    let used = Usage::now(Some(node.pid()), place.postgres())?.since(&before);
    ensure!(
        value == (json!({"value": events}), events as u64),
        "expected {events}, got {value:?}"
    );
    let peak = peak_resident_bytes(node.pid())?;
    Ok(json!({
        "events": events,
        "seconds": elapsed.as_secs_f64(),
        "cpu_us_per_event": used.per_operation(events as u64).to_json(),
        "resident_before": resident,
        "resident_peak": peak,
    }))
}
