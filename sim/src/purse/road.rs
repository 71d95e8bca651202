//! The way money takes from one purse to another: through the region of the node on
//! which its sender is, like any command.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use perennial::EventSourced;
use perennial_persistence::command::{CommandId, Request};
use perennial_persistence::delivery::Delivery;
use perennial_persistence::delivery::courier::Carrier;
use perennial_persistence::payload::Payload;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_sharding::region::Region;

use super::{Purse, PurseCommand, Transfer};

/// The way through a node, once it has one; clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Road(Arc<Mutex<Option<Region>>>);

impl Road {
    pub(crate) fn open(&self, region: Region) {
        *self.lock() = Some(region);
    }

    /// The node is gone, and with it what holds the road's other end.
    pub(crate) fn close(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Region>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Carrier<String, Transfer> for Road {
    async fn carry(&self, delivery: &Delivery<String, Transfer>) -> bool {
        let Some(region) = self.lock().clone() else {
            return false;
        };
        let transfer = delivery.message;
        let Ok(id) = PersistenceId::new(Purse::ENTITY_TYPE, &delivery.destination) else {
            return false;
        };
        let Ok(payload) = serde_json::to_vec(&PurseCommand::Take(transfer)) else {
            return false;
        };
        let request = Request::Command {
            payload: Payload::json(payload),
            // A transfer is one delivery of one purse, and has a number of its own.
            command_id: CommandId::parse(&format!("take-{}", transfer.op))
                .ok()
                .flatten(),
            expected_sequence_nr: None,
            metadata: None,
        };
        region.ask(id, request, None).await.is_ok()
    }
}
