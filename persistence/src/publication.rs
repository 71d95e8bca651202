//! Stored events, for those in the same process who want to hear of them.
//!
//! Each event is published once it is stored (I-4), those of one entity in their
//! order. Nothing waits for a subscriber: one that lags behind misses the oldest and
//! is told how many. Events whose outcome was unknown when they were stored are not
//! published. Who must not miss any reads the journal.

use std::sync::Arc;

use tokio::sync::broadcast;

use crate::command::Metadata;
use crate::journal::Append;
use crate::payload::Payload;
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::writer::WriterUuid;

/// An event that was just stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedEvent {
    /// The stream.
    pub persistence_id: PersistenceId,
    /// Its number in the stream.
    pub sequence_nr: SequenceNr,
    /// The incarnation that wrote it.
    pub writer: WriterUuid,
    /// The encoded event.
    pub payload: Payload,
    /// Tags by which it can be found.
    pub tags: Vec<String>,
    /// The client's key-value pairs.
    pub metadata: Metadata,
}

/// What a subscriber hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// An event was stored.
    Event(Arc<PublishedEvent>),
    /// The subscriber lagged behind and misses so many events before the next.
    Missed(u64),
}

/// A subscription, from the moment it was made. Dropping it ends it.
#[derive(Debug)]
pub struct Subscription(broadcast::Receiver<Arc<PublishedEvent>>);

impl Subscription {
    /// The next event, or how many were missed; `None` when the engine has ended.
    /// Safe to cancel.
    pub async fn next(&mut self) -> Option<Published> {
        match self.0.recv().await {
            Ok(event) => Some(Published::Event(event)),
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                metrics::counter!("perennial_published_events_missed_total").increment(missed);
                Some(Published::Missed(missed))
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// Publishes; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Publication(broadcast::Sender<Arc<PublishedEvent>>);

impl Publication {
    /// Keeps so many events, at least one, for subscribers that lag behind.
    pub(crate) fn new(capacity: usize) -> Self {
        Self(broadcast::Sender::new(capacity.max(1)))
    }

    pub(crate) fn subscribe(&self) -> Subscription {
        Subscription(self.0.subscribe())
    }

    /// Publishes writes, all of which are stored.
    pub(crate) fn publish(&self, stored: Append) {
        if self.0.receiver_count() == 0 {
            return;
        }
        let mut sequence_nr = stored.first_sequence_nr;
        for write in stored.writes {
            for event in write.events {
                // An error means that the last subscriber has just gone.
                let _ = self.0.send(Arc::new(PublishedEvent {
                    persistence_id: stored.persistence_id.clone(),
                    sequence_nr,
                    writer: stored.writer,
                    payload: event.payload,
                    tags: event.tags,
                    metadata: write.metadata.clone(),
                }));
                sequence_nr = sequence_nr.next();
            }
        }
    }
}
