//! The tables of the in-memory backend, shared by its journal, snapshot store and
//! registry.
//!
//! Everything is in ordered maps behind one lock that is never held across an
//! await, and no clock, thread or randomness of its own is involved: the same
//! calls give the same answers, which is what simulation needs. Nothing survives
//! the process. Decisions about appends are in `journal/memory.rs`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::command::CommandId;
use crate::durable_state_store::StoredState;
use crate::durable_state_store::memory::MemoryDurableStateStore;
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
use crate::storage::Storage;
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
}

/// What a database holds.
#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) streams: BTreeMap<PersistenceId, Stream>,
    /// The events of all streams, in the order of storing.
    pub(crate) order: BTreeMap<u64, StoredEvent>,
    last_in_order: u64,
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
    /// All ever stored; they outlive deleted events.
    pub(crate) commands: BTreeMap<CommandId, StoredCommand>,
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

    /// Whether the session may write to the shard. An unknown session may not.
    pub(crate) fn may_write(&self, right: WriteRight) -> bool {
        self.sessions.get(&right.session).is_some_and(|session| {
            let fenced_epoch = session.fenced_shards.get(&right.shard);
            !session.fenced && fenced_epoch.is_none_or(|fenced| *fenced < right.epoch)
        })
    }
}
