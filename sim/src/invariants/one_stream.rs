//! I-3: numbers are unique and without gaps, and once another writer follows in a
//! stream, the one before never comes back. I-8: no operation is stored twice.

use std::collections::{BTreeMap, BTreeSet};

use perennial_persistence::journal::Append;
use perennial_persistence::writer::WriterUuid;

use crate::history::Order;
use crate::tally::Add;
use crate::verdict::Verdict;

/// What an entity has stored.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stream {
    /// The first has number 1.
    pub(crate) events: Vec<Committed>,
    writer: Option<WriterUuid>,
    former_writers: BTreeSet<WriterUuid>,
}

/// An event, and its place in the order of everything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Committed {
    pub(crate) event: Add,
    pub(crate) order: u64,
}

pub(super) struct OneStream {
    order: Order,
    pub(super) streams: BTreeMap<String, Stream>,
    stored_ops: BTreeSet<u64>,
}

impl OneStream {
    pub(super) fn new(order: Order) -> Self {
        Self {
            order,
            streams: BTreeMap::new(),
            stored_ops: BTreeSet::new(),
        }
    }

    pub(super) fn stored(&mut self, append: &Append, writes: usize, now: u64, verdict: &Verdict) {
        let id = append.persistence_id.entity_id().to_owned();
        let stream = self.streams.entry(id.clone()).or_default();
        let next = stream.events.len() as u64 + 1;
        if append.first_sequence_nr.get() != next {
            let what = format!(
                "{id} stores {} after {}",
                append.first_sequence_nr,
                next - 1
            );
            verdict.violated("I-3", now, what);
        }
        if stream.writer != Some(append.writer) {
            if let Some(former) = stream.writer.replace(append.writer) {
                stream.former_writers.insert(former);
            }
            if stream.former_writers.contains(&append.writer) {
                let what = format!("writer {} of {id} comes back", append.writer);
                verdict.violated("I-3", now, what);
            }
        }
        let events = append.writes.iter().take(writes);
        for event in events.flat_map(|write| &write.events) {
            let Ok(event) = serde_json::from_slice::<Add>(&event.payload.bytes) else {
                verdict.violated("I-6", now, format!("{id} stores what it cannot read"));
                continue;
            };
            if !self.stored_ops.insert(event.op) {
                let what = format!("operation {} is stored twice, again in {id}", event.op);
                verdict.violated("I-8", now, what);
            }
            let order = self.order.next();
            stream.events.push(Committed { event, order });
        }
    }
}
