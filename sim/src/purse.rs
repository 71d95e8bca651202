//! The other entity of the simulation: a purse, from which money goes to other purses.
//!
//! Money leaves a purse with an event that also begins an at-least-once delivery, and
//! arrives by a command whose id is made of the sender's and the delivery's. So whatever
//! fails on the way, it arrives, and arrives once: the sum over all purses stays the
//! same. Next: `purse/road.rs`, the way deliveries take.

pub(crate) mod road;

use perennial::{Effect, EventSourced, Json};
use perennial_persistence::delivery::courier::Courier;
use perennial_persistence::delivery::{Deliveries, DeliveryId};
use serde::{Deserialize, Serialize};

/// What is in a purse at the beginning.
pub(crate) const FILLED_WITH: i64 = 100;

/// The definition of the entity type `purse`; the courier brings money to others.
pub(crate) struct Purse(pub(crate) Courier<String, Transfer>);

/// Money on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Transfer {
    /// Of the operation it comes from.
    pub(crate) op: u64,
    pub(crate) amount: i64,
}

/// What is in a purse, and what has left it and not arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Contents {
    pub(crate) balance: i64,
    pub(crate) under_way: Deliveries<String, Transfer>,
}

impl Default for Contents {
    fn default() -> Self {
        Self {
            balance: FILLED_WITH,
            under_way: Deliveries::default(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PurseCommand {
    /// To another purse, unless there is not as much in it.
    Give {
        to: String,
        transfer: Transfer,
    },
    Take(Transfer),
    /// One that was given has arrived.
    Confirm(DeliveryId),
    /// What had not arrived before the recovery is sent again.
    Resume,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PurseEvent {
    Given { to: String, transfer: Transfer },
    Taken(Transfer),
    Confirmed(DeliveryId),
}

impl EventSourced for Purse {
    const ENTITY_TYPE: &'static str = "purse";
    type State = Contents;
    type Command = PurseCommand;
    type Event = PurseEvent;
    type Reply = i64;
    type Codec = Json;

    fn handle(&self, state: &Contents, command: PurseCommand) -> Effect<Self> {
        let under_way = &state.under_way;
        match command {
            PurseCommand::Give { transfer, .. } if transfer.amount > state.balance => {
                Effect::reject("NOT_ENOUGH", "there is less in the purse: give less")
            }
            PurseCommand::Give { to, transfer } => {
                let courier = self.0.clone();
                Effect::persist(PurseEvent::Given { to, transfer })
                    .then_run_outside(move |state: &Contents| {
                        let begun = state.under_way.unconfirmed().last();
                        let carried = begun.map(|delivery| courier.carry(delivery));
                        async move {
                            match carried {
                                Some(carried) => PurseCommand::Confirm(carried.await),
                                // Not so: the event has begun it.
                                None => PurseCommand::Resume,
                            }
                        }
                    })
                    .then_reply(|state: &Contents| state.balance)
            }
            PurseCommand::Take(transfer) => Effect::persist(PurseEvent::Taken(transfer))
                .then_reply(|state: &Contents| state.balance),
            PurseCommand::Confirm(id) if under_way.is_unconfirmed(id) => {
                Effect::persist(PurseEvent::Confirmed(id))
            }
            PurseCommand::Confirm(_) => Effect::none(),
            PurseCommand::Resume => {
                under_way
                    .unconfirmed()
                    .fold(Effect::none(), |effect, delivery| {
                        let courier = self.0.clone();
                        effect.then_run_outside(move |_| {
                            let carried = courier.resume(delivery);
                            async move { PurseCommand::Confirm(carried.await) }
                        })
                    })
            }
        }
    }

    fn apply(&self, state: &mut Contents, event: PurseEvent) {
        match event {
            PurseEvent::Given { to, transfer } => {
                state.balance -= transfer.amount;
                state.under_way.deliver(to, transfer);
            }
            PurseEvent::Taken(transfer) => state.balance += transfer.amount,
            PurseEvent::Confirmed(id) => {
                state.under_way.confirm(id);
            }
        }
    }

    fn after_recovery(&self, state: &Contents) -> Option<PurseCommand> {
        (!state.under_way.is_empty()).then_some(PurseCommand::Resume)
    }
}
