//! The in-memory journal, for tests, simulation and trying things out.
//!
//! It keeps every rule the databases keep: fences, predecessors, command ids and
//! atomic writes are checked per append, in the order of the batch. What goes
//! wrong on purpose is arranged in `journal/memory/faults.rs`.

pub mod faults;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::command::CommandId;
use crate::journal::memory::faults::{Fault, Operation};
use crate::journal::{
    Append, AppendError, Appended, AtomicWrite, EntityListing, EventRange, Journal, JournalError,
    OtherAuthor, StoredCommand, StoredEvent, StreamBounds, WriteRight,
};
use crate::persistence_id::PersistenceId;
use crate::planted::{self, Bug};
use crate::sequence_nr::SequenceNr;
use crate::storage::memory::{MemoryStorage, Stream, Tables};
use crate::writer::{Epoch, SessionUuid, ShardNr};

/// A journal over [`MemoryStorage`].
pub struct MemoryJournal {
    storage: MemoryStorage,
    late: Mutex<Vec<LateAppend>>,
}

/// An append whose client was told "unknown", on its way to take effect.
struct LateAppend {
    session: SessionUuid,
    append: Append,
    /// Operations to go.
    remaining: u64,
}

/// What was arranged for one append of a batch.
#[derive(Default)]
struct Arranged {
    delay: Duration,
    lose_answer: bool,
    late: Option<u64>,
    /// The first write that is not even tried, and why.
    cut: Option<(usize, AppendError)>,
}

impl MemoryJournal {
    pub(crate) fn new(storage: MemoryStorage) -> Self {
        Self {
            storage,
            late: Mutex::default(),
        }
    }

    /// Stores what late appends are due. Called at the start of each operation.
    pub(crate) fn apply_late(&self) {
        let release_all = self.storage.faults().take_release_late();
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waiting = Vec::new();
        for mut entry in late.drain(..) {
            if release_all || entry.remaining == 0 {
                // Nobody is told: the client gave up on the answer.
                let _ = self.store(entry.session, &entry.append);
            } else {
                entry.remaining -= 1;
                waiting.push(entry);
            }
        }
        *late = waiting;
    }

    fn arrange(&self, append: &Append) -> Arranged {
        let mut arranged = Arranged::default();
        for (index, write) in append.writes.iter().enumerate() {
            let error = match self.storage.faults().next_write(write) {
                None | Some(Fault::Corrupt) => continue,
                Some(Fault::Delay(delay)) => {
                    arranged.delay = arranged.delay.max(delay);
                    continue;
                }
                Some(Fault::LoseAnswer) => {
                    arranged.lose_answer = true;
                    continue;
                }
                Some(Fault::Late { after_operations }) => {
                    arranged.late = Some(after_operations);
                    continue;
                }
                Some(Fault::Fail) => AppendError::Unavailable {
                    message: "arranged to fail".into(),
                },
                Some(Fault::Reject) => AppendError::Rejected {
                    message: "arranged to be rejected".into(),
                },
            };
            arranged.cut = Some((index, error));
            break;
        }
        arranged
    }

    fn perform(&self, session: SessionUuid, append: &Append, arranged: Arranged) -> Appended {
        let unknown = || AppendError::Unknown {
            message: "arranged to be unknown".into(),
        };
        if let Some(remaining) = arranged.late {
            let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
            late.push(LateAppend {
                session,
                append: append.clone(),
                remaining,
            });
            return Appended::none(unknown());
        }
        let appended = match arranged.cut {
            None => self.store(session, append),
            Some((0, error)) => Appended::none(error),
            Some((index, error)) => {
                let mut head = append.clone();
                head.writes.truncate(index);
                let mut appended = self.store(session, &head);
                appended.failure.get_or_insert(error);
                appended
            }
        };
        if arranged.lose_answer {
            return Appended::none(unknown());
        }
        appended
    }

