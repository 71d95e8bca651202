//! The kit finds what it promises to find, and nothing where all is well.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};

use super::*;
use crate::codec::Json;
use crate::effect::Effect;
use crate::event_adapter::EventAdapters;

/// A counter with something wrong in it, if asked for.
#[derive(Default)]
struct Counter {
    asked: AtomicU32,
    /// The sum that the last side effect saw.
    ran: Arc<AtomicU32>,
    wrong: Wrong,
}

#[derive(Default, PartialEq)]
enum Wrong {
    #[default]
    Nothing,
    /// The handler's decision depends on how often it was asked.
    Impure,
    /// Applying an event does something else each time.
    Unrepeatable,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Command {
    Add(u32),
    AddAll(Vec<u32>),
    Get,
    Refuse,
    Ignore,
    ThenStop,
    ThenSnapshot,
    Forgetful(Forgetful),
    AddForgetful(u32),
    StateForgets,
    Stash,
    UnstashAll,
    AddOutside(u32),
    AddThenRun(u32),
}

/// Loses its value in the codec.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Forgetful {
    #[serde(skip)]
    n: u32,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Event {
    Added(u32),
    Forgetful(Forgetful),
    StateForgets,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct State {
    sum: u32,
    forgets: Forgetful,
}

impl EventSourced for Counter {
    const ENTITY_TYPE: &'static str = "counter";
    type State = State;
    type Command = Command;
    type Event = Event;
    type Reply = u32;
    type Codec = Json;

    fn handle(&self, state: &State, command: Command) -> Effect<Self> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        match command {
            Command::Add(_) if self.wrong == Wrong::Impure => Effect::persist(Event::Added(asked)),
            Command::Add(n) => {
                Effect::persist(Event::Added(n)).then_reply(|state: &State| state.sum)
            }
            Command::AddAll(all) => {
                Effect::persist_all(all.into_iter().map(Event::Added).collect())
            }
            Command::Get => Effect::reply(state.sum),
            Command::Refuse => Effect::reject("NO", "it says no"),
            Command::Ignore => Effect::unhandled(),
            Command::ThenStop => Effect::none().then_stop(),
            Command::ThenSnapshot => Effect::persist(Event::Added(1)).then_snapshot(),
            Command::Forgetful(_) => Effect::none(),
            Command::AddForgetful(n) => Effect::persist(Event::Forgetful(Forgetful { n })),
            Command::StateForgets => Effect::persist(Event::StateForgets),
            Command::Stash => Effect::stash(),
            Command::UnstashAll => Effect::unstash_all(),
            Command::AddOutside(n) => Effect::run_outside(async move { Command::Add(n) }),
            Command::AddThenRun(n) => {
                let ran = Arc::clone(&self.ran);
                Effect::persist(Event::Added(n)).then_run(move |state: &State| {
                    ran.store(state.sum, Ordering::Relaxed);
                })
            }
        }
    }

    fn apply(&self, state: &mut State, event: Event) {
        match event {
            Event::Added(_) if self.wrong == Wrong::Unrepeatable => {
                state.sum += self.asked.fetch_add(1, Ordering::Relaxed);
            }
            Event::Added(n) => state.sum += n,
            Event::Forgetful(Forgetful { n }) => state.sum += n,
            Event::StateForgets => state.forgets = Forgetful { n: 1 },
        }
    }

    fn event_manifest(_event: &Event) -> &'static str {
        "v2"
    }

    fn adapters() -> EventAdapters<Event> {
        EventAdapters::bound()
            .bind("v2")
            .read_json("v1", |n| Ok(vec![serde_json::json!({ "Added": n })]))
            .tag(|_| vec!["counted".into()])
    }
}

fn complaint(wrong: Wrong, run: impl FnOnce(&mut EventSourcedKit<Counter>)) -> String {
    let mut kit = EventSourcedKit::new(Counter {
        wrong,
        ..Counter::default()
    });
    let panic = catch_unwind(AssertUnwindSafe(|| run(&mut kit))).expect_err("no complaint");
    panic.downcast_ref::<String>().cloned().expect("a text")
}

#[test]
fn what_becomes_of_a_command_is_told() {
    let mut kit = EventSourcedKit::new(Counter::default());
    kit.given([Event::Added(1), Event::Added(2)]);
    let added = kit.run(Command::Add(4));
    assert_eq!(added.events, [Event::Added(4)]);
    assert_eq!(added.outcome, Outcome::Replied(7));
    let all = kit.run(Command::AddAll(vec![5, 6]));
    assert_eq!((all.events.len(), all.outcome), (2, Outcome::Accepted));
    assert_eq!(kit.run(Command::Refuse).rejection(), Some("NO"));
    assert_eq!(kit.run(Command::Ignore).outcome, Outcome::Unhandled);
    assert!(kit.run(Command::ThenStop).then_stop);
    assert!(kit.run(Command::ThenSnapshot).then_snapshot);
    assert_eq!(kit.run(Command::Get).into_reply(), 19);
    assert_eq!(kit.sequence_nr().get(), 6);
    assert_eq!(kit.stored()[5].tags, ["counted"]);
    kit.restart();
    assert_eq!(kit.run(Command::Add(1)).into_reply(), 20);
}

#[test]
fn events_of_older_versions_can_be_given() {
    let mut kit = EventSourcedKit::new(Counter::default());
    kit.given_stored(Payload {
        manifest: "v1".into(),
        ..Payload::json("40")
    });
    assert_eq!(kit.run(Command::Add(2)).into_reply(), 42);
    kit.restart();
    let unbound = complaint(Wrong::Nothing, |kit| kit.given_stored(Payload::json("1")));
    assert!(unbound.contains("no event adapter is bound"), "{unbound}");
}

#[test]
fn what_follows_is_told_and_done() {
    let ran = Arc::<AtomicU32>::default();
    let mut kit = EventSourcedKit::new(Counter {
        ran: Arc::clone(&ran),
        ..Counter::default()
    });
    assert_eq!(kit.run(Command::Stash).outcome, Outcome::Stashed);
    assert!(kit.run(Command::UnstashAll).then_unstash_all);
    kit.run(Command::AddThenRun(3));
    assert_eq!(ran.swap(0, Ordering::Relaxed), 3);
    let outside = kit.run(Command::AddOutside(4));
    assert_eq!(outside.outcome, Outcome::Outside);
    let added = outside.into_continuations().remove(0);
    assert_eq!(kit.run(added).into_reply(), 7);
    kit.restart();
    assert_eq!(
        ran.load(Ordering::Relaxed),
        0,
        "a replay has no side effects"
    );
}

#[test]
fn what_does_not_survive_its_codec_is_found() {
    for (what, command) in [
        ("the command", Command::Forgetful(Forgetful { n: 1 })),
        ("the event", Command::AddForgetful(1)),
        ("the state", Command::StateForgets),
    ] {
        let found = complaint(Wrong::Nothing, |kit| {
            kit.run(command);
        });
        assert!(found.contains(what), "{found}");
    }
}

#[test]
fn an_impure_handler_is_found() {
    let found = complaint(Wrong::Impure, |kit| {
        kit.run(Command::Add(1));
    });
    assert!(found.contains("decided differently"), "{found}");
}

#[test]
fn i6_an_event_that_cannot_be_repeated_is_found() {
    let found = complaint(Wrong::Unrepeatable, |kit| {
        kit.run(Command::Add(1));
    });
    assert!(found.contains("I-6"), "{found}");
}
