//! A panic of any of the user's code becomes an error, wherever it happens: in a
//! worker's task it would be the end of every entity there.

use bytes::Bytes;

use super::*;
use crate::codec::Json;
use crate::command_error::Applied;
use crate::effect::Effect;

/// Panics where its command says.
struct Touchy;

/// Panics when it is made.
struct Stillborn;

struct TouchyCodec;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    Event,
    Manifest,
    MakeReply,
    Reply,
}

struct TouchyEvent(Place);
struct TouchyReply(Place);

impl Codec<()> for TouchyCodec {
    const ID: CodecId = CodecId::JSON;

    fn encode((): &()) -> Result<Bytes, CodecError> {
        Ok(Bytes::new())
    }

    fn decode(_: &[u8]) -> Result<(), CodecError> {
        Ok(())
    }
}

impl Codec<Place> for TouchyCodec {
    const ID: CodecId = CodecId::JSON;

    fn encode(_: &Place) -> Result<Bytes, CodecError> {
        Ok(Bytes::new())
    }

    fn decode(bytes: &[u8]) -> Result<Place, CodecError> {
        Ok(match bytes {
            b"event" => Place::Event,
            b"manifest" => Place::Manifest,
            b"make reply" => Place::MakeReply,
            _ => Place::Reply,
        })
    }
}

impl Codec<TouchyEvent> for TouchyCodec {
    const ID: CodecId = CodecId::JSON;

    fn encode(event: &TouchyEvent) -> Result<Bytes, CodecError> {
        assert!(event.0 != Place::Event, "told to panic");
        Ok(Bytes::new())
    }

    fn decode(_: &[u8]) -> Result<TouchyEvent, CodecError> {
        Ok(TouchyEvent(Place::Reply))
    }
}

impl Codec<TouchyReply> for TouchyCodec {
    const ID: CodecId = CodecId::JSON;

    fn encode(reply: &TouchyReply) -> Result<Bytes, CodecError> {
        assert!(reply.0 != Place::Reply, "told to panic");
        Ok(Bytes::new())
    }

    fn decode(_: &[u8]) -> Result<TouchyReply, CodecError> {
        Ok(TouchyReply(Place::Event))
    }
}

impl EventSourced for Touchy {
    const ENTITY_TYPE: &'static str = "touchy";
    type State = ();
    type Command = Place;
    type Event = TouchyEvent;
    type Reply = TouchyReply;
    type Codec = TouchyCodec;

    fn handle(&self, (): &(), place: Place) -> Effect<Self> {
        Effect::persist(TouchyEvent(place)).then_reply(move |()| {
            assert!(place != Place::MakeReply, "told to panic");
            TouchyReply(place)
        })
    }

    fn apply(&self, (): &mut (), _: TouchyEvent) {}

    fn event_manifest(event: &TouchyEvent) -> &'static str {
        assert!(event.0 != Place::Manifest, "told to panic");
        ""
    }
}

#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Unmakeable;

impl Default for Unmakeable {
    fn default() -> Self {
        panic!("told to panic")
    }
}

impl EventSourced for Stillborn {
    const ENTITY_TYPE: &'static str = "stillborn";
    type State = Unmakeable;
    type Command = ();
    type Event = ();
    type Reply = ();
    type Codec = Json;

    fn handle(&self, _: &Unmakeable, (): ()) -> Effect<Self> {
        Effect::none()
    }

    fn apply(&self, _: &mut Unmakeable, (): ()) {}
}

fn is_panic(error: &CommandError) -> bool {
    matches!(error, CommandError::Panicked { message, applied: Applied::No } if message == "told to panic")
}

#[test]
fn a_panic_becomes_an_error_wherever_it_happens() {
    for place in ["event", "manifest", "make reply", "reply"] {
        let mut touchy =
            EventSourcedBehavior::new(Arc::new(Definition::new(Touchy).unwrap()), 100).unwrap();
        match touchy.handle(&Payload::json(place), SequenceNr::ZERO, None) {
            Handled::Broken(error) => assert!(is_panic(&error), "{place}: {error}"),
            Handled::Refused { error, .. } => panic!("{place}: refused: {error}"),
            _ => panic!("{place}: accepted"),
        }
    }
}

#[test]
fn a_state_that_cannot_be_made_is_an_error() {
    let made = EventSourcedBehavior::new(Arc::new(Definition::new(Stillborn).unwrap()), 100);
    assert!(made.is_err_and(|error| is_panic(&error)));
}
