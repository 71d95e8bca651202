//! Rates from counters that only grow, over the last seconds. Pure: the clock is told.

use std::collections::VecDeque;
use std::time::Duration;

use super::latencies::CLASSES;

/// Samples that rates and times are made of: ten seconds.
const RECENT: usize = 10;
/// Seconds that are shown as a line.
const HISTORY: usize = 60;

/// What the counters said at one moment.
#[derive(Clone)]
pub(super) struct Sample {
    /// Since the node was started.
    pub(super) at: Duration,
    pub(super) answered: u64,
    pub(super) failed: u64,
    /// Of an engine, of which a node has several one after the other.
    pub(super) events: u64,
    pub(super) latencies: [u64; CLASSES],
}

/// By the second.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) answered: f64,
    pub(super) failed: f64,
    pub(super) events: f64,
}

/// The last samples.
#[derive(Default)]
pub(super) struct Window {
    recent: VecDeque<Sample>,
    history: VecDeque<u32>,
}

impl Window {
    pub(super) fn push(&mut self, sample: Sample) {
        if let Some(last) = self.recent.back() {
            let count = sample.answered.saturating_sub(last.answered);
            self.history.push_back(small(count));
            if self.history.len() > HISTORY {
                self.history.pop_front();
            }
        }
        self.recent.push_back(sample);
        // One more than there are intervals.
        if self.recent.len() > RECENT + 1 {
            self.recent.pop_front();
        }
    }

    pub(super) fn rates(&self) -> Rates {
        let (Some(first), Some(last)) = (self.recent.front(), self.recent.back()) else {
            return Rates::default();
        };
        let seconds = last.at.saturating_sub(first.at).as_secs_f64();
        if seconds <= 0.0 {
            return Rates::default();
        }
        // A new engine counts from zero: for a moment nothing is known.
        let rate = |of: fn(&Sample) -> u64| of(last).saturating_sub(of(first)) as f64 / seconds;
        Rates {
            answered: rate(|sample| sample.answered),
            failed: rate(|sample| sample.failed),
            events: rate(|sample| sample.events),
        }
    }

    /// Commands of the last seconds, by the class of their time.
    pub(super) fn latencies(&self) -> Vec<u32> {
        let (Some(first), Some(last)) = (self.recent.front(), self.recent.back()) else {
            return Vec::new();
        };
        let counts = last.latencies.iter().zip(&first.latencies);
        counts
            .map(|(last, first)| small(last.saturating_sub(*first)))
            .collect()
    }

    /// Commands in each of the last seconds, the latest last.
    pub(super) fn history(&self) -> Vec<u32> {
        self.history.iter().copied().collect()
    }
}

fn small(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(second: u64, answered: u64, events: u64) -> Sample {
        let mut latencies = [0; CLASSES];
        latencies[3] = answered;
        Sample {
            at: Duration::from_secs(second),
            answered,
            failed: answered / 10,
            events,
            latencies,
        }
    }

    #[test]
    fn rates_are_those_of_the_last_ten_seconds() {
        let mut window = Window::default();
        assert_eq!(window.rates(), Rates::default());
        window.push(sample(0, 1_000, 0));
        assert_eq!(window.rates(), Rates::default(), "one sample is no rate");
        for second in 1..=20_u64 {
            // First ten a second, later twenty.
            let answered = 1_000 + 10 * second + 10 * second.saturating_sub(10);
            window.push(sample(second, answered, 5 * second));
        }
        let rates = window.rates();
        assert_eq!((rates.answered, rates.events), (20.0, 5.0));
        assert_eq!(window.latencies()[3], 200);
        assert_eq!(window.history().len(), 20);
        assert_eq!(window.history().last(), Some(&20));
        for second in 21..200 {
            window.push(sample(second, 2_000, 0));
        }
        assert_eq!(window.history(), [0; HISTORY]);
        assert_eq!(window.rates(), Rates::default());
    }

    #[test]
    fn a_counter_that_begins_anew_is_no_negative_rate() {
        let mut window = Window::default();
        window.push(sample(0, 10, 500));
        window.push(sample(1, 20, 3));
        assert_eq!(window.rates().events.to_bits(), 0.0_f64.to_bits());
    }
}
