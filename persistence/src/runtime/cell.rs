//! One entity in memory: its state, what waits for it, and what it waits for.
//!
//! A cell is a value, not a task. It is told what happened (a command came, a
//! page of its recovery, the outcome of its append) and answers with actions for
//! its worker to perform and with the [`Next`] the worker should make of it. It
//! does no I/O and reads no clock.
//!
//! An event-sourced entity handles commands in *rounds*: as many as wait are
//! handled one after another on the tentative state, their events go out as
//! separate atomic writes of one append, and nothing computed in a round is
//! answered before everything it was computed from is stored (I-4, I-12). While
//! the append is out, commands wait in the stash. A round of which certainly nothing
//! is stored is undone, from a copy of the state; other failures start the cell over.
//!
//! A persistent actor handles commands in *turns*: one command, callback or signal
//! at a time, on a state that changes in callbacks. While an append is out, commands
//! wait only if a callback is pending that wants them to.
//!
//! Parts, in the order of life: `cell/recovering.rs`; `cell/round.rs` and
//! `cell/settling.rs`, or `cell/turns.rs` and `cell/settling_turns.rs`;
//! `cell/leaving.rs`, `cell/handing_back.rs`. And `cell/retries.rs` for command ids,
//! `cell/aside.rs` for commands kept for later. Next: `worker.rs`, which owns cells.

mod aside;
mod deleting;
mod handing_back;
mod leaving;
mod recovering;
mod retries;
mod round;
mod settling;
mod settling_turns;
mod turns;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use futures::future::Abortable;
use tokio::sync::oneshot;

use crate::actor::{Recovery, StorageReport, StorageRequest};
use crate::behavior::{
    ActorBehavior, AfterEffects, Behavior, Incarnation, OutsideFuture, OutsideWork,
};
use crate::command::{Answer, CommandId, Envelope, ReplyTo, Request};
use crate::command_error::{CommandError, StashLimit};
use crate::command_id_cache::CommandIdCache;
use crate::engine::{EngineSettings, EntityDescription, EntityState};
use crate::entity_types::EntityFactory;
use crate::handing_back::HandBackReason;
use crate::journal::{Append, AtomicWrite, StoredCommand};
use crate::payload::Payload;
use crate::persistence_id::PersistenceId;
use crate::persisting::Persisting;
use crate::retention::{Deletion, Retention, RetentionSettings};
use crate::runtime::confirmations::{Confirmations, Confirmed, tells_of_state};
use crate::sequence_nr::SequenceNr;
use crate::trace::Trace;
use crate::writer::{Epoch, ShardNr, WriterUuid};

use aside::Aside;
pub(crate) use aside::{OutsideTicket, count_overflow};
pub(crate) use recovering::{PageVerdict, RecoveryPage};

/// One entity in memory.
pub(crate) struct Cell {
    pub(crate) persistence_id: PersistenceId,
    pub(crate) shard: ShardNr,
    pub(crate) epoch: Epoch,
    /// Distinguishes answers meant for an earlier incarnation in the same slot.
    pub(crate) incarnation: u64,
    factory: Arc<dyn EntityFactory>,
    entity: Incarnation,
    writer: WriterUuid,
    stage: Stage,
    /// Of the tentative state: the last event handled.
    sequence_nr: SequenceNr,
    /// The last event stored.
    stored_nr: SequenceNr,
    /// Of the snapshot recovered from.
    snapshot_nr: SequenceNr,
    command_ids: CommandIdCache,
    /// A repeated command id was met lately: ask the index before handling rather
    /// than have the append find the next one.
    retries_likely: bool,
    stop_requested: bool,
    retention: Retention,
    /// Allocated while there is work.
    work: Option<Box<Work>>,
}

/// What a cell is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// A permit, its snapshot and its events.
    Recovering,
    /// The next command.
    Ready,
    /// The index's word on command ids.
    LookingUp,
    /// The outcome of its append.
    Storing,
}

