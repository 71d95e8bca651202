//! How durable states get to their store: a journal, a snapshot store and a reader of
//! recoveries that send the streams of certain entity types there.
//!
//! For the engine a durable state is a stream whose events are all deleted and replaced
//! by a snapshot at its end. An append to it writes the state after its last event;
//! states in between, which nobody has seen, are never stored. Everything else goes to
//! the real journal and snapshot store untouched.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::{join, join_all};

use crate::command::CommandId;
use crate::durable_state::DELETED_MANIFEST;
use crate::durable_state_store::{DurableStateStore, StateWrite, StateWriteError, StoredState};
use crate::journal::{
    Append, AppendError, Appended, EntityListing, EventRange, Journal, JournalError, StoredCommand,
    StoredEvent, StreamBounds, WriteRight,
};
use crate::payload::Payload;
use crate::persistence_id::PersistenceId;
use crate::recovery_reader::{Beginning, BeginningLimits, RecoveryReader, Wanted};
use crate::sequence_nr::SequenceNr;
use crate::snapshot_store::{Snapshot, SnapshotCriteria, SnapshotStore};
use crate::storage::Storage;
use crate::writer::{Epoch, SessionUuid, ShardNr};

mod deleting;

struct Routing {
    storage: Storage,
    /// Whose streams are durable states.
    types: BTreeSet<&'static str>,
}

/// The same storage, in which streams of these entity types are durable states.
pub(crate) fn route(storage: Storage, types: BTreeSet<&'static str>) -> Storage {
    if types.is_empty() {
        return storage;
    }
    let rest = storage.clone();
    let routing = Arc::new(Routing { storage, types });
    Storage {
        journal: routing.clone(),
        snapshots: routing.clone(),
        deletion: routing.clone(),
        recoveries: routing,
        ..rest
    }
}

impl Routing {
    fn is_state(&self, persistence_id: &PersistenceId) -> bool {
        self.types.contains(persistence_id.entity_type())
    }

    fn states(&self) -> &dyn DurableStateStore {
        &*self.storage.states
    }

    async fn beginning(&self, wanted: &Wanted) -> Result<Option<Beginning>, JournalError> {
        let state = self.states().load(&wanted.persistence_id).await?;
        let bounds = bounds(state.as_ref());
        let state = state.filter(|state| state.revision <= wanted.snapshot_max);
        Ok(Some(Beginning {
            bounds,
            snapshot: state.map(snapshot),
            events: Vec::new(),
        }))
    }

    async fn write(&self, session: SessionUuid, append: &Append) -> Appended {
        let Some(last) = append.writes.last().and_then(|write| write.events.last()) else {
            return Appended::all(append);
        };
        let replaces = append.first_sequence_nr.previous();
        let write = StateWrite {
            persistence_id: append.persistence_id.clone(),
            replaces,
            revision: replaces.plus(append.event_count() as u64),
            payload: (last.payload.manifest != DELETED_MANIFEST).then(|| last.payload.clone()),
        };
        let right = WriteRight {
            session,
            shard: append.shard,
            epoch: append.epoch,
        };
        match self.states().write(right, &write).await {
            Ok(()) => Appended::all(append),
            Err(error) => Appended::none(append_error(append, error)),
        }
    }
}

/// The state as the snapshot that stands for all of its events.
fn snapshot(state: StoredState) -> Snapshot {
    Snapshot {
        sequence_nr: state.revision,
        payload: state.payload.unwrap_or_else(|| Payload {
            manifest: DELETED_MANIFEST.into(),
            ..Payload::json("")
        }),
        created_at: state.updated_at,
    }
}

fn bounds(state: Option<&StoredState>) -> StreamBounds {
    let revision = state.map_or(SequenceNr::ZERO, |state| state.revision);
    StreamBounds {
        highest: revision,
        deleted_to: revision,
        // A state that was deleted is its own tombstone.
        ..StreamBounds::default()
    }
}

fn append_error(append: &Append, error: StateWriteError) -> AppendError {
    match error {
        StateWriteError::Conflict {
            persistence_id,
            stored,
            ..
        } => AppendError::Conflict {
            persistence_id,
            writer: append.writer,
            first_sequence_nr: append.first_sequence_nr,
            highest: stored,
            other: None,
        },
        StateWriteError::Fenced {
            session,
            shard,
            epoch,
        } => AppendError::Fenced {
            session,
            shard,
            epoch,
        },
        StateWriteError::Rejected { message } => AppendError::Rejected { message },
        StateWriteError::Unavailable { message } => AppendError::Unavailable { message },
        StateWriteError::Unknown { message } => AppendError::Unknown { message },
    }
}

#[async_trait]
impl Journal for Routing {
    fn lanes(&self) -> usize {
        self.storage.journal.lanes()
    }

