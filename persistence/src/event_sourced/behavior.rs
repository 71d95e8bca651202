//! Runs an [`EventSourced`] entity: decode, handle, encode, apply.
//!
//! The order is the point. Events are encoded before anything changes, so that
//! one that cannot be encoded is refused without a trace; the reply is made from
//! the tentative state, so that it can be stored with the events (I-8). Panics
//! of the user's code stop here.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use crate::behavior::{Behavior, Handled, Recoverable, guard, panicked};
use crate::codec::{self, Codec, CodecError};
use crate::command_error::CommandError;
use crate::effect::{Decision, Effect, Events, ReplyWith};
use crate::event_sourced::EventSourced;
use crate::journal::{NewEvent, StoredEvent};
use crate::payload::{CodecId, Payload};
use crate::snapshot_store::Snapshot;

/// One incarnation of an event-sourced entity.
pub(crate) struct EventSourcedBehavior<E: EventSourced> {
    definition: Arc<E>,
    state: E::State,
    /// Largest event, reply and state in bytes.
    max_payload: usize,
}

impl<E: EventSourced> EventSourcedBehavior<E> {
    pub(crate) fn new(definition: Arc<E>, max_payload: usize) -> Result<Self, CommandError> {
        Ok(Self {
            definition,
            state: guard(E::State::default).map_err(panicked)?,
            max_payload,
        })
    }

    fn encode_event(&self, event: &E::Event) -> Result<NewEvent, CommandError> {
        let bytes = <E::Codec as Codec<E::Event>>::encode(event).map_err(|error| {
            CommandError::PersistRejected {
                message: error.message,
            }
        })?;
        self.check_len("an event", &bytes)?;
        Ok(NewEvent {
            payload: Payload {
                codec: <E::Codec as Codec<E::Event>>::ID,
                manifest: Cow::Borrowed(E::event_manifest(event)),
                bytes,
            },
            tags: Vec::new(),
        })
    }

    fn check_len(&self, what: &'static str, bytes: &Bytes) -> Result<(), CommandError> {
        if bytes.len() > self.max_payload {
            return Err(CommandError::PayloadTooLarge {
                what,
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

    fn accept(
        &mut self,
        events: Events<E::Event>,
        reply: Option<ReplyWith<E>>,
        then_snapshot: bool,
        then_stop: bool,
    ) -> Handled {
        let events: Vec<E::Event> = match events {
            Events::None => Vec::new(),
            Events::One(event) => vec![event],
            Events::Many(events) => events,
        };
        let encode = || events.iter().map(|event| self.encode_event(event));
        let encoded = match guard(|| encode().collect::<Result<Vec<_>, _>>()) {
            Ok(Ok(encoded)) => encoded,
            Ok(Err(error)) => return Handled::Refused(error),
            Err(message) => return Handled::Broken(panicked(message)),
        };
        let applied = guard(|| {
            for event in events {
                self.definition.apply(&mut self.state, event);
            }
        });
        match applied
            .map_err(panicked)
            .and_then(|()| self.make_reply(reply))
        {
            Ok(reply) => Handled::Accepted {
                events: encoded,
                reply,
                then_snapshot,
                then_stop,
            },
            Err(error) if encoded.is_empty() => Handled::Refused(error),
            Err(error) => Handled::Broken(error),
        }
    }
}

impl<E: EventSourced> Recoverable for EventSourcedBehavior<E> {
    fn offer_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), CodecError> {
        check_codec::<E, E::State>(snapshot.payload.codec)?;
        self.state = decode_guarded::<E, E::State>(&snapshot.payload.bytes)?;
        Ok(())
    }

    fn replay(&mut self, event: &StoredEvent) -> Result<(), CodecError> {
        check_codec::<E, E::Event>(event.payload.codec)?;
        let decoded = decode_guarded::<E, E::Event>(&event.payload.bytes)?;
        guard(|| self.definition.apply(&mut self.state, decoded)).map_err(|error| CodecError {
            message: format!("applying the event failed: {}", panicked(error)),
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
    fn handle(&mut self, command: &Payload) -> Handled {
        let invalid = |error: CodecError| {
            Handled::Refused(CommandError::PayloadInvalid {
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
        let effect = match guard(|| self.definition.handle(&self.state, command)) {
            Ok(effect) => effect,
            // Nothing was applied, but what the handler did to itself before it
            // panicked is not known: start afresh from the journal.
            Err(message) => return Handled::Broken(panicked(message)),
        };
        let Effect {
            decision,
            then_snapshot,
            then_stop,
        } = effect;
        match decision {
            Decision::Proceed { events, reply } => {
                self.accept(events, reply, then_snapshot, then_stop)
            }
            Decision::Reject { reason, message } => {
                Handled::Refused(CommandError::Rejected { reason, message })
            }
            Decision::Unhandled => Handled::Refused(CommandError::Unhandled {
                entity_type: E::ENTITY_TYPE.to_owned(),
            }),
        }
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
