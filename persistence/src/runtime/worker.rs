//! A worker: one task that owns the cells of its shards and runs them.
//!
//! Requests come in through a bounded queue, answers to what cells asked for
//! through a second one that is bounded by the cells themselves (each waits for
//! at most one). A worker performs what cells decide and decides nothing about
//! their contents.
//!
//! Parts: `worker/mailbox.rs` and `taking_in.rs` (messages), `starting.rs`, `performing.rs`,
//! `failing.rs`, `leaving.rs` and `idleness.rs` (an entity's life), `shards.rs`
//! (shards that leave the node), `deleting.rs` (entities that are to be deleted).
//! Next: `cell.rs`.

mod deleting;
mod failing;
mod idleness;
mod leaving;
mod mailbox;
mod performing;
mod shards;
mod starting;
mod taking_in;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::RngCore;
use rand::rngs::StdRng;
use slab::Slab;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::engine::{EntityDescription, EntityState, Shared};
use crate::idle_order::Tick;
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::writer::WriterUuid;

use super::awaited_recovery::Awaiting;
use super::cell::{Action, Cell, CellContext, Next, OutsideTicket, PageVerdict};
use super::recovery_pages::RecoveryFault;

pub(crate) use deleting::DeleteRequest;
use deleting::Deletions;
use failing::Failed;
pub(crate) use idleness::IdleTimeouts;
use idleness::Idleness;
pub(crate) use mailbox::{Address, Outcome, WorkerHandle, WorkerQueues};
use shards::ClosingShards;

/// Messages taken in before cells run, so that what arrives together is handled
/// and stored together.
const INTAKE_MAX: usize = 512;
/// Entities that leave in one tick because the limit was lowered.
const TRIMMED_AT_ONCE: usize = 1_000;
/// Length of a tick of the idle order.
const TICK: Duration = Duration::from_millis(100);

struct Resident {
    cell: Cell,
    /// It is in the ready queue.
    ready: bool,
    /// Its commands that wait, as counted in the node's budget.
    kept: usize,
    /// While it recovers.
    recovery: Option<Awaiting>,
}

/// One worker's cells and what it needs to run them.
pub(crate) struct Worker {
    number: usize,
    shared: Arc<Shared>,
    cells: Slab<Resident>,
    by_id: HashMap<PersistenceId, usize>,
    failures: HashMap<PersistenceId, Failed>,
    deletions: Deletions,
    idle: Idleness,
    ready: VecDeque<usize>,
    random: StdRng,
    incarnations: u64,
    started: Instant,
    stopping: bool,
    /// Cells that have nothing to do and keep commands for later.
    parked: BTreeSet<usize>,
    /// Cells that keep commands for later, whatever else they do.
    keeping: BTreeSet<usize>,
    last_ticket: OutsideTicket,
    /// Work that cells run outside; ends with the worker.
    outside: JoinSet<()>,
    /// Shards that leave this node.
    closing: ClosingShards,
    stash_depth: metrics::Histogram,
    /// Reused from call to call.
    actions: Vec<Action>,
}

impl Worker {
    pub(crate) fn new(number: usize, shared: Arc<Shared>, random: StdRng) -> Self {
        let idle = Idleness::new(&shared.residency.timeouts());
        Self {
            number,
            shared,
            cells: Slab::new(),
            by_id: HashMap::new(),
            failures: HashMap::new(),
            deletions: Deletions::default(),
            idle,
            ready: VecDeque::new(),
            random,
            incarnations: 0,
            started: Instant::now(),
            stopping: false,
            parked: BTreeSet::new(),
            keeping: BTreeSet::new(),
            last_ticket: OutsideTicket::default(),
            outside: JoinSet::new(),
            closing: ClosingShards::default(),
            stash_depth: metrics::histogram!("perennial_stash_depth"),
            actions: Vec::new(),
        }
    }

