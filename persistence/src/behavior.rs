//! What the engine asks of an entity in memory, whatever its types are.
//!
//! An [`Incarnation`] holds one entity's state and moves bytes in and out of it. It
//! is synchronous and does no I/O. There are two kinds, one for each level of the
//! API: `event_sourced/behavior.rs` and `actor/behavior.rs` implement them.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::actor::{Asked, Origin, Recovery, Refusal, StorageReport};
use crate::codec::CodecError;
use crate::command::{CommandId, Metadata, ReplyTo};
use crate::command_error::{Applied, CommandError};
use crate::journal::{AtomicWrite, NewEvent, StoredEvent};
use crate::payload::Payload;
use crate::persisting::Commands;
use crate::runtime::confirmations::Confirmed;
use crate::sequence_nr::SequenceNr;
use crate::snapshot_store::Snapshot;

/// One incarnation of an entity.
pub(crate) enum Incarnation {
    /// Handles commands in rounds, on a tentative state.
    EventSourced(Box<dyn Behavior>),
    /// Handles commands in turns, with callbacks.
    Actor(Box<dyn ActorBehavior>),
}

/// What every incarnation can do: be recovered, and show its state.
pub(crate) trait Recoverable: Send {
    /// Replaces the state with a snapshot's. An error leaves the state as it was.
    fn offer_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), CodecError>;

    /// Folds a stored event into the state.
    fn replay(&mut self, event: &StoredEvent) -> Result<(), CodecError>;

    /// The state, encoded.
    fn encode_state(&self) -> Result<Payload, CommandError>;
}

impl Handled {
    pub(crate) fn refused(error: CommandError) -> Self {
        let then = After::default();
        Self::Refused { error, then }
    }
}

impl Incarnation {
    pub(crate) fn recoverable(&mut self) -> &mut dyn Recoverable {
        match self {
            Self::EventSourced(behavior) => &mut **behavior,
            Self::Actor(actor) => &mut **actor,
        }
    }

    pub(crate) fn encode_state(&self) -> Result<Payload, CommandError> {
        match self {
            Self::EventSourced(behavior) => behavior.encode_state(),
            Self::Actor(actor) => actor.encode_state(),
        }
    }

    /// It is about to live; says what its recovery reads.
    pub(crate) fn begin(&mut self) -> Recovery {
        match self {
            Self::EventSourced(_) => Recovery::default(),
            Self::Actor(actor) => actor.begin(),
        }
    }

    /// Its recovery failed.
    pub(crate) fn recovery_failed(&mut self, cause: &CommandError) {
        if let Self::Actor(actor) = self {
            actor.recovery_failed(cause);
        }
    }
}

/// An incarnation that handles commands in rounds.
pub(crate) trait Behavior: Recoverable {
    /// Handles a command on the present, perhaps tentative, state, which is that at
    /// number `at`. When events come of it they are applied to the state before this
    /// returns, unless nothing can be stored: then `unwritable` is what such a command is
    /// refused with.
    fn handle(
        &mut self,
        command: &Payload,
        at: SequenceNr,
        unwritable: Option<&CommandError>,
    ) -> Handled;

    /// Everything the state contains is stored.
    fn committed(&mut self);

    /// Nothing of what changed the state since it was last committed is stored: changes it
    /// back. False when that cannot be done.
    fn undo(&mut self) -> bool;

    /// The state is that of the journal. Returns a command the entity gives itself.
    fn recovered(&self) -> Result<Option<Payload>, CommandError>;

    /// Runs a side effect on the present state. An error is a panic of it.
    fn run(&self, effect: SideEffect) -> Result<(), CommandError>;

    /// Starts work outside on the present state. An error is a panic of that.
    fn start_outside(&self, work: OutsideWork) -> Result<OutsideFuture, CommandError>;
}

/// What a command led to.
pub(crate) enum Handled {
    /// The command is accepted. With events, the state has moved on and is
    /// tentative until they are stored.
    Accepted {
        events: Vec<NewEvent>,
        reply: Payload,
        then: After,
    },
    /// The command is put aside; the state is as before.
    Stashed,
    /// The command goes on as the one this comes back with; the state is as before.
    Outside(OutsideWork),
    /// The command is refused; the state is as before.
    Refused { error: CommandError, then: After },
    /// The command is refused for its own fault, but has changed the state.
    Spoiled(CommandError),
    /// The entity's code failed half-way: the state is not to be trusted.
    Broken(CommandError),
}

