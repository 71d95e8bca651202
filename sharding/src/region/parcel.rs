//! A request of an entity while the region has it.

use std::time::Instant;

use perennial_persistence::command::{Answer, Envelope, ReplyTo, Request, Told};
use perennial_persistence::command_error::{Applied, CommandError};
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::planted::{self, Bug};
use perennial_persistence::trace::Trace;
use perennial_persistence::writer::{Epoch, ShardNr};

/// A request of an entity, with the place its answer goes.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) persistence_id: PersistenceId,
    pub(super) request: Request,
    pub(super) deadline: Option<Instant>,
    pub(super) reply_to: ReplyTo,
    pub(super) trace: Trace,
    /// The step of it at another node, while it is out.
    pub(super) out: Trace,
    /// Since when it waits for a home of its shard; set when it begins to.
    pub(super) waits_since: Option<Instant>,
    /// It was sent to an owner that was lost, and is sent again.
    pub(super) may_have_run: bool,
}

impl Parcel {
    pub(super) fn from_envelope(envelope: Envelope) -> Self {
        Self {
            persistence_id: envelope.persistence_id,
            request: envelope.request,
            deadline: envelope.deadline,
            reply_to: envelope.reply_to,
            trace: envelope.trace,
            out: Trace::NONE,
            waits_since: None,
            may_have_run: false,
        }
    }

    pub(super) fn into_envelope(self, shard: ShardNr, epoch: Epoch, nr: u64) -> Envelope {
        Envelope {
            persistence_id: self.persistence_id,
            shard,
            epoch,
            arrival: nr,
            request: self.request,
            deadline: self.deadline,
            reply_to: self.reply_to,
            trace: self.trace,
        }
    }

    /// Whether another node's region sent it, which can find another place for it.
    pub(super) fn is_foreign(&self) -> bool {
        matches!(self.reply_to, ReplyTo::Peer { .. })
    }

    pub(super) fn is_read(&self) -> bool {
        matches!(self.request, Request::State)
    }

    /// Whether a second run is no second effect.
    pub(super) fn can_be_repeated(&self) -> bool {
        match &self.request {
            Request::State => true,
            Request::Command { command_id, .. } => {
                command_id.is_some() || planted::is(Bug::ResendWithoutId)
            }
        }
    }

    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Answers it.
    pub(super) fn answer(self, answer: Answer) {
        let answer = match answer {
            Err(error) if self.may_have_run => Err(of_a_second_run(error)),
            answer => answer,
        };
        self.reply_to.answer(answer);
    }

    /// Made ready for entities of this node, which answer by themselves.
    pub(super) fn into_own_hands(mut self) -> Self {
        if std::mem::take(&mut self.may_have_run) {
            // Rare: the owner was lost, and this node came in its place.
            let (own, answer) = ReplyTo::ask();
            let asked = std::mem::replace(&mut self.reply_to, own);
            tokio::spawn(async move {
                let answer = answer.await.unwrap_or(Err(CommandError::OwnerLost));
                asked.answer(answer.map_err(of_a_second_run));
            });
        }
        self
    }

    /// Answers it with an error.
    pub(super) fn refuse(self, error: CommandError) {
        self.answer(Err(error));
    }

    /// Its deadline has passed, and nothing has happened.
    pub(super) fn refuse_overdue(self) {
        let applied = Applied::No;
        self.refuse(CommandError::DeadlineExceeded { applied });
    }

    /// As [`Parcel::refuse_overdue`], when it may have been begun. What is left has
    /// nobody to answer to.
    pub(super) fn give_up_if_overdue(&mut self, now: Instant) {
        if self.is_overdue(now) {
            self.deadline = None;
            let reply_to = std::mem::replace(&mut self.reply_to, ReplyTo::Nobody);
            let applied = Applied::Unknown;
            reply_to.answer(Err(CommandError::DeadlineExceeded { applied }));
        }
    }

    /// Gives a foreign one back to its region, to be routed by a state of at least
    /// this index.
    pub(super) fn return_to_sender(self, index: u64) {
        if let ReplyTo::Peer {
            place,
            correlation_id,
        } = self.reply_to
        {
            place.send((correlation_id, Told::RouteAnew { index }));
        }
    }
}

/// What an error of a second run says of a command: it must not claim that nothing
/// happened, unless the owner knows of the first (I-8).
fn of_a_second_run(error: CommandError) -> CommandError {
    match error {
        // The entity has looked for the command id before it said so; or it would have
        // said the same the first time.
        CommandError::Rejected { .. }
        | CommandError::SequenceNrMismatch { .. }
        | CommandError::Unhandled { .. }
        | CommandError::EntityTypeUnknown { .. }
        | CommandError::PayloadInvalid { .. } => error,
        CommandError::DeadlineExceeded { .. } => {
            let applied = Applied::Unknown;
            CommandError::DeadlineExceeded { applied }
        }
        error if error.applied() == Applied::Unknown => error,
        _ => CommandError::OwnerLost,
    }
}
