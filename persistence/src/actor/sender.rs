//! To whom an actor replies, and how a command is answered that nobody replied to.
//!
//! Each command under way has an [`Origin`], shared by its handler's context, the
//! callbacks it issued and the [`Sender`]s the actor keeps. The first reply wins.
//! When the last of them is gone without one, the origin answers by itself: with an
//! empty payload, or, if the incarnation has met its end, with the error that says
//! what may have become of the command. So every command is answered exactly once
//! (I-8), whatever an actor does or forgets. A retry that comes while its original is
//! under way is not handled: it is answered with it.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use crate::codec;
use crate::command::{Answer, CommandId, Metadata, Reply, ReplyTo};
use crate::command_error::{Applied, CommandError};
use crate::payload::{CodecId, Payload};
use crate::runtime::confirmations::Confirmed;
use crate::sequence_nr::SequenceNr;

use super::PersistentActor;

/// What an incarnation's commands share.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// The last event whose callback has begun, or that was replayed.
    applied: AtomicU64,
    /// Set when the incarnation has met its end: the error for a command that
    /// certainly had no effect.
    fate: OnceLock<CommandError>,
    /// What replies are encoded with.
    reply_codec: CodecId,
    /// Largest reply in bytes.
    max_payload: usize,
    /// Gives answers that nothing was stored for.
    confirmed: OnceLock<Confirmed>,
    /// Commands with an id that are under way.
    under_way: Mutex<HashMap<CommandId, Weak<Origin>>>,
}

impl Ledger {
    pub(crate) fn new(reply_codec: CodecId, max_payload: usize) -> Self {
        Self {
            applied: AtomicU64::new(0),
            fate: OnceLock::new(),
            reply_codec,
            max_payload,
            confirmed: OnceLock::new(),
            under_way: Mutex::default(),
        }
    }

    pub(crate) fn guard_answers(&self, confirmed: Confirmed) {
        let _ = self.confirmed.set(confirmed);
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<CommandId, Weak<Origin>>> {
        // Held for one call of the map, which leaves it whole.
        let under_way = self.under_way.lock();
        under_way.unwrap_or_else(PoisonError::into_inner)
    }

    /// The command with this id, if it is under way: a retry of it attaches to it.
    pub(crate) fn find(&self, command_id: &CommandId) -> Option<Arc<Origin>> {
        let found = self.under_way().get(command_id).cloned();
        // Not before the map is free again: dropping the last one changes it.
        let origin = found?.upgrade()?;
        let is_put_aside = matches!(*origin.place(), Place::Taken);
        (!is_put_aside).then_some(origin)
    }

    pub(crate) fn applied(&self) -> SequenceNr {
        SequenceNr::new(self.applied.load(Ordering::Relaxed))
    }

    pub(crate) fn set_applied(&self, nr: SequenceNr) {
        self.applied.store(nr.get(), Ordering::Relaxed);
    }

    /// The incarnation meets its end. The first cause stays.
    pub(crate) fn end(&self, fate: CommandError) {
        let _ = self.fate.set(fate);
    }

    pub(crate) fn check_len(&self, what: &'static str, len: usize) -> Result<(), CommandError> {
        if len > self.max_payload {
            let limit = self.max_payload;
            let what = what.into();
            return Err(CommandError::PayloadTooLarge { what, len, limit });
        }
        Ok(())
    }

    /// A good answer, at the present number.
    fn reply(&self, payload: Payload) -> Reply {
        Reply {
            payload,
            sequence_nr: self.applied(),
            duplicate: false,
        }
    }

    pub(crate) fn empty_payload(&self) -> Payload {
        Payload {
            codec: self.reply_codec,
            manifest: "".into(),
            bytes: bytes::Bytes::new(),
        }
    }
}

/// What a command can have done to the journal so far; only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Effect {
    /// Certainly nothing.
    None,
    /// The outcome of one of its writes is not known and never will be.
    Undecided,
    /// An event of it is stored.
    Stored,
}

/// Who waits for an answer.
#[derive(Debug)]
enum Place {
    /// The sender, and retries of the command.
    Waiting(ReplyTo, Vec<ReplyTo>),
    /// Nobody any more. What they were told, if retries may come.
    Answered(Option<Answer>),
    /// The command is to be handled again.
    Taken,
}

/// A command under way.
#[derive(Debug)]
pub(crate) struct Origin {
    place: Mutex<Place>,
    pub(crate) command_id: Option<CommandId>,
    pub(crate) metadata: Metadata,
    /// Its id went along with a write.
    recorded: AtomicBool,
    effect: AtomicU8,
    ledger: Arc<Ledger>,
}

