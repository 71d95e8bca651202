//! The time of day, for people: no decision depends on it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970 by this machine's clock, which may be wrong.
#[must_use]
pub fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    // Milliseconds of a few hundred million years.
    since.map_or(0, |since| since.as_millis() as u64)
}
