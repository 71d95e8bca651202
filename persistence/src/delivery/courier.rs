//! A courier carries the deliveries of a node's entities until they are confirmed.
//!
//! An entity hands a delivery over as work outside
//! ([`Effect::then_run_outside`](crate::effect::Effect::then_run_outside)), after the
//! commit of the event that began it; the work comes back with the command that confirms
//! it. After a recovery
//! ([`EventSourced::after_recovery`](crate::event_sourced::EventSourced::after_recovery))
//! it hands over again what is not confirmed. As long as a delivery is under way the
//! entity stays in memory. At most `persistence.stash_capacity` are under way for one
//! entity; others are carried after its next recovery.
//!
//! How a message reaches its destination, and what counts as its confirmation, is the
//! business of a [`Carrier`]: for an entity a command sent through the region and its
//! answer, for a receiver in the same process whatever that does. The courier decides
//! nothing: see [`Redelivery`].

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::{Delivery, DeliveryId, Redelivery, RedeliverySettings};

/// Brings messages to their destinations.
#[async_trait]
pub trait Carrier<Destination, Message>: Send + Sync + 'static {
    /// Sends one message. `true` when the destination has confirmed it; `false` when it
    /// has not, for whatever reason: it is sent again later.
    async fn carry(&self, delivery: &Delivery<Destination, Message>) -> bool;
}

/// The handle of a courier; cheap to clone. The courier ends with its last handle.
pub struct Courier<Destination, Message> {
    inbox: mpsc::Sender<HandedOver<Destination, Message>>,
}

impl<Destination, Message> Clone for Courier<Destination, Message> {
    fn clone(&self) -> Self {
        let inbox = self.inbox.clone();
        Self { inbox }
    }
}

struct HandedOver<Destination, Message> {
    delivery: Delivery<Destination, Message>,
    is_fresh: bool,
    confirmed: oneshot::Sender<()>,
}

impl<Destination, Message> Courier<Destination, Message>
where
    Destination: Send + Sync + 'static,
    Message: Send + Sync + 'static,
{
    /// Starts a courier. Needs a tokio runtime.
    pub fn start(
        settings: RedeliverySettings,
        carrier: impl Carrier<Destination, Message>,
    ) -> Self {
        let (inbox, handed_over) = mpsc::channel(settings.max_unconfirmed.max(1));
        let round = Round {
            carrier: Arc::new(carrier),
            redelivery: Redelivery::new(settings),
            under_way: HashMap::new(),
            last_number: 0,
            carried: JoinSet::new(),
        };
        tokio::spawn(round.run(handed_over));
        Self { inbox }
    }

    /// Sends a fresh delivery at once, and again until it is confirmed; then gives its
    /// number. What is handed over first is sent first. It is given up when the future is
    /// dropped.
    pub fn carry(
        &self,
        delivery: Delivery<Destination, Message>,
    ) -> impl Future<Output = DeliveryId> + Send + use<Destination, Message> {
        self.hand_over(delivery, true)
    }

    /// As [`Courier::carry`] for a delivery from before a restart: what is sent after one
    /// is bounded by `burst_limit`.
    pub fn resume(
        &self,
        delivery: Delivery<Destination, Message>,
    ) -> impl Future<Output = DeliveryId> + Send + use<Destination, Message> {
        self.hand_over(delivery, false)
    }

    fn hand_over(
        &self,
        delivery: Delivery<Destination, Message>,
        is_fresh: bool,
    ) -> impl Future<Output = DeliveryId> + Send + use<Destination, Message> {
        let id = delivery.id;
        let (confirmed, confirmation) = oneshot::channel();
        let handed_over = HandedOver {
            delivery,
            is_fresh,
            confirmed,
        };
        // Now, not when the future is polled, so that the order is the entity's.
        let waiting = match self.inbox.try_send(handed_over) {
            Ok(()) => None,
            Err(
                mpsc::error::TrySendError::Full(waiting)
                | mpsc::error::TrySendError::Closed(waiting),
            ) => Some((self.inbox.clone(), waiting)),
        };
        async move {
            if let Some((inbox, waiting)) = waiting {
                // Closed only when the runtime ends, and then nobody waits.
                let _ = inbox.send(waiting).await;
            }
            if confirmation.await.is_err() {
                std::future::pending::<()>().await;
            }
            id
        }
    }
}

