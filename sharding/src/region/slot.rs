//! One shard as a region sees it, and how its commands are moved.
//!
//! A slot is locked for each command of its shard: long enough to hand the command
//! to the engine or to a link, neither of which waits. So what comes first is handed
//! on first, and what a change of home means for one command, it means for all that
//! come after. Decisions are in `route.rs`. Next: `link.rs` and the engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use perennial_persistence::command_error::CommandError;
use perennial_persistence::engine::EntityEngine;
use perennial_persistence::lease::ReadLease;
use perennial_persistence::trace::TARGET;
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr};

use super::link::{Link, Outgoing, Ticket};
use super::parcel::Parcel;
use super::route::{Direction, Owner, Route};

/// The engine that runs this node's entities, and its right to.
pub(super) struct Host {
    pub(super) engine: EntityEngine,
    pub(super) session: SessionUuid,
    /// `None` where nobody else could own a shard.
    pub(super) lease: Option<ReadLease>,
}

impl Host {
    /// Whether entities may be given commands.
    pub(super) fn may_serve(&self) -> bool {
        self.lease.as_ref().is_none_or(ReadLease::holds)
    }

    /// For how long they may not.
    pub(super) fn out_for(&self, now: Instant) -> Option<Duration> {
        self.lease.as_ref().and_then(|lease| lease.out_for(now))
    }
}

/// One shard as a region sees it.
pub(super) struct Slot {
    pub(super) shard: ShardNr,
    pub(super) route: Route<Parcel>,
    /// While commands go here.
    pub(super) host: Option<Arc<Host>>,
    /// While they go to another node.
    pub(super) link: Option<Arc<Link>>,
    /// The epoch under which this node owns it, whether or not it may begin.
    pub(super) owned_here: Option<Epoch>,
    /// The epoch under which the journal has refused this node's writes.
    pub(super) refused: Option<Epoch>,
    /// What this node has written to it under an epoch, in a session, may still be on
    /// its way to the journal.
    pub(super) unfenced: Option<(SessionUuid, Epoch)>,
    /// This node owns it and does not serve, because its lease has run out.
    pub(super) suspended: bool,
    /// Since when commands go nowhere.
    pub(super) homeless_since: Option<Instant>,
    /// Since when what is out is at an owner that is one no more.
    pub(super) outlived_since: Option<Instant>,
}

impl Slot {
    pub(super) fn new(shard: ShardNr, direction: Direction) -> Self {
        Self {
            shard,
            route: Route::new(direction),
            host: None,
            link: None,
            owned_here: None,
            refused: None,
            unfenced: None,
            suspended: false,
            homeless_since: None,
            outlived_since: None,
        }
    }

    /// Whether an earlier time of a session as owner has to be fenced before it may
    /// begin another one: what it wrote then could land later (I-2). A handoff does so
    /// unless the shard comes back before.
    pub(super) fn has_to_fence(&self, session: SessionUuid, epoch: Epoch) -> bool {
        self.unfenced
            .is_some_and(|(by, under)| by == session && under < epoch)
    }

    /// The journal refuses what a session might still write to it up to an epoch.
    pub(super) fn fenced(&mut self, session: SessionUuid, epoch: Epoch) {
        if self
            .unfenced
            .is_some_and(|(by, under)| by == session && under <= epoch)
        {
            self.unfenced = None;
        }
    }

    /// Where this node's entities stand ready for a command that comes now.
    pub(super) fn ready_here(&self) -> Option<(&EntityEngine, Epoch)> {
        match (self.route.way(), &self.host) {
            (Direction::Here(epoch), Some(host)) if host.may_serve() => Some((&host.engine, epoch)),
            _ => None,
        }
    }