/// What follows when everything a command led to, or was refused on, is stored.
#[derive(Default)]
pub(crate) struct After {
    pub(crate) snapshot: bool,
    pub(crate) stop: bool,
    /// Boxed, because it is rare.
    pub(crate) effects: Option<Box<AfterEffects>>,
}

/// What else follows.
pub(crate) struct AfterEffects {
    pub(crate) run: Vec<SideEffect>,
    pub(crate) unstash_all: bool,
    pub(crate) outside: Vec<OutsideWork>,
}

/// Runs on the state, whose type only the behavior knows.
pub(crate) type SideEffect = Box<dyn FnOnce(&dyn Any) + Send>;

/// Work that comes back with an encoded command.
pub(crate) type OutsideFuture = BoxFuture<'static, Result<Payload, CodecError>>;

type StartOutside = Box<dyn FnOnce(&dyn Any) -> Option<OutsideFuture> + Send>;

/// Work outside that is not started.
pub(crate) struct OutsideWork {
    /// Gets the state; `None` when it is not of the type it was made for, which
    /// cannot be.
    pub(crate) start: StartOutside,
    /// What the entity's other commands do meanwhile.
    pub(crate) commands: Commands,
}

/// An incarnation that handles commands in turns and answers them itself. An error
/// is the message of a panic, after which it may only be asked to settle and to end.
pub(crate) trait ActorBehavior: Recoverable {
    /// As [`Incarnation::begin`].
    fn begin(&mut self) -> Recovery;

    /// Gives its answers, where nothing was stored for them.
    fn guard_answers(&mut self, confirmed: Confirmed);

    /// As [`Incarnation::recovery_failed`].
    fn recovery_failed(&mut self, cause: &CommandError);

    /// Its past is complete, and new events are numbered after this one.
    fn recovered(&mut self, highest: SequenceNr) -> Result<(), String>;

    /// Handles a command. When it is put aside its place for an answer comes back.
    fn receive(&mut self, command: ActorCommand<'_>) -> Result<Option<ReplyTo>, String>;

    /// The command with this id, if it was received and is not over yet: its handler,
    /// its callbacks and the senders that were kept.
    fn under_way(&self, command_id: &CommandId) -> Option<Arc<Origin>>;

    /// Hears what became of a request to the storage.
    fn signal(&mut self, report: StorageReport) -> Result<(), String>;

    /// Runs the next callback, if one is due.
    fn run_due(&mut self) -> Result<bool, String>;

    /// The writes to send now, and the number of the first event.
    fn next_batch(&mut self) -> Option<(SequenceNr, Vec<AtomicWrite>)>;

    /// The first `writes` of the batch that is out are stored.
    fn stored(&mut self, writes: usize);

    /// The next `writes` are certainly not; those given back go out again.
    fn refused(&mut self, writes: usize, refusal: Refusal, given_back: Vec<AtomicWrite>);

    /// The rest of the batch that is out has no known outcome, or failed for good:
    /// the hook runs for its events. `undecided` says which.
    fn persist_failed(&mut self, cause: &CommandError, undecided: bool);

    /// After a panic: marks what is settled without running any callback.
    fn settle(&mut self);

    /// After a panic: gives up what is not sent.
    fn abort_unsent(&mut self);

    /// It will end soon: what commands are told that had no effect and no answer.
    fn end(&mut self, fate: CommandError);

    /// What it asked for since this was last called.
    fn take_asked(&mut self) -> Asked;

    /// What is pending.
    fn status(&self) -> ActorStatus;
}

/// A command for an actor.
pub(crate) struct ActorCommand<'a> {
    pub(crate) payload: &'a Payload,
    pub(crate) command_id: Option<CommandId>,
    pub(crate) metadata: Metadata,
    pub(crate) reply_to: ReplyTo,
}

/// What an actor has pending.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ActorStatus {
    /// A callback is pending for which commands wait.
    pub(crate) stashing: bool,
    /// A batch is out.
    pub(crate) writing: bool,
    /// Callbacks pending, for which commands wait or not.
    pub(crate) pending: usize,
    /// The last event issued.
    pub(crate) issued: SequenceNr,
    /// The last event whose callback has begun.
    pub(crate) applied: SequenceNr,
}

/// Runs the user's code; a panic becomes its message. What the closure left behind
/// is thrown away by every caller, so unwind safety needs no proof by types.
pub(crate) fn guard<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| panic_message(&*panic).to_owned())
}

/// The error for a panic before anything was stored.
pub(crate) fn panicked(message: String) -> CommandError {
    CommandError::Panicked {
        message,
        applied: Applied::No,
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
