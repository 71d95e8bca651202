//! The everyday way to write an entity: state, commands, events, replies, and
//! two plain functions.
//!
//! `handle` decides, `apply` changes the state; both are testable without any
//! runtime, and neither may look at a clock, draw random numbers or do I/O: the
//! state must be the same when the events are replayed (promise I-6).
//! `testing::event_sourced_kit` runs an entity and checks this, and shows a whole
//! entity; the kit is behind the cargo feature `testing`.

use crate::codec::Codec;
use crate::effect::Effect;
use crate::event_adapter::EventAdapters;
use crate::retention::RetentionSettings;
use crate::sequence_nr::SequenceNr;

pub(crate) mod behavior;

/// An event-sourced entity type.
///
/// The value itself is the type's definition: one for all its entities, shared.
/// It holds what handlers need, such as limits or prices; usually it is empty.
pub trait EventSourced: Sized + Send + Sync + 'static {
    /// The name clients use: 1 to 64 of `a-z0-9_-`. Part of every persistence id,
    /// so it never changes.
    const ENTITY_TYPE: &'static str;

    /// What an entity remembers. `Default` is the state before the first event.
    type State: Default + Clone + Send;
    /// What it is asked.
    type Command;
    /// What has happened; stored for good.
    type Event;
    /// What it answers.
    type Reply;
    /// How all four become bytes; usually [`Json`](crate::codec::Json).
    type Codec: Codec<Self::State> + Codec<Self::Command> + Codec<Self::Event> + Codec<Self::Reply>;

    /// Whether a copy of the state is kept while events are being stored. With it, an
    /// entity whose events the journal refuses is at once again as it was before, and
    /// answers what it can even while the journal is out of reach. Without it, it has to
    /// read its past again first. Turn it off for states that are so large that copying
    /// one with every write costs more than that.
    const KEEPS_COPY: bool = true;

    /// Decides what a command leads to. Must not block.
    fn handle(&self, state: &Self::State, command: Self::Command) -> Effect<Self>;

    /// Changes the state as an event says. Runs once when the event happens and
    /// again at every recovery.
    fn apply(&self, state: &mut Self::State, event: Self::Event);

    /// A command that the entity gives itself when it was recovered, before any other,
    /// such as to begin again what was under way outside. Nobody gets its answer.
    fn after_recovery(&self, _state: &Self::State) -> Option<Self::Command> {
        None
    }

    /// A name for the kind of an event, stored beside it, so that it can be told
    /// from later kinds and converted when it is old.
    fn event_manifest(_event: &Self::Event) -> &'static str {
        ""
    }

    /// When snapshots are taken by the count, how many are kept, and whether events
    /// they replace are deleted; `None` for the node's `persistence.snapshot.*`.
    fn retention() -> Option<RetentionSettings> {
        None
    }

    /// Whether to take a snapshot of this state, reached by a write that ended at
    /// `sequence_nr`. Such snapshots delete nothing: only those taken by the count do.
    fn snapshot_when(&self, _state: &Self::State, _sequence_nr: SequenceNr) -> bool {
        false
    }

    /// How events are converted on their way to the journal and back, by their
    /// manifests. Asked for once, when the type is registered.
    fn adapters() -> EventAdapters<Self::Event> {
        EventAdapters::identity()
    }
}