impl Origin {
    pub(crate) fn new(
        reply_to: ReplyTo,
        command_id: Option<CommandId>,
        metadata: Metadata,
        ledger: &Arc<Ledger>,
    ) -> Arc<Self> {
        let origin = Arc::new(Self {
            place: Mutex::new(Place::Waiting(reply_to, Vec::new())),
            command_id,
            metadata,
            recorded: AtomicBool::new(false),
            effect: AtomicU8::new(Effect::None as u8),
            ledger: Arc::clone(ledger),
        });
        if let Some(command_id) = &origin.command_id {
            let weak = Arc::downgrade(&origin);
            ledger.under_way().insert(command_id.clone(), weak);
        }
        origin
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        // Held for an assignment, which leaves it whole.
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Retries that wait for the same answer.
    pub(crate) fn attached(&self) -> usize {
        match &*self.place() {
            Place::Waiting(_, retries) => retries.len(),
            Place::Answered(_) | Place::Taken => 0,
        }
    }

    /// The retry gets the answer of its original, when there is one.
    pub(crate) fn attach(&self, retry: ReplyTo) {
        let answer = match &mut *self.place() {
            Place::Waiting(_, retries) => return retries.push(retry),
            Place::Answered(answer) => answer.clone(),
            Place::Taken => None,
        };
        let empty = || Ok(self.ledger.reply(self.ledger.empty_payload()));
        self.give(retry, as_duplicate(answer.unwrap_or_else(empty)));
    }

    pub(crate) fn raise(&self, effect: Effect) {
        self.effect.fetch_max(effect as u8, Ordering::Relaxed);
    }

    fn had_no_effect(&self) -> bool {
        self.effect.load(Ordering::Relaxed) == Effect::None as u8
    }

    /// The command's id, the first time only: one write carries it.
    pub(crate) fn record(&self) -> Option<CommandId> {
        let command_id = self.command_id.clone()?;
        (!self.recorded.swap(true, Ordering::Relaxed)).then_some(command_id)
    }

    /// Takes away the right to answer; the command is to be handled again.
    pub(crate) fn take(&self) -> Option<ReplyTo> {
        let mut place = self.place();
        match std::mem::replace(&mut *place, Place::Taken) {
            // Retries come after its turn, and it can be put aside only in that.
            Place::Waiting(reply_to, _) => Some(reply_to),
            other => {
                *place = other;
                None
            }
        }
    }

    pub(crate) fn is_answered(&self) -> bool {
        !matches!(*self.place(), Place::Waiting(..))
    }

    /// Gives an answer, if it may be given when nothing was stored for it.
    fn give(&self, reply_to: ReplyTo, answer: Answer) {
        match self.ledger.confirmed.get() {
            Some(confirmed) if self.had_no_effect() => confirmed.answer(reply_to, answer),
            _ => reply_to.answer(answer),
        }
    }

    pub(crate) fn answer(&self, answer: Answer) {
        let mut place = self.place();
        if !matches!(*place, Place::Waiting(..)) {
            return;
        }
        let kept = self.command_id.is_some().then(|| answer.clone());
        let before = std::mem::replace(&mut *place, Place::Answered(kept));
        drop(place);
        if let Place::Waiting(reply_to, retries) = before {
            for retry in retries {
                self.give(retry, as_duplicate(answer.clone()));
            }
            self.give(reply_to, answer);
        }
    }

    pub(crate) fn reply(&self, payload: Payload) {
        self.answer(Ok(self.ledger.reply(payload)));
    }

    /// Answers with an error, which must not claim that nothing happened if
    /// something may have.
    pub(crate) fn refuse(&self, error: &CommandError) {
        let error = match error {
            error if self.had_no_effect() => error.clone(),
            CommandError::Panicked { message, .. } => CommandError::Panicked {
                message: message.clone(),
                applied: Applied::Unknown,
            },
            CommandError::BackingOff { message, .. } => CommandError::PersistFailed {
                message: message.clone(),
            },
            error => CommandError::PersistFailed {
                message: format!("a part of it may be stored, then: {error}"),
            },
        };
        self.answer(Err(error));
    }
}

fn as_duplicate(answer: Answer) -> Answer {
    answer.map(|reply| Reply {
        duplicate: true,
        ..reply
    })
}

impl Drop for Origin {
    fn drop(&mut self) {
        if let Some(command_id) = &self.command_id {
            let mut under_way = self.ledger.under_way();
            let registered = under_way.get(command_id).map(Weak::as_ptr);
            // A command that was put aside may be under way again.
            if registered.is_some_and(|at| std::ptr::eq(at, self)) {
                under_way.remove(command_id);
            }
        }
        if self.is_answered() {
            return;
        }
        match self.ledger.fate.get() {
            None => self.reply(self.ledger.empty_payload()),
            Some(fate) => self.refuse(fate),
        }
    }
}

/// Where the reply to one command goes. Clones are the same place: the first reply
/// is given, others are ignored. It may be kept, moved into callbacks, or to a task
/// that replies later; when the last clone and all callbacks of the command are gone
/// without a reply, the command is answered with an empty payload, or with an error
/// if the actor failed or left memory before.
pub struct Sender<A> {
    origin: Arc<Origin>,
    actor: PhantomData<fn(A)>,
}

impl<A> Clone for Sender<A> {
    fn clone(&self) -> Self {
        Self::new(&self.origin)
    }
}

impl<A> Sender<A> {
    pub(super) fn new(origin: &Arc<Origin>) -> Self {
        Self {
            origin: Arc::clone(origin),
            actor: PhantomData,
        }
    }

    /// Whether the command is answered.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.origin.is_answered()
    }

    /// Refuses the command by the entity's own rules. `reason` is for programs, in
    /// capitals; `message` for people.
    pub fn reject(&self, reason: impl Into<String>, message: impl Into<String>) {
        self.origin.refuse(&CommandError::Rejected {
            reason: reason.into(),
            message: message.into(),
        });
    }
}

impl<A: PersistentActor> Sender<A> {
    /// Gives the reply, at once. One that cannot be encoded or is too large is an
    /// error for the caller.
    pub fn reply(&self, reply: &A::Reply) {
        let ledger = &self.origin.ledger;
        match encode_reply::<A>(reply, ledger) {
            Ok(payload) => self.origin.reply(payload),
            Err(error) => self.origin.refuse(&error),
        }
    }
}

pub(super) fn encode_reply<A: PersistentActor>(
    reply: &A::Reply,
    ledger: &Ledger,
) -> Result<Payload, CommandError> {
    let payload =
        codec::encode::<_, A::Codec>(reply, "").map_err(|error| CommandError::Panicked {
            message: format!("its reply cannot be encoded: {error}"),
            applied: Applied::No,
        })?;
    ledger.check_len("the reply", payload.bytes.len())?;
    Ok(payload)
}