/// What exists only while a cell has something to do.
#[derive(Default)]
struct Work {
    /// Commands not yet handled, in order of arrival.
    stash: VecDeque<Queued>,
    /// Commands that work outside came back with; they go before the stash.
    returned: VecDeque<Queued>,
    /// Commands that are kept for later, by the entity's wish.
    aside: Aside,
    /// What an actor has not heard yet.
    reports: VecDeque<StorageReport>,
    /// Writes that are out and answers that wait for them.
    persisting: Persisting<AtomicWrite, Held>,
    /// Set when the state is not to be trusted any more; the entity stops when
    /// what was handled before is settled.
    broken: Option<String>,
    /// Set when more came than there was room for and that makes the entity fail.
    overflowed: Option<String>,
    /// Of the commands whose events go out next, as far as they are traced.
    appending: Vec<Trace>,
    /// Told, by being dropped, when the entity has left memory.
    leave_waiters: Vec<oneshot::Sender<()>>,
    /// Its shard leaves this node: it only finishes what is out.
    closing: bool,
    /// Under which the next incarnation writes, if not under the same.
    next_epoch: Option<Epoch>,
}

/// A request that waits to be handled.
pub(super) struct Queued {
    /// Of the envelope it came in.
    arrival: u64,
    /// The entity gave it itself, or it came back from outside with no sender. If the
    /// journal or the lease has it refused, nobody hears of that, and what it was to go
    /// on with would be forgotten for as long as the entity stays: so the entity starts
    /// over, and [`EventSourced::after_recovery`] begins it again.
    ///
    /// [`EventSourced::after_recovery`]: crate::event_sourced::EventSourced::after_recovery
    is_own: bool,
    request: Request,
    deadline: Option<Instant>,
    reply_to: ReplyTo,
    trace: Trace,
    index: Index,
}

/// What the journal's index said of a request's command id.
enum Index {
    NotAsked,
    /// Not there when the stream was at this number.
    NotStored {
        asked_at: SequenceNr,
    },
    Stored(StoredCommand),
}

/// A promise that waits for the commit of what it was computed from.
struct Held {
    queued: Queued,
    promise: Promise,
    /// Whether the request stored events itself.
    wrote: bool,
    /// The last event of the tentative state it was computed from.
    sequence_nr: SequenceNr,
    snapshot: Option<Payload>,
    then_stop: bool,
    then: Option<Box<AfterEffects>>,
}

impl Held {
    /// Whether it stored nothing, and somebody hears of it when it is refused.
    fn only_tells(&self) -> bool {
        !self.wrote && !self.queued.is_own
    }
}

/// What becomes of a request when everything it was computed from is stored.
enum Promise {
    Answer(Answer),
    /// It is put aside.
    Stash,
    /// It goes on as what this comes back with.
    Outside(OutsideWork),
}

impl Promise {
    /// Whether the one who asked learns something of the entity's state.
    fn tells_of_state(&self) -> bool {
        matches!(self, Self::Answer(answer) if tells_of_state(answer))
    }
}

/// What a cell wants done.
pub(crate) enum Action {
    Recover(Recovery),
    /// With the traces of the commands it stores events of.
    Append(Append, Vec<Trace>),
    FindCommands(Vec<CommandId>),
    SaveSnapshot {
        sequence_nr: SequenceNr,
        payload: Payload,
    },
    Delete(Deletion),
    RunOutside(OutsideTicket, Abortable<OutsideFuture>),
    /// To be answered with [`Cell::hear`].
    Store(StorageRequest),
    /// Requests that had no effect, in order.
    HandBack(HandBackReason, Vec<Envelope>),
}

/// What the worker should make of a cell after it was told something.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It waits for an answer to one of its actions.
    Wait,
    /// It has more to do and gave way to others.
    Again,
    /// It has nothing to do.
    Idle,
    /// It has nothing to do, and keeps commands for later.
    Parked,
    /// It leaves memory; nothing is lost.
    Leave,
    /// It leaves memory because it failed.
    Failed { failure: Failure, message: String },
    /// The journal refuses this node's writes for its shard; what waited is handed
    /// back.
    Fenced,
}

