//! The state of an entity as it was at a past sequence number.
//!
//! Reads the journal beside the live entity: the past does not change, so nothing
//! has to be asked of it.

use std::time::Duration;

use crate::behavior::Recoverable;
use crate::command::{Answer, Reply};
use crate::command_error::CommandError;
use crate::journal::{JournalError, StreamBounds};
use crate::persistence_id::PersistenceId;
use crate::replay::{Replay, ReplayDamage};
use crate::sequence_nr::SequenceNr;
use crate::snapshot_store::SnapshotCriteria;

use super::Shared;

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
    let mut incarnation = factory.incarnate(id, shared.settings.max_payload)?;
    let mut criteria = SnapshotCriteria::up_to(nr);
    // What the entity was before it was deleted is gone; at that number it began
    // anew, in its initial state.
    criteria.min_sequence_nr = bounds.first_snapshot();
    let mut reached = if nr >= bounds.tombstone {
        bounds.tombstone
    } else {
        SequenceNr::ZERO
    };
    while let Some(snapshot) = shared
        .storage
        .snapshots
        .load(id, criteria)
        .await
        .map_err(unreadable)?
    {
        if incarnation.recoverable().offer_snapshot(&snapshot).is_ok() {
            reached = snapshot.sequence_nr;
            break;
        }
        criteria.max_sequence_nr = snapshot.sequence_nr.previous();
    }
    if reached < bounds.deleted_to {
        return Err(CommandError::HistoryDeleted {
            deleted_to: bounds.deleted_to,
        });
    }
    match replay(shared, id, incarnation.recoverable(), reached, bounds, nr).await {
        Ok(()) => {}
        // Perhaps it was deleted while it was read.
        Err(error) => {
            let now = journal.bounds(id).await.map_err(unreadable)?;
            return Err(if reached < now.deleted_to {
                CommandError::HistoryDeleted {
                    deleted_to: now.deleted_to,
                }
            } else {
                error
            });
        }
    }
    Ok(Reply {
        payload: incarnation.encode_state()?,
        sequence_nr: nr,
        duplicate: false,
    })
}

/// Folds the events after `reached` up to `nr` into the state.
async fn replay(
    shared: &Shared,
    id: &PersistenceId,
    entity: &mut dyn Recoverable,
    reached: SequenceNr,
    bounds: StreamBounds,
    nr: SequenceNr,
) -> Result<(), CommandError> {
    let settings = shared.settings.replay_filter;
    let damaged = |damage: ReplayDamage| not_recovered(damage.to_string());
    let mut replay = Replay::new(id, reached, bounds, nr, settings).map_err(damaged)?;
    // The live entity's recovery reports them.
    let mut issues = Vec::new();
    while let Some(range) = replay.next_page() {
        let journal = &shared.storage.journal;
        let stored = journal.read_events(&range).await.map_err(unreadable)?;
        issues.clear();
        let events = replay.take_page(stored, &mut issues).map_err(damaged)?;
        for event in events {
            entity.replay(&event).map_err(|error| {
                not_recovered(format!(
                    "{id}: event {} (manifest {:?}, codec {}) cannot be replayed: {error}",
                    event.sequence_nr, event.payload.manifest, event.payload.codec
                ))
            })?;
        }
    }
    Ok(())
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
