//! Messages that an entity delivers at least once: until they are confirmed, across
//! restarts of the entity and of the node.
//!
//! What is to be delivered is part of the entity's state, a [`Deliveries`] value: an
//! event makes a delivery, another one confirms it, so both survive with the events and
//! in snapshots. When to send it again is not: [`Redelivery`] is a schedule that starts
//! empty with every incarnation. Both are plain values; [`courier`] is the small runtime
//! that carries messages by such a schedule.
//!
//! A receiver may get a message more than once, and messages that had to be sent again
//! out of order. It recognises a repetition by the [`DeliveryId`] together with the
//! sender; if it is an entity, best by a command id made of the two.
//!
//! In the originals the destination is an address that can have wildcards, which has to
//! be refused; here it is whatever type the entity chooses, usually the
//! [`PersistenceId`](crate::persistence_id::PersistenceId) of another entity or the name
//! of a receiver in the same process.
//!
//! ```
//! use std::time::Instant;
//! use perennial_persistence::delivery::{Deliveries, Redelivery, RedeliverySettings};
//!
//! // In the state of an order; changed by its `apply`.
//! let mut deliveries = Deliveries::default();
//! let id = deliveries.deliver("warehouse", "ship it");
//!
//! // Beside the entity.
//! let now = Instant::now();
//! let settings = RedeliverySettings::default();
//! let mut redelivery = Redelivery::new(settings);
//! redelivery.sent(id, now);
//! assert!(redelivery.due(now).send.is_empty());
//! assert_eq!(redelivery.due(now + settings.interval).send, [id]);
//!
//! assert!(deliveries.confirm(id));
//! redelivery.settled(&id);
//! assert!(deliveries.is_empty());
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub mod courier;

/// Number of a delivery of one entity; they grow from 1 and are never used twice.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct DeliveryId(u64);

impl DeliveryId {
    /// The plain number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A message on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery<Destination, Message> {
    /// What a confirmation names.
    pub id: DeliveryId,
    /// Where it goes.
    pub destination: Destination,
    /// What is sent.
    pub message: Message,
}

/// What an entity has to deliver: part of its state, changed when events are applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deliveries<Destination, Message> {
    last_id: DeliveryId,
    unconfirmed: BTreeMap<DeliveryId, (Destination, Message)>,
}

/// So much is unconfirmed that nothing more should be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{unconfirmed} deliveries are unconfirmed and {more} more were wanted, {max_unconfirmed} is the limit: reject \
     the command, and see why the destinations do not confirm"
)]
pub struct TooManyUnconfirmed {
    /// Deliveries on their way.
    pub unconfirmed: usize,
    /// Deliveries wanted.
    pub more: usize,
    /// The limit.
    pub max_unconfirmed: usize,
}

impl<Destination, Message> Default for Deliveries<Destination, Message> {
    fn default() -> Self {
        Self {
            last_id: DeliveryId::default(),
            unconfirmed: BTreeMap::new(),
        }
    }
}

impl<Destination, Message> Deliveries<Destination, Message> {
    /// Begins a delivery. For `apply`: it is the same at a replay.
    pub fn deliver(&mut self, destination: Destination, message: Message) -> DeliveryId {
        self.last_id.0 += 1;
        let delivery = (destination, message);
        self.unconfirmed.insert(self.last_id, delivery);
        self.last_id
    }

    /// Ends a delivery. For `apply`. `false` if it had ended before, or never begun.
    pub fn confirm(&mut self, id: DeliveryId) -> bool {
        self.unconfirmed.remove(&id).is_some()
    }

    /// Whether so many more may begin. For `handle`, before the event is made: an event
    /// that is stored cannot be refused.
    ///
    /// # Errors
    /// [`TooManyUnconfirmed`] when there would be more than `max_unconfirmed`.
    pub fn check_room(
        &self,
        more: usize,
        max_unconfirmed: usize,
    ) -> Result<(), TooManyUnconfirmed> {
        let unconfirmed = self.len();
        if unconfirmed.saturating_add(more) > max_unconfirmed {
            return Err(TooManyUnconfirmed {
                unconfirmed,
                more,
                max_unconfirmed,
            });
        }
        Ok(())
    }

    /// Whether a delivery has not ended.
    #[must_use]
    pub fn is_unconfirmed(&self, id: DeliveryId) -> bool {
        self.unconfirmed.contains_key(&id)
    }

    /// Deliveries that have not ended.
    #[must_use]
    pub fn len(&self) -> usize {
        self.unconfirmed.len()
    }

    /// Whether all have ended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.unconfirmed.is_empty()
    }

    /// The delivery begun last; 0 before the first.
    #[must_use]
    pub fn last_id(&self) -> DeliveryId {
        self.last_id
    }
}

