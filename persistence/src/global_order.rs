//! Reading all events in one order that never changes: the trait
//! [`EventsInOrder`], for projections, exports and checks of whole journals.
//!
//! Each event has a [`Position`]. A reader who goes on after the last position it
//! has seen gets each event exactly once, and the events of a stream by ascending
//! number, whatever writers do meanwhile: an event shows up only when nothing can
//! be stored before it any more. What was deleted is left out. It does not follow:
//! a reader asks again when it wants more. Implementations:
//! `global_order/{memory,sqlite,postgres}.rs`; all pass
//! `global_order/conformance.rs`.

#[cfg(feature = "testing")]
pub mod conformance;
pub(crate) mod memory;
pub(crate) mod postgres;
pub(crate) mod sqlite;

use std::time::Duration;

use async_trait::async_trait;

use crate::journal::{JournalError, StoredEvent};

/// The place of an event among all events of a database.
///
/// Positions are only for comparing and for going on; there are gaps, and the
/// difference of two means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The transaction that stored it; 0 where commits are in one order anyway.
    pub tx: u64,
    /// Its place among those of equal `tx`.
    pub ordering: u64,
}

impl Position {
    /// Before the first event.
    pub const START: Self = Self { tx: 0, ordering: 0 };
}

/// An event with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderedEvent {
    /// Where to go on after it.
    pub position: Position,
    /// The event.
    pub event: StoredEvent,
}

/// A store whose events can be read in one order.
#[async_trait]
pub trait EventsInOrder: Send + Sync + 'static {
    /// Events after a position, exclusive, in ascending order: at most
    /// `max_events`, and none after the one that reaches `max_bytes` of payload.
    /// At least one, if there is one; an empty answer means that the reader has
    /// caught up.
    ///
    /// # Errors
    /// [`JournalError::Unavailable`]: ask again later.
    /// [`JournalError::Corrupt`] names the event that cannot be understood.
    async fn events_after(
        &self,
        position: Position,
        max_events: usize,
        max_bytes: usize,
    ) -> Result<Vec<OrderedEvent>, JournalError>;

    /// How long the oldest event has been stored that is held back because a
    /// transaction older than its own is still running; zero when none is. Also
    /// published as the metric `perennial_global_order_lag_seconds`.
    ///
    /// # Errors
    /// [`JournalError::Unavailable`]: ask again later.
    async fn lag(&self) -> Result<Duration, JournalError>;
}
