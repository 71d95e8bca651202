//! Runs an [`EventSourced`] entity: decode, handle, encode, apply.
//!
//! The order is the point. Events are encoded before anything changes, so that
//! one that cannot be encoded is refused without a trace; the reply is made from
//! the tentative state, so that it can be stored with the events (I-8). Panics
//! of the user's code stop here.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;

use crate::behavior::{
    After, AfterEffects, Behavior, Handled, OutsideFuture, OutsideWork, Recoverable, SideEffect,
    guard, panicked,
};
use crate::codec::{self, Codec, CodecError};
use crate::command_error::CommandError;
use crate::durable_state::DELETED_MANIFEST;
use crate::effect::{Decision, Events, Outside, ReplyWith, RunWith, Then};
use crate::entity_types::RegistrationError;
use crate::event_adapter::EventAdapters;
use crate::event_sourced::EventSourced;
use crate::journal::{NewEvent, StoredEvent};
use crate::payload::{CodecId, Payload};
use crate::persistence_id::check_entity_type;
use crate::retention::RetentionSettings;
use crate::sequence_nr::SequenceNr;
use crate::snapshot_store::Snapshot;

/// What all entities of a type share.
pub(crate) struct Definition<E: EventSourced> {
    pub(crate) entity: E,
    pub(crate) adapters: EventAdapters<E::Event>,
}

impl<E: EventSourced> Definition<E> {
    /// Checks what can be checked before the first entity is started.
    pub(crate) fn new(entity: E) -> Result<Self, RegistrationError> {
        check_entity_type(E::ENTITY_TYPE)?;
        Self::check_retention()?;
        let adapters = E::adapters();
        match adapters.bound_twice() {
            None => Ok(Self { entity, adapters }),
            Some(manifest) => Err(RegistrationError::AdapterTwice {
                entity_type: E::ENTITY_TYPE,
                manifest,
            }),
        }
    }

    fn check_retention() -> Result<(), RegistrationError> {
        let entity_type = E::ENTITY_TYPE;
        match E::retention().map(RetentionSettings::validate) {
            Some(Err(source)) => Err(RegistrationError::Retention {
                entity_type,
                source,
            }),
            _ => Ok(()),
        }
    }
}

/// One incarnation of an event-sourced entity.
pub(crate) struct EventSourcedBehavior<E: EventSourced> {
    definition: Arc<Definition<E>>,
    state: E::State,
    /// The state as it was last committed, while it is changed. Boxed: it is rare.
    committed: Option<Box<E::State>>,
    /// Largest event, reply and state in bytes.
    max_payload: usize,
}

impl<E: EventSourced> EventSourcedBehavior<E> {
    pub(crate) fn new(
        definition: Arc<Definition<E>>,
        max_payload: usize,
    ) -> Result<Self, CommandError> {
        Ok(Self {
            definition,
            state: guard(E::State::default).map_err(panicked)?,
            committed: None,
            max_payload,
        })
    }

    pub(crate) fn encode_event(&self, event: &E::Event) -> Result<NewEvent, CommandError> {
        let rejected = |message| CommandError::PersistRejected { message };
        let bytes = <E::Codec as Codec<E::Event>>::encode(event)
            .map_err(|error| rejected(error.message))?;
        let payload = Payload {
            codec: <E::Codec as Codec<E::Event>>::ID,
            manifest: Cow::Borrowed(E::event_manifest(event)),
            bytes,
        };
        let adapted = self.definition.adapters.to_journal(event, payload);
        let encoded = adapted.map_err(|error| rejected(error.to_string()))?;
        self.check_len("an event", &encoded.payload.bytes)?;
        Ok(encoded)
    }

    fn check_len(&self, what: &'static str, bytes: &Bytes) -> Result<(), CommandError> {
        if bytes.len() > self.max_payload {
            return Err(CommandError::PayloadTooLarge {
                what: what.into(),
                len: bytes.len(),
                limit: self.max_payload,
            });
        }
        Ok(())
    }

    /// Encodes the reply. Events, if any, are applied already, so an error here
    /// leaves a state that is not to be trusted.
    fn make_reply(&self, reply: Option<ReplyWith<E>>) -> Result<Payload, CommandError> {
        let bytes = match reply {
            None => Bytes::new(),
            Some(make_reply) => {
                let encoded =
                    guard(|| <E::Codec as Codec<E::Reply>>::encode(&make_reply(&self.state)));
                encoded
                    .map_err(panicked)?
                    .map_err(|error| panicked(format!("its reply cannot be encoded: {error}")))?
            }
        };
        self.check_len("the reply", &bytes)?;
        Ok(Payload {
            codec: <E::Codec as Codec<E::Reply>>::ID,
            manifest: Cow::Borrowed(""),
            bytes,
        })
    }

