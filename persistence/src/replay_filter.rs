//! The replay filter: what an entity sees of a stream that two incarnations
//! wrote.
//!
//! With fences and the primary key (I-2, I-3) no healthy journal holds such a
//! stream; imported, merged, restored or hand-edited ones may. The filter stands
//! between the journal's events and one recovering entity, holds a window of
//! them back, and takes the *newest* writer to be right: it discards what an
//! older one wrote beside it, or fails the recovery, or only reports it.
//!
//! A pure value, one for each recovery. It checks no gaps
//! (`replay_filter/contiguity.rs` does, on the raw numbers, before the filter)
//! and logs nothing: what is wrong comes out as [`Issue`]s
//! (`replay_filter/issue.rs`). Modes and limits: `replay_filter/settings.rs`.

mod contiguity;
mod issue;
mod settings;

use std::collections::VecDeque;

use crate::journal::StoredEvent;
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::writer::WriterUuid;

pub use contiguity::{Contiguity, StreamGap};
pub use issue::{Issue, IssueKind, ReplayFilterFailure};
pub use settings::{
    InvalidReplayFilterSettings, ReplayFilterMode, ReplayFilterSettings, UnknownReplayFilterMode,
};

/// What the filter looks at in a replayed event.
pub trait Replayed {
    /// Its number in the stream.
    fn sequence_nr(&self) -> SequenceNr;
    /// The incarnation that wrote it; the nil uuid is the *undefined writer* of
    /// events from before writers were recorded.
    fn writer(&self) -> WriterUuid;
}

impl Replayed for StoredEvent {
    fn sequence_nr(&self) -> SequenceNr {
        self.sequence_nr
    }

    fn writer(&self) -> WriterUuid {
        self.writer
    }
}

/// The filter of one recovery.
///
/// Every event read goes through [`ReplayFilter::push`], in the order of the
/// journal; after the last one [`ReplayFilter::finish`] gives out what is still
/// held back. If the journal fails in between, `finish` too, then fail.
#[derive(Debug)]
pub struct ReplayFilter<E> {
    persistence_id: PersistenceId,
    settings: ReplayFilterSettings,
    /// Held back, oldest first; at most `window_size`.
    window: VecDeque<E>,
    /// Retired writers, first retired first; at most `max_old_writers`, no nil.
    old_writers: VecDeque<WriterUuid>,
    /// The writer believed in; nil at first.
    writer: WriterUuid,
    /// The highest number accepted from it; 0 at first, below every event.
    last: SequenceNr,
    failure: Option<ReplayFilterFailure>,
}

impl<E: Replayed> ReplayFilter<E> {
    /// A filter for one recovery of one entity.
    ///
    /// `settings` have been through [`ReplayFilterSettings::validate`]; here a
    /// zero counts as 1. In mode `off` events pass straight through.
    #[must_use]
    pub fn new(persistence_id: PersistenceId, settings: ReplayFilterSettings) -> Self {
        Self {
            persistence_id,
            settings: ReplayFilterSettings {
                window_size: settings.window_size.max(1),
                max_old_writers: settings.max_old_writers.max(1),
                ..settings
            },
            window: VecDeque::new(),
            old_writers: VecDeque::new(),
            writer: UNDEFINED_WRITER,
            last: SequenceNr::ZERO,
            failure: None,
        }
    }

    /// Takes the next event of the stream. Events that are ready for the entity
    /// are appended to `out`, what is wrong with the stream to `issues`.
    ///
    /// # Errors
    /// [`ReplayFilterFailure`] in mode `fail` at the first issue: fail the
    /// recovery. What was held back is dropped, and every later call fails with
    /// the same, without another issue.
    pub fn push(
        &mut self,
        event: E,
        out: &mut Vec<E>,
        issues: &mut Vec<Issue>,
    ) -> Result<(), ReplayFilterFailure> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        if self.settings.mode == ReplayFilterMode::Off {
            out.push(event);
            return Ok(());
        }
        // Before the event is looked at, whatever becomes of it.
        if self.window.len() == self.settings.window_size {
            out.extend(self.window.pop_front());
        }
        let issues_before = issues.len();
        let keep = self.judge(&event, issues);
        let found_issues = issues.len() > issues_before;
        if found_issues && self.settings.mode == ReplayFilterMode::Fail {
            issues.truncate(issues_before + 1);
            let failure = ReplayFilterFailure {
                issue: issues[issues_before].clone(),
            };
            self.window.clear();
            self.failure = Some(failure.clone());
            return Err(failure);
        }
        if keep {
            self.window.push_back(event);
        }
        Ok(())
    }

    /// The stream has ended: gives out what is held back.
    ///
    /// # Errors
    /// [`ReplayFilterFailure`] if a [`ReplayFilter::push`] failed; nothing is
    /// given out.
    pub fn finish(self, out: &mut Vec<E>) -> Result<(), ReplayFilterFailure> {
        match self.failure {
            Some(failure) => Err(failure),
            None => {
                out.extend(self.window);
                Ok(())
            }
        }
    }

    /// Number of events held back.
    #[must_use]
    pub fn held_back(&self) -> usize {
        self.window.len()
    }

    /// Whether the event goes into the window, after the window was cleared of
    /// what it proves wrong.
    fn judge(&mut self, event: &E, issues: &mut Vec<Issue>) -> bool {
        let (sequence_nr, writer) = (event.sequence_nr(), event.writer());
        let kind = if writer == self.writer {
            // Equal is legal: one stored event may be read as several.
            if sequence_nr >= self.last {
                self.last = sequence_nr;
                return true;
            }
            IssueKind::SameWriterWentBack { last: self.last }
        } else if self.old_writers.contains(&writer) {
            IssueKind::OldWriterAfterNewer {
                newer_writer: self.writer,
                newer_last: self.last,
            }
        } else {
            self.begin_writer(sequence_nr, writer, issues);
            return true;
        };
        issues.push(self.issue(sequence_nr, writer, kind));
        self.settings.mode == ReplayFilterMode::Warn
    }

    fn begin_writer(&mut self, first: SequenceNr, writer: WriterUuid, issues: &mut Vec<Issue>) {
        if self.writer != UNDEFINED_WRITER {
            self.old_writers.push_back(self.writer);
            if self.old_writers.len() > self.settings.max_old_writers {
                self.old_writers.pop_front();
            }
        }
        self.writer = writer;
        self.last = first;
        let kind = IssueKind::OverlappedByNewWriter {
            newer_writer: writer,
            newer_first: first,
        };
        let overlapped = self
            .window
            .iter()
            .filter(|held| held.sequence_nr() >= first);
        issues.extend(overlapped.map(|held| self.issue(held.sequence_nr(), held.writer(), kind)));
        if self.settings.mode == ReplayFilterMode::RepairByDiscardOld {
            self.window.retain(|held| held.sequence_nr() < first);
        }
    }

    fn issue(&self, sequence_nr: SequenceNr, writer: WriterUuid, kind: IssueKind) -> Issue {
        Issue {
            persistence_id: self.persistence_id.clone(),
            sequence_nr,
            writer,
            kind,
        }
    }
}

/// The writer of events that name none.
const UNDEFINED_WRITER: WriterUuid = WriterUuid(uuid::Uuid::nil());

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod properties_test;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod vectors_test;
