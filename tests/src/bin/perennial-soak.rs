//! Breaks a real cluster on purpose, for as long as one likes, and checks every
//! promise. Build it for release:
//!
//! ```text
//! cargo run --release -p perennial-tests --bin perennial-soak -- --for 10m
//! ```
//!
//! What it does and checks is said in `soak.rs`. Ends with 1 when it finds a violation.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use perennial_tests::binaries::{build_perennial, repository};
use perennial_tests::soak::round::Load;
use perennial_tests::soak::schedule::FaultKind;
use perennial_tests::soak::stories::Story;
use perennial_tests::soak::{self, Options};

/// Breaks a real cluster on purpose and checks every promise.
#[derive(Parser)]
struct Arguments {
    /// What happens.
    #[arg(long, value_enum, default_value = "mixed")]
    story: Story,
    /// How long, as 90s, 10m or 8h.
    #[arg(long = "for", value_parser = humantime::parse_duration, default_value = "10m")]
    lasts: Duration,
    /// Repeats the same faults.
    #[arg(long)]
    seed: Option<u64>,
    /// What can go wrong in the mixed story, separated by commas; everything by default.
    #[arg(long, value_enum, value_delimiter = ',')]
    faults: Vec<FaultKind>,
    /// Nodes at the beginning.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(2..=9))]
    nodes: u16,
    /// Settings of all nodes as KEY=VALUE, those of the cluster also without "cluster.".
    #[arg(long, value_delimiter = ',', value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Clients at a time.
    #[arg(long, default_value_t = 24)]
    clients: usize,
    /// Operations of all clients in a second, if the nodes keep up.
    #[arg(long, default_value_t = 400.0)]
    rate: f64,
    /// Entities that are asked when a node is killed.
    #[arg(long, default_value_t = 240)]
    probes: u64,
    /// Where everything about it is kept; by default in target/soak.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// How the summary is printed.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    build_perennial()?;
    let seed = arguments.seed.unwrap_or_else(|| {
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        since.as_secs()
    });
    let options = Options {
        story: arguments.story,
        lasts: arguments.lasts,
        seed,
        faults: if arguments.faults.is_empty() {
            FaultKind::value_variants().to_vec()
        } else {
            arguments.faults
        },
        nodes: usize::from(arguments.nodes),
        settings: arguments.settings,
        load: Load {
            clients: arguments.clients,
            rate: arguments.rate,
            // Their failures are their own, and here none may happen.
            patient_only: arguments.story == Story::Rolling,
            ..Load::default()
        },
        probes: arguments.probes,
        folder: arguments.folder.unwrap_or_else(|| {
            let soaks = repository().join("target/soak");
            soaks.join(seed.to_string())
        }),
        quiet: false,
    };
    eprintln!(
        "repeat with --seed {seed}; everything is kept in {}",
        options.folder.display()
    );
    let summary = soak::run(&options).await?;
    match arguments.output {
        Output::Text => print!("{summary}"),
        Output::Json => println!("{}", serde_json::to_string(&summary)?),
    }
    let is_right = summary.violations.is_empty() && summary.undecided.is_empty();
    Ok(if is_right {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("wanted: KEY=VALUE")?;
    let key = if key.contains('.') {
        key.to_owned()
    } else {
        format!("cluster.{key}")
    };
    Ok((key, value.to_owned()))
}
