//! One replay of a stream: every page is checked for gaps, then passes through
//! the replay filter.
//!
//! A pure value, fed by whoever reads: the recovery of a live entity
//! (`runtime/recovery_pages.rs`) and the look at a past state
//! (`engine/past_state.rs`), so that both see the same. What the events mean is
//! the entity's business. Parts: `replay_filter/contiguity.rs`,
//! `replay_filter.rs`.

use crate::journal::{EventRange, StoredEvent, StreamBounds};
use crate::persistence_id::PersistenceId;
use crate::replay_filter::{
    Contiguity, Issue, ReplayFilter, ReplayFilterFailure, ReplayFilterSettings, StreamGap,
};
use crate::sequence_nr::SequenceNr;

/// Events of one page.
const PAGE_EVENTS_MAX: usize = 500;
/// Events of the first page of a recovery, which is read along with where it begins:
/// what most entities have after their snapshot.
pub(crate) const BEGINNING_EVENTS_MAX: usize = 128;
/// Payload bytes after which a page ends.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// One replay, from a snapshot or the beginning to a number, inclusive.
pub(crate) struct Replay {
    persistence_id: PersistenceId,
    contiguity: Contiguity,
    /// Gone when the last page was taken.
    filter: Option<ReplayFilter<StoredEvent>>,
    next: SequenceNr,
    /// Events with the number `next` that were taken already, and their bytes. A page
    /// may end between two events of one number, where two authors wrote it, so the
    /// next page begins with that number once more.
    taken: (usize, usize),
    to: SequenceNr,
}

/// The stream cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayDamage {
    #[error(transparent)]
    Gap(#[from] StreamGap),
    #[error(transparent)]
    Filter(#[from] ReplayFilterFailure),
}

impl Replay {
    /// A replay on top of a snapshot, or of none ([`SequenceNr::ZERO`]).
    pub(crate) fn new(
        persistence_id: &PersistenceId,
        snapshot: SequenceNr,
        bounds: StreamBounds,
        to: SequenceNr,
        settings: ReplayFilterSettings,
    ) -> Result<Self, ReplayDamage> {
        let contiguity = Contiguity::new(persistence_id.clone(), snapshot, bounds)?;
        Ok(Self {
            persistence_id: persistence_id.clone(),
            filter: Some(ReplayFilter::new(persistence_id.clone(), settings)),
            next: contiguity.next(),
            taken: (0, 0),
            contiguity,
            to,
        })
    }

    /// What to read next; `None` when there is nothing more.
    pub(crate) fn next_page(&self) -> Option<EventRange> {
        (self.next <= self.to).then(|| EventRange {
            persistence_id: self.persistence_id.clone(),
            from: self.next,
            to: self.to,
            max_events: PAGE_EVENTS_MAX,
            // Beyond what was taken there is room for at least one event.
            max_bytes: PAGE_BYTES_MAX + self.taken.1,
        })
    }

    /// Whether the last page was taken.
    pub(crate) fn is_over(&self) -> bool {
        self.filter.is_none()
    }

    /// Takes what was read; returns the events to fold in. A page with nothing new is
    /// the last one. What the filter finds wrong is added to `issues`.
    pub(crate) fn take_page(
        &mut self,
        mut stored: Vec<StoredEvent>,
        issues: &mut Vec<Issue>,
    ) -> Result<Vec<StoredEvent>, ReplayDamage> {
        let is_full = is_full(&stored);
        let again = stored
            .iter()
            .take(self.taken.0)
            .take_while(|event| event.sequence_nr == self.next)
            .count();
        stored.drain(..again);
        let last = stored.last().map(|event| event.sequence_nr);
        if let Some(last) = last.filter(|last| *last < self.to || is_full) {
            self.go_on_after(last, &stored);
            return self.pass(stored, issues);
        }
        let mut events = self.pass(stored, issues)?;
        self.next = self.to.next();
        self.contiguity.finish(self.to)?;
        if let Some(filter) = self.filter.take() {
            filter.finish(&mut events)?;
        }
        Ok(events)
    }

    /// The next page begins with the number at which this one ended.
    fn go_on_after(&mut self, last: SequenceNr, page: &[StoredEvent]) {
        if last > self.next {
            self.taken = (0, 0);
        }
        self.next = last;
        for event in page
            .iter()
            .rev()
            .take_while(|event| event.sequence_nr == last)
        {
            self.taken.0 += 1;
            self.taken.1 += event.payload.bytes.len();
        }
        if self.taken.0 >= PAGE_EVENTS_MAX {
            // A page could hold nothing else.
            self.next = last.next();
            self.taken = (0, 0);
        }
    }

    fn pass(
        &mut self,
        stored: Vec<StoredEvent>,
        issues: &mut Vec<Issue>,
    ) -> Result<Vec<StoredEvent>, ReplayDamage> {
        let mut events = Vec::with_capacity(stored.len());
        for event in stored {
            self.contiguity.check(event.sequence_nr)?;
            if let Some(filter) = &mut self.filter {
                filter.push(event, &mut events, issues)?;
            }
        }
        Ok(events)
    }
}

/// Whether a page may have been cut off by a limit: by one of this file's, or of the
/// first page's, which is read by others. At worst a page is read for nothing.
fn is_full(page: &[StoredEvent]) -> bool {
    let bytes = page.iter().map(|event| event.payload.bytes.len());
    [PAGE_EVENTS_MAX, BEGINNING_EVENTS_MAX].contains(&page.len())
        || bytes.sum::<usize>() >= PAGE_BYTES_MAX
}

#[cfg(test)]
#[path = "replay/replay_test.rs"]
#[allow(clippy::unwrap_used)]
mod replay_test;
