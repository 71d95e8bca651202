//! The entity types a node can run, by name.
//!
//! Filled once when a node is built, then shared by all workers. Next:
//! `event_sourced.rs` and `actor.rs`, what a user registers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::actor::PersistentActor;
use crate::actor::behavior::ActorIncarnation;
use crate::behavior::{Incarnation, guard, panicked};
use crate::codec::Codec;
use crate::command_error::CommandError;
use crate::durable_state::{Durable, DurableState};
use crate::event_sourced::EventSourced;
use crate::event_sourced::behavior::{Definition, EventSourcedBehavior};
use crate::payload::CodecId;
use crate::persistence_id::{InvalidPersistenceId, PersistenceId, check_entity_type};
use crate::retention::{InvalidRetentionSettings, RetentionSettings};

/// The entity types a node can run, by name.
#[derive(Clone, Default)]
pub struct EntityTypes {
    types: BTreeMap<&'static str, Arc<dyn EntityFactory>>,
    /// Those that store their latest state only.
    durable: BTreeSet<&'static str>,
}

/// Why an entity type cannot be registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationError {
    /// The name has characters that are not allowed.
    #[error(transparent)]
    Name(#[from] InvalidPersistenceId),
    /// The name is taken.
    #[error("entity type {0:?} is registered twice: give each type its own name")]
    Twice(&'static str),
    /// Its own retention keeps nothing.
    #[error("entity type {entity_type:?}: {source}")]
    Retention {
        /// The type.
        entity_type: &'static str,
        /// What is wrong with it.
        source: InvalidRetentionSettings,
    },
    /// One manifest has two adapters for the same direction.
    #[error(
        "entity type {entity_type:?} binds two event adapters to manifest {manifest:?}: only one of them could be used"
    )]
    AdapterTwice {
        /// The type.
        entity_type: &'static str,
        /// The manifest.
        manifest: &'static str,
    },
}

/// Makes incarnations of one entity type.
pub(crate) trait EntityFactory: Send + Sync + 'static {
    /// A fresh incarnation in its initial state. Events, replies and states larger
    /// than `max_payload` bytes are refused. Fails when its code panics.
    fn incarnate(
        &self,
        persistence_id: &PersistenceId,
        max_payload: usize,
    ) -> Result<Incarnation, CommandError>;

    /// What commands are encoded with.
    fn command_codec(&self) -> CodecId;

    /// When snapshots are taken, if not as the node's settings say.
    fn retention(&self) -> Option<RetentionSettings> {
        None
    }
}

struct EventSourcedFactory<E: EventSourced>(Arc<Definition<E>>);

impl<E: EventSourced> EntityFactory for EventSourcedFactory<E> {
    fn incarnate(
        &self,
        _: &PersistenceId,
        max_payload: usize,
    ) -> Result<Incarnation, CommandError> {
        let behavior = EventSourcedBehavior::new(Arc::clone(&self.0), max_payload)?;
        Ok(Incarnation::EventSourced(Box::new(behavior)))
    }

    fn command_codec(&self) -> CodecId {
        <E::Codec as Codec<E::Command>>::ID
    }

    fn retention(&self) -> Option<RetentionSettings> {
        E::retention()
    }
}

struct ActorFactory<F>(F);

impl<A, F> EntityFactory for ActorFactory<F>
where
    A: PersistentActor,
    F: Fn(&str) -> A + Send + Sync + 'static,
{
    fn incarnate(
        &self,
        persistence_id: &PersistenceId,
        max_payload: usize,
    ) -> Result<Incarnation, CommandError> {
        let made = guard(|| {
            let actor = (self.0)(persistence_id.entity_id());
            let recovery = actor.recovery();
            (actor, recovery)
        });
        let (actor, recovery) = made.map_err(panicked)?;
        let id = persistence_id.clone();
        let incarnation = ActorIncarnation::new(actor, recovery, id, max_payload);
        Ok(Incarnation::Actor(Box::new(incarnation)))
    }

    fn command_codec(&self) -> CodecId {
        <A::Codec as Codec<A::Command>>::ID
    }
}

impl EntityTypes {
    /// No types.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an event-sourced type.
    ///
    /// # Errors
    /// [`RegistrationError`] when the name is malformed or taken, or the event
    /// adapters contradict each other.
    pub fn register<E: EventSourced>(&mut self, definition: E) -> Result<(), RegistrationError> {
        let factory = EventSourcedFactory(Arc::new(Definition::new(definition)?));
        self.insert(E::ENTITY_TYPE, Arc::new(factory))
    }

    /// Adds a type of persistent actors: `name` as
    /// [`EventSourced::ENTITY_TYPE`], and what makes an incarnation of the entity
    /// with an id, in its initial state.
    ///
    /// # Errors
    /// [`RegistrationError`] when the name is malformed or taken.
    pub fn register_actor<A: PersistentActor>(
        &mut self,
        name: &'static str,
        make: impl Fn(&str) -> A + Send + Sync + 'static,
    ) -> Result<(), RegistrationError> {
        self.insert(name, Arc::new(ActorFactory(make)))
    }

    fn insert(
        &mut self,
        name: &'static str,
        factory: Arc<dyn EntityFactory>,
    ) -> Result<(), RegistrationError> {
        check_entity_type(name)?;
        if self.types.contains_key(name) {
            return Err(RegistrationError::Twice(name));
        }
        self.types.insert(name, factory);
        Ok(())
    }

    /// Adds a type that stores its latest state.
    ///
    /// # Errors
    /// As [`EntityTypes::register`].
    pub fn register_durable_state<D: DurableState>(
        &mut self,
        definition: D,
    ) -> Result<(), RegistrationError> {
        self.register(Durable(definition))?;
        self.durable.insert(D::ENTITY_TYPE);
        Ok(())
    }

    /// The names of the types that store their latest state.
    pub(crate) fn durable(&self) -> BTreeSet<&'static str> {
        self.durable.clone()
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.types.keys().copied()
    }

    /// What commands of a type are encoded with; `None` for an unknown type.
    #[must_use]
    pub fn command_codec(&self, entity_type: &str) -> Option<CodecId> {
        self.get(entity_type).map(|factory| factory.command_codec())
    }

    pub(crate) fn get(&self, entity_type: &str) -> Option<&Arc<dyn EntityFactory>> {
        self.types.get(entity_type)
    }
}
