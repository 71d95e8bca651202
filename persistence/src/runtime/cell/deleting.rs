//! What a cell gives up when its entity is deleted.

use crate::command::Envelope;
use crate::sequence_nr::SequenceNr;

use super::{Cell, Queued, Stage};

impl Cell {
    /// Whether it would run now, and find out that it has nothing left to do.
    pub(crate) fn is_ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    /// Gives up work outside that no sender waits for. Returns whether there is other:
    /// its command was accepted, and is gone on with when it comes back.
    pub(crate) fn waits_for_outside(&mut self) -> bool {
        if !self.has_aside() {
            return false;
        }
        self.give_up_unasked();
        self.aside().is_some_and(|aside| !aside.outside.is_empty())
    }

    /// The commands that it has put aside: they are for the next life.
    pub(crate) fn give_up_stashed(&mut self) -> Vec<Envelope> {
        let Some(work) = &mut self.work else {
            return Vec::new();
        };
        let envelope = |queued: Queued| Envelope {
            persistence_id: self.persistence_id.clone(),
            shard: self.shard,
            epoch: self.epoch,
            arrival: queued.arrival,
            request: queued.request,
            deadline: queued.deadline,
            reply_to: queued.reply_to,
            trace: queued.trace,
        };
        work.aside.stashed.drain(..).map(envelope).collect()
    }

    /// The last number that its appends may have stored.
    pub(crate) fn may_have_stored_to(&self) -> SequenceNr {
        self.sequence_nr.max(self.stored_nr)
    }
}