    /// Runs until it is stopped and its last cell has left, or every handle is
    /// gone.
    pub(crate) async fn run(mut self, mut queues: WorkerQueues) {
        let mut events = Vec::new();
        let mut requests = Vec::new();
        let mut clock = tokio::time::interval(TICK);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if self.ready.is_empty() {
                // All three are safe to cancel: what was not taken stays queued.
                tokio::select! {
                    n = queues.events.recv_many(&mut events, INTAKE_MAX) => if n == 0 { return },
                    n = queues.requests.recv_many(&mut requests, INTAKE_MAX), if !self.stopping =>
                        if n == 0 { return },
                    _ = clock.tick() => self.tick(),
                }
            } else {
                // Cells that gave way go on, but not before others had their turn.
                tokio::select! {
                    biased;
                    _ = clock.tick() => self.tick(),
                    () = tokio::task::yield_now() => {}
                }
            }
            take_waiting(&mut queues.events, &mut events);
            for event in events.drain(..) {
                self.on_event(event);
            }
            if self.stopping {
                // From here on `WorkerHandle::deliver` refuses; or an entity that is
                // never left in peace would never leave.
                queues.requests.close();
            }
            while (self.stopping || requests.len() < INTAKE_MAX)
                && let Ok(request) = queues.requests.try_recv()
            {
                requests.push(request);
            }
            for request in requests.drain(..) {
                self.on_request(request);
            }
            for _ in 0..self.ready.len() {
                let Some(slot) = self.ready.pop_front() else {
                    break;
                };
                if let Some(resident) = self.cells.get_mut(slot) {
                    resident.ready = false;
                    self.stash_depth.record(resident.cell.queued() as f64);
                    self.drive(slot, Cell::run);
                }
            }
            let oldest = self.idle.oldest().map(|(_, tick)| tick);
            self.shared.residency.publish_oldest(self.number, oldest);
            if self.stopping && self.cells.is_empty() && self.deletions.is_empty() {
                // What was being handed in when the queue was closed.
                while let Some(request) = queues.requests.recv().await {
                    self.on_request(request);
                }
                return;
            }
        }
    }

    fn make_ready(&mut self, slot: usize) {
        let resident = &mut self.cells[slot];
        if !resident.ready {
            resident.ready = true;
            self.ready.push_back(slot);
        }
        self.idle.remove(slot as u32);
    }

    /// Brings the node's budget up to date with what a cell keeps now, and whether it
    /// keeps something for later.
    fn recount(&mut self, slot: usize) {
        let Resident { cell, kept, .. } = &mut self.cells[slot];
        if cell.has_aside() {
            self.keeping.insert(slot);
        } else {
            self.keeping.remove(&slot);
        }
        let before = std::mem::replace(kept, cell.kept());
        self.shared.stash_budget.recount(before, *kept);
    }

    fn addressed(&mut self, to: Address) -> Option<&mut Cell> {
        let resident = self.cells.get_mut(to.slot)?;
        (resident.cell.incarnation == to.incarnation).then_some(&mut resident.cell)
    }

    /// Tells a cell something beside its work, if the incarnation that asked is
    /// still there; afterwards it is as busy or idle as before.
    fn tell(&mut self, to: Address, tell: impl FnOnce(&mut Cell, &mut CellContext<'_>)) {
        if self.addressed(to).is_none() {
            return;
        }
        let mut cx = CellContext {
            now: Instant::now().into_std(),
            settings: &self.shared.settings,
            confirmations: &self.shared.confirmations,
            journal_out_of_reach: self.shared.is_journal_out_of_reach(),
            actions: &mut self.actions,
            last_ticket: &mut self.last_ticket,
        };
        tell(&mut self.cells[to.slot].cell, &mut cx);
        self.perform(to.slot);
    }

    /// Tells the cell something, if the incarnation that asked is still there.
    fn drive_if_there(
        &mut self,
        to: Address,
        tell: impl FnOnce(&mut Cell, &mut CellContext<'_>) -> Next,
    ) {
        if self.addressed(to).is_some() {
            self.drive(to.slot, tell);
        }
    }

    /// Tells a cell something, performs what it asks for, and makes of it what it
    /// says.
    fn drive(&mut self, slot: usize, tell: impl FnOnce(&mut Cell, &mut CellContext<'_>) -> Next) {
        let now = Instant::now();
        self.parked.remove(&slot);
        let mut cx = CellContext {
            now: now.into_std(),
            settings: &self.shared.settings,
            confirmations: &self.shared.confirmations,
            journal_out_of_reach: self.shared.is_journal_out_of_reach(),
            actions: &mut self.actions,
            last_ticket: &mut self.last_ticket,
        };
        let cell = &mut self.cells[slot].cell;
        let recovering = cell.is_recovering();
        let next = tell(cell, &mut cx);
        let recovered = recovering && !cell.is_recovering();
        if recovered {
            if let Some(failed) = self.failures.get_mut(&cell.persistence_id) {
                failed.backoff.recovered(now.into_std());
            }
            self.cells[slot].recovery = None;
        }
        self.recount(slot);
        self.perform(slot);
        match next {
            Next::Wait => {}
            Next::Again => self.make_ready(slot),
            Next::Idle if self.stopping => self.leave(slot, "stopped"),
            Next::Idle | Next::Parked if self.has_finished(slot) => self.leave_closed(slot),
            Next::Parked if self.stopping => self.leave_parked(slot),
            Next::Idle | Next::Parked if self.is_to_be_deleted(slot) => {
                self.leave_for_deletion(slot);
            }
            Next::Idle => {
                let tick = self.now_tick(now);
                let cell = &self.cells[slot].cell;
                let entity_type = cell.persistence_id.entity_type();
                self.idle.touch(slot as u32, entity_type, tick);
                // There was no victim when it came; now there is.
                if self.shared.residency.is_over() {
                    self.passivate_oldest();
                }
            }
            Next::Parked => {
                self.parked.insert(slot);
            }
            Next::Leave => self.leave(slot, "stopped"),
            Next::Failed { failure, message } => self.fail(slot, failure, message),
            Next::Fenced => {
                self.shared.suspect_fence();
                self.leave(slot, "fenced");
            }
        }
    }

    fn describe(&self, id: &PersistenceId) -> EntityDescription {
        if let Some(&slot) = self.by_id.get(id) {
            return self.cells[slot].cell.describe();
        }
        if let Some(deleting) = self.deletions.describe(id) {
            return deleting;
        }
        let now = Instant::now().into_std();
        let down = self
            .failures
            .get(id)
            .is_some_and(|failed| failed.backoff.remaining(now).is_some());
        EntityDescription {
            state: if down {
                EntityState::BackingOff
            } else {
                EntityState::Passive
            },
            sequence_nr: SequenceNr::ZERO,
            queued: 0,
            waiting_for: if down { "the end of its back-off" } else { "" }.into(),
        }
    }

    /// Passivates what has been idle for too long, answers what was kept for too
    /// long, forgets old failures.
    fn tick(&mut self) {
        let now = Instant::now();
        while self.outside.try_join_next().is_some() {}
        let kept = self.shared.stash_budget.kept();
        metrics::gauge!("perennial_stashed_commands").set(kept as f64);
        let expired = |&slot: &usize| self.cells[slot].cell.has_expired_aside(now.into_std());
        let expired: Vec<usize> = self.keeping.iter().copied().filter(expired).collect();
        for slot in expired {
            self.drive(slot, Cell::expire_aside);
        }
        self.force_overdue_shards(now);
        let tick = self.now_tick(now);
        // Who leaves while the journal is out of reach cannot come back.
        while !self.shared.is_journal_out_of_reach()
            && let Some(slot) = self.idle.pop_expired(tick)
        {
            self.leave(slot as usize, "idle");
        }
        // The limit was lowered.
        for _ in 0..TRIMMED_AT_ONCE {
            if !self.shared.residency.is_over() {
                break;
            }
            self.passivate_oldest();
        }
        self.deletions.forget_old(now.into_std());
        let settings = &self.shared.settings.backoff;
        self.failures
            .retain(|_, failed| !failed.backoff.is_forgotten(settings, now.into_std()));
    }

    fn now_tick(&self, now: Instant) -> Tick {
        ticks(now - self.started)
    }

    fn draw_writer(&mut self) -> WriterUuid {
        let mut bytes = [0; 16];
        self.random.fill_bytes(&mut bytes);
        WriterUuid(uuid::Builder::from_random_bytes(bytes).into_uuid())
    }
}

fn ticks(duration: Duration) -> Tick {
    Tick::try_from(duration.as_millis() / TICK.as_millis()).unwrap_or(Tick::MAX)
}

fn take_waiting<T>(queue: &mut mpsc::UnboundedReceiver<T>, into: &mut Vec<T>) {
    while into.len() < INTAKE_MAX
        && let Ok(item) = queue.try_recv()
    {
        into.push(item);
    }
}
