//! The full-power way to write an entity: commands, events, and callbacks that run
//! when events are stored.
//!
//! A [`PersistentActor`] receives commands one at a time. With the [`Context`] it
//! persists events; each callback gets `&mut Self`, the stored event and a context
//! of its own, and is where the state changes. Between a [`Context::persist`] and
//! its callback other commands wait; [`Context::persist_async`] lets them go on.
//! After a restart the events are replayed to
//! [`receive_recover`](PersistentActor::receive_recover).
//!
//! Most entities need less: see [`event_sourced`](crate::event_sourced).
//!
//! What is guaranteed:
//!
//! * Callbacks run strictly in the order in which they were issued, each after its
//!   event is stored (I-4), never two at once, and never twice.
//! * At most one batch of writes of an entity is out. What is issued meanwhile goes
//!   out together as the next one; there is no timer.
//! * Every command is answered exactly once (I-8): with the reply the actor gives;
//!   with an empty payload when its handler and all its callbacks have ended
//!   without one; with an error when the actor failed or left before that.
//! * A command with an id has its effect once, if that is one atomic write with a
//!   reply given along ([`Context::persist_replying`],
//!   [`Context::persist_all_replying`]), however often it is retried: a retry gets the
//!   same reply, marked as a duplicate. While the original is under way, its callbacks
//!   and the [`Sender`]s it left included, a retry is answered with it, whatever the
//!   command does. Afterwards it is recognised by the first atomic write of the
//!   command, if that was stored: it is answered with the reply given along, or an
//!   empty payload, and not handled. So what the command wrote after it is not repeated
//!   either; but it is missing if the actor failed between the two. A command whose
//!   first write was not stored, or that wrote nothing, is handled again.
//! * A panic restarts the actor from its journal. The command that caused it is
//!   answered, those that wait are kept.
//!
//! Everything runs synchronously on the worker that owns the entity: nothing here
//! may block. Parts: `actor/context.rs` (what an actor can do), `actor/sender.rs`
//! (to whom it replies), `actor/recovery.rs`, `actor/signal.rs` (what it is told),
//! and, behind the scenes, `actor/machine.rs` and `actor/behavior.rs`.
//!
//! ```
//! use perennial_persistence::actor::{Context, PersistentActor, Recovered};
//! use perennial_persistence::codec::Json;
//! use perennial_persistence::entity_types::EntityTypes;
//!
//! #[derive(Default)]
//! struct Notes(Vec<String>);
//!
//! impl PersistentActor for Notes {
//!     type Command = String;
//!     type Event = String;
//!     type Snapshot = Vec<String>;
//!     type Reply = usize;
//!     type Codec = Json;
//!
//!     fn receive_command(&mut self, text: String, cx: &mut Context<'_, Self>) {
//!         cx.persist(text, |notes: &mut Self, text, cx| {
//!             notes.0.push(text.clone());
//!             cx.reply(&notes.0.len());
//!         });
//!     }
//!
//!     fn receive_recover(&mut self, recovered: Recovered<Self>, _: &mut Context<'_, Self>) {
//!         match recovered {
//!             Recovered::Event(text) => self.0.push(text),
//!             Recovered::SnapshotOffer(offer) => self.0 = offer.snapshot,
//!             Recovered::Completed => {}
//!         }
//!     }
//! }
//!
//! let mut types = EntityTypes::new();
//! types.register_actor("notes", |_entity_id| Notes::default())?;
//! # Ok::<(), perennial_persistence::entity_types::RegistrationError>(())
//! ```

pub(crate) mod behavior;
mod context;
mod machine;
mod recovery;
mod sender;
mod signal;

use crate::codec::Codec;
use crate::command_error::CommandError;

pub use context::{Context, StashError};
pub(crate) use machine::{Asked, Refusal, StashRequest};
pub use recovery::{Recovered, Recovery, SnapshotOffer};
pub(crate) use sender::Origin;
pub use sender::Sender;
pub use signal::Signal;
pub(crate) use signal::{StorageReport, StorageRequest};

