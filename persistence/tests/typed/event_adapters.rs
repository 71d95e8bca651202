//! Event adapters (the row of that name in 5.6 of the cases): versions of one
//! entity type over the same journal.

use perennial_persistence::codec::Json;
use perennial_persistence::command_error::CommandError;
use perennial_persistence::effect::Effect;
use perennial_persistence::entity_types::{EntityTypes, RegistrationError};
use perennial_persistence::event_adapter::{AdapterError, EventAdapters};
use perennial_persistence::event_sourced::EventSourced;
use perennial_persistence::journal::NewEvent;
use perennial_persistence::payload::Payload;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::sequence_nr::SequenceNr;
use serde_json::{Value, json};

use crate::fixture::Node;

/// A list of JSON values; what is asked of it says the manifest and the event.
/// The adapters are those of the number.
struct Log<const VERSION: u8>;

type Event = (String, Value);

impl<const VERSION: u8> EventSourced for Log<VERSION> {
    const ENTITY_TYPE: &'static str = "log";
    type State = Vec<Value>;
    type Command = Vec<Event>;
    type Event = Event;
    type Reply = Vec<Value>;
    type Codec = Json;

    fn handle(&self, _state: &Vec<Value>, events: Vec<Event>) -> Effect<Self> {
        Effect::persist_all(events).then_reply(Clone::clone)
    }

    fn apply(&self, state: &mut Vec<Value>, (_, value): Event) {
        state.push(value);
    }

    fn event_manifest(event: &Event) -> &'static str {
        match event.0.as_str() {
            "v1" => "v1",
            "v2" => "v2",
            "stored" => "stored",
            _ => "other",
        }
    }

    fn adapters() -> EventAdapters<Event> {
        match VERSION {
            1 => {
                EventAdapters::identity().tag(|(kind, _): &Event| vec![kind.clone(), "log".into()])
            }
            // Numbers of version 1 are split into ones, texts are dropped.
            2 => EventAdapters::bound()
                .bind("v2")
                .read_json("v1", |event| match &event[1] {
                    Value::Number(n) => {
                        let ones = n.as_u64().unwrap_or(0) as usize;
                        Ok(vec![json!(["v2", 1]); ones])
                    }
                    Value::String(_) => Ok(Vec::new()),
                    _ => Err(AdapterError::Refused("neither number nor text".into())),
                }),
            // Writes another shape than it knows, and reads it back.
            3 => EventAdapters::bound()
                .bind("v2")
                .skip("v1")
                .write("other", |payload| {
                    let bytes = [b"[\"wrapped\",", &*payload.bytes, b"]"].concat();
                    let payload = Payload {
                        manifest: "stored".into(),
                        ..Payload::json(bytes)
                    };
                    let tags = vec!["wrapped".into()];
                    Ok(NewEvent { payload, tags })
                })
                .read_json("stored", |stored| Ok(vec![stored[1].clone()]))
                .bind("other"),
            _ => EventAdapters::bound()
                .bind("v1")
                .write("v2", |_| panic!("told to")),
        }
    }
}

fn event(kind: &str, value: impl Into<Value>) -> Event {
    (kind.to_owned(), value.into())
}

/// Write without adapters, read with: 1→n, 1→0; sequence numbers count what is
/// stored, before and after.
#[tokio::test]
async fn old_events_become_several_or_none() {
    let mut node = Node::running(Log::<1>).await;
    let old = vec![event("v1", 2), event("v1", "text"), event("v1", 3)];
    node.ask::<Log<1>>("a", &old).await.unwrap();
    node.restart(Log::<2>).await;
    let new = vec![event("v2", 10)];
    let state = node.ask::<Log<2>>("a", &new).await.unwrap();
    assert_eq!(state, [1, 1, 1, 1, 1, 10]);
    let events = node.events::<Log<2>>("a").await;
    let numbers: Vec<u64> = events.iter().map(|e| e.sequence_nr.get()).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    let id = PersistenceId::new("log", "a").unwrap();
    let past = node.engine.state_at(&id, SequenceNr::new(1)).await.unwrap();
    assert_eq!(&*past.payload.bytes, b"[1,1]");
}

