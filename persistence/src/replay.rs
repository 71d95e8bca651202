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
/// Payload bytes after which a page ends.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// One replay, from a snapshot or the beginning to a number, inclusive.
pub(crate) struct Replay {
    persistence_id: PersistenceId,
    contiguity: Contiguity,
    /// Gone when the last page was taken.
    filter: Option<ReplayFilter<StoredEvent>>,
    next: SequenceNr,
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
            max_bytes: PAGE_BYTES_MAX,
        })
    }

    /// Whether the last page was taken.
    pub(crate) fn is_over(&self) -> bool {
        self.filter.is_none()
    }

    /// Takes what was read; returns the events to fold in. An empty page is the
    /// last one. What the filter finds wrong is added to `issues`.
    pub(crate) fn take_page(
        &mut self,
        stored: Vec<StoredEvent>,
        issues: &mut Vec<Issue>,
    ) -> Result<Vec<StoredEvent>, ReplayDamage> {
        let mut events = Vec::with_capacity(stored.len());
        let last = stored.last().map(|event| event.sequence_nr);
        for event in stored {
            self.contiguity.check(event.sequence_nr)?;
            if let Some(filter) = &mut self.filter {
                filter.push(event, &mut events, issues)?;
            }
        }
        if let Some(last) = last.filter(|last| *last < self.to) {
            self.next = last.next();
            return Ok(events);
        }
        self.next = self.to.next();
        self.contiguity.finish(self.to)?;
        if let Some(filter) = self.filter.take() {
            filter.finish(&mut events)?;
        }
        Ok(events)
    }
}