/// The courier's task.
struct Round<Destination, Message> {
    carrier: Arc<dyn Carrier<Destination, Message>>,
    redelivery: Redelivery<u64>,
    under_way: HashMap<u64, UnderWay<Destination, Message>>,
    /// Numbers of entities' own are not unique here.
    last_number: u64,
    /// What the carrier has in hand. Bounded by what is under way: what is still carried
    /// is not carried twice.
    carried: JoinSet<(u64, bool)>,
}

struct UnderWay<Destination, Message> {
    delivery: Arc<Delivery<Destination, Message>>,
    confirmed: oneshot::Sender<()>,
    is_in_hand: bool,
}

impl<Destination, Message> Round<Destination, Message>
where
    Destination: Send + Sync + 'static,
    Message: Send + Sync + 'static,
{
    async fn run(mut self, mut handed_over: mpsc::Receiver<HandedOver<Destination, Message>>) {
        loop {
            let next_at = self.redelivery.next_at().map(Instant::from_std);
            // All are safe to cancel: what was not taken stays where it is.
            tokio::select! {
                handed_over = handed_over.recv() => match handed_over {
                    Some(handed_over) => self.take(handed_over),
                    None => return,
                },
                Some(Ok((number, is_confirmed))) = self.carried.join_next() => {
                    self.back(number, is_confirmed);
                }
                () = sleep_until(next_at.unwrap_or_else(Instant::now)), if next_at.is_some() => {
                    self.send_due();
                }
            }
        }
    }

    fn take(&mut self, handed_over: HandedOver<Destination, Message>) {
        self.last_number += 1;
        let number = self.last_number;
        let under_way = UnderWay {
            delivery: Arc::new(handed_over.delivery),
            confirmed: handed_over.confirmed,
            is_in_hand: false,
        };
        self.under_way.insert(number, under_way);
        let now = Instant::now().into_std();
        if handed_over.is_fresh {
            self.redelivery.sent(number, now);
            self.send(number);
        } else {
            self.redelivery.resume(number, now);
            // Before anything fresh, as far as the burst has room.
            self.send_due();
        }
    }

    fn send_due(&mut self) {
        let due = self.redelivery.due(Instant::now().into_std());
        for number in due.warn {
            if let Some(under_way) = self.under_way.get(&number) {
                metrics::counter!("perennial_deliveries_unconfirmed_total").increment(1);
                tracing::warn!(delivery = %under_way.delivery.id, "a delivery was sent several times and is not confirmed");
            }
        }
        for number in due.send {
            self.send(number);
        }
    }

    fn send(&mut self, number: u64) {
        let Some(under_way) = self.under_way.get_mut(&number) else {
            return;
        };
        if under_way.confirmed.is_closed() {
            // Nobody waits for it any more.
            self.settle(number);
            return;
        }
        if std::mem::replace(&mut under_way.is_in_hand, true) {
            return;
        }
        let (carrier, delivery) = (Arc::clone(&self.carrier), Arc::clone(&under_way.delivery));
        self.carried.spawn(async move {
            // A carrier that panics has not delivered.
            let carried = AssertUnwindSafe(carrier.carry(&delivery))
                .catch_unwind()
                .await;
            (number, carried.unwrap_or(false))
        });
    }

    fn back(&mut self, number: u64, is_confirmed: bool) {
        if is_confirmed {
            if let Some(under_way) = self.settle(number) {
                let _ = under_way.confirmed.send(());
            }
        } else if let Some(under_way) = self.under_way.get_mut(&number) {
            under_way.is_in_hand = false;
        }
    }

    fn settle(&mut self, number: u64) -> Option<UnderWay<Destination, Message>> {
        self.redelivery.settled(&number);
        self.under_way.remove(&number)
    }
}
