//! What every airport must answer after the flights are loaded, computed
//! straight from the file. No code under test has a part in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Deserialize;

use crate::binaries;

/// Flights later than this many minutes count as delayed.
const DELAYED_OVER_MINUTES: i64 = 15;

/// What an airport answers to `"report"`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AirportFigures {
    /// Flights that left.
    pub departures: u64,
    /// Those more than 15 minutes late.
    pub delayed: u64,
    /// All delays together; early flights count negative.
    pub total_delay_minutes: i64,
    /// The greatest delay; none before the first flight.
    pub max_delay_minutes: Option<i64>,
    /// All distances together, in statute miles.
    pub total_distance_miles: u64,
    /// Flights to each destination.
    pub destinations: BTreeMap<String, u64>,
}

/// The 20,000 flights.
#[must_use]
pub fn flights_csv() -> PathBuf {
    binaries::repository().join("tests/data/flights.csv")
}

/// The figures of every airport of origin in the file.
///
/// # Errors
/// When the file cannot be read.
pub fn expected(path: &Path) -> Result<BTreeMap<String, AirportFigures>> {
    #[derive(Deserialize)]
    struct Flight {
        origin: String,
        destination: String,
        delay_minutes: i64,
        distance_miles: u64,
    }
    let mut airports: BTreeMap<String, AirportFigures> = BTreeMap::new();
    for flight in csv::Reader::from_path(path)?.deserialize() {
        let flight: Flight = flight?;
        let figures = airports.entry(flight.origin).or_default();
        figures.departures += 1;
        figures.delayed += u64::from(flight.delay_minutes > DELAYED_OVER_MINUTES);
        figures.total_delay_minutes += flight.delay_minutes;
        figures.max_delay_minutes = figures.max_delay_minutes.max(Some(flight.delay_minutes));
        figures.total_distance_miles += flight.distance_miles;
        *figures.destinations.entry(flight.destination).or_default() += 1;
    }
    Ok(airports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_the_known_one() {
        let airports = expected(&flights_csv()).unwrap();
        let departures = |code: &str| airports[code].departures;
        assert_eq!(airports.len(), 220);
        assert_eq!((departures("ORD"), departures("DFW")), (1_095, 1_103));
        assert_eq!(airports.values().map(|a| a.departures).sum::<u64>(), 20_000);
    }
}