    fn store(&self, session: SessionUuid, append: &Append) -> Appended {
        let now = self.storage.now();
        let mut tables = self.storage.tables();
        if let Err(error) = check(&tables, session, append) {
            return Appended::none(error);
        }
        let stream = tables
            .streams
            .entry(append.persistence_id.clone())
            .or_default();
        let stored_before = stream.events.len();
        let mut appended = Appended::all(append);
        for (index, write) in append.writes.iter().enumerate() {
            if let Some(failure) = repeated_command(stream, &append.persistence_id, write) {
                appended = Appended {
                    stored_writes: index,
                    failure: Some(failure),
                };
                break;
            }
            store_write(stream, append, write, now);
        }
        let stored: Vec<StoredEvent> = stream.events[stored_before..].to_vec();
        for event in stored {
            tables.put_in_order(event);
        }
        appended
    }
}

/// Whether the append may begin: fence first, then predecessor.
fn check(tables: &Tables, session: SessionUuid, append: &Append) -> Result<(), AppendError> {
    let (shard, epoch) = (append.shard, append.epoch);
    let right = WriteRight {
        session,
        shard,
        epoch,
    };
    if !tables.may_write(right) {
        return Err(AppendError::Fenced {
            session,
            shard,
            epoch,
        });
    }
    let stream = tables.streams.get(&append.persistence_id);
    let highest = stream.map_or(SequenceNr::ZERO, |stream| stream.bounds.highest);
    if highest.next() != append.first_sequence_nr {
        let mut events = stream.into_iter().flat_map(|stream| &stream.events);
        let contested = events.find(|event| event.sequence_nr == append.first_sequence_nr);
        return Err(AppendError::Conflict {
            persistence_id: append.persistence_id.clone(),
            writer: append.writer,
            first_sequence_nr: append.first_sequence_nr,
            highest,
            other: contested.map(|event| OtherAuthor {
                writer: event.writer,
                created_at: event.created_at,
            }),
        });
    }
    Ok(())
}

fn repeated_command(
    stream: &Stream,
    persistence_id: &PersistenceId,
    write: &AtomicWrite,
) -> Option<AppendError> {
    if planted::is(Bug::SkipCommandIndex) {
        return None;
    }
    let command_id = &write.command.as_ref()?.command_id;
    let stored = stream.commands.get(command_id)?;
    Some(AppendError::DuplicateCommand {
        persistence_id: persistence_id.clone(),
        command_id: command_id.clone(),
        stored: stored.clone(),
    })
}

