//! What goes wrong in the in-memory backend: tests and simulations arrange it
//! here beforehand, the backend asks at each operation.
//!
//! A fault strikes once, at a counted operation or at a certain payload. Writes
//! are counted singly: each atomic write of each append of a batch is one. This
//! file only decides; the effects are in `journal/memory.rs` and
//! `snapshot_store/memory.rs`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::journal::{AtomicWrite, JournalError};
use crate::sequence_nr::SequenceNr;

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// One call of [`crate::journal::Journal::append`], whatever it holds; only
    /// counted.
    Append,
    /// One atomic write of an append.
    Write,
    /// [`crate::journal::Journal::may_write`].
    MayWrite,
    /// [`crate::journal::Journal::read_events`].
    ReadEvents,
    /// [`crate::journal::Journal::bounds`].
    Bounds,
    /// [`crate::journal::Journal::find_commands`].
    FindCommands,
    /// [`crate::journal::Journal::list_entities`].
    ListEntities,
    /// [`crate::journal::Journal::delete_events`].
    DeleteEvents,
    /// [`crate::entity_deletion::EntityDeletion::delete_entity`], before anything is
    /// deleted.
    DeleteEntity,
    /// The same, after the tombstone is stored and before the rows are deleted.
    DeleteEntityRows,
    /// [`crate::snapshot_store::SnapshotStore::load`].
    LoadSnapshot,
    /// [`crate::snapshot_store::SnapshotStore::save`].
    SaveSnapshot,
    /// [`crate::snapshot_store::SnapshotStore::delete`].
    DeleteSnapshots,
    /// [`crate::durable_state_store::DurableStateStore::load`].
    LoadState,
    /// [`crate::durable_state_store::DurableStateStore::write`].
    WriteState,
}

/// How it goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No effect; reported as unavailable.
    Fail,
    /// Writes only: no effect; reported as rejected.
    Reject,
    /// Happens after this time, measured by `tokio::time`.
    Delay(Duration),
    /// Reads only: reported as a damaged row.
    Corrupt,
    /// Writes only: the append takes effect, but its outcome is reported as unknown.
    LoseAnswer,
    /// Writes only: the outcome of the append is reported as unknown, and it takes
    /// effect, unless fenced meanwhile, when the journal was called so often
    /// again, or at [`Faults::release_late_appends`].
    Late {
        /// Calls of the journal of any kind.
        after_operations: u64,
    },
}

/// The faults arranged for one database. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<Plan>>);

#[derive(Debug, Default)]
struct Plan {
    /// How often each operation was asked for.
    counts: BTreeMap<Operation, u64>,
    /// By operation and count.
    at_count: BTreeMap<(Operation, u64), Fault>,
    /// By a part of an event's payload.
    at_payload: Vec<(Vec<u8>, Fault)>,
    /// While set, every operation fails.
    outage: bool,
    /// Late appends that are due whatever the count.
    release_late: bool,
}

impl Faults {
    /// Arranges that the `nth` operation of this kind from now on goes wrong; 1 is
    /// the next.
    pub fn at(&self, operation: Operation, nth: u64, fault: Fault) {
        let mut plan = self.plan();
        let count = plan.counts.get(&operation).copied().unwrap_or(0) + nth;
        plan.at_count.insert((operation, count), fault);
    }

    /// Arranges that the next write with an event whose payload contains these
    /// bytes goes wrong.
    pub fn at_payload(&self, part: impl Into<Vec<u8>>, fault: Fault) {
        self.plan().at_payload.push((part.into(), fault));
    }

    /// Begins or ends an outage, in which every operation fails without effect.
    pub fn set_outage(&self, outage: bool) {
        self.plan().outage = outage;
    }

    /// Lets all [`Fault::Late`] appends take effect at the next operation.
    pub fn release_late_appends(&self) {
        self.plan().release_late = true;
    }

    /// How often an operation was asked for, so that tests can wait for it.
    #[must_use]
    pub fn count(&self, operation: Operation) -> u64 {
        self.plan().counts.get(&operation).copied().unwrap_or(0)
    }

    pub(crate) fn count_append(&self) {
        self.next(Operation::Append);
    }

    /// Counts a write and says what goes wrong with it.
    pub(crate) fn next_write(&self, write: &AtomicWrite) -> Option<Fault> {
        let at_count = self.next(Operation::Write);
        let mut plan = self.plan();
        let strikes = |(part, _): &(Vec<u8>, Fault)| {
            let part = part.as_slice();
            let has_part = |bytes: &[u8]| {
                bytes
                    .windows(part.len().max(1))
                    .any(|window| window == part)
            };
            write
                .events
                .iter()
                .any(|event| has_part(&event.payload.bytes))
        };
        let at_payload = plan.at_payload.iter().position(strikes);
        at_count.or_else(|| at_payload.map(|place| plan.at_payload.remove(place).1))
    }

    /// Counts an operation and says what goes wrong with it.
    fn next(&self, operation: Operation) -> Option<Fault> {
        let mut plan = self.plan();
        let count = plan.counts.entry(operation).or_default();
        *count += 1;
        let key = (operation, *count);
        let arranged = plan.at_count.remove(&key);
        if plan.outage {
            Some(Fault::Fail)
        } else {
            arranged
        }
    }

    /// Counts an operation other than a write, waits if it is delayed, and fails if
    /// it is to fail.
    pub(crate) async fn pass(&self, operation: Operation) -> Result<(), JournalError> {
        match self.next(operation) {
            None | Some(Fault::Reject | Fault::LoseAnswer | Fault::Late { .. }) => Ok(()),
            Some(Fault::Delay(delay)) => {
                tokio::time::sleep(delay).await;
                Ok(())
            }
            Some(Fault::Fail) => Err(JournalError::Unavailable {
                message: format!("{operation:?}: arranged to fail"),
                source: None,
            }),
            Some(Fault::Corrupt) => Err(JournalError::Corrupt {
                persistence_id: String::new(),
                sequence_nr: SequenceNr::ZERO,
                message: format!("{operation:?}: arranged to be damaged"),
            }),
        }
    }

    /// Whether late appends are to take effect now; asked once.
    pub(crate) fn take_release_late(&self) -> bool {
        std::mem::take(&mut self.plan().release_late)
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        // Whole between any two statements, so usable after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