    #[cfg(feature = "testing")]
    pub(crate) fn state(&self) -> &E::State {
        &self.state
    }

    /// As the event happens, for the kit of tests, which stores it itself.
    #[cfg(feature = "testing")]
    pub(crate) fn apply(&mut self, event: E::Event) {
        self.definition.entity.apply(&mut self.state, event);
    }

    fn accept(
        &mut self,
        events: Events<E::Event>,
        reply: Option<ReplyWith<E>>,
        then: Then<E>,
        at: SequenceNr,
        unwritable: Option<&CommandError>,
    ) -> Handled {
        let events = events.into_vec();
        if let Some(unwritable) = unwritable
            && !events.is_empty()
        {
            return Handled::refused(unwritable.clone());
        }
        let encode = || events.iter().map(|event| self.encode_event(event));
        let encoded = match guard(|| encode().collect::<Result<Vec<_>, _>>()) {
            Ok(Ok(encoded)) => encoded,
            Ok(Err(error)) => return Handled::refused(error),
            Err(message) => return Handled::Broken(panicked(message)),
        };
        let is_first_change = self.committed.is_none();
        let applied = guard(|| {
            if E::KEEPS_COPY && is_first_change && !events.is_empty() {
                self.committed = Some(Box::new(self.state.clone()));
            }
            for event in events {
                self.definition.entity.apply(&mut self.state, event);
            }
        });
        let last = at.plus(encoded.len() as u64);
        let finish = |()| {
            let mut after = then.erase();
            if !encoded.is_empty() && !after.snapshot {
                let entity = &self.definition.entity;
                after.snapshot =
                    guard(|| entity.snapshot_when(&self.state, last)).map_err(panicked)?;
            }
            Ok((self.make_reply(reply)?, after))
        };
        match applied.map_err(panicked).and_then(finish) {
            Ok((reply, then)) => Handled::Accepted {
                events: encoded,
                reply,
                then,
            },
            Err(error) if encoded.is_empty() => Handled::refused(error),
            Err(error @ CommandError::PayloadTooLarge { .. }) => {
                if is_first_change && self.undo() {
                    Handled::refused(error)
                } else {
                    Handled::Spoiled(error)
                }
            }
            Err(error) => Handled::Broken(error),
        }
    }
}

impl<E: EventSourced> Recoverable for EventSourcedBehavior<E> {
    fn offer_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), CodecError> {
        let payload = &snapshot.payload;
        if payload.manifest == DELETED_MANIFEST {
            return Ok(());
        }
        check_codec::<E, E::State>(payload.codec)?;
        self.state = decode_guarded::<E, E::State>(&payload.bytes)?;
        Ok(())
    }

    fn replay(&mut self, event: &StoredEvent) -> Result<(), CodecError> {
        let Definition { entity, adapters } = &*self.definition;
        for_each_event::<E>(adapters, &event.payload, |event| {
            entity.apply(&mut self.state, event);
        })
    }

    fn encode_state(&self) -> Result<Payload, CommandError> {
        let encoded = guard(|| codec::encode::<_, E::Codec>(&self.state, ""));
        encoded
            .and_then(|encoded| encoded.map_err(|error| error.message))
            .map_err(|message| panicked(format!("its state cannot be encoded: {message}")))
    }
}

impl<E: EventSourced> Behavior for EventSourcedBehavior<E> {
    fn handle(
        &mut self,
        command: &Payload,
        at: SequenceNr,
        unwritable: Option<&CommandError>,
    ) -> Handled {
        let invalid = |error: CodecError| {
            Handled::refused(CommandError::PayloadInvalid {
                entity_type: E::ENTITY_TYPE.to_owned(),
                message: error.message,
            })
        };
        if let Err(error) = check_codec::<E, E::Command>(command.codec) {
            return invalid(error);
        }
        let command = match decode_guarded::<E, E::Command>(&command.bytes) {
            Ok(command) => command,
            Err(error) => return invalid(error),
        };
        let effect = match guard(|| self.definition.entity.handle(&self.state, command)) {
            Ok(effect) => effect,
            // Nothing was applied, but what the handler did to itself before it
            // panicked is not known: start afresh from the journal.
            Err(message) => return Handled::Broken(panicked(message)),
        };
        match effect.decision {
            Decision::Proceed { events, reply } => {
                self.accept(events, reply, effect.then, at, unwritable)
            }
            Decision::Reject { reason, message } => Handled::Refused {
                error: CommandError::Rejected { reason, message },
                then: effect.then.erase(),
            },
            Decision::Unhandled => Handled::Refused {
                error: CommandError::Unhandled {
                    entity_type: E::ENTITY_TYPE.to_owned(),
                },
                then: effect.then.erase(),
            },
            Decision::Stash => Handled::Stashed,
            Decision::RunOutside(outside) => match unwritable {
                // What it comes back with could not be stored.
                Some(unwritable) => Handled::refused(unwritable.clone()),
                None => Handled::Outside(outside.erase()),
            },
        }
    }

