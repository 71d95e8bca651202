//! What the engine asks of an entity in memory, whatever its types are.
//!
//! A behavior holds one entity's state and moves bytes in and out of it. It is
//! synchronous and does no I/O. Next: `event_sourced/behavior.rs` implements it
//! for the everyday level.

use crate::codec::CodecError;
use crate::command_error::CommandError;
use crate::journal::{NewEvent, StoredEvent};
use crate::payload::Payload;

/// One incarnation's state, behind erased types.
pub(crate) trait Behavior: Send {
    /// Replaces the state with a snapshot's. An error leaves the state as it was.
    fn offer_snapshot(&mut self, snapshot: &Payload) -> Result<(), CodecError>;

    /// Folds a stored event into the state.
    fn replay(&mut self, event: &StoredEvent) -> Result<(), CodecError>;

    /// Handles a command on the present, perhaps tentative, state. When events
    /// come of it they are applied to the state before this returns.
    fn handle(&mut self, command: &Payload) -> Handled;

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
        then_snapshot: bool,
        then_stop: bool,
    },
    /// The command is refused; the state is as before.
    Refused(CommandError),
    /// The entity's code failed half-way: the state is not to be trusted.
    Broken(CommandError),
}