/// How a cell failed, by which the worker decides what its next start waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Its past is damaged, or its code cannot fold it.
    Recovery,
    /// Its code failed on a command.
    Handling,
    /// The journal failed; everything that waited is answered.
    Journal,
}

/// What a cell may look at and write to while it runs.
pub(crate) struct CellContext<'a> {
    pub(crate) now: Instant,
    pub(crate) settings: &'a EngineSettings,
    /// Gives answers that nothing was stored for.
    pub(crate) confirmations: &'a Confirmations,
    /// The circuit breaker is open: what a command decides could not be stored.
    pub(crate) journal_out_of_reach: bool,
    pub(crate) actions: &'a mut Vec<Action>,
    /// The last one given out; unique among the cells of a worker.
    pub(crate) last_ticket: &'a mut OutsideTicket,
}

impl Cell {
    /// A cell that begins to recover; `Action::Recover` is asked for at once. Fails
    /// when the entity's initial state cannot be made.
    pub(crate) fn start(
        envelope: &Envelope,
        factory: &Arc<dyn EntityFactory>,
        incarnation: u64,
        writer: WriterUuid,
        cx: &mut CellContext<'_>,
    ) -> Result<Self, CommandError> {
        let id = &envelope.persistence_id;
        let mut entity = factory.incarnate(id, cx.settings.max_payload)?;
        guard_answers(&mut entity, envelope.shard, envelope.epoch, cx);
        cx.actions.push(Action::Recover(entity.begin()));
        Ok(Self {
            persistence_id: envelope.persistence_id.clone(),
            shard: envelope.shard,
            epoch: envelope.epoch,
            incarnation,
            factory: Arc::clone(factory),
            entity,
            writer,
            stage: Stage::Recovering,
            sequence_nr: SequenceNr::ZERO,
            stored_nr: SequenceNr::ZERO,
            snapshot_nr: SequenceNr::ZERO,
            command_ids: CommandIdCache::default(),
            retries_likely: false,
            stop_requested: false,
            retention: Retention::new(retention(factory, cx.settings)),
            work: None,
        })
    }

    /// Takes a request in. It is handled by [`Cell::run`], or answered here when there
    /// is no room for it. Returns whether the cell wants to run.
    pub(crate) fn accept(
        &mut self,
        envelope: Envelope,
        settings: &EngineSettings,
        is_node_full: bool,
    ) -> bool {
        // It may be the one that brings back what was put aside.
        let is_next = self.queued() == 0 && self.stage != Stage::Recovering;
        if !is_next {
            let limit = if self.kept() >= settings.stash_capacity {
                Some(StashLimit::Entity(settings.stash_capacity))
            } else {
                is_node_full.then_some(StashLimit::Node(settings.stash_total))
            };
            if let Some(limit) = limit {
                self.overflow(envelope.reply_to, limit, settings);
                return self.stage == Stage::Ready;
            }
        }
        self.work().stash.push_back(Queued {
            arrival: envelope.arrival,
            is_own: false,
            request: envelope.request,
            deadline: envelope.deadline,
            reply_to: envelope.reply_to,
            trace: envelope.trace,
            index: Index::NotAsked,
        });
        self.stage == Stage::Ready
    }

    /// Handles what waits, if the cell is ready.
    pub(crate) fn run(&mut self, cx: &mut CellContext<'_>) -> Next {
        match self.entity {
            Incarnation::EventSourced(_) => self.run_round(cx),
            Incarnation::Actor(_) => self.run_turns(cx),
        }
    }

    /// What became of a request of an actor's to the storage. Returns whether the
    /// cell wants to run.
    pub(crate) fn hear(&mut self, report: StorageReport) -> bool {
        self.work().reports.push_back(report);
        self.stage == Stage::Ready
    }

