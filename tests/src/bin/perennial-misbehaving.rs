//! The stock binary with one more entity type: one that misbehaves on request.
//!
//! It shows what clients get to see when an entity panics, blocks, or wants to
//! store what cannot be stored; and that a user's own binary is made in a few
//! lines.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use perennial::node::Node;
use perennial::samples::{Account, Airport, Counter};
use perennial_persistence::codec::Json;
use perennial_persistence::effect::Effect;
use perennial_persistence::event_sourced::EventSourced;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

fn main() -> ExitCode {
    perennial::cli::main(
        Node::builder()
            .entity(Counter)
            .entity(Account)
            .entity(Airport)
            .entity(Misbehaving),
    )
}

/// Counts what it stored, unless it is told to misbehave.
struct Misbehaving;

#[derive(Clone, Default, Serialize, Deserialize)]
struct Stored {
    count: u64,
}

/// What to do wrong.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Misdeed {
    /// Nothing: store a good event and answer with the count.
    Store,
    /// Panic while deciding.
    PanicInHandler,
    /// Store an event whose application panics.
    PanicInApply,
    /// Store a map whose keys are lists, which JSON does not have.
    StoreUnencodable,
    /// Store an event that cannot be read again.
    StoreUnreadable,
    /// Store an event with so many bytes of text.
    StoreBytes(usize),
    /// Answer with so many bytes of text.
    ReplyBytes(usize),
    /// Block for so many milliseconds, then store a good event.
    SleepThenStore(u64),
    /// Do not handle this command.
    LeaveUnhandled,
}

#[derive(Serialize, Deserialize)]
enum Event {
    Good,
    Explosive,
    Unencodable(BTreeMap<Vec<u8>, u8>),
    Unreadable(Unreadable),
    Text(String),
}

/// Can be written, and never read.
#[derive(Serialize)]
struct Unreadable;

impl<'de> Deserialize<'de> for Unreadable {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(D::Error::custom("nobody can read this"))
    }
}

#[derive(Serialize, Deserialize)]
struct Reply {
    count: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    text: String,
}

impl EventSourced for Misbehaving {
    const ENTITY_TYPE: &'static str = "misbehaving";
    type State = Stored;
    type Command = Misdeed;
    type Event = Event;
    type Reply = Reply;
    type Codec = Json;

    fn handle(&self, _: &Stored, command: Misdeed) -> Effect<Self> {
        let event = match command {
            Misdeed::Store => Event::Good,
            Misdeed::PanicInHandler => panic!("told to panic in the handler"),
            Misdeed::PanicInApply => Event::Explosive,
            Misdeed::StoreUnencodable => Event::Unencodable(BTreeMap::from([(vec![1], 1)])),
            Misdeed::StoreUnreadable => Event::Unreadable(Unreadable),
            Misdeed::StoreBytes(len) => Event::Text("x".repeat(len)),
            Misdeed::SleepThenStore(milliseconds) => {
                #[expect(clippy::disallowed_methods, reason = "blocking is the misdeed")]
                std::thread::sleep(Duration::from_millis(milliseconds));
                Event::Good
            }
            Misdeed::LeaveUnhandled => return Effect::unhandled(),
            Misdeed::ReplyBytes(len) => {
                let text = "x".repeat(len);
                return Effect::none().then_reply(move |state: &Stored| Reply {
                    count: state.count,
                    text,
                });
            }
        };
        Effect::persist(event).then_reply(|state: &Stored| Reply {
            count: state.count,
            text: String::new(),
        })
    }

    fn apply(&self, state: &mut Stored, event: Event) {
        assert!(!matches!(event, Event::Explosive), "told to panic in apply");
        state.count += 1;
    }

    fn event_manifest(event: &Event) -> &'static str {
        match event {
            Event::Good => "good",
            Event::Explosive => "explosive",
            Event::Unencodable(_) => "unencodable",
            Event::Unreadable(_) => "unreadable",
            Event::Text(_) => "text",
        }
    }
}
