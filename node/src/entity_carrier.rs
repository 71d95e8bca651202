//! Brings the deliveries of entities to other entities of the cluster.
//!
//! A courier is started before the node, because entity types hold it; the way
//! through the node's region is there only afterwards. [`EntityRoad`] joins the two:
//! what is carried before it is open is sent again later. Next:
//! `delivery/courier.rs` of the persistence crate.

use std::sync::{Arc, OnceLock, Weak};

use async_trait::async_trait;
use perennial_persistence::command::CommandId;
use perennial_persistence::delivery::Delivery;
use perennial_persistence::delivery::courier::Carrier;
use perennial_persistence::event_sourced::EventSourced;
use perennial_persistence::persistence_id::PersistenceId;

use crate::entity_ref::{AskError, EntityRef};
use crate::intake::Intake;

/// The way from couriers to the entities of a cluster; cheap to clone. Opened by
/// [`Node::open_road`](crate::Node::open_road), and closed when that node ends.
#[derive(Clone, Default)]
pub struct EntityRoad(Arc<OnceLock<Weak<Intake>>>);

/// What a delivery is for the entity it goes to.
pub struct Addressed<E: EventSourced> {
    /// Whom it is for.
    pub entity_id: String,
    /// The same whenever the delivery is sent, and of no other one: made of the
    /// sender's id and the delivery's, it makes the command's effect happen once
    /// (promise I-8).
    pub command_id: CommandId,
    /// What is sent.
    pub command: E::Command,
}

/// Carries deliveries to entities of type `E`, as commands. A reply confirms one;
/// after anything else, a rejection too, it is sent again, so a receiver that does
/// not want a message replies all the same.
pub struct EntityCarrier<E, Address> {
    road: EntityRoad,
    address: Address,
    entity: std::marker::PhantomData<fn() -> E>,
}

impl EntityRoad {
    /// A way that is not open yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A carrier on this way; `address` says what a delivery is for its receiver.
    pub fn carrier<E: EventSourced, Address>(&self, address: Address) -> EntityCarrier<E, Address> {
        EntityCarrier {
            road: self.clone(),
            address,
            entity: std::marker::PhantomData,
        }
    }

    /// A road leads through one node for good.
    pub(crate) fn open(&self, intake: &Arc<Intake>) {
        if self.0.set(Arc::downgrade(intake)).is_err() {
            tracing::warn!("the road is open already: make one for each node");
        }
    }
}

#[async_trait]
impl<E, Destination, Message, Address> Carrier<Destination, Message> for EntityCarrier<E, Address>
where
    E: EventSourced,
    E::Command: Send + Sync,
    E::Reply: Send,
    Destination: Send + Sync,
    Message: Send + Sync,
    Address: Fn(&Delivery<Destination, Message>) -> Addressed<E> + Send + Sync + 'static,
{
    async fn carry(&self, delivery: &Delivery<Destination, Message>) -> bool {
        let Some(intake) = self.road.0.get().and_then(Weak::upgrade) else {
            return false;
        };
        let Addressed {
            entity_id,
            command_id,
            command,
        } = (self.address)(delivery);
        let persistence_id = match PersistenceId::new(E::ENTITY_TYPE, &entity_id) {
            Ok(persistence_id) => persistence_id,
            Err(error) => {
                tracing::error!(%error, delivery = %delivery.id, "a delivery cannot be addressed");
                return false;
            }
        };
        let entity = EntityRef::<E>::new(intake, persistence_id);
        match entity.ask_once(command_id, &command).await {
            // Handled, and stored if it stores anything.
            Ok(_) | Err(AskError::NoReply | AskError::Decode(_)) => true,
            Err(error) => {
                tracing::debug!(%error, delivery = %delivery.id, "a delivery is not confirmed");
                false
            }
        }
    }
}
