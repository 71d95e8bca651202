//! A request of an entity while the region has it.

use std::time::Instant;

use perennial_persistence::command::{Envelope, ReplyTo, Request, Told};
use perennial_persistence::command_error::{Applied, CommandError};
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::writer::{Epoch, ShardNr};

/// A request of an entity, with the place its answer goes.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) persistence_id: PersistenceId,
    pub(super) request: Request,
    pub(super) deadline: Option<Instant>,
    pub(super) reply_to: ReplyTo,
    /// Since when it waits for a home of its shard; set when it begins to.
    pub(super) waits_since: Option<Instant>,
}

impl Parcel {
    pub(super) fn from_envelope(envelope: Envelope) -> Self {
        Self {
            persistence_id: envelope.persistence_id,
            request: envelope.request,
            deadline: envelope.deadline,
            reply_to: envelope.reply_to,
            waits_since: None,
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
        }
    }

    /// Whether another node's region sent it, which can find another place for it.
    pub(super) fn is_foreign(&self) -> bool {
        matches!(self.reply_to, ReplyTo::Peer { .. })
    }

    /// Whether a second run is no second effect.
    pub(super) fn can_be_repeated(&self) -> bool {
        match &self.request {
            Request::State => true,
            Request::Command { command_id, .. } => command_id.is_some(),
        }
    }

    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Answers it with an error.
    pub(super) fn refuse(self, error: CommandError) {
        self.reply_to.answer(Err(error));
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