    /// A snapshot is saved, or will not be.
    pub(crate) fn snapshot_settled(
        &mut self,
        sequence_nr: SequenceNr,
        saved: bool,
        cx: &mut CellContext<'_>,
    ) {
        if saved {
            let deletion = self.retention.snapshot_saved(sequence_nr);
            cx.actions.extend(deletion.map(Action::Delete));
        } else {
            self.retention.snapshot_failed();
        }
    }

    /// What a snapshot made superfluous is deleted, or could not be.
    pub(crate) fn deletion_settled(&mut self, deleted: bool, cx: &mut CellContext<'_>) {
        if deleted {
            cx.actions
                .extend(self.retention.deleted().map(Action::Delete));
        } else {
            self.retention.delete_failed();
        }
    }

    pub(crate) fn is_recovering(&self) -> bool {
        self.stage == Stage::Recovering
    }

    /// Commands that wait, in whatever way.
    pub(crate) fn kept(&self) -> usize {
        self.queued() + self.aside().map_or(0, Aside::len)
    }

    /// Commands waiting to be handled.
    pub(crate) fn queued(&self) -> usize {
        let queued = |work: &Work| work.returned.len() + work.stash.len();
        self.work.as_deref().map_or(0, queued)
    }

    pub(crate) fn describe(&self) -> EntityDescription {
        EntityDescription {
            state: match self.stage {
                Stage::Recovering => EntityState::Recovering,
                _ if self.stop_requested => EntityState::Passivating,
                _ => EntityState::Live,
            },
            sequence_nr: self.stored_nr,
            queued: self.kept(),
            waiting_for: match self.stage {
                Stage::Recovering => "a recovery permit, or its snapshot and events",
                Stage::Ready => self.aside().map_or("", Aside::waiting_for),
                Stage::LookingUp => "the journal's index of command ids",
                Stage::Storing => "the journal, to store its events",
            }
            .into(),
        }
    }

    /// Of the command that has waited longest.
    pub(crate) fn first_trace(&self) -> Trace {
        let first = self.work.as_deref().and_then(|work| work.stash.front());
        first.map_or(Trace::NONE, |queued| queued.trace.clone())
    }

    fn pop_queued(&mut self) -> Option<Queued> {
        let work = self.work.as_mut()?;
        work.returned.pop_front().or_else(|| work.stash.pop_front())
    }

    /// Gives this incarnation's answers, where nothing was stored for them.
    fn confirmed(&self, cx: &CellContext<'_>) -> Confirmed {
        Confirmed {
            confirmations: cx.confirmations.clone(),
            shard: self.shard,
            epoch: self.epoch,
        }
    }

    fn is_actor(&self) -> bool {
        matches!(self.entity, Incarnation::Actor(_))
    }

    fn work(&mut self) -> &mut Work {
        self.work.get_or_insert_default()
    }

    fn is_broken(&self) -> bool {
        self.work.as_ref().is_some_and(|work| work.broken.is_some())
    }

    fn event_sourced(&mut self) -> &mut dyn Behavior {
        match &mut self.entity {
            Incarnation::EventSourced(behavior) => &mut **behavior,
            Incarnation::Actor(_) => unreachable!("actors take turns: see Cell::run"),
        }
    }

    fn actor(&mut self) -> &mut dyn ActorBehavior {
        match &mut self.entity {
            Incarnation::Actor(actor) => &mut **actor,
            Incarnation::EventSourced(_) => unreachable!("only actors take turns: see Cell::run"),
        }
    }
}

/// Actors answer by themselves: they have to know when they may.
fn guard_answers(entity: &mut Incarnation, shard: ShardNr, epoch: Epoch, cx: &CellContext<'_>) {
    if let Incarnation::Actor(actor) = entity {
        actor.guard_answers(Confirmed {
            confirmations: cx.confirmations.clone(),
            shard,
            epoch,
        });
    }
}

/// The entity type's own retention, or the node's.
fn retention(factory: &Arc<dyn EntityFactory>, settings: &EngineSettings) -> RetentionSettings {
    factory.retention().unwrap_or(settings.retention)
}