impl<Destination: Clone, Message: Clone> Deliveries<Destination, Message> {
    /// Deliveries that have not ended, in the order in which they began.
    pub fn unconfirmed(&self) -> impl Iterator<Item = Delivery<Destination, Message>> + '_ {
        let delivery =
            |(id, (destination, message)): (&DeliveryId, &(Destination, Message))| Delivery {
                id: *id,
                destination: destination.clone(),
                message: message.clone(),
            };
        self.unconfirmed.iter().map(delivery)
    }
}

/// When to send again what is not confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedeliverySettings {
    /// From one attempt to the next.
    pub interval: Duration,
    /// Sent again at once; what is due beyond it follows half an interval later. Also
    /// bounds what is sent after a restart.
    pub burst_limit: usize,
    /// After so many attempts without a confirmation there is a warning, once.
    pub warn_after_attempts: u32,
    /// Deliveries under way; see [`Deliveries::check_room`].
    pub max_unconfirmed: usize,
}

impl Default for RedeliverySettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            burst_limit: 10_000,
            warn_after_attempts: 5,
            max_unconfirmed: 100_000,
        }
    }
}

/// The schedule by which deliveries are sent again. `Key` names a delivery; smaller ones
/// go first.
#[derive(Debug)]
pub struct Redelivery<Key> {
    settings: RedeliverySettings,
    under_way: BTreeMap<Key, UnderWay>,
    /// The same, in the order in which they are due.
    by_time: BTreeSet<(Instant, Key)>,
    /// When the present burst began; it lasts for half an interval.
    burst_began: Option<Instant>,
    /// Sent again in it.
    burst_len: usize,
}

#[derive(Debug, Clone, Copy)]
struct UnderWay {
    attempts: u32,
    due_at: Instant,
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub struct Due<Key> {
    /// To be sent again, in this order.
    pub send: Vec<Key>,
    /// Of these, what was sent so often that somebody should look at it.
    pub warn: Vec<Key>,
}

impl<Key: Ord + Clone> Redelivery<Key> {
    /// Nothing is under way.
    #[must_use]
    pub const fn new(settings: RedeliverySettings) -> Self {
        Self {
            settings,
            under_way: BTreeMap::new(),
            by_time: BTreeSet::new(),
            burst_began: None,
            burst_len: 0,
        }
    }

    /// A delivery was sent for the first time.
    pub fn sent(&mut self, key: Key, now: Instant) {
        self.schedule(key, 1, now + self.settings.interval);
    }

    /// A delivery from before a restart is to be sent when there is room in a burst. How
    /// often it was sent before is not known.
    pub fn resume(&mut self, key: Key, now: Instant) {
        self.schedule(key, 0, now);
    }

    /// A delivery is confirmed, or given up. `false` if it was not under way.
    pub fn settled(&mut self, key: &Key) -> bool {
        let Some(under_way) = self.under_way.remove(key) else {
            return false;
        };
        self.by_time.remove(&(under_way.due_at, key.clone()));
        true
    }

    /// What is to be sent again now; it counts as sent.
    pub fn due(&mut self, now: Instant) -> Due<Key> {
        let mut due = Due {
            send: Vec::new(),
            warn: Vec::new(),
        };
        if self.burst_ends_at().is_none_or(|end| end <= now) {
            self.burst_began = Some(now);
            self.burst_len = 0;
        }
        while let Some((at, _)) = self.by_time.first()
            && *at <= now
            && !self.is_burst_full()
        {
            self.burst_len += 1;
            let Some((_, key)) = self.by_time.pop_first() else {
                break;
            };
            let attempts = self.under_way.get(&key).map_or(0, |sent| sent.attempts);
            if attempts == self.settings.warn_after_attempts {
                due.warn.push(key.clone());
            }
            due.send.push(key.clone());
            self.schedule(key, attempts + 1, now + self.settings.interval);
        }
        due
    }

    /// When [`Redelivery::due`] has something next; `None` when nothing is under way.
    #[must_use]
    pub fn next_at(&self) -> Option<Instant> {
        let (first, _) = self.by_time.first()?;
        let burst_ends_at = self.burst_ends_at().filter(|_| self.is_burst_full());
        Some(burst_ends_at.map_or(*first, |end| end.max(*first)))
    }

    fn burst_ends_at(&self) -> Option<Instant> {
        Some(self.burst_began? + self.settings.interval / 2)
    }

    fn is_burst_full(&self) -> bool {
        self.burst_len >= self.settings.burst_limit.max(1)
    }

    /// Deliveries under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.under_way.len()
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    fn schedule(&mut self, key: Key, attempts: u32, due_at: Instant) {
        let under_way = UnderWay { attempts, due_at };
        if let Some(former) = self.under_way.insert(key.clone(), under_way) {
            self.by_time.remove(&(former.due_at, key.clone()));
        }
        self.by_time.insert((due_at, key));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod delivery_test;
