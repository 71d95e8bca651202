//! Recovery as the cell sees it: pages of its past, then ready.

use std::time::Duration;

use crate::behavior::Incarnation;
use crate::command_error::CommandError;
use crate::journal::{StoredEvent, StreamBounds};
use crate::sequence_nr::SequenceNr;
use crate::snapshot_store::Snapshot;
use crate::writer::WriterUuid;

use super::{Action, Cell, CellContext, Failure, Next, Stage};

/// A part of an entity's past, in order: the first page may begin with a
/// snapshot, the last one has the stream's bounds.
pub(crate) struct RecoveryPage {
    pub(crate) snapshot: Option<Snapshot>,
    /// Checked for gaps and passed through the replay filter.
    pub(crate) events: Vec<StoredEvent>,
    /// The filter found issues: command ids of discarded events were not seen.
    pub(crate) discarded: bool,
    pub(crate) end: Option<StreamBounds>,
}

/// What the cell said to a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PageVerdict {
    /// Folded in: send the next.
    Taken,
    /// The snapshot is not understood: try an older one, or the events alone.
    SnapshotRefused,
    /// The recovery is over, well or not.
    Over,
}

impl Cell {
    /// Folds a page into the state.
    pub(crate) fn take_page(
        &mut self,
        page: &RecoveryPage,
        writer: WriterUuid,
        cx: &mut CellContext<'_>,
    ) -> (PageVerdict, Next) {
        if let Some(snapshot) = &page.snapshot {
            if let Err(error) = self.entity.recoverable().offer_snapshot(snapshot) {
                tracing::warn!(
                    entity = %self.persistence_id, sequence_nr = %snapshot.sequence_nr,
                    codec = %snapshot.payload.codec, manifest = %snapshot.payload.manifest, %error,
                    "the snapshot is not understood; trying an older one, then the events"
                );
                return (PageVerdict::SnapshotRefused, Next::Wait);
            }
            self.sequence_nr = snapshot.sequence_nr;
            self.snapshot_nr = snapshot.sequence_nr;
            // Ids of commands before the snapshot were not seen.
            self.command_ids.mark_incomplete();
        }
        if page.discarded {
            self.command_ids.mark_incomplete();
        }
        for event in &page.events {
            if let Err(error) = self.entity.recoverable().replay(event) {
                let message = format!(
                    "{}: event {} (manifest {:?}, codec {}) cannot be replayed: {error}. Other entities go on; \
                     restore or correct that event",
                    self.persistence_id,
                    event.sequence_nr,
                    event.payload.manifest,
                    event.payload.codec
                );
                return (PageVerdict::Over, self.recovery_failed(message));
            }
            self.sequence_nr = event.sequence_nr;
            if let Some(command_id) = &event.command_id {
                self.command_ids.remember(command_id, event.sequence_nr);
            }
        }
        let Some(bounds) = page.end else {
            return (PageVerdict::Taken, Next::Wait);
        };
        (PageVerdict::Over, self.recovered(bounds, writer, cx))
    }

    fn recovered(
        &mut self,
        bounds: StreamBounds,
        writer: WriterUuid,
        cx: &mut CellContext<'_>,
    ) -> Next {
        if bounds.deleted_to > SequenceNr::ZERO {
            self.command_ids.mark_incomplete();
        }
        // The last events may have been discarded by the replay filter; new ones
        // are numbered after the highest stored all the same.
        if self.sequence_nr < bounds.highest {
            self.command_ids.mark_incomplete();
        }
        self.sequence_nr = bounds.highest;
        self.stored_nr = bounds.highest;
        self.writer = writer;
        if let Incarnation::Actor(actor) = &mut self.entity {
            if let Err(message) = actor.recovered(bounds.highest) {
                let id = &self.persistence_id;
                return self.recovery_failed(format!(
                    "{id}: it panicked when its recovery was completed: {message}"
                ));
            }
            self.stage = Stage::Ready;
            return self.begin_turns(cx);
        }
        self.stage = Stage::Ready;
        let replayed_from = self.snapshot_nr.max(bounds.deleted_to);
        let replayed = bounds.highest.get() - replayed_from.get();
        if let Some(take) = self.retention.after_recovery(replayed, bounds.highest)
            && let Some(payload) = self.encode_snapshot()
        {
            cx.actions.push(Action::SaveSnapshot {
                sequence_nr: take.sequence_nr,
                payload,
            });
        }
        match self.event_sourced().recovered() {
            Ok(None) => {}
            Ok(Some(command)) => self.give_itself(command),
            Err(error) => return self.recovery_failed(error.to_string()),
        }
        self.run(cx)
    }

    /// The journal could not be read; nothing is wrong with the entity.
    pub(crate) fn recovery_unavailable(&mut self, message: String) -> Next {
        let error = CommandError::JournalUnavailable {
            message: message.clone(),
        };
        self.entity.recovery_failed(&error);
        self.refuse_all(&error);
        Next::Failed {
            failure: Failure::Journal,
            message,
        }
    }

    /// The entity's past is damaged, or its code cannot fold it. The worker
    /// refuses what waits, with the time to retry.
    pub(crate) fn recovery_failed(&mut self, message: String) -> Next {
        metrics::counter!("perennial_recovery_failures_total", "entity_type" => self.persistence_id.entity_type().to_owned())
            .increment(1);
        tracing::error!(entity = %self.persistence_id, message, "recovery failed");
        self.entity.recovery_failed(&CommandError::RecoveryFailed {
            message: message.clone(),
            retry_after: Duration::ZERO,
        });
        Next::Failed {
            failure: Failure::Recovery,
            message,
        }
    }
}
