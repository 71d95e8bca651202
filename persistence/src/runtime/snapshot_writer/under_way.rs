//! Whose snapshots and deletions are waiting or under way, so that nothing is
//! written of an entity that is being deleted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::persistence_id::PersistenceId;

/// As many entries as there are writes, which the writer bounds. Clones share them.
#[derive(Clone, Default)]
pub(super) struct UnderWay(Arc<Mutex<HashMap<PersistenceId, watch::Sender<usize>>>>);

/// One write, until it is dropped.
pub(super) struct Write {
    under_way: UnderWay,
    persistence_id: PersistenceId,
}

impl UnderWay {
    pub(super) fn begin(&self, persistence_id: &PersistenceId) -> Write {
        let mut writes = self.writes();
        let count = writes.entry(persistence_id.clone()).or_default();
        count.send_modify(|count| *count += 1);
        Write {
            under_way: self.clone(),
            persistence_id: persistence_id.clone(),
        }
    }

    /// Returns when none is left of this entity.
    pub(super) async fn settled(&self, persistence_id: &PersistenceId) {
        let watched = self
            .writes()
            .get(persistence_id)
            .map(watch::Sender::subscribe);
        if let Some(mut count) = watched {
            // The sender is dropped with the last write.
            let _ = count.wait_for(|&count| count == 0).await;
        }
    }

    fn writes(&self) -> MutexGuard<'_, HashMap<PersistenceId, watch::Sender<usize>>> {
        // Held for a few assignments, which leave the map whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        let mut writes = self.under_way.writes();
        if let Some(count) = writes.get(&self.persistence_id) {
            count.send_modify(|count| *count -= 1);
            if *count.borrow() == 0 {
                writes.remove(&self.persistence_id);
            }
        }
    }
}
