//! A journal around another one, for tests that look at what goes through, hold it up
//! or break it. What is not written goes to the journal inside.

use async_trait::async_trait;

use crate::command::CommandId;
use crate::journal::{
    Append, Appended, EntityListing, EventRange, Journal, JournalError, StoredCommand, StoredEvent,
    StreamBounds, WriteRight,
};
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::writer::{Epoch, SessionUuid, ShardNr};

/// Makes a [`Journal`] of whatever has one inside. Methods, errors and cancellation
/// are those of [`Journal`].
#[async_trait]
#[expect(missing_docs, reason = "each is the method of Journal")]
pub trait AroundJournal: Send + Sync + 'static {
    /// The journal inside.
    fn inner(&self) -> &dyn Journal;

    async fn append(&self, session: SessionUuid, lane: usize, batch: &[Append]) -> Vec<Appended> {
        self.inner().append(session, lane, batch).await
    }

    async fn read_events(&self, range: &EventRange) -> Result<Vec<StoredEvent>, JournalError> {
        self.inner().read_events(range).await
    }

    async fn bounds(&self, id: &PersistenceId) -> Result<StreamBounds, JournalError> {
        self.inner().bounds(id).await
    }

    async fn find_commands(
        &self,
        id: &PersistenceId,
        command_ids: &[CommandId],
    ) -> Result<Vec<Option<StoredCommand>>, JournalError> {
        self.inner().find_commands(id, command_ids).await
    }

    async fn list_entities(
        &self,
        entity_type: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<EntityListing>, JournalError> {
        self.inner().list_entities(entity_type, after, limit).await
    }

    async fn delete_events(
        &self,
        right: WriteRight,
        id: &PersistenceId,
        to: SequenceNr,
    ) -> Result<(), JournalError> {
        self.inner().delete_events(right, id, to).await
    }
}

#[async_trait]
impl<T: AroundJournal + ?Sized> Journal for T {
    fn lanes(&self) -> usize {
        self.inner().lanes()
    }

    async fn append(&self, session: SessionUuid, lane: usize, batch: &[Append]) -> Vec<Appended> {
        AroundJournal::append(self, session, lane, batch).await
    }

    async fn may_write(
        &self,
        session: SessionUuid,
        shards: &[(ShardNr, Epoch)],
    ) -> Result<Vec<bool>, JournalError> {
        self.inner().may_write(session, shards).await
    }

    async fn read_events(&self, range: &EventRange) -> Result<Vec<StoredEvent>, JournalError> {
        AroundJournal::read_events(self, range).await
    }

    async fn bounds(&self, id: &PersistenceId) -> Result<StreamBounds, JournalError> {
        AroundJournal::bounds(self, id).await
    }

    async fn find_commands(
        &self,
        id: &PersistenceId,
        command_ids: &[CommandId],
    ) -> Result<Vec<Option<StoredCommand>>, JournalError> {
        AroundJournal::find_commands(self, id, command_ids).await
    }

    async fn list_entities(
        &self,
        entity_type: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<EntityListing>, JournalError> {
        AroundJournal::list_entities(self, entity_type, after, limit).await
    }

    async fn delete_events(
        &self,
        right: WriteRight,
        id: &PersistenceId,
        to: SequenceNr,
    ) -> Result<(), JournalError> {
        AroundJournal::delete_events(self, right, id, to).await
    }
}
