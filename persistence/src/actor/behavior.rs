//! Runs a [`PersistentActor`]: its handlers and callbacks, one at a time, with a
//! context, and with its panics stopped here.
//!
//! It decides what is answered when the actor does not. When its turn comes is
//! decided in `runtime/cell/turns.rs`.

use std::sync::Arc;

use crate::behavior::{ActorBehavior, ActorCommand, ActorStatus, Recoverable, guard, panicked};
use crate::codec::{self, Codec, CodecError};
use crate::command::{CommandId, Reply, ReplyTo};
use crate::command_error::CommandError;
use crate::journal::{AtomicWrite, StoredEvent};
use crate::payload::Payload;
use crate::persistence_id::PersistenceId;
use crate::persisting::Settled;
use crate::runtime::confirmations::Confirmed;
use crate::sequence_nr::SequenceNr;
use crate::snapshot_store::Snapshot;

use super::context::Phase;
use super::machine::{Machine, Pending, Refusal, Then};
use super::sender::Effect;
use super::{
    Asked, Context, Origin, PersistentActor, Recovered, Recovery, SnapshotOffer, StashRequest,
    StorageReport,
};

/// One incarnation of a persistent actor.
pub(crate) struct ActorIncarnation<A: PersistentActor> {
    actor: A,
    recovery: Recovery,
    machine: Machine<A>,
    /// It was begun, so it hears that it ends.
    begun: bool,
}

impl<A: PersistentActor> ActorIncarnation<A> {
    pub(crate) fn new(
        actor: A,
        recovery: Recovery,
        persistence_id: PersistenceId,
        max_payload: usize,
    ) -> Self {
        Self {
            actor,
            recovery,
            machine: Machine::new(persistence_id, max_payload),
            begun: false,
        }
    }

    /// Runs the actor's code on behalf of a command, or of none.
    fn turn<T>(
        &mut self,
        phase: Phase,
        origin: Option<Arc<Origin>>,
        run: impl FnOnce(&mut A, &mut Context<'_, A>) -> T,
    ) -> Result<T, String> {
        let actor = &mut self.actor;
        let mut cx = Context {
            machine: &mut self.machine,
            origin,
            phase,
        };
        // Said before the command's last trace is dropped, which answers it.
        guard(|| run(actor, &mut cx))
            .inspect_err(|message| self.machine.ledger.end(panicked(message.clone())))
    }

    fn recover(&mut self, recovered: Recovered<A>) -> Result<(), CodecError> {
        let done = self.turn(Phase::Replay, None, |actor, cx| {
            actor.receive_recover(recovered, cx);
        });
        let misused = self
            .machine
            .misused
            .map_or(Ok(()), |what| Err(what.to_owned()));
        done.map_err(|message| format!("the entity panicked: {message}"))
            .and(misused)
            .map_err(|message| CodecError { message })
    }

    /// Runs what a pending entry stands for. Returns when the actor panicked.
    fn run(&mut self, pending: Pending<A>, settled: Settled) -> Result<(), String> {
        let Pending { origin, then } = pending;
        let (events, mut callback, reply) = match (then, settled) {
            (Then::One(event, callback, reply), Settled::Stored) => {
                self.applied(origin.as_ref());
                let context = origin.clone();
                self.turn(Phase::Other, context, |actor, cx| {
                    callback(actor, &event, cx);
                })?;
                answer(origin.as_ref(), reply);
                return Ok(());
            }
            (Then::Deferred(event, callback), _) => {
                return self.turn(Phase::Other, origin, |actor, cx| {
                    callback(actor, &event, cx);
                });
            }
            (Then::Completion(on_complete), _) => {
                return self.turn(Phase::Other, origin, on_complete);
            }
            (Then::Refused(events, cause), _) => {
                return self.refuse(origin.as_ref(), &events, &cause);
            }
            (Then::One(event, ..), Settled::Refused) => {
                return self.refuse_sent(origin.as_ref(), &[event]);
            }
            (Then::Many(events, ..), Settled::Refused) => {
                return self.refuse_sent(origin.as_ref(), &events);
            }
            (Then::Many(events, callback, reply), Settled::Stored) => (events, callback, reply),
        };
        let last = self.machine.ledger.applied().plus(events.len() as u64);
        for event in &events {
            self.applied(origin.as_ref());
            let context = origin.clone();
            self.turn(Phase::Other, context, |actor, cx| {
                callback(actor, event, cx);
            })
            // They are stored all the same.
            .inspect_err(|_| self.machine.ledger.set_applied(last))?;
        }
        answer(origin.as_ref(), reply);
        Ok(())
    }

    /// An event is stored and its callback begins.
    fn applied(&mut self, origin: Option<&Arc<Origin>>) {
        let ledger = &self.machine.ledger;
        ledger.set_applied(ledger.applied().next());
        if let Some(origin) = origin {
            origin.raise(Effect::Stored);
        }
    }

    /// A write that was sent is certainly not stored, so its numbers are free.
    fn refuse_sent(
        &mut self,
        origin: Option<&Arc<Origin>>,
        events: &[A::Event],
    ) -> Result<(), String> {
        self.machine.issued = SequenceNr::new(self.machine.issued.get() - events.len() as u64);
        let (cause, duplicate) = match &self.machine.refusal {
            Some(Refusal::Error(cause)) => (cause.clone(), None),
            Some(Refusal::Duplicate(cause, stored)) => (cause.clone(), Some(stored.clone())),
            // Nothing is reported refused without a reason.
            None => return Ok(()),
        };
        if let (Some(origin), Some(stored)) = (origin, duplicate) {
            origin.answer(Ok(Reply {
                payload: stored.reply,
                sequence_nr: stored.sequence_nr,
                duplicate: true,
            }));
        }
        self.refuse(origin, events, &cause)
    }

    fn refuse(
        &mut self,
        origin: Option<&Arc<Origin>>,
        events: &[A::Event],
        cause: &CommandError,
    ) -> Result<(), String> {
        for event in events {
            let context = origin.cloned();
            self.turn(Phase::Other, context, |actor, cx| {
                actor.on_persist_rejected(cause, event, cx);
            })?;
        }
        if let Some(origin) = origin {
            origin.refuse(cause);
        }
        Ok(())
    }

    /// Ends the incarnation by a panic; the actor hears of it.
    fn broke(&mut self, message: &str, command: Option<&A::Command>) {
        self.end(panicked(message.to_owned()));
        // What a hook does wrong after a panic changes nothing any more.
        let _ = guard(|| self.actor.pre_restart(message, command));
    }

    fn decode_command(command: &Payload) -> Result<A::Command, CodecError> {
        check_codec::<A, A::Command>(command)?;
        decode::<A, A::Command>(command)
    }
}

fn answer(origin: Option<&Arc<Origin>>, reply: Option<Payload>) {
    if let (Some(origin), Some(reply)) = (origin, reply) {
        origin.reply(reply);
    }
}

impl<A: PersistentActor> Recoverable for ActorIncarnation<A> {
    fn offer_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), CodecError> {
        check_codec::<A, A::Snapshot>(&snapshot.payload)?;
        let offer = SnapshotOffer {
            sequence_nr: snapshot.sequence_nr,
            created_at: snapshot.created_at,
            snapshot: decode::<A, A::Snapshot>(&snapshot.payload)?,
        };
        self.machine.set_number(snapshot.sequence_nr);
        self.machine.snapshot_declined = false;
        self.recover(Recovered::SnapshotOffer(offer))?;
        if self.machine.snapshot_declined {
            self.machine.set_number(SequenceNr::ZERO);
            return Err(CodecError {
                message: "the entity declined it".to_owned(),
            });
        }
        Ok(())
    }