/// The same adapter on both sides: what it stores it reads back (I-6).
#[tokio::test]
async fn i6_an_adapter_reads_what_it_wrote() {
    let mut node = Node::running(Log::<3>).await;
    let new = vec![event("x", 1), event("v2", 2)];
    let live = node.ask::<Log<3>>("a", &new);
    assert_eq!(live.await.unwrap(), [1, 2]);
    let stored = node.events::<Log<3>>("a").await;
    assert_eq!(stored[0].payload.manifest, "stored");
    assert_eq!(&*stored[0].payload.bytes, br#"["wrapped",["x",1]]"#);
    assert_eq!(
        (stored[0].tags.as_slice(), stored[1].tags.as_slice()),
        (["wrapped".to_owned()].as_slice(), [].as_slice())
    );
    node.restart(Log::<3>).await;
    let recovered = node.ask::<Log<3>>("a", &vec![]).await.unwrap();
    assert_eq!(recovered, [1, 2]);
}

#[tokio::test]
async fn tags_are_stored() {
    let node = Node::running(Log::<1>).await;
    node.ask::<Log<1>>("a", &vec![event("v1", 1)])
        .await
        .unwrap();
    assert_eq!(node.events::<Log<1>>("a").await[0].tags, ["v1", "log"]);
}

/// A missing adapter: the recovery fails and says where; nothing is stored; other
/// entities go on.
#[tokio::test]
async fn an_unbound_manifest_fails_the_recovery() {
    let mut node = Node::running(Log::<1>).await;
    let old = vec![event("v1", 1), event("unheard-of", 1)];
    node.ask::<Log<1>>("a", &old).await.unwrap();
    node.restart(Log::<2>).await;
    let failed = node.ask::<Log<2>>("a", &vec![event("v2", 1)]).await;
    let Err(CommandError::RecoveryFailed { message, .. }) = failed else {
        panic!("{failed:?}");
    };
    for part in ["log|a", "event 2", "\"other\"", "no event adapter is bound"] {
        assert!(message.contains(part), "{part} is not in {message}");
    }
    assert_eq!(node.events::<Log<2>>("a").await.len(), 2);
    node.ask::<Log<2>>("b", &vec![event("v2", 1)])
        .await
        .unwrap();
}

/// An adapter's own refusal is told, too.
#[tokio::test]
async fn an_adapter_may_refuse_an_event() {
    let mut node = Node::running(Log::<1>).await;
    node.ask::<Log<1>>("a", &vec![event("v1", Value::Null)])
        .await
        .unwrap();
    node.restart(Log::<2>).await;
    let failed = node.ask::<Log<2>>("a", &vec![]).await.unwrap_err();
    assert!(
        failed.to_string().contains("neither number nor text"),
        "{failed}"
    );
}

/// What could not be read back is not stored (J19), nor what an adapter panics at.
#[tokio::test]
async fn an_unbound_event_is_refused_before_it_is_stored() {
    let node = Node::running(Log::<2>).await;
    let events = vec![event("v2", 1), event("unheard-of", 1)];
    let refused = node.ask::<Log<2>>("a", &events).await.unwrap_err();
    assert!(
        matches!(refused, CommandError::PersistRejected { .. }),
        "{refused}"
    );
    assert_eq!(node.ask::<Log<2>>("a", &vec![]).await.unwrap(), [0; 0]);

    let node = Node::running(Log::<4>).await;
    let panicked = node
        .ask::<Log<4>>("a", &vec![event("v2", 1)])
        .await
        .unwrap_err();
    assert!(
        matches!(panicked, CommandError::Panicked { .. }),
        "{panicked}"
    );
    node.ask::<Log<4>>("b", &vec![event("v1", 1)])
        .await
        .unwrap();
}

struct Twice;

impl EventSourced for Twice {
    const ENTITY_TYPE: &'static str = "twice";
    type State = ();
    type Command = ();
    type Event = ();
    type Reply = ();
    type Codec = Json;

    fn handle(&self, _state: &(), _command: ()) -> Effect<Self> {
        Effect::none()
    }

    fn apply(&self, _state: &mut (), _event: ()) {}

    fn adapters() -> EventAdapters<()> {
        EventAdapters::bound().skip("a").skip("a")
    }
}

#[test]
fn contradicting_adapters_cannot_be_registered() {
    let refused = EntityTypes::new().register(Twice).unwrap_err();
    let (entity_type, manifest) = ("twice", "a");
    let twice = RegistrationError::AdapterTwice {
        entity_type,
        manifest,
    };
    assert_eq!(refused, twice);
}
