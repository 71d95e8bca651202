//! The global order in memory: the order of storing.

use std::ops::Bound;
use std::time::Duration;

use async_trait::async_trait;

use crate::global_order::{EventsInOrder, OrderedEvent, Position};
use crate::journal::JournalError;
use crate::storage::memory::MemoryStorage;

/// A reader of all events in memory.
pub(crate) struct MemoryEventsInOrder {
    storage: MemoryStorage,
}

impl MemoryEventsInOrder {
    pub(crate) fn new(storage: MemoryStorage) -> Self {
        Self { storage }
    }
}

#[async_trait]
impl EventsInOrder for MemoryEventsInOrder {
    async fn events_after(
        &self,
        position: Position,
        max_events: usize,
        max_bytes: usize,
    ) -> Result<Vec<OrderedEvent>, JournalError> {
        let tables = self.storage.tables();
        let after = (Bound::Excluded(position.ordering), Bound::Unbounded);
        let mut bytes = 0;
        let page = tables.order.range(after).take(max_events);
        let page = page.take_while(|(_, event)| {
            let wanted = bytes < max_bytes.max(1);
            bytes += event.payload.bytes.len();
            wanted
        });
        let ordered = |(&ordering, event): (&u64, &_)| OrderedEvent {
            position: Position { tx: 0, ordering },
            event: Clone::clone(event),
        };
        Ok(page.map(ordered).collect())
    }

    async fn lag(&self) -> Result<Duration, JournalError> {
        Ok(Duration::ZERO)
    }
}
