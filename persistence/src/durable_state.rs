//! The sibling of event sourcing: an entity that stores its latest state, and no
//! history.
//!
//! `handle` takes state and command and says what the new state is. It is stored with a
//! revision that must follow the stored one (3.5 of the cases), under the same fences as
//! events (I-2), and replaces the former. Everything else is as with
//! [`EventSourced`]: the same engine, the same effects after the commit, the same
//! requests. What there is not:
//!
//! * past states, and stored events for readers (a [`publication`](crate::publication) has
//!   each change, as an event that holds the whole state);
//! * retries that have one effect: command ids are stored with events. A client that must
//!   not repeat a change gives the sequence number it expects, which is the revision.
//!
//! ```
//! use perennial_persistence::codec::Json;
//! use perennial_persistence::durable_state::{Change, Durable, DurableState};
//! use perennial_persistence::testing::event_sourced_kit::EventSourcedKit;
//!
//! struct Greeting;
//!
//! impl DurableState for Greeting {
//!     const ENTITY_TYPE: &'static str = "greeting";
//!     type State = String;
//!     /// The new text; an empty one forgets it.
//!     type Command = String;
//!     type Reply = String;
//!     type Codec = Json;
//!
//!     fn handle(&self, former: &String, text: String) -> Change<Self> {
//!         let former = former.clone();
//!         let change = if text.is_empty() { Change::delete() } else { Change::set(text) };
//!         change.then_reply(move |_| former)
//!     }
//! }
//!
//! let mut kit = EventSourcedKit::new(Durable(Greeting));
//! kit.run("hello".into());
//! assert_eq!(kit.run("".into()).into_reply(), "hello");
//! assert_eq!(kit.state(), "");
//! ```
//!
//! It is registered with
//! [`EntityTypes::register_durable_state`](crate::entity_types::EntityTypes::register_durable_state).
//! Next: `durable_state/routing.rs`, how states get to their store.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::codec::Codec;
use crate::effect::Effect;
use crate::event_sourced::EventSourced;
use crate::retention::RetentionSettings;

pub(crate) mod routing;

/// Stands in the place of a state's manifest when it is deleted.
pub(crate) const DELETED_MANIFEST: &str = "perennial.deleted";

/// An entity type that stores its latest state.
///
/// The value itself is the type's definition, as with [`EventSourced`].
pub trait DurableState: Sized + Send + Sync + 'static {
    /// The name clients use: 1 to 64 of `a-z0-9_-`. It never changes.
    const ENTITY_TYPE: &'static str;

    /// What an entity remembers. `Default` is the state before the first change, and
    /// after a deletion. It is copied with each change: see [`EventSourced::KEEPS_COPY`].
    type State: Default + Clone + Send;
    /// What it is asked.
    type Command;
    /// What it answers.
    type Reply;
    /// How all three become bytes; usually [`Json`](crate::codec::Json). Another one
    /// encodes a [`StateChange::Set`] exactly as the state in it.
    type Codec: Codec<Self::State>
        + Codec<Self::Command>
        + Codec<Self::Reply>
        + Codec<StateChange<Self::State>>;

    /// Decides what a command leads to. Must not block.
    fn handle(&self, state: &Self::State, command: Self::Command) -> Change<Self>;
}

/// What a handler decides: an [`Effect`] that begins with [`Effect::set`],
/// [`Effect::delete`], or one of those that change nothing.
pub type Change<D> = Effect<Durable<D>>;

/// A [`DurableState`] as the engine runs it: each change is like an event that holds the
/// whole state.
#[derive(Debug, Clone)]
pub struct Durable<D>(pub D);

/// What is stored in place of the former state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateChange<State> {
    /// This state.
    Set(State),
    /// Nothing: the entity is in its initial state again.
    Deleted,
}

impl<State: Serialize> Serialize for StateChange<State> {
    /// As the state in it.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Set(state) => state.serialize(serializer),
            Self::Deleted => serializer.serialize_none(),
        }
    }
}

impl<'de, State: Deserialize<'de>> Deserialize<'de> for StateChange<State> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let state = Option::deserialize(deserializer)?;
        Ok(state.map_or(Self::Deleted, Self::Set))
    }
}

impl<D: DurableState> Effect<Durable<D>> {
    /// Store this state in place of the former.
    pub fn set(state: D::State) -> Self {
        Self::persist(StateChange::Set(state))
    }

    /// Delete the state. The entity is in its initial state afterwards, and its revision
    /// goes on.
    pub fn delete() -> Self {
        Self::persist(StateChange::Deleted)
    }
}

impl<D: DurableState> EventSourced for Durable<D> {
    const ENTITY_TYPE: &'static str = D::ENTITY_TYPE;
    type State = D::State;
    type Command = D::Command;
    type Event = StateChange<D::State>;
    type Reply = D::Reply;
    type Codec = D::Codec;

    fn handle(&self, state: &D::State, command: D::Command) -> Effect<Self> {
        self.0.handle(state, command)
    }

    fn apply(&self, state: &mut D::State, change: StateChange<D::State>) {
        *state = match change {
            StateChange::Set(state) => state,
            StateChange::Deleted => D::State::default(),
        };
    }

    fn event_manifest(change: &StateChange<D::State>) -> &'static str {
        match change {
            StateChange::Set(_) => "",
            StateChange::Deleted => DELETED_MANIFEST,
        }
    }

    /// None: what is stored is the state.
    fn retention() -> Option<RetentionSettings> {
        Some(RetentionSettings {
            every: 0,
            ..RetentionSettings::default()
        })
    }
}