    async fn append(&self, session: SessionUuid, lane: usize, batch: &[Append]) -> Vec<Appended> {
        let is_state = |append: &&Append| self.is_state(&append.persistence_id);
        let (states, events): (Vec<&Append>, Vec<&Append>) = batch.iter().partition(is_state);
        if states.is_empty() {
            return self.storage.journal.append(session, lane, batch).await;
        }
        let events: Vec<Append> = events.into_iter().cloned().collect();
        let append_events = async {
            match events.is_empty() {
                true => Vec::new(),
                false => self.storage.journal.append(session, lane, &events).await,
            }
        };
        let write_states = join_all(states.iter().map(|append| self.write(session, append)));
        let (events, states) = join(append_events, write_states).await;
        let (mut events, mut states) = (events.into_iter(), states.into_iter());
        let outcome = |append: &Append| match self.is_state(&append.persistence_id) {
            true => states.next(),
            false => events.next(),
        };
        // Fewer outcomes than appends are noticed by the caller.
        batch.iter().map_while(outcome).collect()
    }

    async fn may_write(
        &self,
        session: SessionUuid,
        shards: &[(ShardNr, Epoch)],
    ) -> Result<Vec<bool>, JournalError> {
        self.storage.journal.may_write(session, shards).await
    }

    async fn read_events(&self, range: &EventRange) -> Result<Vec<StoredEvent>, JournalError> {
        if self.is_state(&range.persistence_id) {
            return Ok(Vec::new());
        }
        self.storage.journal.read_events(range).await
    }

    async fn bounds(&self, persistence_id: &PersistenceId) -> Result<StreamBounds, JournalError> {
        if !self.is_state(persistence_id) {
            return self.storage.journal.bounds(persistence_id).await;
        }
        let state = self.states().load(persistence_id).await?;
        Ok(bounds(state.as_ref()))
    }

    async fn find_commands(
        &self,
        persistence_id: &PersistenceId,
        command_ids: &[CommandId],
    ) -> Result<Vec<Option<StoredCommand>>, JournalError> {
        if self.is_state(persistence_id) {
            return Ok(vec![None; command_ids.len()]);
        }
        let journal = &self.storage.journal;
        journal.find_commands(persistence_id, command_ids).await
    }

    async fn list_entities(
        &self,
        entity_type: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<EntityListing>, JournalError> {
        if self.types.contains(entity_type) {
            return self.states().list_entities(entity_type, after, limit).await;
        }
        let journal = &self.storage.journal;
        journal.list_entities(entity_type, after, limit).await
    }

    async fn delete_events(
        &self,
        right: WriteRight,
        persistence_id: &PersistenceId,
        to: SequenceNr,
    ) -> Result<(), JournalError> {
        if self.is_state(persistence_id) {
            return Ok(());
        }
        let journal = &self.storage.journal;
        journal.delete_events(right, persistence_id, to).await
    }
}

#[async_trait]
impl SnapshotStore for Routing {
    async fn load(
        &self,
        persistence_id: &PersistenceId,
        criteria: SnapshotCriteria,
    ) -> Result<Option<Snapshot>, JournalError> {
        if !self.is_state(persistence_id) {
            return self.storage.snapshots.load(persistence_id, criteria).await;
        }
        let numbers = criteria.min_sequence_nr..=criteria.max_sequence_nr;
        let state = self.states().load(persistence_id).await?;
        let state = state.filter(|state| numbers.contains(&state.revision));
        Ok(state.map(snapshot))
    }

    async fn save(
        &self,
        right: WriteRight,
        persistence_id: &PersistenceId,
        sequence_nr: SequenceNr,
        payload: &Payload,
    ) -> Result<(), JournalError> {
        if self.is_state(persistence_id) {
            return Ok(());
        }
        let snapshots = &self.storage.snapshots;
        snapshots
            .save(right, persistence_id, sequence_nr, payload)
            .await
    }

    async fn delete(
        &self,
        right: WriteRight,
        persistence_id: &PersistenceId,
        criteria: SnapshotCriteria,
    ) -> Result<(), JournalError> {
        if self.is_state(persistence_id) {
            return Ok(());
        }
        let snapshots = &self.storage.snapshots;
        snapshots.delete(right, persistence_id, criteria).await
    }
}

#[async_trait]
impl RecoveryReader for Routing {
    fn concurrency(&self) -> usize {
        self.storage.recoveries.concurrency()
    }

    async fn read_beginnings(
        &self,
        wanted: &[Wanted],
        limits: BeginningLimits,
    ) -> Vec<Result<Option<Beginning>, JournalError>> {
        let is_state = |wanted: &&Wanted| self.is_state(&wanted.persistence_id);
        let (states, streams): (Vec<&Wanted>, Vec<&Wanted>) = wanted.iter().partition(is_state);
        let recoveries = &self.storage.recoveries;
        if states.is_empty() {
            return recoveries.read_beginnings(wanted, limits).await;
        }
        let streams: Vec<Wanted> = streams.into_iter().cloned().collect();
        let read_streams = async {
            match streams.is_empty() {
                true => Vec::new(),
                false => recoveries.read_beginnings(&streams, limits).await,
            }
        };
        let read_states = join_all(states.iter().map(|wanted| self.beginning(wanted)));
        let (streams, states) = join(read_streams, read_states).await;
        let (mut streams, mut states) = (streams.into_iter(), states.into_iter());
        let answer = |wanted: &Wanted| match self.is_state(&wanted.persistence_id) {
            true => states.next(),
            false => streams.next(),
        };
        // Fewer answers than were wanted are noticed by the caller.
        wanted.iter().map_while(answer).collect()
    }
}