fn store_write(stream: &mut Stream, append: &Append, write: &AtomicWrite, now: SystemTime) {
    for (index, event) in write.events.iter().enumerate() {
        stream.bounds.highest = stream.bounds.highest.next();
        let command = write.command.as_ref().filter(|_| index == 0);
        stream.events.push(StoredEvent {
            persistence_id: append.persistence_id.clone(),
            sequence_nr: stream.bounds.highest,
            writer: append.writer,
            payload: event.payload.clone(),
            tags: event.tags.clone(),
            metadata: write.metadata.clone(),
            command_id: command.map(|command| command.command_id.clone()),
            created_at: now,
        });
    }
    if let Some(command) = &write.command {
        let stored = StoredCommand {
            sequence_nr: stream.bounds.highest,
            reply: command.reply.clone(),
        };
        stream.commands.insert(command.command_id.clone(), stored);
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    fn lanes(&self) -> usize {
        self.storage.lanes()
    }

    async fn append(&self, session: SessionUuid, _lane: usize, batch: &[Append]) -> Vec<Appended> {
        self.apply_late();
        self.storage.faults().count_append();
        let arranged: Vec<Arranged> = batch.iter().map(|append| self.arrange(append)).collect();
        let delay = arranged
            .iter()
            .map(|arranged| arranged.delay)
            .max()
            .unwrap_or_default();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let perform = |(append, arranged)| self.perform(session, append, arranged);
        batch.iter().zip(arranged).map(perform).collect()
    }

    async fn may_write(
        &self,
        session: SessionUuid,
        shards: &[(ShardNr, Epoch)],
    ) -> Result<Vec<bool>, JournalError> {
        self.apply_late();
        self.storage.faults().pass(Operation::MayWrite).await?;
        let tables = self.storage.tables();
        let may_write = |&(shard, epoch): &(ShardNr, Epoch)| {
            tables.may_write(WriteRight {
                session,
                shard,
                epoch,
            })
        };
        Ok(shards.iter().map(may_write).collect())
    }

    async fn read_events(&self, range: &EventRange) -> Result<Vec<StoredEvent>, JournalError> {
        self.apply_late();
        self.storage.faults().pass(Operation::ReadEvents).await?;
        let tables = self.storage.tables();
        let Some(stream) = tables.streams.get(&range.persistence_id) else {
            return Ok(Vec::new());
        };
        let start = stream
            .events
            .partition_point(|event| event.sequence_nr < range.from);
        let mut bytes = 0;
        let in_range = stream.events[start..]
            .iter()
            .take(range.max_events)
            .take_while(|event| {
                let wanted = event.sequence_nr <= range.to && bytes < range.max_bytes.max(1);
                bytes += event.payload.bytes.len();
                wanted
            });
        Ok(in_range.cloned().collect())
    }

    async fn bounds(&self, persistence_id: &PersistenceId) -> Result<StreamBounds, JournalError> {
        self.apply_late();
        self.storage.faults().pass(Operation::Bounds).await?;
        let tables = self.storage.tables();
        let stream = tables.streams.get(persistence_id);
        Ok(stream.map(|stream| stream.bounds).unwrap_or_default())
    }

    async fn find_commands(
        &self,
        persistence_id: &PersistenceId,
        command_ids: &[CommandId],
    ) -> Result<Vec<Option<StoredCommand>>, JournalError> {
        self.apply_late();
        self.storage.faults().pass(Operation::FindCommands).await?;
        let tables = self.storage.tables();
        let stream = tables.streams.get(persistence_id);
        let find = |id| stream.and_then(|stream| stream.commands.get(id)).cloned();
        Ok(command_ids.iter().map(find).collect())
    }

    async fn list_entities(
        &self,
        entity_type: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<EntityListing>, JournalError> {
        self.apply_late();
        self.storage.faults().pass(Operation::ListEntities).await?;
        let tables = self.storage.tables();
        // A stream with neither events nor snapshots is an entity that was deleted.
        let with_events = tables
            .streams
            .iter()
            .filter(|(_, stream)| !stream.events.is_empty());
        let with_snapshots = tables.snapshots.iter().filter(|(_, all)| !all.is_empty());
        let ids: BTreeSet<&PersistenceId> = with_events
            .map(|(id, _)| id)
            .chain(with_snapshots.map(|(id, _)| id))
            .collect();
        let wanted = |id: &&&PersistenceId| {
            id.entity_type() == entity_type && after.is_none_or(|after| id.entity_id() > after)
        };
        let listing = |id: &&PersistenceId| EntityListing {
            persistence_id: (*id).clone(),
            sequence_nr: tables
                .streams
                .get(*id)
                .map(|stream| stream.bounds.highest)
                .unwrap_or_default(),
        };
        Ok(ids.iter().filter(wanted).take(limit).map(listing).collect())
    }

    async fn delete_events(
        &self,
        right: WriteRight,
        persistence_id: &PersistenceId,
        to: SequenceNr,
    ) -> Result<(), JournalError> {
        self.apply_late();
        self.storage.faults().pass(Operation::DeleteEvents).await?;
        let now = self.storage.now();
        let horizon = self.storage.command_id_horizon();
        let mut tables = self.storage.tables();
        if !tables.may_write(right) {
            let session = right.session;
            return Err(JournalError::Fenced { session });
        }
        let Some(stream) = tables.streams.get_mut(persistence_id) else {
            return match to {
                SequenceNr::ZERO | SequenceNr::MAX => Ok(()),
                asked => Err(JournalError::DeleteBeyondStream {
                    asked,
                    highest: SequenceNr::ZERO,
                }),
            };
        };
        let highest = stream.bounds.highest;
        if to > highest && to != SequenceNr::MAX {
            return Err(JournalError::DeleteBeyondStream { asked: to, highest });
        }
        stream.bounds.deleted_to = stream.bounds.deleted_to.max(to.min(highest));
        let commands = tables.delete_events(persistence_id, to);
        tables.outlive_events(persistence_id, commands, now, horizon);
        Ok(())
    }
}
