//! An entity type that changed its events, and still reads the old ones.
//!
//! Version 1 of the contact stored `{"Named": {"name": "Ada Lovelace"}}` under the
//! manifest `named.v1`. Version 2 keeps first and last name apart, and is not
//! interested in `Viewed` any more. The old events stay in the journal as they are:
//! an adapter converts them whenever they are read.
//!
//! To change events of your own: give every kind of event a manifest from the
//! beginning; when its shape changes, give the new shape a new manifest, bind it,
//! and bind the old one to a function from the old JSON to the new.
//!
//! Run it: `cargo run -p perennial-persistence --example event_upcast`

use perennial_persistence::codec::Json;
use perennial_persistence::command::{Envelope, Reply, ReplyTo, Request};
use perennial_persistence::effect::Effect;
use perennial_persistence::engine::{EngineSettings, EntityEngine};
use perennial_persistence::entity_types::EntityTypes;
use perennial_persistence::event_adapter::{AdapterError, EventAdapters};
use perennial_persistence::event_sourced::EventSourced;
use perennial_persistence::payload::Payload;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::storage::Storage;
use perennial_persistence::storage::memory::MemoryStorage;
use perennial_persistence::trace::Trace;
use perennial_persistence::writer::{Epoch, ShardNr};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The code as it was.
mod version_1 {
    use super::*;

    pub(crate) struct Contact;

    #[derive(Serialize, Deserialize)]
    pub(crate) enum Command {
        SetName(String),
        View,
    }

    #[derive(Serialize, Deserialize)]
    pub(crate) enum Event {
        Named { name: String },
        Viewed,
    }

    impl EventSourced for Contact {
        const ENTITY_TYPE: &'static str = "contact";
        type State = String;
        type Command = Command;
        type Event = Event;
        type Reply = String;
        type Codec = Json;

        fn handle(&self, _state: &String, command: Command) -> Effect<Self> {
            let event = match command {
                Command::SetName(name) => Event::Named { name },
                Command::View => Event::Viewed,
            };
            Effect::persist(event).then_reply(Clone::clone)
        }

        fn apply(&self, state: &mut String, event: Event) {
            if let Event::Named { name } = event {
                *state = name;
            }
        }

        fn event_manifest(event: &Event) -> &'static str {
            match event {
                Event::Named { .. } => "named.v1",
                Event::Viewed => "viewed.v1",
            }
        }
    }
}

/// The code as it is.
mod version_2 {
    use super::*;

    pub(crate) struct Contact;

    #[derive(Serialize, Deserialize)]
    pub(crate) enum Command {
        SetLast(String),
        Name,
    }

    #[derive(Serialize, Deserialize)]
    pub(crate) enum Event {
        Named { first: String, last: String },
    }

    #[derive(Default, Clone, Serialize, Deserialize)]
    pub(crate) struct Name {
        first: String,
        last: String,
    }

    impl EventSourced for Contact {
        const ENTITY_TYPE: &'static str = "contact";
        type State = Name;
        type Command = Command;
        type Event = Event;
        type Reply = String;
        type Codec = Json;

        fn handle(&self, state: &Name, command: Command) -> Effect<Self> {
            let written = |name: &Name| format!("{}, {}", name.last, name.first);
            match command {
                Command::SetLast(last) => {
                    let first = state.first.clone();
                    Effect::persist(Event::Named { first, last }).then_reply(written)
                }
                Command::Name => Effect::none().then_reply(written),
            }
        }

        fn apply(&self, state: &mut Name, event: Event) {
            let Event::Named { first, last } = event;
            *state = Name { first, last };
        }

        fn event_manifest(_event: &Event) -> &'static str {
            "named.v2"
        }

        fn adapters() -> EventAdapters<Event> {
            EventAdapters::bound()
                .bind("named.v2")
                .read_json("named.v1", upcast_named)
                .skip("viewed.v1")
        }
    }

    /// `{"Named": {"name": "Ada Lovelace"}}` →
    /// `{"Named": {"first": "Ada", "last": "Lovelace"}}`
    fn upcast_named(mut old: Value) -> Result<Vec<Value>, AdapterError> {
        let Value::String(name) = old["Named"]["name"].take() else {
            return Err(AdapterError::Refused("the name is missing".into()));
        };
        let (first, last) = name.split_once(' ').unwrap_or(("", &name));
        Ok(vec![json!({"Named": {"first": first, "last": last}})])
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let storage = MemoryStorage::default().storage();

    let old = start(&storage, version_1::Contact).await?;
    let name = version_1::Command::SetName("Ada Lovelace".into());
    send(&old, &serde_json::to_vec(&name)?).await?;
    send(&old, &serde_json::to_vec(&version_1::Command::View)?).await?;
    old.stop().await;

    let new = start(&storage, version_2::Contact).await?;
    let read = send(&new, &serde_json::to_vec(&version_2::Command::Name)?).await?;
    println!(
        "version 2 reads {}",
        String::from_utf8_lossy(&read.payload.bytes)
    );
    assert_eq!(&*read.payload.bytes, br#""Lovelace, Ada""#);

    let last = version_2::Command::SetLast("King".into());
    let changed = send(&new, &serde_json::to_vec(&last)?).await?;
    println!("and goes on at sequence number {}", changed.sequence_nr);
    assert_eq!(changed.sequence_nr.get(), 3);
    new.stop().await;
    Ok(())
}

/// A process that runs this version of the code.
async fn start<E: EventSourced>(
    storage: &Storage,
    entity: E,
) -> Result<EntityEngine, Box<dyn std::error::Error>> {
    let node = storage.registry.mint_node().await?;
    let session = storage.registry.begin_incarnation(node).await?.session;
    let mut types = EntityTypes::new();
    types.register(entity)?;
    let settings = EngineSettings::default();
    Ok(EntityEngine::start(
        types,
        storage.clone(),
        session,
        settings,
    ))
}

async fn send(engine: &EntityEngine, json: &[u8]) -> Result<Reply, Box<dyn std::error::Error>> {
    let (reply_to, answer) = ReplyTo::ask();
    engine.deliver(Envelope {
        trace: Trace::NONE,
        arrival: 0,
        persistence_id: PersistenceId::new("contact", "ada")?,
        shard: ShardNr(0),
        epoch: Epoch(1),
        request: Request::Command {
            payload: Payload::json(json.to_vec()),
            command_id: None,
            expected_sequence_nr: None,
            metadata: None,
        },
        deadline: None,
        reply_to,
    });
    Ok(answer.await??)
}
