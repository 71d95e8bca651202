//! Two hundred seeds, the seeds of bugs that were found, and: one seed, one run.

#![allow(clippy::unwrap_used)]

use perennial_sim::{Run, Seeds};

/// Of bugs that were found in the product, by what they broke.
const FOUND_BUGS: [(u64, &str); 0] = [];

#[test]
fn equal_seeds_give_equal_runs() {
    for seed in [3, 14, 1_000_003] {
        let run = Run {
            seed,
            ..Run::default()
        };
        let (one, other) = (run.perform(), run.perform());
        assert_eq!(one.hash, other.hash, "seed {seed}");
        assert_eq!(one.operations, other.operations, "seed {seed}");
    }
    let hash = |seed| {
        Run {
            seed,
            ..Run::default()
        }
        .perform()
        .hash
    };
    assert_ne!(hash(1), hash(2), "the trace tells nothing");
}

#[test]
fn two_hundred_seeds_break_no_promise() {
    let summary = Seeds {
        first: 0,
        count: 200,
        jobs: 2,
        within: None,
        until_violated: false,
    }
    .perform();
    for report in &summary.failed {
        for violation in &report.violations {
            eprintln!("seed {}: {violation}", report.seed);
        }
        eprintln!("  again: perennial-sim --seed {}", report.seed);
    }
    assert_eq!(summary.violated, 0);
    assert_eq!(summary.runs, 200);
}

#[test]
fn what_was_found_stays_found() {
    for (seed, what) in FOUND_BUGS {
        let report = Run {
            seed,
            ..Run::default()
        }
        .perform();
        assert_eq!(report.violations, [], "seed {seed}: {what}");
    }
}
