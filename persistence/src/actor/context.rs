//! What an actor can do while it handles something.

use std::fmt;
use std::sync::Arc;

use crate::codec;
use crate::command_error::CommandError;
use crate::persistence_id::PersistenceId;
use crate::persisting::Commands;
use crate::sequence_nr::SequenceNr;
use crate::snapshot_store::SnapshotCriteria;

use super::machine::{Machine, StashRequest, Then};
use super::{CommandHandler, Origin, PersistentActor, Sender, StorageReport, StorageRequest};

/// Handlers that may lie on one another by [`Context::become_stacked`]; the oldest is
/// forgotten for a further one.
const HANDLERS_MAX: usize = 1_000;

/// A command cannot be put aside now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StashError {
    /// There is no command that could be: T5 of the cases.
    #[error("Do not call stash inside of persist callback or during recovery.")]
    NoCommand,
    /// It is put aside already.
    #[error("the command is in the stash already: call stash once")]
    Twice,
}

/// On whose behalf a context exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// A snapshot is offered or an event replayed.
    Replay,
    /// A command is handled.
    Command,
    /// A callback runs, or anything else.
    Other,
}

/// What an actor can do while it handles a command, callback or signal. It cannot be
/// kept: nothing can be issued from outside the actor's turn.
///
/// Callbacks get the sender of the command they were issued for. They may issue
/// whatever a command handler may, in any mix and depth.
pub struct Context<'a, A: PersistentActor> {
    pub(super) machine: &'a mut Machine<A>,
    pub(super) origin: Option<Arc<Origin>>,
    pub(super) phase: Phase,
}

impl<A: PersistentActor> fmt::Debug for Context<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("persistence_id", &self.machine.persistence_id)
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}

