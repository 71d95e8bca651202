//! The entity of the simulation: a sum that remembers nothing but says everything.
//!
//! Each event carries the number of the operation it comes from, so that the journal
//! tells what happened, also to commands that had no id.

use perennial::{Effect, EventSourced, Json};
use serde::{Deserialize, Serialize};

/// The definition of the entity type `tally`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally;

/// A sum, and how many events made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Sum {
    pub(crate) sum: i64,
    pub(crate) events: u64,
}

/// Adds an amount, unless the sum would be negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Add {
    pub(crate) op: u64,
    pub(crate) amount: i64,
}

impl Sum {
    /// Whether adding is against the rules.
    pub(crate) fn refuses(&self, amount: i64) -> bool {
        self.sum + amount < 0
    }

    pub(crate) fn add(&mut self, added: Add) {
        self.sum += added.amount;
        self.events += 1;
    }
}

impl EventSourced for Tally {
    const ENTITY_TYPE: &'static str = "tally";
    type State = Sum;
    type Command = Add;
    type Event = Add;
    type Reply = Sum;
    type Codec = Json;

    fn handle(&self, state: &Sum, command: Add) -> Effect<Self> {
        if state.refuses(command.amount) {
            return Effect::reject("NEGATIVE", "the sum would be negative: add less");
        }
        Effect::persist(command).then_reply(|state: &Sum| *state)
    }

    fn apply(&self, state: &mut Sum, event: Add) {
        state.add(event);
    }
}
