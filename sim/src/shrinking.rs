//! The shortest beginning of a schedule that still breaks something.
//!
//! Every fault ends by itself, so a run with fewer faults is a run like any other.
//! What came after the last that is needed says nothing, and is left out.

use crate::{Report, Run};

/// Runs a failing seed with fewer and fewer faults. Returns the report of the shortest
/// beginning of its schedule that was found to fail; that of the whole one, if none
/// shorter does.
#[must_use]
pub fn shortest_failing(failed: Report) -> Report {
    let (mut passes, mut fails) = (None, failed);
    loop {
        let upper = fails.schedule.len();
        let lower = passes.map_or(0, |passes: usize| passes + 1);
        if lower >= upper {
            return fails;
        }
        let middle = lower + (upper - lower) / 2;
        let report = Run {
            seed: fails.seed,
            faults_max: Some(middle),
            ..Run::default()
        }
        .perform();
        // Fewer faults are another run: that it passes does not say that still fewer
        // do, but they are not looked for.
        match report.violations.is_empty() {
            true => passes = Some(middle),
            false => fails = report,
        }
    }
}