    fn replay(&mut self, event: &StoredEvent) -> Result<(), CodecError> {
        check_codec::<A, A::Event>(&event.payload)?;
        let decoded = decode::<A, A::Event>(&event.payload)?;
        self.machine.set_number(event.sequence_nr);
        self.recover(Recovered::Event(decoded))
    }

    fn encode_state(&self) -> Result<Payload, CommandError> {
        let unhandled = || CommandError::Unhandled {
            entity_type: self.machine.persistence_id.entity_type().to_owned(),
        };
        let Some(state) = guard(|| self.actor.state()).map_err(panicked)? else {
            return Err(unhandled());
        };
        codec::encode::<_, A::Codec>(&state, "")
            .map_err(|error| panicked(format!("its state cannot be encoded: {error}")))
    }
}

impl<A: PersistentActor> ActorBehavior for ActorIncarnation<A> {
    fn begin(&mut self) -> Recovery {
        self.begun = true;
        self.recovery
    }

    fn guard_answers(&mut self, confirmed: Confirmed) {
        self.machine.ledger.guard_answers(confirmed);
    }

    fn recovery_failed(&mut self, cause: &CommandError) {
        // It is stopped in any case.
        let _ = guard(|| self.actor.on_recovery_failure(cause));
    }

    fn recovered(&mut self, highest: SequenceNr) -> Result<(), String> {
        self.machine.set_number(highest);
        self.machine.recovered = true;
        self.turn(Phase::Other, None, |actor, cx| {
            actor.receive_recover(Recovered::Completed, cx);
        })
    }

    fn receive(&mut self, command: ActorCommand<'_>) -> Result<Option<ReplyTo>, String> {
        let ActorCommand {
            payload,
            command_id,
            metadata,
            reply_to,
        } = command;
        let origin = Origin::new(reply_to, command_id, metadata, &self.machine.ledger);
        let decoded = match Self::decode_command(payload) {
            Ok(decoded) => decoded,
            Err(error) => {
                origin.refuse(&CommandError::PayloadInvalid {
                    entity_type: self.machine.persistence_id.entity_type().to_owned(),
                    message: error.message,
                });
                return Ok(None);
            }
        };
        let handler = self.machine.handlers.last().copied();
        let handler = handler.unwrap_or(A::receive_command);
        let context = Some(Arc::clone(&origin));
        let handled = self.turn(Phase::Command, context, |actor, cx| {
            handler(actor, decoded, cx);
        });
        if let Err(message) = handled {
            self.broke(&message, Self::decode_command(payload).ok().as_ref());
            return Err(message);
        }
        let stashed = self.machine.asked.stash.contains(&StashRequest::Stash);
        Ok(stashed.then(|| origin.take().unwrap_or(ReplyTo::Nobody)))
    }

