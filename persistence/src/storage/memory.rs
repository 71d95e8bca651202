//! The tables of the in-memory backend, shared by its journal, snapshot store and
//! registry.
//!
//! Everything is in ordered maps behind one lock that is never held across an
//! await, and no clock, thread or randomness of its own is involved: the same
//! calls give the same answers, which is what simulation needs. Nothing survives
//! the process. Decisions about appends are in `journal/memory.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::command::CommandId;
use crate::durable_state_store::StoredState;
use crate::durable_state_store::memory::MemoryDurableStateStore;
use crate::entity_deletion::Tombstone;
use crate::entity_deletion::memory::MemoryEntityDeletion;
use crate::global_order::memory::MemoryEventsInOrder;
use crate::journal::memory::MemoryJournal;
use crate::journal::memory::faults::Faults;
use crate::journal::{StoredCommand, StoredEvent, StreamBounds, WriteRight};
use crate::persistence_id::PersistenceId;
use crate::recovery_reader::memory::MemoryRecoveryReader;
use crate::registry::memory::MemoryRegistry;
use crate::registry::{ClusterIdentity, NodeAddresses, NodeNr};
use crate::sequence_nr::SequenceNr;
use crate::snapshot_store::Snapshot;
use crate::snapshot_store::memory::MemorySnapshotStore;
use crate::storage::{Storage, StorageOptions};
use crate::writer::{Epoch, SessionUuid, ShardNr};

/// Where the times of events and snapshots come from.
type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// A database in memory. Clones share it.
#[derive(Clone)]
pub struct MemoryStorage {
    tables: Arc<Mutex<Tables>>,
    faults: Faults,
    clock: Clock,
    lanes: usize,
    command_id_horizon: Duration,
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self::new(1)
    }
}

impl MemoryStorage {
    /// An empty database with so many lanes, at least one. Its clock starts in
    /// 1970 and advances by a millisecond whenever it is read, so that equal runs
    /// store equal times.
    #[must_use]
    pub fn new(lanes: usize) -> Self {
        let ticks = AtomicU64::new(0);
        Self::with_clock(lanes, move || {
            let ms = ticks.fetch_add(1, Ordering::Relaxed) + 1;
            SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
        })
    }

    /// An empty database with a clock of the caller's.
    #[must_use]
    pub fn with_clock(
        lanes: usize,
        clock: impl Fn() -> SystemTime + Send + Sync + 'static,
    ) -> Self {
        Self {
            tables: Arc::default(),
            faults: Faults::default(),
            clock: Arc::new(clock),
            lanes: lanes.max(1),
            command_id_horizon: StorageOptions::default().command_id_horizon,
        }
    }

    /// How long the ids of commands are remembered after their events were deleted.
    #[must_use]
    pub fn with_command_id_horizon(self, command_id_horizon: Duration) -> Self {
        Self {
            command_id_horizon,
            ..self
        }
    }

    /// Journal, snapshot store, recovery reader and registry over this database.
    #[must_use]
    pub fn storage(&self) -> Storage {
        let journal = Arc::new(MemoryJournal::new(self.clone()));
        Storage {
            journal: journal.clone(),
            recoveries: Arc::new(MemoryRecoveryReader::new(self.clone(), journal)),
            snapshots: Arc::new(MemorySnapshotStore::new(self.clone())),
            states: Arc::new(MemoryDurableStateStore::new(self.clone())),
            registry: Arc::new(MemoryRegistry::new(self.clone())),
            order: Arc::new(MemoryEventsInOrder::new(self.clone())),
            deletion: Arc::new(MemoryEntityDeletion::new(self.clone())),
        }
    }

    /// What goes wrong in this database, to be arranged by tests.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Puts events into their streams as they are, without any check: sequence
    /// numbers may repeat or be missing, as in a damaged or imported journal. Of
    /// equal numbers the one that was there first is read first.
    pub fn import(&self, events: impl IntoIterator<Item = StoredEvent>) {
        let mut tables = self.tables();
        for event in events {
            tables.put_in_order(event.clone());
            let stream = tables
                .streams
                .entry(event.persistence_id.clone())
                .or_default();
            stream.bounds.highest = stream.bounds.highest.max(event.sequence_nr);
            let place = stream
                .events
                .partition_point(|stored| stored.sequence_nr <= event.sequence_nr);
            stream.events.insert(place, event);
        }
    }

    pub(crate) fn tables(&self) -> MutexGuard<'_, Tables> {
        // A panic while the lock was held can only come from a bug in a test's
        // clock; the tables are whole between any two statements.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now(&self) -> SystemTime {
        (self.clock)()
    }

    pub(crate) fn lanes(&self) -> usize {
        self.lanes
    }

    pub(crate) fn command_id_horizon(&self) -> Duration {
        self.command_id_horizon
    }
}

