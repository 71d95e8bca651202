//! Bugs planted on purpose: how many seeds it takes to find each.

use perennial_persistence::planted::{Bug, plant};

use crate::{Report, Seeds};

/// What it took to find a bug.
#[derive(Debug)]
pub struct Hunt {
    /// Which.
    pub bug: Bug,
    /// Seeds up to the first that found it; all that were run, if none did.
    pub seeds: u64,
    /// The run that found it; `None` if none did.
    pub found: Option<Report>,
}

/// Runs seeds with a bug until one finds it.
#[must_use]
pub fn hunt(bug: Bug, seeds: Seeds) -> Hunt {
    plant(Some(bug));
    let summary = Seeds {
        until_violated: true,
        ..seeds
    }
    .perform();
    plant(None);
    let first = summary.failed.into_iter().min_by_key(|report| report.seed);
    Hunt {
        bug,
        seeds: first
            .as_ref()
            .map_or(summary.runs, |found| found.seed - seeds.first + 1),
        found: first,
    }
}
