//! The smallest useful entity: a number that can be added to.
//!
//! | command | reply |
//! |---|---|
//! | `{"add": 5}` | `{"value": 5}` |
//! | `"get"` | `{"value": 5}` |

use perennial_persistence::codec::Json;
use perennial_persistence::effect::Effect;
use perennial_persistence::event_sourced::EventSourced;
use serde::{Deserialize, Serialize};

/// The definition of the entity type `counter`.
///
/// One value of it serves all counters. It could hold settings, such as a
/// largest value; this one needs none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counter;

/// What a counter remembers. Starts at 0 by `Default`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CounterState {
    /// The sum of everything added.
    pub value: i64,
}

/// What a counter is asked. The JSON form comes from serde: a variant with a
/// value is `{"add": 5}`, one without is `"get"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CounterCommand {
    /// Add this, which may be negative.
    Add(i64),
    /// Only tell the value.
    Get,
}

/// What has happened to a counter. Events are stored for good: they are facts,
/// named in the past tense, and say everything needed to repeat the change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CounterEvent {
    /// This was added.
    Added(i64),
}

/// What a counter answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterReply {
    /// The value after the command.
    pub value: i64,
}

impl EventSourced for Counter {
    const ENTITY_TYPE: &'static str = "counter";
    type State = CounterState;
    type Command = CounterCommand;
    type Event = CounterEvent;
    type Reply = CounterReply;
    type Codec = Json;

    /// Decides. Nothing changes here: a command either leads to events or does not.
    fn handle(&self, state: &CounterState, command: CounterCommand) -> Effect<Self> {
        let value = |state: &CounterState| CounterReply { value: state.value };
        match command {
            // The check is here and not in `apply`: an event that happened must
            // always be applicable, today and at every replay.
            CounterCommand::Add(amount) if state.value.checked_add(amount).is_none() => {
                Effect::reject(
                    "OVERFLOW",
                    format!(
                        "{} plus {amount} does not fit 64 bits: add something closer to zero",
                        state.value
                    ),
                )
            }
            CounterCommand::Add(amount) => {
                Effect::persist(CounterEvent::Added(amount)).then_reply(value)
            }
            CounterCommand::Get => Effect::none().then_reply(value),
        }
    }

    /// Changes the state, when the event happens and whenever it is replayed.
    fn apply(&self, state: &mut CounterState, event: CounterEvent) {
        match event {
            // Cannot overflow: `handle` refused what would.
            CounterEvent::Added(amount) => state.value += amount,
        }
    }

    fn event_manifest(event: &CounterEvent) -> &'static str {
        match event {
            CounterEvent::Added(_) => "added",
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn adding_stores_an_event_and_answers_the_new_value() {
        let mut state = CounterState { value: 2 };
        let effect = Counter.handle(&state, CounterCommand::Add(5));
        assert_eq!(effect.events(), [CounterEvent::Added(5)]);
        Counter.apply(&mut state, CounterEvent::Added(5));
        assert_eq!(effect.into_reply(&state), Some(CounterReply { value: 7 }));
    }

    #[test]
    fn getting_stores_nothing() {
        let state = CounterState { value: 2 };
        let effect = Counter.handle(&state, CounterCommand::Get);
        assert!(effect.events().is_empty());
        assert_eq!(effect.into_reply(&state), Some(CounterReply { value: 2 }));
    }

    #[test]
    fn an_overflow_is_rejected_at_both_ends() {
        for (value, amount) in [(i64::MAX, 1), (i64::MIN, -1)] {
            let effect = Counter.handle(&CounterState { value }, CounterCommand::Add(amount));
            assert_eq!(effect.rejection(), Some("OVERFLOW"), "{value} + {amount}");
        }
        let effect = Counter.handle(&CounterState { value: i64::MAX }, CounterCommand::Add(0));
        assert_eq!(effect.rejection(), None);
    }

    #[test]
    fn the_json_forms_are_those_of_the_contract() {
        let parse = |json| serde_json::from_str::<CounterCommand>(json).unwrap();
        assert_eq!(parse(r#"{"add":5}"#), CounterCommand::Add(5));
        assert_eq!(parse(r#""get""#), CounterCommand::Get);
        assert!(serde_json::from_str::<CounterCommand>(r#"{"add":9223372036854775808}"#).is_err());
        let reply = serde_json::to_string(&CounterReply { value: 5 }).unwrap();
        assert_eq!(reply, r#"{"value":5}"#);
    }
}
