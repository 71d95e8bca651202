//! Two hundred seeds break nothing, and one seed is one run.

use perennial_sim::{Run, Seeds};

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

/// Seeds that have broken something once.
#[test]
fn what_was_broken_once_is_not_again() {
    let seeds = [
        // A purse forgot that money had arrived: the journal had refused to store it.
        20_203,
        // Two of three voters took their own disks for restored ones and were never
        // seen again: starts that they had given up had reached the database late.
        21_225,
        // A pause let recoveries run out of time while they were read, and others begin
        // beside them.
        100_895,
        // A voter that was leaving had the entry that took its vote, and those that stayed
        // had not: it refused them its vote and could not stand, so nobody led any more.
        3_842, 5_917, 6_108,
        // A leader stepped down in favour of a voter that lacked its latest entry: that one
        // could not be elected, and stood so often that nobody else was either.
        202_235,
        // A recovery waited for its permit until its shard had left the node and come
        // back: it was begun for nobody, before the owner in between was fenced.
        30_686,
    ];
    for seed in seeds {
        let run = Run {
            seed,
            ..Run::default()
        };
        let violations = run.perform().violations;
        assert_eq!(violations, [], "seed {seed}");
    }
}
