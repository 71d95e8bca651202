//! How long commands took, in classes that grow by a fifth: precise enough for a
//! percentile on a page, and the counts of several nodes can be added up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Classes: four for each doubling, from [`FIRST`] to 18 minutes.
pub(super) const CLASSES: usize = 104;
/// Upper bound of the first class.
const FIRST: Duration = Duration::from_micros(16);
const CLASSES_PER_DOUBLING: f64 = 4.0;

/// Counts of times, by class.
pub(super) struct Latencies([AtomicU64; CLASSES]);

impl Default for Latencies {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; CLASSES])
    }
}

impl Latencies {
    pub(super) fn record(&self, elapsed: Duration) {
        self.0[class_of(elapsed)].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> [u64; CLASSES] {
        std::array::from_fn(|class| self.0[class].load(Ordering::Relaxed))
    }
}

fn class_of(elapsed: Duration) -> usize {
    let doublings = (elapsed.as_secs_f64() / FIRST.as_secs_f64()).log2();
    let class = (doublings * CLASSES_PER_DOUBLING).ceil().max(0.0);
    // Not a number for zero, which is in the first class.
    (class as usize).min(CLASSES - 1)
}

/// The time that a share `q` of what is counted did not exceed, to within a class;
/// `None` when nothing is counted.
pub(crate) fn quantile(counts: &[u32], q: f64) -> Option<Duration> {
    let total: u64 = counts.iter().map(|&count| u64::from(count)).sum();
    if total == 0 {
        return None;
    }
    let rank = (q * total as f64).ceil().max(1.0) as u64;
    let mut seen = 0;
    let class = counts.iter().position(|&count| {
        seen += u64::from(count);
        seen >= rank
    });
    let doublings = class.unwrap_or(0) as f64 / CLASSES_PER_DOUBLING;
    // What another node sent can have more classes than time has.
    Duration::try_from_secs_f64(FIRST.as_secs_f64() * doublings.exp2()).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_found_again_to_within_a_class() {
        for micros in [1, 16, 17, 100, 1_000, 12_345, 1_000_000, 60_000_000] {
            let latencies = Latencies::default();
            let elapsed = Duration::from_micros(micros);
            latencies.record(elapsed);
            let counts = latencies.counts().map(|count| count as u32);
            let found = quantile(&counts, 0.5).unwrap();
            assert!(
                found.as_secs_f64() >= elapsed.as_secs_f64() * 0.999,
                "{micros}: {found:?}"
            );
            let bound = elapsed.max(FIRST).as_secs_f64() * 1.2;
            assert!(found.as_secs_f64() <= bound, "{micros}: {found:?}");
        }
        assert_eq!(class_of(Duration::ZERO), 0);
        assert_eq!(class_of(Duration::MAX), CLASSES - 1);
    }

    #[test]
    fn a_percentile_is_not_exceeded_by_its_share() {
        let mut counts = vec![0; CLASSES];
        counts[10] = 98;
        counts[20] = 1;
        counts[40] = 1;
        let at = |class: f64| FIRST.mul_f64((class / CLASSES_PER_DOUBLING).exp2());
        assert_eq!(quantile(&counts, 0.5), Some(at(10.0)));
        assert_eq!(quantile(&counts, 0.99), Some(at(20.0)));
        assert_eq!(quantile(&counts, 1.0), Some(at(40.0)));
        assert_eq!(quantile(&[], 0.5), None);
        // A node of another version may count in more classes than this one.
        let mut more = vec![0; 1_000_000];
        more.push(1);
        assert_eq!(quantile(&more, 0.5), None);
    }
}
