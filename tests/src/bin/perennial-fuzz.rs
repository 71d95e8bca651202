//! Feeds nonsense to everything that reads bytes of others, for as long as you like:
//!
//! ```text
//! cargo run --release -p perennial-tests --bin perennial-fuzz -- --for 5m
//! ```
//!
//! What is checked is said in `fuzz.rs`.

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use clap::Parser;
use perennial_tests::fuzz::{TARGETS, run};

/// Feeds nonsense to everything that reads bytes of others: it is refused with a
/// reason, or this ends with the input that was not.
#[derive(Parser)]
struct Arguments {
    /// How long, for all targets together, in seconds or as 5m.
    #[arg(long = "for", default_value = "60s", value_parser = duration, value_name = "TIME")]
    time: Duration,
    /// What decides all inputs; a new one by default, which is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// One of the targets; all by default.
    #[arg(long)]
    target: Option<String>,
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (text.trim_end_matches('s'), 1),
    };
    let number: u64 = number.parse().map_err(|_| "expected 90s or 5m")?;
    Ok(Duration::from_secs(number * unit))
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let clock = || {
        SystemTime::UNIX_EPOCH
            .elapsed()
            .map_or(0, |since| since.as_nanos() as u64)
    };
    let seed = arguments.seed.unwrap_or_else(clock);
    println!("repeat with --seed {seed}");
    let wanted = |name: &str| {
        arguments
            .target
            .as_deref()
            .is_none_or(|wanted| wanted == name)
    };
    let targets: Vec<_> = TARGETS
        .iter()
        .filter(|target| wanted(target.name))
        .collect();
    let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    ensure!(
        !targets.is_empty(),
        "no such target: there are {}",
        names.join(", ")
    );
    for target in &targets {
        let report = run(**target, seed, arguments.time / targets.len() as u32)?;
        println!(
            "{}: {} inputs, {} accepted, {} refused, at most {} KiB at once",
            target.name,
            report.inputs,
            report.accepted,
            report.inputs - report.accepted,
            report.growth >> 10
        );
    }
    Ok(())
}
