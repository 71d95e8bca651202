//! Deletes an entity that is not in memory, and leaves the line that says so.
//!
//! Whether it is in memory, and what becomes of commands meanwhile, is the worker's
//! business (`worker/deleting.rs`); what is deleted, the storage's
//! ([`crate::entity_deletion`]).

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::Semaphore;

use crate::command_error::CommandError;
use crate::entity_deletion::{EntityDeletion, Tombstone};
use crate::journal::{JournalError, WriteRight};
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::storage::Storage;

use super::contained::contained;
use super::snapshot_writer::SnapshotWriter;

/// Under way at once, so that they do not crowd out snapshots.
const RUNNING_MAX: usize = 2;

/// Deletes entities; cheap to clone.
#[derive(Clone)]
pub(crate) struct EntityDeleter {
    deletion: Arc<dyn EntityDeletion>,
    snapshots: SnapshotWriter,
    running: Arc<Semaphore>,
}

/// One entity to delete.
#[derive(Clone)]
pub(crate) struct ToDelete {
    pub(crate) right: WriteRight,
    pub(crate) persistence_id: PersistenceId,
    /// The highest number of an append of unknown outcome; zero if there is none.
    pub(crate) may_have_stored_to: SequenceNr,
}

impl EntityDeleter {
    pub(crate) fn new(storage: &Storage, snapshots: &SnapshotWriter) -> Self {
        Self {
            deletion: Arc::clone(&storage.deletion),
            snapshots: snapshots.clone(),
            running: Arc::new(Semaphore::new(RUNNING_MAX)),
        }
    }

    /// Deletes it, when nothing is being written of it any more. Returns the number
    /// at which its next life begins.
    pub(crate) async fn delete(&self, entity: &ToDelete) -> Result<SequenceNr, CommandError> {
        let ToDelete {
            right,
            persistence_id: id,
            may_have_stored_to,
        } = entity;
        self.snapshots.settled(id).await;
        // Never closed.
        let _turn = self.running.acquire().await;
        let deletion = self.deletion.delete_entity(*right, id, *may_have_stored_to);
        let deleted = contained(deletion).await;
        audit(id, &deleted);
        match deleted {
            Ok(tombstone) => Ok(tombstone.map(|kept| kept.sequence_nr).unwrap_or_default()),
            Err(JournalError::Fenced { .. }) => {
                let shard = right.shard.0;
                Err(CommandError::ShardUnavailable { shard })
            }
            Err(error) => Err(CommandError::DeletionUnfinished {
                message: error.to_string(),
            }),
        }
    }
}

/// Who reads it later wants to know that it was deleted, which numbers are gone, and
/// when; never what it held.
fn audit(id: &PersistenceId, deleted: &Result<Option<Tombstone>, JournalError>) {
    let (entity_type, entity_id) = (id.entity_type(), id.entity_id());
    match deleted {
        Ok(Some(tombstone)) => {
            let since_1970 = tombstone.deleted_at.duration_since(SystemTime::UNIX_EPOCH);
            let deleted_at_seconds = since_1970.map_or(0, |since| since.as_secs());
            let sequence_nr = tombstone.sequence_nr.get();
            tracing::info!(
                target: "perennial::audit", action = "delete_entity", outcome = "deleted", entity_type, entity_id,
                sequence_nr, deleted_at_seconds, "an entity is deleted for good"
            );
        }
        Ok(None) => tracing::info!(
            target: "perennial::audit", action = "delete_entity", outcome = "nothing_stored", entity_type, entity_id,
            "an entity was to be deleted that never stored anything"
        ),
        Err(error) => tracing::warn!(
            target: "perennial::audit", action = "delete_entity", outcome = "unfinished", entity_type, entity_id,
            %error, "the deletion of an entity is not known to be finished"
        ),
    }
}
