//! I-3: numbers are unique and without gaps, and once another writer follows in a
//! stream, the one before never comes back. I-8: no operation is stored twice.

use std::collections::{BTreeMap, BTreeSet};

use perennial::EventSourced;
use perennial_persistence::journal::Append;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::writer::{SessionUuid, WriterUuid};

use super::transfers::Transfers;
use crate::history::Order;
use crate::tally::{Add, Tally};
use crate::verdict::Verdict;

/// What a tally has stored.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stream {
    /// The first has number 1.
    pub(crate) events: Vec<Committed>,
}

impl Stream {
    /// The session that has stored an event.
    pub(crate) fn author(&self, number: u64) -> Option<SessionUuid> {
        let index = usize::try_from(number.checked_sub(1)?).ok()?;
        Some(self.events.get(index)?.session)
    }
}

/// An event, and its place in the order of everything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Committed {
    pub(crate) event: Add,
    pub(crate) order: u64,
    /// Of the owner that stored it.
    pub(crate) session: SessionUuid,
}

pub(super) struct OneStream {
    order: Order,
    authors: BTreeMap<PersistenceId, Authors>,
    pub(super) streams: BTreeMap<String, Stream>,
    stored_ops: BTreeSet<u64>,
    transfers: Transfers,
}

/// Who has written how much of a stream.
#[derive(Debug, Default)]
struct Authors {
    /// The highest number.
    stored: u64,
    writer: Option<WriterUuid>,
    former_writers: BTreeSet<WriterUuid>,
}

impl OneStream {
    pub(super) fn new(order: Order, transfers: Transfers) -> Self {
        Self {
            order,
            authors: BTreeMap::new(),
            streams: BTreeMap::new(),
            stored_ops: BTreeSet::new(),
            transfers,
        }
    }

    pub(super) fn stored(
        &mut self,
        session: SessionUuid,
        append: &Append,
        writes: usize,
        now: u64,
        verdict: &Verdict,
    ) {
        let id = &append.persistence_id;
        let events = append.writes.iter().take(writes);
        let events = events.flat_map(|write| &write.events);
        let authors = self.authors.entry(id.clone()).or_default();
        authors.stored(append, events.clone().count(), now, verdict);
        for event in events {
            let read = match id.entity_type() == Tally::ENTITY_TYPE {
                true => serde_json::from_slice(&event.payload.bytes)
                    .map(|event| self.added(session, id, event, now, verdict)),
                false => serde_json::from_slice(&event.payload.bytes)
                    .map(|event| self.transfers.stored(id.entity_id(), event, now, verdict)),
            };
            if read.is_err() {
                verdict.violated("I-6", now, format!("{id} stores what it cannot read"));
            }
        }
    }

    fn added(
        &mut self,
        session: SessionUuid,
        id: &PersistenceId,
        event: Add,
        now: u64,
        verdict: &Verdict,
    ) {
        if !self.stored_ops.insert(event.op) {
            let what = format!(
                "operation {} is stored twice, again in {}",
                event.op,
                id.entity_id()
            );
            verdict.violated("I-8", now, what);
        }
        let order = self.order.next();
        let stream = self.streams.entry(id.entity_id().to_owned()).or_default();
        stream.events.push(Committed {
            event,
            order,
            session,
        });
    }
}

impl Authors {
    fn stored(&mut self, append: &Append, events: usize, now: u64, verdict: &Verdict) {
        let (id, next) = (&append.persistence_id, self.stored + 1);
        if append.first_sequence_nr.get() != next {
            let what = format!(
                "{id} stores {} after {}",
                append.first_sequence_nr, self.stored
            );
            verdict.violated("I-3", now, what);
        }
        self.stored += events as u64;
        if self.writer != Some(append.writer) {
            if let Some(former) = self.writer.replace(append.writer) {
                self.former_writers.insert(former);
            }
            if self.former_writers.contains(&append.writer) {
                let what = format!("writer {} of {id} comes back", append.writer);
                verdict.violated("I-3", now, what);
            }
        }
    }
}
