//! Where a node's engine is: it has another one after each rejoining, and none in
//! between.

use std::sync::{Arc, PoisonError, RwLock};

use perennial_persistence::engine::EntityEngine;

/// A place for the engine of the present session; clones are the same place.
#[derive(Clone, Default)]
pub(crate) struct EnginePlace(Arc<RwLock<Option<EntityEngine>>>);

impl EnginePlace {
    pub(crate) fn put(&self, engine: EntityEngine) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(engine);
    }

    pub(crate) fn take(&self) -> Option<EntityEngine> {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    pub(crate) fn get(&self) -> Option<EntityEngine> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Entities in memory; 0 without an engine.
    pub(crate) fn live_entities(&self) -> usize {
        let place = self.0.read().unwrap_or_else(PoisonError::into_inner);
        place.as_ref().map_or(0, EntityEngine::live_entities)
    }
}