    fn committed(&mut self) {
        self.committed = None;
    }

    fn undo(&mut self) -> bool {
        match self.committed.take() {
            Some(committed) => {
                self.state = *committed;
                true
            }
            None => false,
        }
    }

    fn recovered(&self) -> Result<Option<Payload>, CommandError> {
        let encode = |command: E::Command| codec::encode::<_, E::Codec>(&command, "");
        let entity = &self.definition.entity;
        guard(|| entity.after_recovery(&self.state).map(encode).transpose())
            .and_then(|encoded| encoded.map_err(|error| error.message))
            .map_err(|message| panicked(format!("after its recovery: {message}")))
    }

    fn run(&self, effect: SideEffect) -> Result<(), CommandError> {
        guard(|| effect(&self.state)).map_err(panicked)
    }

    fn start_outside(&self, work: OutsideWork) -> Result<OutsideFuture, CommandError> {
        let started = guard(|| (work.start)(&self.state)).map_err(panicked)?;
        started.ok_or_else(|| panicked("work outside was made for another type of state".into()))
    }
}

impl<E: EventSourced> Then<E> {
    /// The same for the engine, which does not know the types.
    fn erase(self) -> After {
        let erase_run = |run: RunWith<E>| -> SideEffect {
            Box::new(|state| {
                if let Some(state) = state.downcast_ref() {
                    run(state);
                }
            })
        };
        let is_rare = self.unstash_all || !self.run.is_empty() || !self.outside.is_empty();
        After {
            snapshot: self.snapshot,
            stop: self.stop,
            effects: is_rare.then(|| {
                Box::new(AfterEffects {
                    run: self.run.into_iter().map(erase_run).collect(),
                    unstash_all: self.unstash_all,
                    outside: self.outside.into_iter().map(Outside::erase).collect(),
                })
            }),
        }
    }
}

impl<E: EventSourced> Outside<E> {
    fn erase(self) -> OutsideWork {
        let start = self.start;
        let encode = |command: E::Command| codec::encode::<_, E::Codec>(&command, "");
        OutsideWork {
            start: Box::new(move |state| {
                let work = start(state.downcast_ref()?);
                Some(work.map(encode).boxed())
            }),
            commands: self.commands,
        }
    }
}

/// Calls `apply` with each of the events that a stored one stands for.
pub(crate) fn for_each_event<E: EventSourced>(
    adapters: &EventAdapters<E::Event>,
    stored: &Payload,
    mut apply: impl FnMut(E::Event),
) -> Result<(), CodecError> {
    let mut apply_one = |bytes: &[u8]| {
        let event = decode_guarded::<E, E::Event>(bytes)?;
        guard(|| apply(event)).map_err(|message| CodecError {
            message: format!("applying the event failed: {}", panicked(message)),
        })
    };
    let adapted = guard(|| adapters.read_back(stored))
        .and_then(|adapted| adapted.map_err(|error| error.to_string()))
        .map_err(|message| CodecError { message })?;
    match adapted {
        None => {
            check_codec::<E, E::Event>(stored.codec)?;
            apply_one(&stored.bytes)
        }
        Some(events) => events.iter().try_for_each(|bytes| apply_one(bytes)),
    }
}

fn check_codec<E: EventSourced, T>(codec: CodecId) -> Result<(), CodecError>
where
    E::Codec: Codec<T>,
{
    let own = <E::Codec as Codec<T>>::ID;
    if codec == own {
        return Ok(());
    }
    Err(CodecError {
        message: format!(
            "entity type {:?} uses codec {own}, the bytes are of codec {codec}",
            E::ENTITY_TYPE
        ),
    })
}

fn decode_guarded<E: EventSourced, T>(bytes: &[u8]) -> Result<T, CodecError>
where
    E::Codec: Codec<T>,
{
    guard(|| <E::Codec as Codec<T>>::decode(bytes)).map_err(|message| CodecError { message })?
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod behavior_test;
