//! The counter of section 5.7 of the cases: it puts increments aside while it is
//! inactive.

use perennial_persistence::codec::Json;
use perennial_persistence::effect::Effect;
use perennial_persistence::event_sourced::EventSourced;
use serde::{Deserialize, Serialize};

pub(crate) struct Counter;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Command {
    Increment,
    Update(u64),
    Deactivate,
    Activate,
    IncrementThenThrow,
    Throw,
    Get,
    Unhandled,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Event {
    Incremented,
    Updated(u64),
    Activated,
    Deactivated,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) value: u64,
    pub(crate) active: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            value: 0,
            active: true,
        }
    }
}

impl EventSourced for Counter {
    const ENTITY_TYPE: &'static str = "counter";
    type State = State;
    type Command = Command;
    type Event = Event;
    type Reply = (u64, bool);
    type Codec = Json;

    fn handle(&self, state: &State, command: Command) -> Effect<Self> {
        let ack = |state: &State| (state.value, state.active);
        match (command, state.active) {
            (Command::Increment | Command::IncrementThenThrow, false) => Effect::stash(),
            (Command::Increment, true) => Effect::persist(Event::Incremented).then_reply(ack),
            (Command::IncrementThenThrow, true) => Effect::persist(Event::Incremented)
                .then_run(|_| panic!("told to throw"))
                .then_reply(ack),
            (Command::Update(value), _) => Effect::persist(Event::Updated(value)).then_reply(ack),
            (Command::Deactivate, true) => Effect::persist(Event::Deactivated).then_reply(ack),
            (Command::Activate, false) => Effect::persist(Event::Activated)
                .then_reply(ack)
                .then_unstash_all(),
            (Command::Deactivate, false) | (Command::Activate, true) | (Command::Get, _) => {
                Effect::none().then_reply(ack)
            }
            (Command::Throw, _) => Effect::none()
                .then_run(|_| panic!("told to throw"))
                .then_reply(ack),
            (Command::Unhandled, _) => Effect::unhandled(),
        }
    }

    fn apply(&self, state: &mut State, event: Event) {
        match event {
            Event::Incremented => state.value += 1,
            Event::Updated(value) => state.value = value,
            Event::Activated => state.active = true,
            Event::Deactivated => state.active = false,
        }
    }
}
