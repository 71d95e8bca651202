//! `perennial-sim`: runs one seed, or many.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use perennial_sim::{Report, Run, Seeds, Summary, shortest_failing};

/// Runs the whole service under simulated faults, and checks what it promises.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Runs one seed and says what happened.
    #[arg(long)]
    seed: Option<u64>,
    /// With the seed: only so many of its faults.
    #[arg(long, requires = "seed")]
    faults: Option<usize>,
    /// With the seed: prints all that happens.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Runs so many seeds.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// So many at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Begins none after this time, as in `60m` or `8h`.
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    within: Option<Duration>,
    /// Plants a bug, or all of them one after the other, and looks for it.
    /// With the seed: runs it with the bug.
    #[cfg(feature = "planted-bugs")]
    #[arg(long, value_name = "BUG|all")]
    planted: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(seed) = arguments.seed {
        #[cfg(feature = "planted-bugs")]
        if let Some(name) = &arguments.planted {
            perennial_persistence::planted::plant(bugs(name).next());
        }
        let report = Run {
            seed,
            faults_max: arguments.faults,
            shows_trace: arguments.trace,
        }
        .perform();
        return show(&report, arguments.faults.is_none());
    }
    let seeds = Seeds {
        first: arguments.first,
        count: arguments.seeds,
        jobs: arguments.jobs,
        within: arguments.within,
        until_violated: false,
    };
    #[cfg(feature = "planted-bugs")]
    if let Some(name) = &arguments.planted {
        return hunt(name, seeds);
    }
    summarise(&seeds.perform())
}

/// The bug of this name, or all.
#[cfg(feature = "planted-bugs")]
fn bugs(name: &str) -> impl Iterator<Item = perennial_persistence::planted::Bug> + '_ {
    let all = perennial_persistence::planted::Bug::ALL.into_iter();
    all.filter(move |bug| name == "all" || format!("{bug:?}") == name)
}

/// Looks for planted bugs, and prints the table.
#[cfg(feature = "planted-bugs")]
fn hunt(name: &str, seeds: Seeds) -> ExitCode {
    let mut all_found = true;
    println!("| bug | seeds needed | found as |");
    println!("|---|---|---|");
    for bug in bugs(name) {
        let hunt = perennial_sim::planted::hunt(bug, seeds);
        let seeds = hunt.seeds;
        match hunt
            .found
            .as_ref()
            .and_then(|found| found.violations.first())
        {
            Some(violation) => println!("| {bug:?} | {seeds} | {violation} |"),
            None => {
                all_found = false;
                println!("| {bug:?} | not within {seeds} | |");
            }
        }
    }
    if all_found {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn show(report: &Report, shrinks: bool) -> ExitCode {
    println!("seed {}, trace {}", report.seed, report.hash);
    println!(
        "{} operations, {} compared, {} transfers, {} events, {} leaders, {} processes, {:.1} s simulated",
        report.operations,
        report.compared,
        report.transfers,
        report.events,
        report.leaders,
        report.processes,
        report.simulated as f64 / 1e3,
    );
    for scheduled in &report.schedule {
        println!("  {scheduled}");
    }
    if report.violations.is_empty() {
        println!("nothing was violated");
        return ExitCode::SUCCESS;
    }
    for violation in &report.violations {
        println!("VIOLATED {violation}");
    }
    if shrinks {
        let shortest = shortest_failing(report.clone());
        let (seed, faults) = (shortest.seed, shortest.schedule.len());
        println!(
            "the first {faults} faults are enough: perennial-sim --seed {seed} --faults {faults}"
        );
        for violation in &shortest.violations {
            println!("  violated {violation}");
        }
    }
    ExitCode::FAILURE
}

fn summarise(summary: &Summary) -> ExitCode {
    println!("seeds       {}", summary.runs);
    println!("operations  {}", summary.operations);
    println!("  compared  {}", summary.compared);
    println!("events      {}", summary.events);
    println!("transfers   {}", summary.transfers);
    println!("faults      {}", summary.faults.values().sum::<usize>());
    for (kind, count) in &summary.faults {
        println!("  {kind:<13} {count}");
    }
    println!("leaders     {}", summary.leaders);
    println!("processes   {}", summary.processes);
    println!("simulated   {:.0} s", summary.simulated.as_secs_f64());
    println!("took        {:.0} s", summary.took.as_secs_f64());
    println!("violations  {}", summary.violated);
    for report in &summary.failed {
        for violation in &report.violations {
            println!("seed {}: {violation}", report.seed);
        }
        println!("  again: perennial-sim --seed {}", report.seed);
    }
    if summary.violated == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
