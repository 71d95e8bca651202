//! An entity that sums up a stream of facts: the departures of an airport.
//!
//! | command | reply |
//! |---|---|
//! | `{"depart":{"date":"2001/01/01 00:47","destination":"LAS","delay_minutes":66,"distance_miles":1750}}` | `{"departures":1}` |
//! | `"report"` | all figures |
//!
//! The file `tests/data/flights.csv` holds 20,000 real departures to load.

use std::collections::BTreeMap;

use perennial_persistence::codec::Json;
use perennial_persistence::effect::Effect;
use perennial_persistence::event_sourced::EventSourced;
use serde::{Deserialize, Serialize};

/// A departure is delayed when it is later than this, as airlines report it.
const DELAYED_OVER_MINUTES: i32 = 15;

/// The definition of the entity type `airport`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Airport;

/// One departure: what the command says, and what is stored when it happened.
///
/// The numbers are 32-bit so that sums of them in 64 bits cannot overflow.
/// Unknown fields are refused: a misspelt column would otherwise get lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Departure {
    /// When it was due, in local time, as the source writes it.
    pub date: String,
    /// Code of the airport it went to.
    pub destination: String,
    /// How late it left; negative when it was early.
    pub delay_minutes: i32,
    /// How far it went.
    pub distance_miles: u32,
}

/// What an airport is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AirportCommand {
    /// A flight left.
    Depart(Departure),
    /// Tell all figures.
    Report,
}

/// What has happened at an airport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AirportEvent {
    /// A flight left.
    Departed(Departure),
}

/// The figures: what an airport remembers, and what it reports.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AirportReport {
    /// All departures.
    pub departures: u64,
    /// Those more than 15 minutes late.
    pub delayed: u64,
    /// Sum of all delays; early departures count negative.
    pub total_delay_minutes: i64,
    /// The longest delay; `None` before the first departure.
    pub max_delay_minutes: Option<i32>,
    /// Sum of all distances.
    pub total_distance_miles: u64,
    /// Departures by destination.
    pub destinations: BTreeMap<String, u64>,
}

/// What an airport answers: one shape or the other, told apart by their fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AirportReply {
    /// To `"report"`. First, because it has all the fields of the other.
    Report(AirportReport),
    /// To `"depart"`.
    Departed {
        /// All departures so far, with this one.
        departures: u64,
    },
}

impl EventSourced for Airport {
    const ENTITY_TYPE: &'static str = "airport";
    type State = AirportReport;
    type Command = AirportCommand;
    type Event = AirportEvent;
    type Reply = AirportReply;
    type Codec = Json;

    fn handle(&self, _state: &AirportReport, command: AirportCommand) -> Effect<Self> {
        match command {
            AirportCommand::Depart(departure) => Effect::persist(AirportEvent::Departed(departure))
                .then_reply(|state: &AirportReport| AirportReply::Departed {
                    departures: state.departures,
                }),
            AirportCommand::Report => Effect::none()
                .then_reply(|state: &AirportReport| AirportReply::Report(state.clone())),
        }
    }

    fn apply(&self, state: &mut AirportReport, event: AirportEvent) {
        let AirportEvent::Departed(departure) = event;
        let delay = departure.delay_minutes;
        state.departures += 1;
        state.delayed += u64::from(delay > DELAYED_OVER_MINUTES);
        state.total_delay_minutes += i64::from(delay);
        // `None` is less than any number, so the first departure always wins.
        state.max_delay_minutes = state.max_delay_minutes.max(Some(delay));
        state.total_distance_miles += u64::from(departure.distance_miles);
        *state.destinations.entry(departure.destination).or_default() += 1;
    }

    fn event_manifest(event: &AirportEvent) -> &'static str {
        match event {
            AirportEvent::Departed(_) => "departed",
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn departure(destination: &str, delay_minutes: i32) -> Departure {
        Departure {
            date: "2001/01/01 00:47".into(),
            destination: destination.into(),
            delay_minutes,
            distance_miles: 100,
        }
    }

    #[test]
    fn figures_add_up() {
        let mut state = AirportReport::default();
        for (destination, delay) in [("LAS", -5), ("SFO", 15), ("LAS", 16), ("LAS", 66)] {
            let command = AirportCommand::Depart(departure(destination, delay));
            let effect = Airport.handle(&state, command);
            for event in effect.events() {
                Airport.apply(&mut state, event.clone());
            }
            let departures = state.departures;
            assert_eq!(
                effect.into_reply(&state),
                Some(AirportReply::Departed { departures })
            );
        }
        let reply = Airport
            .handle(&state, AirportCommand::Report)
            .into_reply(&state);
        assert_eq!(
            serde_json::to_value(reply.unwrap()).unwrap(),
            serde_json::json!({
                "departures": 4, "delayed": 2, "total_delay_minutes": 92, "max_delay_minutes": 66,
                "total_distance_miles": 400, "destinations": {"LAS": 3, "SFO": 1},
            })
        );
    }

    #[test]
    fn the_longest_delay_of_none_is_null_and_of_early_ones_negative() {
        let mut state = AirportReport::default();
        let json = serde_json::to_value(&state).unwrap();
        assert_eq!(json["max_delay_minutes"], serde_json::Value::Null);
        Airport.apply(&mut state, AirportEvent::Departed(departure("LAS", -7)));
        assert_eq!(state.max_delay_minutes, Some(-7));
        assert_eq!(state.total_delay_minutes, -7);
    }

    #[test]
    fn both_replies_come_back_from_json() {
        for reply in [
            AirportReply::Departed { departures: 3 },
            AirportReply::Report(AirportReport::default()),
        ] {
            let json = serde_json::to_string(&reply).unwrap();
            assert_eq!(serde_json::from_str::<AirportReply>(&json).unwrap(), reply);
        }
    }

    #[test]
    fn a_misspelt_field_is_refused() {
        let json = r#"{"depart":{"date":"","destination":"LAS","delay_minutes":1,"distance_miles":1,"x":1}}"#;
        assert!(serde_json::from_str::<AirportCommand>(json).is_err());
    }
}
