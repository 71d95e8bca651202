//! A journal that shows what is sent to it, and can be made to wait for a step.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use perennial_persistence::command::CommandId;
use perennial_persistence::journal::{
    Append, Appended, EntityListing, EventRange, Journal, JournalError, StoredCommand, StoredEvent,
    StreamBounds, WriteRight,
};
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr};
use tokio::sync::Semaphore;

pub(crate) struct SteppedJournal {
    inner: Arc<dyn Journal>,
    /// For each append the events of each of its writes.
    sent: Mutex<Vec<Vec<Vec<String>>>>,
    steps: Semaphore,
}

/// As good as unlimited.
const FREE: usize = 1 << 30;

impl SteppedJournal {
    pub(crate) fn new(inner: Arc<dyn Journal>) -> Self {
        Self {
            inner,
            sent: Mutex::default(),
            steps: Semaphore::new(FREE),
        }
    }

    /// From now on appends wait for [`SteppedJournal::step`].
    pub(crate) fn hold(&self) {
        self.steps.forget_permits(FREE);
    }

    /// Lets one append through.
    pub(crate) fn step(&self) {
        self.steps.add_permits(1);
    }

    /// Appends wait no more.
    pub(crate) fn release(&self) {
        self.steps.add_permits(FREE);
    }

    pub(crate) fn sent(&self) -> Vec<Vec<Vec<String>>> {
        self.sent.lock().unwrap().clone()
    }

    pub(crate) fn forget_sent(&self) {
        self.sent.lock().unwrap().clear();
    }
}

#[async_trait]
impl Journal for SteppedJournal {
    fn lanes(&self) -> usize {
        self.inner.lanes()
    }

    async fn append(&self, session: SessionUuid, lane: usize, batch: &[Append]) -> Vec<Appended> {
        for append in batch {
            let writes = append.writes.iter().map(|write| {
                let events = write.events.iter();
                events
                    .map(|event| serde_json::from_slice(&event.payload.bytes).unwrap())
                    .collect()
            });
            self.sent.lock().unwrap().push(writes.collect());
        }
        self.steps.acquire().await.unwrap().forget();
        self.inner.append(session, lane, batch).await
    }

    async fn may_write(
        &self,
        session: SessionUuid,
        shards: &[(ShardNr, Epoch)],
    ) -> Result<Vec<bool>, JournalError> {
        self.inner.may_write(session, shards).await
    }

    async fn read_events(&self, range: &EventRange) -> Result<Vec<StoredEvent>, JournalError> {
        self.inner.read_events(range).await
    }

    async fn bounds(&self, id: &PersistenceId) -> Result<StreamBounds, JournalError> {
        self.inner.bounds(id).await
    }

    async fn find_commands(
        &self,
        id: &PersistenceId,
        ids: &[CommandId],
    ) -> Result<Vec<Option<StoredCommand>>, JournalError> {
        self.inner.find_commands(id, ids).await
    }

    async fn list_entities(
        &self,
        entity_type: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<EntityListing>, JournalError> {
        self.inner.list_entities(entity_type, after, limit).await
    }

    async fn delete_events(
        &self,
        right: WriteRight,
        id: &PersistenceId,
        to: SequenceNr,
    ) -> Result<(), JournalError> {
        self.inner.delete_events(right, id, to).await
    }
}