    /// Sends what waits on, as far as it can go now. Returns how many were sent.
    pub(super) fn release(&mut self, index: u64, now: Instant) -> usize {
        let mut released = 0;
        loop {
            let direction = self.route.open();
            if direction == Direction::Nowhere {
                return released;
            }
            let Some((nr, parcel)) = self.route.take_first() else {
                return released;
            };
            if parcel.is_overdue(now) {
                parcel.refuse_overdue();
                released += 1;
                continue;
            }
            let sent = match direction {
                Direction::Here(epoch) => self.enter(nr, parcel, epoch),
                Direction::There(owner) => self.forward(nr, parcel, owner, index),
                Direction::Nowhere => Some(parcel),
            };
            if let Some(parcel) = sent {
                self.route.wait(nr, parcel);
                return released;
            }
            released += 1;
        }
    }

    /// Hands a command to this node's entities; gives it back if it has to wait.
    fn enter(&mut self, nr: u64, parcel: Parcel, epoch: Epoch) -> Option<Parcel> {
        match &self.host {
            Some(host) if host.may_serve() => {
                let waits_since = parcel.waits_since;
                let envelope = parcel.into_own_hands().into_envelope(self.shard, epoch, nr);
                let refused = host.engine.offer(envelope).err();
                refused.map(|envelope| Parcel {
                    waits_since,
                    ..Parcel::from_envelope(envelope)
                })
            }
            _ => Some(parcel),
        }
    }

    /// Sends a command to another node; gives it back if it has to wait.
    fn forward(&mut self, nr: u64, mut parcel: Parcel, owner: Owner, index: u64) -> Option<Parcel> {
        let Some(link) = self.link.as_ref().filter(|link| link.has_room(self.shard)) else {
            return Some(parcel);
        };
        // From now on only the owner knows whether it has begun.
        if !parcel.reply_to.begin() {
            parcel.refuse_overdue();
            return None;
        }
        parcel.out = parcel.trace.step(|span| {
            let to = owner.node.0;
            tracing::info_span!(target: TARGET, parent: span, "forward", otel.kind = "client", perennial.to = to)
        });
        let outgoing = Outgoing {
            ticket: Ticket::new(self.shard, nr),
            routed_at: index,
            epoch: owner.epoch,
            persistence_id: parcel.persistence_id.clone(),
            request: parcel.request.clone(),
            deadline: parcel.deadline,
            trace: parcel.out.clone(),
        };
        if !link.push(outgoing) {
            return Some(parcel);
        }
        self.route.sent(owner, nr, parcel);
        None
    }

    /// Sends a command on that has just come; gives it back if it has to wait.
    pub(super) fn send(&mut self, nr: u64, parcel: Parcel, index: u64) -> Option<Parcel> {
        match self.route.way() {
            Direction::Nowhere => Some(parcel),
            Direction::Here(epoch) => self.enter(nr, parcel, epoch),
            Direction::There(owner) => self.forward(nr, parcel, owner, index),
        }
    }

    /// Answers what has waited for too long, or has passed its deadline, or is not
    /// waited for any more. Returns how many were answered.
    pub(super) fn expire(&mut self, now: Instant, homeless_max: Duration) -> usize {
        let is_over = |parcel: &Parcel| {
            let waits_since = parcel.waits_since.unwrap_or(now);
            parcel.is_overdue(now)
                || now.saturating_duration_since(waits_since) >= homeless_max
                || parcel.reply_to.is_abandoned()
        };
        let expired = self.route.take_waiting(is_over);
        let count = expired.len();
        for parcel in expired {
            if parcel.is_overdue(now) {
                parcel.refuse_overdue();
            } else {
                parcel.refuse(self.unavailable());
            }
        }
        count
    }

    /// Answers what is out at another node with a deadline that has passed: the owner
    /// may have begun it. It stays out, to keep its place.
    pub(super) fn expire_out(&mut self, now: Instant) {
        for parcel in self.route.out_mut() {
            parcel.give_up_if_overdue(now);
        }
    }

    pub(super) fn unavailable(&self) -> CommandError {
        CommandError::ShardUnavailable {
            shard: self.shard.0,
        }
    }
}
