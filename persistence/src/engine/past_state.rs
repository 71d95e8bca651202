//! The state of an entity as it was at a past sequence number.
//!
//! Reads the journal beside the live entity: the past does not change, so nothing
//! has to be asked of it.

use std::time::Duration;

use crate::command::{Answer, Reply};
use crate::command_error::{Applied, CommandError};
use crate::journal::{EventRange, JournalError};
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::snapshot_store::SnapshotCriteria;

use super::Shared;

/// Events read at once.
const PAGE_EVENTS_MAX: usize = 500;
/// Payload bytes after which a page ends.
const PAGE_BYTES_MAX: usize = 1024 * 1024;

pub(super) async fn state_at(shared: &Shared, id: &PersistenceId, nr: SequenceNr) -> Answer {
    let Some(factory) = shared.types.get(id.entity_type()) else {
        return Err(CommandError::EntityTypeUnknown {
            entity_type: id.entity_type().to_owned(),
        });
    };
    let journal = &shared.storage.journal;
    let bounds = journal.bounds(id).await.map_err(unreadable)?;
    if nr > bounds.highest {
        return Err(CommandError::SequenceNrBeyondStream {
            asked: nr,
            highest: bounds.highest,
        });
    }
    let mut behavior = factory.incarnate(shared.settings.max_payload)?;
    let mut criteria = SnapshotCriteria::up_to(nr);
    let mut reached = SequenceNr::ZERO;
    while let Some(snapshot) = shared
        .storage
        .snapshots
        .load(id, criteria)
        .await
        .map_err(unreadable)?
    {
        if behavior.offer_snapshot(&snapshot.payload).is_ok() {
            reached = snapshot.sequence_nr;
            break;
        }
        criteria = SnapshotCriteria::up_to(snapshot.sequence_nr.previous());
    }
    if reached < bounds.deleted_to {
        return Err(CommandError::HistoryDeleted {
            deleted_to: bounds.deleted_to,
        });
    }
    while reached < nr {
        let range = EventRange {
            persistence_id: id.clone(),
            from: reached.next(),
            to: nr,
            max_events: PAGE_EVENTS_MAX,
            max_bytes: PAGE_BYTES_MAX,
        };
        let events = journal.read_events(&range).await.map_err(unreadable)?;
        if events.is_empty() {
            return Err(not_recovered(format!(
                "{id}: event {} is missing",
                reached.next()
            )));
        }
        for event in events {
            behavior.replay(&event).map_err(|error| {
                not_recovered(format!(
                    "{id}: event {} (manifest {:?}, codec {}) cannot be replayed: {error}",
                    event.sequence_nr, event.payload.manifest, event.payload.codec
                ))
            })?;
            reached = event.sequence_nr;
        }
    }
    match behavior.encode_state() {
        Ok(payload) => Ok(Reply {
            payload,
            sequence_nr: nr,
            duplicate: false,
        }),
        Err(error) => Err(CommandError::Panicked {
            message: format!("its state cannot be encoded: {error}"),
            applied: Applied::No,
        }),
    }
}

fn unreadable(error: JournalError) -> CommandError {
    match error {
        JournalError::Corrupt { .. } => not_recovered(error.to_string()),
        other => CommandError::JournalUnavailable {
            message: other.to_string(),
        },
    }
}

fn not_recovered(message: String) -> CommandError {
    CommandError::RecoveryFailed {
        message,
        retry_after: Duration::ZERO,
    }
}
