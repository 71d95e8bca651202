//! Deleting an entity that is a durable state: a state that is deleted keeps its revision
//! and says when, which is all that a tombstone has to.

use async_trait::async_trait;

use crate::durable_state_store::{StateWrite, StateWriteError, StoredState};
use crate::entity_deletion::{EntityDeletion, Tombstone};
use crate::journal::{JournalError, WriteRight};
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;

use super::Routing;

impl Routing {
    async fn delete_state(
        &self,
        right: WriteRight,
        id: &PersistenceId,
        may_have_stored_to: SequenceNr,
    ) -> Result<Option<Tombstone>, JournalError> {
        let stored = self.states().load(id).await?;
        let replaces = revision(stored.as_ref());
        let deleted_to = replaces.max(may_have_stored_to);
        let is_deleted = stored.as_ref().is_none_or(|state| state.payload.is_none());
        if !is_deleted || replaces < deleted_to {
            let write = StateWrite {
                persistence_id: id.clone(),
                replaces,
                revision: deleted_to,
                payload: None,
            };
            let written = self.states().write(right, &write).await;
            written.map_err(deletion_error)?;
        }
        let stored = self.states().load(id).await?;
        Ok(stored.map(|state| Tombstone {
            sequence_nr: state.revision,
            deleted_at: state.updated_at,
        }))
    }
}

fn revision(state: Option<&StoredState>) -> SequenceNr {
    state.map_or(SequenceNr::ZERO, |state| state.revision)
}

fn deletion_error(error: StateWriteError) -> JournalError {
    match error {
        StateWriteError::Fenced { session, .. } => JournalError::Fenced { session },
        error => JournalError::Unavailable {
            message: error.to_string(),
            source: Some(Box::new(error)),
        },
    }
}

#[async_trait]
impl EntityDeletion for Routing {
    async fn delete_entity(
        &self,
        right: WriteRight,
        persistence_id: &PersistenceId,
        may_have_stored_to: SequenceNr,
    ) -> Result<Option<Tombstone>, JournalError> {
        if self.is_state(persistence_id) {
            return self
                .delete_state(right, persistence_id, may_have_stored_to)
                .await;
        }
        let deletion = &self.storage.deletion;
        deletion
            .delete_entity(right, persistence_id, may_have_stored_to)
            .await
    }
}
