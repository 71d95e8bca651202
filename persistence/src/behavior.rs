//! What the engine asks of an entity in memory, whatever its types are.
//!
//! A behavior holds one entity's state and moves bytes in and out of it. It is
//! synchronous and does no I/O. Next: `event_sourced/behavior.rs` implements it
//! for the everyday level.

use std::any::Any;

use futures::future::BoxFuture;

use crate::codec::CodecError;
use crate::command_error::CommandError;
use crate::journal::{NewEvent, StoredEvent};
use crate::payload::Payload;
use crate::persisting::Commands;
use crate::sequence_nr::SequenceNr;

/// One incarnation's state, behind erased types.
pub(crate) trait Behavior: Send {
    /// Replaces the state with a snapshot's. An error leaves the state as it was.
    fn offer_snapshot(&mut self, snapshot: &Payload) -> Result<(), CodecError>;

    /// Folds a stored event into the state.
    fn replay(&mut self, event: &StoredEvent) -> Result<(), CodecError>;

    /// Handles a command on the present, perhaps tentative, state, which is that at
    /// number `at`. When events come of it they are applied to the state before this
    /// returns.
    fn handle(&mut self, command: &Payload, at: SequenceNr) -> Handled;

    /// The state is that of the journal. Returns a command the entity gives itself.
    fn recovered(&self) -> Result<Option<Payload>, CommandError>;

    /// Runs a side effect on the present state. An error is a panic of it.
    fn run(&self, effect: SideEffect) -> Result<(), CommandError>;

    /// Starts work outside on the present state. An error is a panic of that.
    fn start_outside(&self, work: OutsideWork) -> Result<OutsideFuture, CommandError>;

    /// The state, encoded.
    fn encode_state(&self) -> Result<Payload, CodecError>;
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
    Refused(CommandError),
    /// The entity's code failed half-way: the state is not to be trusted.
    Broken(CommandError),
}

/// What follows when everything a command led to is stored.
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
