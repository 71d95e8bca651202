//! Tests of an event-sourced entity without a runtime, a journal or a clock.
//!
//! The kit runs one entity: commands in, and out comes what was replied, which
//! events there would be in the journal, and whatever else the effect asked for.
//! Along the way it checks what the type system cannot:
//!
//! * command, events, reply and state survive their codec, and the events their
//!   adapters;
//! * the handler decides the same when it is asked twice, so it looks at no clock
//!   and draws no random numbers;
//! * replay equals live (I-6): a twin that only ever sees stored bytes is in the
//!   same state after every command, and [`EventSourcedKit::restart`] folds all
//!   events again, with and without a snapshot.
//!
//! A check that fails panics and says which. A panic of the entity's own code is
//! passed on as it is.
//!
//! ```
//! use perennial_persistence::codec::Json;
//! use perennial_persistence::effect::Effect;
//! use perennial_persistence::event_sourced::EventSourced;
//! use perennial_persistence::testing::event_sourced_kit::EventSourcedKit;
//! use serde::{Deserialize, Serialize};
//!
//! struct Tank;
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! enum Command { Fill(u32), Drain(u32) }
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! enum Event { Filled(u32), Drained(u32) }
//!
//! impl EventSourced for Tank {
//!     const ENTITY_TYPE: &'static str = "tank";
//!     type State = u32;
//!     type Command = Command;
//!     type Event = Event;
//!     type Reply = u32;
//!     type Codec = Json;
//!
//!     fn handle(&self, litres: &u32, command: Command) -> Effect<Self> {
//!         match command {
//!             Command::Drain(n) if n > *litres => Effect::reject("TOO_LITTLE", "there is not so much in it"),
//!             Command::Drain(n) => Effect::persist(Event::Drained(n)).then_reply(|litres| *litres),
//!             Command::Fill(n) => Effect::persist(Event::Filled(n)).then_reply(|litres| *litres),
//!         }
//!     }
//!
//!     fn apply(&self, litres: &mut u32, event: Event) {
//!         match event {
//!             Event::Filled(n) => *litres += n,
//!             Event::Drained(n) => *litres -= n,
//!         }
//!     }
//! }
//!
//! let mut kit = EventSourcedKit::new(Tank);
//! kit.given([Event::Filled(10)]);
//! let drained = kit.run(Command::Drain(3));
//! assert_eq!(drained.events, [Event::Drained(3)]);
//! assert_eq!(drained.into_reply(), 7);
//! assert_eq!(kit.run(Command::Drain(8)).rejection(), Some("TOO_LITTLE"));
//! kit.restart();
//! assert_eq!(*kit.state(), 7);
//! ```
//!
//! What only the engine does (deadlines, command ids, passivation, failures of the
//! journal) is not simulated here; for that run the real engine over a
//! [`MemoryStorage`](crate::storage::memory::MemoryStorage), whose faults can be
//! arranged.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::SystemTime;

use futures::FutureExt;
use futures::future::BoxFuture;
use uuid::Uuid;

use crate::behavior::Recoverable;
use crate::codec::Codec;
use crate::effect::{Decision, ReplyWith, Then};
use crate::event_sourced::EventSourced;
use crate::event_sourced::behavior::{Definition, EventSourcedBehavior};
use crate::journal::{NewEvent, StoredEvent};
use crate::payload::Payload;
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::snapshot_store::Snapshot;
use crate::writer::WriterUuid;

/// One entity under test. See the module's text.
pub struct EventSourcedKit<E: EventSourced> {
    definition: Arc<Definition<E>>,
    persistence_id: PersistenceId,
    /// Applies events as the handler made them.
    live: EventSourcedBehavior<E>,
    /// Replays them from their stored bytes.
    twin: EventSourcedBehavior<E>,
    stored: Vec<StoredEvent>,
    /// The last number of each atomic write; snapshots are taken only there.
    write_ends: Vec<SequenceNr>,
}