/// A handler of commands, as [`Context::become_`] takes it; the first is
/// [`PersistentActor::receive_command`].
pub type CommandHandler<A> = fn(&mut A, <A as PersistentActor>::Command, &mut Context<'_, A>);

/// An entity with callbacks. One value is one incarnation of one entity.
pub trait PersistentActor: Sized + Send + 'static {
    /// What it is asked.
    type Command;
    /// What has happened; stored for good.
    type Event: Send;
    /// Its state, as snapshots hold it.
    type Snapshot;
    /// What it answers.
    type Reply;
    /// How all four become bytes; usually [`Json`](crate::codec::Json).
    type Codec: Codec<Self::Command>
        + Codec<Self::Event>
        + Codec<Self::Snapshot>
        + Codec<Self::Reply>;

    /// Handles a command. The state should change in callbacks, when the event that
    /// says so is stored.
    fn receive_command(&mut self, command: Self::Command, cx: &mut Context<'_, Self>);

    /// Takes in what is stored: perhaps a snapshot, then the events after it, then
    /// [`Recovered::Completed`], before any command. Also used to compute states of
    /// the past, so it should do nothing but change the state; what is to be done
    /// once belongs to `Completed`, where persisting is allowed too.
    ///
    /// A panic, and persisting or storing anything while events are replayed, fails
    /// the recovery.
    fn receive_recover(&mut self, recovered: Recovered<Self>, cx: &mut Context<'_, Self>);

    /// Hears what became of snapshots and deletions it asked for. The default logs
    /// failures.
    fn receive_signal(&mut self, signal: Signal<Self>, cx: &mut Context<'_, Self>) {
        signal.log_failure(cx.persistence_id());
    }

    /// What a recovery reads; asked once, when it begins.
    fn recovery(&self) -> Recovery {
        Recovery::default()
    }

    /// The state as others may see it, by `GetState`. `None`, the default, offers
    /// none: it is answered as a command that is not handled.
    fn state(&self) -> Option<Self::Snapshot> {
        None
    }

    /// A name for the kind of an event, stored beside it.
    fn event_manifest(_event: &Self::Event) -> &'static str {
        ""
    }

    /// An event may or may not be stored, or another author was first. Runs for each
    /// event of the batch that failed; afterwards the actor stops whatever this
    /// does, because its state is not known any more. Commands that stored or may
    /// have stored something are told so unless this replies. The default logs.
    fn on_persist_failure(
        &mut self,
        cause: &CommandError,
        _event: &Self::Event,
        cx: &mut Context<'_, Self>,
    ) {
        tracing::error!(entity = %cx.persistence_id(), %cause, "an event may not be stored; stopping");
    }

    /// An event is certainly not stored: it has no encoding or is too large, the
    /// journal refuses it or cannot be reached, or its command was stored before.
    /// Runs in place of the callback, for each event of the atomic write; the actor
    /// goes on. The command is answered with the cause unless this replies. The
    /// default logs.
    fn on_persist_rejected(
        &mut self,
        cause: &CommandError,
        _event: &Self::Event,
        cx: &mut Context<'_, Self>,
    ) {
        tracing::warn!(entity = %cx.persistence_id(), %cause, "an event was not stored");
    }

    /// The recovery failed; afterwards the actor is stopped. The default does
    /// nothing, as the engine logs the cause with the entity's name.
    fn on_recovery_failure(&mut self, _cause: &CommandError) {}

    /// The actor's code panicked, while handling this command if it was one, and it
    /// is about to be replaced by a new incarnation. Its state may be half-changed.
    fn pre_restart(&mut self, _panic: &str, _command: Option<&Self::Command>) {}

    /// This incarnation ends, for whatever reason but the end of the process.
    fn post_stop(&mut self) {}
}
