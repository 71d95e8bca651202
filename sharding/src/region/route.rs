//! The way of one shard's commands: on to the owner, or into a buffer until there
//! is one.
//!
//! A pure state machine; a command `P` is whatever the caller makes of it.
//!
//! * Every command gets a number when it comes, and keeps it when it is returned or
//!   handed back. What waits goes on in the order of the numbers.
//! * Commands go to one owner at a time. To the next owner nothing goes before
//!   everything that is *out* at the one before is answered, returned or lost, and
//!   before the shard's entities on this node have stopped. So commands of this
//!   node to one entity are handled in the order in which they came.
//! * An owner that has returned a command does not get another one under the same
//!   epoch: it will never accept it.
//!
//! It knows neither clocks, nor who may own a shard, nor how commands travel.
//! Next: `slot.rs`, which moves what this decides.

use std::collections::{BTreeMap, BTreeSet};

use perennial_persistence::planted::{self, Bug};
use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::{Epoch, SessionUuid};

/// An owner of a shard, in one of its times as owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) node: NodeNr,
    pub(super) session: SessionUuid,
    pub(super) epoch: Epoch,
}

/// Where a shard's commands go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// Nobody may have them at present.
    Nowhere,
    /// To the entities of this node.
    Here(Epoch),
    /// To another node.
    There(Owner),
}

/// The way of one shard's commands. See the module's text.
#[derive(Debug)]
pub(super) struct Route<P> {
    direction: Direction,
    /// By number.
    waiting: BTreeMap<u64, P>,
    /// Sent to another node and not answered, by number.
    out: BTreeMap<u64, P>,
    /// To whom; set while something is out.
    out_to: Option<Owner>,
    /// Has returned a command.
    closed: Option<Owner>,
    /// Sessions of this node whose entities, of an earlier time as owner, have not all
    /// stopped.
    stopping: BTreeSet<SessionUuid>,
    last_nr: u64,
}

impl<P> Route<P> {
    pub(super) fn new(direction: Direction) -> Self {
        Self {
            direction,
            waiting: BTreeMap::new(),
            out: BTreeMap::new(),
            out_to: None,
            closed: None,
            stopping: BTreeSet::new(),
            last_nr: 0,
        }
    }

    /// A command comes: its number.
    pub(super) fn arrived(&mut self) -> u64 {
        self.last_nr += 1;
        self.last_nr
    }

    /// Where a command goes that has just come; `Nowhere` means that it has to wait.
    pub(super) fn way(&self) -> Direction {
        if self.waiting.is_empty() {
            self.open()
        } else {
            Direction::Nowhere
        }
    }

    /// Where the first of those that wait may go now.
    pub(super) fn open(&self) -> Direction {
        let is_free = self.out.is_empty() || planted::is(Bug::ReleaseBeforeReturned);
        match self.direction {
            _ if self.is_stopping() => Direction::Nowhere,
            Direction::Here(_) if is_free => self.direction,
            Direction::There(owner)
                if (is_free || self.out_to == Some(owner)) && self.closed != Some(owner) =>
            {
                self.direction
            }
            _ => Direction::Nowhere,
        }
    }

    pub(super) fn direction(&self) -> Direction {
        self.direction
    }

    /// The shard's home has changed, as far as commands are concerned. Returns
    /// whether entities of this node have to stop, those of the session that hosted
    /// them; if so, say when they have, with [`Route::stopped`].
    #[must_use]
    pub(super) fn direct(&mut self, direction: Direction, host: Option<SessionUuid>) -> bool {
        if direction == self.direction {
            return false;
        }
        let leaves = matches!(self.direction, Direction::Here(_));
        self.direction = direction;
        if leaves {
            self.stopping.extend(host);
        }
        leaves
    }

    /// The entities of a session of this node have stopped and handed back what they
    /// did not begin. Those of another one may still have something out.
    pub(super) fn stopped(&mut self, session: SessionUuid) {
        self.stopping.remove(&session);
    }

    pub(super) fn is_stopping(&self) -> bool {
        !self.stopping.is_empty()
    }

    /// A command has gone out to an owner, for which [`Route::open`] holds.
    pub(super) fn sent(&mut self, to: Owner, nr: u64, command: P) {
        debug_assert_eq!(self.open(), Direction::There(to));
        self.out_to = Some(to);
        self.out.insert(nr, command);
    }

    /// A command has to wait: one that has just come, that was taken, or that was
    /// handed back. A number that is no command's of this route stands for one that
    /// has just come.
    pub(super) fn wait(&mut self, nr: u64, command: P) {
        let is_known = (1..=self.last_nr).contains(&nr) && !self.waiting.contains_key(&nr);
        let nr = if is_known { nr } else { self.arrived() };
        self.waiting.insert(nr, command);
    }

    /// The first of those that wait, to be sent or put back.
    pub(super) fn take_first(&mut self) -> Option<(u64, P)> {
        self.waiting.pop_first()
    }

    /// A session answers a command, if that is where the command is out.
    pub(super) fn answered(&mut self, by: SessionUuid, nr: u64) -> Option<P> {
        let command = self.take_out(by, nr)?;
        self.forget_owner();
        Some(command)
    }

    /// A session has not begun a command: it waits again, if that is where it was out.
    pub(super) fn returned(&mut self, by: SessionUuid, nr: u64) -> Option<&mut P> {
        let command = self.take_out(by, nr)?;
        if !planted::is(Bug::ReleaseBeforeReturned) {
            self.closed = self.out_to;
        }
        self.forget_owner();
        Some(self.waiting.entry(nr).insert_entry(command).into_mut())
    }

    /// A session that was given up may still speak of what is out at the next one by now,
    /// and knows nothing of what became of it there.
    fn take_out(&mut self, by: SessionUuid, nr: u64) -> Option<P> {
        let is_out_there = self.out_to.is_some_and(|owner| owner.session == by);
        is_out_there.then(|| self.out.remove(&nr))?
    }

    /// What was sent to this session will not be answered any more. What `resend`
    /// says yes to goes again; the others come out.
    pub(super) fn lost(
        &mut self,
        session: SessionUuid,
        mut resend: impl FnMut(u64, &mut P) -> bool,
    ) -> Vec<P> {
        if self.out_to.is_none_or(|owner| owner.session != session) {
            return Vec::new();
        }
        let mut lost = Vec::new();
        for (nr, mut command) in std::mem::take(&mut self.out) {
            if resend(nr, &mut command) {
                self.waiting.insert(nr, command);
            } else {
                lost.push(command);
            }
        }
        self.forget_owner();
        lost
    }

    /// Takes out of those that wait.
    pub(super) fn take_waiting(&mut self, mut which: impl FnMut(&P) -> bool) -> Vec<P> {
        let taken = self.waiting.extract_if(.., |_, command| which(command));
        taken.map(|(_, command)| command).collect()
    }

    /// What is out.
    pub(super) fn out_mut(&mut self) -> impl Iterator<Item = &mut P> {
        self.out.values_mut()
    }

    /// To whom what is out was sent.
    pub(super) fn out_to(&self) -> Option<Owner> {
        self.out_to
    }

    pub(super) fn waiting_len(&self) -> usize {
        self.waiting.len()
    }

    fn forget_owner(&mut self) {
        if self.out.is_empty() {
            self.out_to = None;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod route_test;