/// What became of one command.
pub struct Ran<E: EventSourced> {
    /// The events it would store, all or none.
    pub events: Vec<E::Event>,
    /// What its sender would be told.
    pub outcome: Outcome<E::Reply>,
    /// It asked for a snapshot, or the entity type's own condition did.
    pub then_snapshot: bool,
    /// It asked for the entity to leave memory.
    pub then_stop: bool,
    /// It asked for what was put aside to be brought back. The kit keeps nothing
    /// aside: run it again.
    pub then_unstash_all: bool,
    /// Work outside that was started, and comes back with commands.
    outside: Vec<BoxFuture<'static, E::Command>>,
}

/// What the sender of a command would be told.
#[derive(Debug, PartialEq)]
pub enum Outcome<Reply> {
    /// This reply.
    Replied(Reply),
    /// That it is done, with an empty reply.
    Accepted,
    /// That the entity's rules refuse it.
    Rejected {
        /// The entity's reason, in capitals.
        reason: String,
        /// For a person.
        message: String,
    },
    /// That the entity does not handle it.
    Unhandled,
    /// Nothing yet: the command is put aside.
    Stashed,
    /// Nothing yet: the command goes on outside.
    Outside,
}

impl<E: EventSourced> Ran<E> {
    /// The reply.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn into_reply(self) -> E::Reply
    where
        E::Reply: Debug,
    {
        match self.outcome {
            Outcome::Replied(reply) => reply,
            other => panic!("there is no reply, but {other:?}"),
        }
    }

    /// The reason for which it was rejected, if it was.
    #[must_use]
    pub fn rejection(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Rejected { reason, .. } => Some(reason),
            _ => None,
        }
    }

    /// The commands that the work outside comes back with, in the order in which it was
    /// started, for the next [`EventSourcedKit::run`]. There is no time in the kit: the
    /// work is given no occasion to wait.
    ///
    /// # Panics
    /// When one of them is not ready at once.
    #[track_caller]
    pub fn into_continuations(self) -> Vec<E::Command> {
        let mut commands = Vec::new();
        for outside in self.outside {
            let Some(command) = outside.now_or_never() else {
                panic!("work outside waits: give the entity a substitute that does not");
            };
            commands.push(command);
        }
        commands
    }
}

