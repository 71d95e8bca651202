//! Many seeds, on several threads: each run has one of its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::{Report, Run};

/// So many failing runs are kept.
const FAILED_MAX: usize = 20;

/// What came of many runs.
#[derive(Debug, Default)]
pub struct Summary {
    /// Runs that were performed.
    pub runs: u64,
    /// Operations of clients.
    pub operations: usize,
    /// Those whose outcome is known and was compared with the journal.
    pub compared: usize,
    /// Events in the journals.
    pub events: usize,
    /// Transfers of money, by at-least-once delivery.
    pub transfers: usize,
    /// Faults that were injected, by their kind.
    pub faults: BTreeMap<String, usize>,
    /// Leaders that were elected.
    pub leaders: usize,
    /// Processes that were started.
    pub processes: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Real time.
    pub took: Duration,
    /// Runs with violations; at most twenty are kept.
    pub failed: Vec<Report>,
    /// How many had violations.
    pub violated: u64,
}

impl Summary {
    fn add(&mut self, report: Report) {
        self.runs += 1;
        self.operations += report.operations;
        self.compared += report.compared;
        self.events += report.events;
        self.transfers += report.transfers;
        for scheduled in &report.schedule {
            *self.faults.entry(scheduled.fault.kind()).or_default() += 1;
        }
        self.leaders += report.leaders;
        self.processes += report.processes;
        self.simulated += Duration::from_millis(report.simulated);
        if !report.violations.is_empty() {
            self.violated += 1;
            if self.failed.len() < FAILED_MAX {
                self.failed.push(report);
            }
        }
    }
}

/// Which seeds, and when to stop.
#[derive(Debug, Clone, Copy)]
pub struct Seeds {
    /// The first.
    pub first: u64,
    /// So many, at most.
    pub count: u64,
    /// Threads.
    pub jobs: usize,
    /// No run begins later than this.
    pub within: Option<Duration>,
    /// Ends with the first violation.
    pub until_violated: bool,
}

impl Seeds {
    /// Runs them.
    #[must_use]
    pub fn perform(&self) -> Summary {
        let began = Instant::now();
        let next = AtomicU64::new(0);
        let summary = Mutex::new(Summary::default());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    loop {
                        let place = next.fetch_add(1, Ordering::Relaxed);
                        let is_late = self.within.is_some_and(|within| began.elapsed() > within);
                        let is_over = {
                            let summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
                            self.until_violated && summary.violated > 0
                        };
                        if place >= self.count || is_late || is_over {
                            return;
                        }
                        let run = Run {
                            seed: self.first + place,
                            ..Run::default()
                        };
                        let report = run.perform();
                        let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
                        summary.add(report);
                    }
                });
            }
        });
        let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
        summary.took = began.elapsed();
        summary
    }
}
