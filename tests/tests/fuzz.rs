//! A little of what `perennial-fuzz` does for minutes.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use perennial_tests::fuzz::{TARGETS, run};
use perennial_tests::seed::Random;

#[test]
fn nonsense_is_refused_with_a_reason() {
    let mut random = Random::from_environment();
    // One after the other: each watches the memory of the whole process.
    for target in TARGETS {
        let report = run(*target, random.next_u64(), Duration::from_secs(1)).unwrap();
        println!("{}: {report:?}", target.name);
        // Otherwise it does not read what it is fed.
        assert!(report.accepted > 0 || target.name == "raft-response");
        assert!(report.accepted < report.inputs);
    }
}