/// Remembered commands beyond the horizon forgotten with one deletion of events, as
/// in the databases.
const FORGET_AT_ONCE: usize = 1000;

/// What a database holds.
#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) streams: BTreeMap<PersistenceId, Stream>,
    /// The events of all streams, in the order of storing.
    pub(crate) order: BTreeMap<u64, StoredEvent>,
    last_in_order: u64,
    /// Commands whose events were deleted, and when.
    deleted_commands: BTreeSet<(SystemTime, PersistenceId, CommandId)>,
    pub(crate) snapshots: BTreeMap<PersistenceId, BTreeMap<SequenceNr, Snapshot>>,
    pub(crate) states: BTreeMap<PersistenceId, StoredState>,
    pub(crate) sessions: BTreeMap<SessionUuid, Session>,
    pub(crate) nodes: BTreeMap<NodeNr, Node>,
    pub(crate) cluster: Option<Cluster>,
    /// Signs of life that any node has given.
    pub(crate) signs: u64,
}

/// The cluster of the database.
pub(crate) struct Cluster {
    pub(crate) identity: ClusterIdentity,
    pub(crate) formed: bool,
    pub(crate) forming: Option<NodeNr>,
}

/// A node that has a number.
#[derive(Default)]
pub(crate) struct Node {
    pub(crate) incarnation: u64,
    pub(crate) addresses: Option<NodeAddresses>,
    pub(crate) seen: u64,
    /// The number of its last sign among those of all nodes.
    pub(crate) last_sign: u64,
}

/// One stream of events.
#[derive(Default)]
pub(crate) struct Stream {
    /// Ascending by number; equal numbers only after an import.
    pub(crate) events: Vec<StoredEvent>,
    pub(crate) bounds: StreamBounds,
    /// They outlive their deleted events, until the horizon.
    pub(crate) commands: BTreeMap<CommandId, StoredCommand>,
    /// Of the entity's last deletion.
    pub(crate) tombstone: Option<Tombstone>,
}

/// One run of one node.
pub(crate) struct Session {
    pub(crate) node: NodeNr,
    pub(crate) generation: u32,
    pub(crate) fenced: bool,
    /// For a shard, the highest epoch this session may no longer write under.
    pub(crate) fenced_shards: BTreeMap<ShardNr, Epoch>,
}

impl Tables {
    pub(crate) fn put_in_order(&mut self, event: StoredEvent) {
        self.last_in_order += 1;
        self.order.insert(self.last_in_order, event);
    }

    /// Deletes the events of a stream up to a number, inclusive. Returns the ids of
    /// the commands they came from.
    pub(crate) fn delete_events(&mut self, id: &PersistenceId, to: SequenceNr) -> Vec<CommandId> {
        let Some(stream) = self.streams.get_mut(id) else {
            return Vec::new();
        };
        let kept = stream
            .events
            .partition_point(|event| event.sequence_nr <= to);
        let gone = stream.events.drain(..kept);
        let commands = gone.filter_map(|event| event.command_id).collect();
        let is_gone = |event: &StoredEvent| event.persistence_id == *id && event.sequence_nr <= to;
        self.order.retain(|_, event| !is_gone(event));
        commands
    }

    /// Notes that commands have lost their events, and forgets some of those that
    /// lost theirs before the horizon.
    pub(crate) fn outlive_events(
        &mut self,
        id: &PersistenceId,
        commands: Vec<CommandId>,
        now: SystemTime,
        horizon: Duration,
    ) {
        let deleted = commands
            .into_iter()
            .map(|command| (now, id.clone(), command));
        self.deleted_commands.extend(deleted);
        for _ in 0..FORGET_AT_ONCE {
            let oldest = self.deleted_commands.first();
            let is_expired = |(at, ..): &&(SystemTime, _, _)| {
                at.checked_add(horizon).is_some_and(|until| until < now)
            };
            if oldest.filter(is_expired).is_none() {
                return;
            }
            if let Some((_, id, command)) = self.deleted_commands.pop_first()
                && let Some(stream) = self.streams.get_mut(&id)
            {
                stream.commands.remove(&command);
            }
        }
    }

    /// Forgets the commands of a stream that have lost their events.
    pub(crate) fn forget_deleted_commands(&mut self, id: &PersistenceId) {
        self.deleted_commands.retain(|(_, of, _)| of != id);
    }

    /// Whether the session may write to the shard. An unknown session may not.
    pub(crate) fn may_write(&self, right: WriteRight) -> bool {
        self.sessions.get(&right.session).is_some_and(|session| {
            let fenced_epoch = session.fenced_shards.get(&right.shard);
            !session.fenced && fenced_epoch.is_none_or(|fenced| *fenced < right.epoch)
        })
    }
}
