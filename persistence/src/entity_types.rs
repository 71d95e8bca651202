//! The entity types a node can run.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::event_sourced::EventSourced;
use crate::persistence_id::{InvalidPersistenceId, check_entity_type};

/// The entity types a node can run, by name.
#[derive(Clone, Default)]
pub struct EntityTypes {
    types: BTreeMap<&'static str, Arc<dyn EntityFactory>>,
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
}

/// Makes incarnations of one entity type.
pub(crate) trait EntityFactory: Send + Sync + 'static {}

struct Factory<E>(#[allow(dead_code)] E);
impl<E: EventSourced> EntityFactory for Factory<E> {}

impl EntityTypes {
    /// No types.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an event-sourced type.
    ///
    /// # Errors
    /// [`RegistrationError`] when the name is malformed or taken.
    pub fn register<E: EventSourced>(&mut self, definition: E) -> Result<(), RegistrationError> {
        check_entity_type(E::ENTITY_TYPE)?;
        if self.types.contains_key(E::ENTITY_TYPE) {
            return Err(RegistrationError::Twice(E::ENTITY_TYPE));
        }
        self.types.insert(E::ENTITY_TYPE, Arc::new(Factory(definition)));
        Ok(())
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.types.keys().copied()
    }
}
