//! Where a node's engine is, and the lease it serves under: it has others after each
//! rejoining, and none in between.

use std::sync::{Arc, PoisonError, RwLock};

use perennial_persistence::engine::EntityEngine;
use perennial_persistence::lease::ReadLease;

/// A place for the engine of the present session; clones are the same place.
#[derive(Clone, Default)]
pub(crate) struct EnginePlace(Arc<RwLock<Option<(EntityEngine, ReadLease)>>>);

impl EnginePlace {
    pub(crate) fn put(&self, engine: EntityEngine, lease: ReadLease) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some((engine, lease));
    }

    pub(crate) fn take(&self) -> Option<EntityEngine> {
        let mut place = self.0.write().unwrap_or_else(PoisonError::into_inner);
        place.take().map(|(engine, _)| engine)
    }

    pub(crate) fn get(&self) -> Option<EntityEngine> {
        let place = self.0.read().unwrap_or_else(PoisonError::into_inner);
        place.as_ref().map(|(engine, _)| engine.clone())
    }

    /// Whether the cluster lets the engine serve at the moment.
    pub(crate) fn lease_holds(&self) -> bool {
        let place = self.0.read().unwrap_or_else(PoisonError::into_inner);
        place.as_ref().is_some_and(|(_, lease)| lease.holds())
    }

    /// Entities in memory; 0 without an engine.
    pub(crate) fn live_entities(&self) -> usize {
        let place = self.0.read().unwrap_or_else(PoisonError::into_inner);
        place
            .as_ref()
            .map_or(0, |(engine, _)| engine.live_entities())
    }
}
