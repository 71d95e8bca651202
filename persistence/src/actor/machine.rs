//! What an incarnation has issued and what waits for it: the [`Persisting`] order
//! with the actor's own events and callbacks in it.
//!
//! It encodes events when they are issued, so that one without an encoding takes no
//! sequence number, and knows which command each belongs to. It runs nothing: that
//! is `actor/behavior.rs`.

use std::sync::Arc;

use crate::codec::{self, Codec};
use crate::command::CommandId;
use crate::command_error::CommandError;
use crate::journal::{AtomicWrite, CommandRecord, NewEvent, StoredCommand};
use crate::payload::Payload;
use crate::persistence_id::PersistenceId;
use crate::persisting::{Commands, Persisting};
use crate::sequence_nr::SequenceNr;

use super::sender::{Ledger, encode_reply};
use super::{CommandHandler, Context, Origin, PersistentActor, StorageReport, StorageRequest};

pub(super) type Callback<A> =
    Box<dyn FnOnce(&mut A, &<A as PersistentActor>::Event, &mut Context<'_, A>) + Send>;
pub(super) type EachCallback<A> =
    Box<dyn FnMut(&mut A, &<A as PersistentActor>::Event, &mut Context<'_, A>) + Send>;
pub(super) type Completion<A> = Box<dyn FnOnce(&mut A, &mut Context<'_, A>) + Send>;

/// Something issued whose turn has not come.
pub(super) struct Pending<A: PersistentActor> {
    /// The command it belongs to.
    pub(super) origin: Option<Arc<Origin>>,
    pub(super) then: Then<A>,
}

/// What runs when it comes.
pub(super) enum Then<A: PersistentActor> {
    /// One event was written.
    One(A::Event, Callback<A>, Option<Payload>),
    /// Several were, in one atomic write.
    Many(Vec<A::Event>, EachCallback<A>, Option<Payload>),
    /// Nothing was.
    Deferred(A::Event, Callback<A>),
    /// Nothing was, and there is no event.
    Completion(Completion<A>),
    /// Nothing could be written.
    Refused(Vec<A::Event>, CommandError),
}

/// Why writes that were sent are certainly not stored.
pub(crate) enum Refusal {
    Error(CommandError),
    /// The command was stored before, with this reply.
    Duplicate(CommandError, StoredCommand),
}

/// What an actor asked of its cell.
#[derive(Default)]
pub(crate) struct Asked {
    /// In the order in which it was asked for.
    pub(crate) stash: Vec<StashRequest>,
    pub(crate) stop: bool,
    pub(crate) storage: Vec<StorageRequest>,
    /// Of requests that came to an end before they were made.
    pub(crate) reports: Vec<StorageReport>,
    /// Command ids that went along with a write, with the number of its last event.
    pub(crate) recorded: Vec<(CommandId, SequenceNr)>,
}

/// What becomes of commands that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StashRequest {
    /// The present one is put aside.
    Stash,
    /// Those that were put aside are next.
    UnstashAll,
}

/// What one incarnation has under way.
pub(super) struct Machine<A: PersistentActor> {
    pub(super) persistence_id: PersistenceId,
    pub(super) persisting: Persisting<AtomicWrite, Pending<A>>,
    /// Handlers that replace [`PersistentActor::receive_command`], the last is on top.
    pub(super) handlers: Vec<CommandHandler<A>>,
    pub(super) asked: Asked,
    /// The last event issued.
    pub(super) issued: SequenceNr,
    /// Why the writes that are reported refused are.
    pub(super) refusal: Option<Refusal>,
    pub(super) ledger: Arc<Ledger>,
    /// Its past is behind it.
    pub(super) recovered: bool,
    /// Something was done that is forbidden during a replay.
    pub(super) misused: Option<&'static str>,
    pub(super) snapshot_declined: bool,
}

impl<A: PersistentActor> Machine<A> {
    pub(super) fn new(persistence_id: PersistenceId, max_payload: usize) -> Self {
        let reply_codec = <A::Codec as Codec<A::Reply>>::ID;
        Self {
            persistence_id,
            persisting: Persisting::default(),
            handlers: Vec::new(),
            asked: Asked::default(),
            issued: SequenceNr::ZERO,
            refusal: None,
            ledger: Arc::new(Ledger::new(reply_codec, max_payload)),
            recovered: false,
            misused: None,
            snapshot_declined: false,
        }
    }

    /// Where recovery has arrived.
    pub(super) fn set_number(&mut self, nr: SequenceNr) {
        self.issued = nr;
        self.ledger.set_applied(nr);
    }

    /// Issues one event; without an encoding its refusal takes its place.
    pub(super) fn persist_one(
        &mut self,
        origin: Option<&Arc<Origin>>,
        commands: Commands,
        event: A::Event,
        reply: Option<&A::Reply>,
        callback: Callback<A>,
    ) {
        match self.write(origin, std::slice::from_ref(&event), reply) {
            Ok((write, reply)) => {
                let then = Then::One(event, callback, reply);
                self.issue(write, origin, then, commands);
            }
            Err(error) => self.queue(origin, Then::Refused(vec![event], error), commands),
        }
    }

    /// Issues several events as one atomic write.
    pub(super) fn persist_many(
        &mut self,
        origin: Option<&Arc<Origin>>,
        commands: Commands,
        events: Vec<A::Event>,
        reply: Option<&A::Reply>,
        callback: EachCallback<A>,
    ) {
        if events.is_empty() {
            return;
        }
        match self.write(origin, &events, reply) {
            Ok((write, reply)) => {
                let then = Then::Many(events, callback, reply);
                self.issue(write, origin, then, commands);
            }
            Err(error) => self.queue(origin, Then::Refused(events, error), commands),
        }
    }

    /// Issues what writes nothing, to run when its turn comes, not before the turn
    /// that issues it is over.
    pub(super) fn queue(
        &mut self,
        origin: Option<&Arc<Origin>>,
        then: Then<A>,
        commands: Commands,
    ) {
        let origin = origin.cloned();
        self.persisting.queue(Pending { origin, then }, commands);
    }

    fn issue(
        &mut self,
        write: AtomicWrite,
        origin: Option<&Arc<Origin>>,
        then: Then<A>,
        commands: Commands,
    ) {
        self.issued = self.issued.plus(write.events.len() as u64);
        if let Some(record) = &write.command {
            let recorded = (record.command_id.clone(), self.issued);
            self.asked.recorded.push(recorded);
        }
        let origin = origin.cloned();
        self.persisting
            .persist(write, [Pending { origin, then }], commands);
    }

    fn write(
        &self,
        origin: Option<&Arc<Origin>>,
        events: &[A::Event],
        reply: Option<&A::Reply>,
    ) -> Result<(AtomicWrite, Option<Payload>), CommandError> {
        let events: Result<_, _> = events.iter().map(|event| self.encode(event)).collect();
        let events = events?;
        let reply = match reply {
            Some(reply) => Some(encode_reply::<A>(reply, &self.ledger)?),
            None => None,
        };
        let command_id = origin.and_then(|origin| origin.record());
        let write = AtomicWrite {
            events,
            command: command_id.map(|command_id| CommandRecord {
                command_id,
                reply: reply.clone().unwrap_or_else(|| self.ledger.empty_payload()),
            }),
            metadata: origin.and_then(|origin| origin.metadata.clone()),
        };
        Ok((write, reply))
    }

    fn encode(&self, event: &A::Event) -> Result<NewEvent, CommandError> {
        let manifest = A::event_manifest(event);
        let payload = codec::encode::<_, A::Codec>(event, manifest).map_err(|error| {
            CommandError::PersistRejected {
                message: error.message,
            }
        })?;
        self.ledger.check_len("an event", payload.bytes.len())?;
        let tags = Vec::new();
        Ok(NewEvent { payload, tags })
    }
}