/// Persisting and deferring.
impl<A: PersistentActor> Context<'_, A> {
    /// Stores an event, then runs the callback. Commands wait until it has run.
    pub fn persist(
        &mut self,
        event: A::Event,
        callback: impl FnOnce(&mut A, &A::Event, &mut Context<'_, A>) + Send + 'static,
    ) {
        self.persist_one(Commands::Wait, event, None, Box::new(callback));
    }

    /// As [`Context::persist`], but commands go on meanwhile.
    pub fn persist_async(
        &mut self,
        event: A::Event,
        callback: impl FnOnce(&mut A, &A::Event, &mut Context<'_, A>) + Send + 'static,
    ) {
        self.persist_one(Commands::GoOn, event, None, Box::new(callback));
    }

    /// As [`Context::persist`], with the reply to the command. It is stored with the
    /// event, so that a retry of the command gets the same, and given after the
    /// callback, unless that replies itself.
    pub fn persist_replying(
        &mut self,
        event: A::Event,
        reply: &A::Reply,
        callback: impl FnOnce(&mut A, &A::Event, &mut Context<'_, A>) + Send + 'static,
    ) {
        self.persist_one(Commands::Wait, event, Some(reply), Box::new(callback));
    }

    /// Stores several events, all or none (I-7), then runs the callback for each in
    /// order. Commands wait until it has run for the last. An empty list does
    /// nothing.
    pub fn persist_all(
        &mut self,
        events: Vec<A::Event>,
        callback: impl FnMut(&mut A, &A::Event, &mut Context<'_, A>) + Send + 'static,
    ) {
        self.persist_many(Commands::Wait, events, None, callback);
    }

    /// As [`Context::persist_all`], but commands go on meanwhile.
    pub fn persist_all_async(
        &mut self,
        events: Vec<A::Event>,
        callback: impl FnMut(&mut A, &A::Event, &mut Context<'_, A>) + Send + 'static,
    ) {
        self.persist_many(Commands::GoOn, events, None, callback);
    }

    /// As [`Context::persist_all`], with the reply to the command: see
    /// [`Context::persist_replying`]. With no events the reply is given at once.
    pub fn persist_all_replying(
        &mut self,
        events: Vec<A::Event>,
        reply: &A::Reply,
        callback: impl FnMut(&mut A, &A::Event, &mut Context<'_, A>) + Send + 'static,
    ) {
        if events.is_empty() {
            return self.reply(reply);
        }
        self.persist_many(Commands::Wait, events, Some(reply), callback);
    }

    /// As [`Context::persist_all`]; when the callback has run for the last event,
    /// `on_complete` runs once. With no events it runs when this turn is over.
    pub fn persist_all_then(
        &mut self,
        events: Vec<A::Event>,
        callback: impl FnMut(&mut A, &A::Event, &mut Context<'_, A>) + Send + 'static,
        on_complete: impl FnOnce(&mut A, &mut Context<'_, A>) + Send + 'static,
    ) {
        self.persist_many(Commands::Wait, events, None, callback);
        if self.may_issue() {
            let then = Then::Completion(Box::new(on_complete));
            self.machine
                .queue(self.origin.as_ref(), then, Commands::Wait);
        }
    }

    /// Runs the callback with a value that is not stored, after all callbacks issued
    /// before; commands wait until it has run. With nothing issued before it runs
    /// here and now, for which it takes the actor.
    pub fn defer(
        &mut self,
        actor: &mut A,
        event: A::Event,
        callback: impl FnOnce(&mut A, &A::Event, &mut Context<'_, A>) + Send + 'static,
    ) {
        self.defer_as(Commands::Wait, actor, event, callback);
    }

    /// As [`Context::defer`], but commands go on meanwhile.
    pub fn defer_async(
        &mut self,
        actor: &mut A,
        event: A::Event,
        callback: impl FnOnce(&mut A, &A::Event, &mut Context<'_, A>) + Send + 'static,
    ) {
        self.defer_as(Commands::GoOn, actor, event, callback);
    }

    fn persist_one(
        &mut self,
        commands: Commands,
        event: A::Event,
        reply: Option<&A::Reply>,
        callback: super::machine::Callback<A>,
    ) {
        if self.may_issue() {
            let origin = self.origin.as_ref();
            self.machine
                .persist_one(origin, commands, event, reply, callback);
        }
    }

    fn persist_many(
        &mut self,
        commands: Commands,
        events: Vec<A::Event>,
        reply: Option<&A::Reply>,
        callback: impl FnMut(&mut A, &A::Event, &mut Context<'_, A>) + Send + 'static,
    ) {
        if self.may_issue() {
            let (origin, callback) = (self.origin.as_ref(), Box::new(callback));
            self.machine
                .persist_many(origin, commands, events, reply, callback);
        }
    }

    fn defer_as(
        &mut self,
        commands: Commands,
        actor: &mut A,
        event: A::Event,
        callback: impl FnOnce(&mut A, &A::Event, &mut Context<'_, A>) + Send + 'static,
    ) {
        if !self.may_issue() {
            return;
        }
        if self.machine.persisting.runs_inline() {
            let phase = std::mem::replace(&mut self.phase, Phase::Other);
            callback(actor, &event, self);
            self.phase = phase;
            return;
        }
        let then = Then::Deferred(event, Box::new(callback));
        self.machine.queue(self.origin.as_ref(), then, commands);
    }

    /// Nothing may be issued while the past is replayed: it would be issued again at
    /// every recovery.
    fn may_issue(&mut self) -> bool {
        if self.phase == Phase::Replay {
            self.machine.misused = Some(
                "it persisted, deferred or stored something while its past was replayed: do that when \
                 the recovery is completed",
            );
        }
        self.phase != Phase::Replay
    }
}

/// Answering the command.
impl<A: PersistentActor> Context<'_, A> {
    /// Replies to the command being handled, or on whose behalf this callback runs.
    /// Only the first reply is given.
    pub fn reply(&mut self, reply: &A::Reply) {
        if let Some(origin) = &self.origin {
            Sender::<A>::new(origin).reply(reply);
        }
    }

    /// Refuses the command by the entity's own rules: see [`Sender::reject`].
    pub fn reject(&mut self, reason: impl Into<String>, message: impl Into<String>) {
        if let Some(origin) = &self.origin {
            Sender::<A>::new(origin).reject(reason, message);
        }
    }

    /// This actor does not handle this command, or not in this state.
    pub fn unhandled(&mut self) {
        if let Some(origin) = &self.origin {
            origin.refuse(&CommandError::Unhandled {
                entity_type: self.machine.persistence_id.entity_type().to_owned(),
            });
        }
    }

    /// Where the reply goes, to be kept until there is one. `None` when there is no
    /// command: in a recovery and for signals.
    #[must_use]
    pub fn sender(&self) -> Option<Sender<A>> {
        self.origin.as_ref().map(Sender::new)
    }
}

/// Which commands are handled next, and by what.
impl<A: PersistentActor> Context<'_, A> {
    /// Puts the command aside, until [`Context::unstash_all`]. It is handled as if it
    /// came then; what it is answered meanwhile is what it is answered.
    ///
    /// # Errors
    /// [`StashError::NoCommand`] in callbacks, signals and recovery: there is no
    /// command that could be handled later.
    pub fn stash(&mut self) -> Result<(), StashError> {
        if self.phase != Phase::Command {
            return Err(StashError::NoCommand);
        }
        if self.machine.asked.stash.contains(&StashRequest::Stash) {
            return Err(StashError::Twice);
        }
        self.machine.asked.stash.push(StashRequest::Stash);
        Ok(())
    }

    /// The commands put aside are handled next, in the order in which they were put
    /// aside, before others that wait.
    pub fn unstash_all(&mut self) {
        self.machine.asked.stash.push(StashRequest::UnstashAll);
    }

    /// Further commands are handled by this function, in place of the present one.
    pub fn become_(&mut self, handler: CommandHandler<A>) {
        self.machine.handlers.pop();
        self.machine.handlers.push(handler);
    }

    /// Further commands are handled by this function, until [`Context::unbecome`]
    /// brings the present one back.
    pub fn become_stacked(&mut self, handler: CommandHandler<A>) {
        if self.machine.handlers.len() >= HANDLERS_MAX {
            self.machine.handlers.remove(0);
        }
        self.machine.handlers.push(handler);
    }

    /// Further commands are handled by the function before the present one, at last by
    /// [`PersistentActor::receive_command`].
    pub fn unbecome(&mut self) {
        self.machine.handlers.pop();
    }

    /// Leaves memory when everything issued is stored and its callbacks have run.
    /// Commands that wait, also those put aside, start the next incarnation: nothing
    /// accepted is lost.
    pub fn stop(&mut self) {
        self.machine.asked.stop = true;
    }
}

/// Snapshots and deletions. Each is answered with a [`Signal`](super::Signal).
impl<A: PersistentActor> Context<'_, A> {
    /// Saves a state, which must be that after [`Context::snapshot_sequence_nr`].
    pub fn save_snapshot(&mut self, snapshot: &A::Snapshot) {
        if !self.may_issue() {
            return;
        }
        let sequence_nr = self.snapshot_sequence_nr();
        let encoded = codec::encode::<_, A::Codec>(snapshot, "").map_err(|e| e.message);
        let encoded = encoded.and_then(|payload| {
            let len = payload.bytes.len();
            let checked = self.machine.ledger.check_len("the snapshot", len);
            checked.map(|()| payload).map_err(|e| e.to_string())
        });
        match encoded {
            Ok(payload) => self.ask(StorageRequest::SaveSnapshot(sequence_nr, payload)),
            Err(cause) => {
                let report = StorageReport::SnapshotSaved(sequence_nr, Err(cause));
                self.machine.asked.reports.push(report);
            }
        }
    }

    /// Reads the newest snapshot that matches.
    pub fn load_snapshot(&mut self, criteria: SnapshotCriteria) {
        self.ask(StorageRequest::LoadSnapshot(criteria));
    }

    /// Deletes the snapshot at a number.
    pub fn delete_snapshot(&mut self, sequence_nr: SequenceNr) {
        self.ask(StorageRequest::DeleteSnapshot(sequence_nr));
    }

    /// Deletes all snapshots that match.
    pub fn delete_snapshots(&mut self, criteria: SnapshotCriteria) {
        self.ask(StorageRequest::DeleteSnapshots(criteria));
    }

    /// Deletes events up to a number, inclusive; [`SequenceNr::MAX`] means all that
    /// are stored then. The highest number stays. Deleting beyond the last stored
    /// event is a failure that deletes nothing.
    pub fn delete_events(&mut self, to: SequenceNr) {
        self.ask(StorageRequest::DeleteEvents(to));
    }

    /// In [`PersistentActor::receive_recover`], for a snapshot that is of no use: an
    /// older one is offered, at last none, and then all events follow.
    pub fn decline_snapshot(&mut self) {
        self.machine.snapshot_declined = true;
    }

    fn ask(&mut self, request: StorageRequest) {
        if self.may_issue() {
            self.machine.asked.storage.push(request);
        }
    }
}

/// Who and where the actor is.
impl<A: PersistentActor> Context<'_, A> {
    /// The entity's name.
    #[must_use]
    pub fn persistence_id(&self) -> &PersistenceId {
        &self.machine.persistence_id
    }

    /// Its past is being replayed.
    #[must_use]
    pub fn is_recovering(&self) -> bool {
        !self.machine.recovered
    }

    /// Its past is replayed; so also in [`Recovered::Completed`](super::Recovered).
    #[must_use]
    pub fn is_recovery_finished(&self) -> bool {
        self.machine.recovered
    }

    /// The number of the last event issued, or replayed. An event that is issued gets
    /// the next one, unless one before it is refused.
    #[must_use]
    pub fn last_sequence_nr(&self) -> SequenceNr {
        self.machine.issued
    }

    /// The number of the last event whose callback has begun, or that was replayed:
    /// where a snapshot taken now belongs.
    #[must_use]
    pub fn snapshot_sequence_nr(&self) -> SequenceNr {
        self.machine.ledger.applied()
    }
}