impl<E> EventSourcedKit<E>
where
    E: EventSourced,
    E::State: PartialEq + Debug,
    E::Command: PartialEq + Debug,
    E::Event: PartialEq + Debug,
    E::Reply: PartialEq + Debug,
{
    /// An entity that was never written.
    ///
    /// # Panics
    /// When the type could not be registered: its name is malformed, or its event
    /// adapters contradict each other.
    #[track_caller]
    #[must_use]
    pub fn new(entity: E) -> Self {
        let definition = match Definition::new(entity) {
            Ok(definition) => Arc::new(definition),
            Err(error) => panic!("{error}"),
        };
        let persistence_id = match PersistenceId::new(E::ENTITY_TYPE, "test") {
            Ok(persistence_id) => persistence_id,
            Err(error) => panic!("{error}"),
        };
        Self {
            live: fresh(&definition),
            twin: fresh(&definition),
            definition,
            persistence_id,
            stored: Vec::new(),
            write_ends: Vec::new(),
        }
    }

    /// The entity has such events in its past. Each counts as a write of its own.
    ///
    /// # Panics
    /// As [`EventSourcedKit::run`].
    #[track_caller]
    pub fn given(&mut self, events: impl IntoIterator<Item = E::Event>) {
        for event in events {
            self.store(vec![event]);
        }
    }

    /// The entity has an event in its past that another version of the code stored:
    /// for tests of event adapters.
    ///
    /// # Panics
    /// When the event cannot be replayed.
    #[track_caller]
    pub fn given_stored(&mut self, payload: Payload) {
        let tags = Vec::new();
        let stored = self.push_stored(NewEvent { payload, tags });
        replay(&mut self.live, &stored);
        replay(&mut self.twin, &stored);
        self.write_ends.push(stored.sequence_nr);
    }

    /// Runs a command as the engine would, with its events stored at once.
    ///
    /// # Panics
    /// When one of the checks fails that the module's text names.
    #[track_caller]
    pub fn run(&mut self, command: E::Command) -> Ran<E> {
        let again = survives::<E::Codec, _>("the command", &command);
        let entity = &self.definition.entity;
        let effect = entity.handle(self.live.state(), command);
        assert_eq!(
            effect.events(),
            entity.handle(self.live.state(), again).events(),
            "the handler decided differently when it was asked again: it may look at state and command only"
        );
        let mut ran = Ran {
            events: Vec::new(),
            outcome: Outcome::Unhandled,
            then_snapshot: false,
            then_stop: false,
            then_unstash_all: false,
            outside: Vec::new(),
        };
        match effect.decision {
            Decision::Proceed { events, reply } => {
                ran.outcome = self.proceed(events.into_vec(), reply, effect.then, &mut ran);
            }
            Decision::Reject { reason, message } => {
                self.follow(effect.then, &mut ran);
                ran.outcome = Outcome::Rejected { reason, message };
            }
            Decision::Unhandled => self.follow(effect.then, &mut ran),
            Decision::Stash => ran.outcome = Outcome::Stashed,
            Decision::RunOutside(outside) => {
                ran.outcome = Outcome::Outside;
                ran.outside.push((outside.start)(self.state()));
            }
        }
        ran
    }

    /// What happens to an accepted command, in the order of the engine.
    #[track_caller]
    fn proceed(
        &mut self,
        events: Vec<E::Event>,
        reply: Option<ReplyWith<E>>,
        then: Then<E>,
        ran: &mut Ran<E>,
    ) -> Outcome<E::Reply> {
        ran.events = self.store(events);
        let nr = self.sequence_nr();
        let entity = &self.definition.entity;
        ran.then_snapshot = !ran.events.is_empty() && entity.snapshot_when(self.state(), nr);
        let reply = reply.map(|make_reply| make_reply(self.state()));
        self.follow(then, ran);
        match reply {
            None => Outcome::Accepted,
            Some(reply) => {
                survives::<E::Codec, _>("the reply", &reply);
                Outcome::Replied(reply)
            }
        }
    }

    /// Does what follows, or notes that it was asked for.
    fn follow(&self, then: Then<E>, ran: &mut Ran<E>) {
        ran.then_snapshot |= then.snapshot;
        ran.then_stop = then.stop;
        ran.then_unstash_all = then.unstash_all;
        for run in then.run {
            run(self.state());
        }
        for outside in then.outside {
            ran.outside.push((outside.start)(self.state()));
        }
    }

    /// Recovers the entity: from all of its events, and from snapshots in the middle
    /// and at the end of its life with the events after them. It goes on in the
    /// recovered state.
    ///
    /// # Panics
    /// When a recovered state is not the live one (I-6).
    #[track_caller]
    pub fn restart(&mut self) {
        let ends = &self.write_ends;
        let middle = ends.get(ends.len() / 2);
        for snapshot_at in [middle, ends.last()].into_iter().flatten() {
            let recovered = self.recover(*snapshot_at);
            self.check_replay(&recovered, &format!("with a snapshot at {snapshot_at}"));
        }
        let recovered = self.recover(SequenceNr::ZERO);
        self.check_replay(&recovered, "from all events");
        self.live = recovered;
        self.twin = self.recover(SequenceNr::ZERO);
    }

    /// The state after everything that was run.
    #[must_use]
    pub fn state(&self) -> &E::State {
        self.live.state()
    }

    /// The number of the last event stored; 0 when there is none.
    #[must_use]
    pub fn sequence_nr(&self) -> SequenceNr {
        SequenceNr::new(self.stored.len() as u64)
    }

    /// What the journal would hold: manifests, tags and bytes.
    #[must_use]
    pub fn stored(&self) -> &[StoredEvent] {
        &self.stored
    }

    /// Stores events as one atomic write: the live entity applies them as they are,
    /// the twin from their bytes. Gives back the copies the codec made, which are
    /// checked to be equal.
    #[track_caller]
    fn store(&mut self, events: Vec<E::Event>) -> Vec<E::Event> {
        if events.is_empty() {
            return events;
        }
        let mut copies = Vec::with_capacity(events.len());
        for event in events {
            copies.push(survives::<E::Codec, _>("the event", &event));
            let stored = match self.live.encode_event(&event) {
                Ok(encoded) => self.push_stored(encoded),
                Err(error) => panic!("the event {event:?} is refused: {error}"),
            };
            self.live.apply(event);
            replay(&mut self.twin, &stored);
        }
        self.write_ends.push(self.sequence_nr());
        survives::<E::Codec, _>("the state", self.state());
        self.check_replay(&self.twin, "from the events' bytes");
        copies
    }

    fn push_stored(&mut self, event: NewEvent) -> StoredEvent {
        let stored = StoredEvent {
            persistence_id: self.persistence_id.clone(),
            sequence_nr: self.sequence_nr().next(),
            writer: WriterUuid(Uuid::nil()),
            payload: event.payload,
            tags: event.tags,
            metadata: None,
            command_id: None,
            created_at: SystemTime::UNIX_EPOCH,
        };
        self.stored.push(stored.clone());
        stored
    }

    /// Replays all events into a new incarnation, which goes through a snapshot at
    /// that number, if there is such an event.
    #[track_caller]
    fn recover(&self, snapshot_at: SequenceNr) -> EventSourcedBehavior<E> {
        let mut behavior = fresh(&self.definition);
        for event in &self.stored {
            replay(&mut behavior, event);
            if event.sequence_nr == snapshot_at {
                behavior = self.through_snapshot(&behavior, snapshot_at);
            }
        }
        behavior
    }

    /// The same state in a new incarnation, by a snapshot.
    #[track_caller]
    fn through_snapshot(
        &self,
        behavior: &EventSourcedBehavior<E>,
        sequence_nr: SequenceNr,
    ) -> EventSourcedBehavior<E> {
        let payload = match behavior.encode_state() {
            Ok(payload) => payload,
            Err(error) => panic!("{error}"),
        };
        let snapshot = Snapshot {
            sequence_nr,
            payload,
            created_at: SystemTime::UNIX_EPOCH,
        };
        let mut restored = fresh(&self.definition);
        if let Err(error) = restored.offer_snapshot(&snapshot) {
            panic!("the state does not survive a snapshot at {sequence_nr}: {error}");
        }
        restored
    }

    #[track_caller]
    fn check_replay(&self, recovered: &EventSourcedBehavior<E>, how: &str) {
        assert_eq!(
            recovered.state(),
            self.state(),
            "I-6: the state recovered {how} (left) is not the live state (right)"
        );
    }
}

#[track_caller]
fn fresh<E: EventSourced>(definition: &Arc<Definition<E>>) -> EventSourcedBehavior<E> {
    match EventSourcedBehavior::new(Arc::clone(definition), usize::MAX) {
        Ok(behavior) => behavior,
        Err(error) => panic!("the initial state cannot be made: {error}"),
    }
}

#[track_caller]
fn replay<E: EventSourced>(behavior: &mut EventSourcedBehavior<E>, event: &StoredEvent) {
    if let Err(error) = behavior.replay(event) {
        panic!(
            "event {} (manifest {:?}) cannot be replayed: {error}",
            event.sequence_nr, event.payload.manifest
        );
    }
}

/// Encodes and decodes a value; gives back the copy, which is checked to be equal.
#[track_caller]
fn survives<C: Codec<T>, T: PartialEq + Debug>(what: &str, value: &T) -> T {
    let copy = match C::encode(value).and_then(|bytes| C::decode(&bytes)) {
        Ok(copy) => copy,
        Err(error) => panic!("{what} {value:?} does not survive its codec: {error}"),
    };
    assert_eq!(
        &copy, value,
        "{what} comes back from its codec (left) as something else than it was (right)"
    );
    copy
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod event_sourced_kit_test;