    fn under_way(&self, command_id: &CommandId) -> Option<Arc<Origin>> {
        self.machine.ledger.find(command_id)
    }

    fn signal(&mut self, report: StorageReport) -> Result<(), String> {
        let signal = report.typed(|payload| {
            check_codec::<A, A::Snapshot>(payload)?;
            decode::<A, A::Snapshot>(payload)
        });
        let handled = self.turn(Phase::Other, None, |actor, cx| {
            actor.receive_signal(signal, cx);
        });
        handled.inspect_err(|message| self.broke(message, None))
    }

    fn run_due(&mut self) -> Result<bool, String> {
        let Some(due) = self.machine.persisting.next_due() else {
            self.machine.refusal = None;
            return Ok(false);
        };
        let ran = self.run(due.handler, due.settled);
        self.machine.persisting.finished(due.commands);
        ran.inspect_err(|message| self.broke(message, None))?;
        Ok(true)
    }

    fn next_batch(&mut self) -> Option<(SequenceNr, Vec<AtomicWrite>)> {
        let writes = self.machine.persisting.next_batch()?;
        Some((self.machine.ledger.applied().next(), writes))
    }

    fn stored(&mut self, writes: usize) {
        self.machine.persisting.stored(writes);
    }

    fn refused(&mut self, writes: usize, refusal: Refusal, given_back: Vec<AtomicWrite>) {
        self.machine.refusal = Some(refusal);
        self.machine.persisting.refused(writes);
        self.machine.persisting.give_back(given_back);
    }

    fn persist_failed(&mut self, cause: &CommandError, undecided: bool) {
        for Pending { origin, then } in self.machine.persisting.abort_sent() {
            if let (Some(origin), true) = (&origin, undecided) {
                origin.raise(Effect::Undecided);
            }
            let events = match then {
                Then::One(event, ..) => vec![event],
                Then::Many(events, ..) => events,
                Then::Deferred(..) | Then::Completion(_) | Then::Refused(..) => continue,
            };
            for event in &events {
                // The actor stops in any case.
                let _ = self.turn(Phase::Other, origin.clone(), |actor, cx| {
                    actor.on_persist_failure(cause, event, cx);
                });
            }
        }
        self.machine.persisting.abort();
    }

    fn settle(&mut self) {
        while let Some(due) = self.machine.persisting.next_due() {
            let events = match &due.handler.then {
                Then::One(..) => 1,
                Then::Many(events, ..) => events.len(),
                Then::Deferred(..) | Then::Completion(_) | Then::Refused(..) => 0,
            };
            if events > 0 && due.settled == Settled::Stored {
                let ledger = &self.machine.ledger;
                ledger.set_applied(ledger.applied().plus(events as u64));
                if let Some(origin) = &due.handler.origin {
                    origin.raise(Effect::Stored);
                }
            }
            self.machine.persisting.finished(due.commands);
        }
    }

    fn abort_unsent(&mut self) {
        self.machine.persisting.abort_unsent();
    }

    fn end(&mut self, fate: CommandError) {
        self.machine.ledger.end(fate);
    }

    fn take_asked(&mut self) -> Asked {
        std::mem::take(&mut self.machine.asked)
    }

    fn status(&self) -> ActorStatus {
        let persisting = &self.machine.persisting;
        ActorStatus {
            stashing: persisting.is_stashing(),
            writing: persisting.is_writing(),
            pending: persisting.pending_len(),
            issued: self.machine.issued,
            applied: self.machine.ledger.applied(),
        }
    }
}

/// Whatever ends an incarnation drops it: commands that it has not answered are told
/// so by their origins, which are dropped after this.
impl<A: PersistentActor> Drop for ActorIncarnation<A> {
    fn drop(&mut self) {
        self.end(CommandError::BackingOff {
            message: "it left memory before it replied".to_owned(),
            retry_after: std::time::Duration::ZERO,
        });
        if self.begun {
            let _ = guard(|| self.actor.post_stop());
        }
    }
}

fn check_codec<A: PersistentActor, T>(payload: &Payload) -> Result<(), CodecError>
where
    A::Codec: Codec<T>,
{
    let own = <A::Codec as Codec<T>>::ID;
    if payload.codec == own {
        return Ok(());
    }
    Err(CodecError {
        message: format!(
            "the entity uses codec {own}, the bytes are of codec {}",
            payload.codec
        ),
    })
}

fn decode<A: PersistentActor, T>(payload: &Payload) -> Result<T, CodecError>
where
    A::Codec: Codec<T>,
{
    guard(|| <A::Codec as Codec<T>>::decode(&payload.bytes))
        .map_err(|message| CodecError { message })?
}
