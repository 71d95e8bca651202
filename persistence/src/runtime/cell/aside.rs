//! Commands that are kept for later by the entity's wish: put aside until they are
//! taken back, or gone on with outside of the entity.
//!
//! A cell that keeps commands stays in memory: they are unanswered (I-8). They are
//! bounded like the stash, keep their deadlines, and survive a restart of the cell,
//! whose next incarnation decides anew about what was put aside.

use std::collections::BTreeMap;
use std::time::Instant;

use futures::future::{AbortHandle, abortable};

use crate::behavior::OutsideWork;
use crate::codec::CodecError;
use crate::command::{ReplyTo, Request};
use crate::command_error::{Applied, CommandError, StashLimit};
use crate::engine::{EngineSettings, StashOverflow};
use crate::payload::Payload;
use crate::persisting::Commands;
use crate::trace::Trace;

use super::{Action, Cell, CellContext, Index, Next, Queued, Work};

/// Names one piece of work outside among those of a worker's cells, also when
/// another cell has taken the place of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct OutsideTicket(u64);

/// What a cell keeps for later.
#[derive(Default)]
pub(super) struct Aside {
    /// In order of arrival.
    pub(super) stashed: Vec<Queued>,
    pub(super) outside: BTreeMap<OutsideTicket, Outside>,
    /// Pieces of work outside for which commands wait.
    paused_by: usize,
}

/// A command that goes on outside.
pub(super) struct Outside {
    queued: Queued,
    commands: Commands,
    /// It came from a command that is not answered yet.
    is_asked: bool,
    _running: Running,
}

/// Work outside that ends when nothing waits for it any more: it would go on beside
/// what the next incarnation begins, or for an entity that is deleted.
struct Running(AbortHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Aside {
    pub(super) fn len(&self) -> usize {
        self.stashed.len() + self.outside.len()
    }

    pub(super) fn waiting_for(&self) -> &'static str {
        match (self.outside.is_empty(), self.stashed.is_empty()) {
            (false, _) => "work that it runs outside",
            (true, false) => "a command that makes it take up those it has put aside",
            (true, true) => "",
        }
    }

    pub(super) fn is_outside(&self) -> bool {
        !self.outside.is_empty()
    }

    pub(super) fn take_put_aside(&mut self) -> Vec<Queued> {
        std::mem::take(&mut self.stashed)
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = Queued> + use<> {
        let Self {
            stashed, outside, ..
        } = std::mem::take(self);
        let outside = outside.into_values().map(|outside| outside.queued);
        stashed.into_iter().chain(outside)
    }
}

impl Cell {
    pub(super) fn aside(&self) -> Option<&Aside> {
        self.work.as_ref().map(|work| &work.aside)
    }

    /// Whether it keeps commands for later.
    pub(crate) fn has_aside(&self) -> bool {
        self.aside().is_some_and(|aside| aside.len() > 0)
    }

    /// Whether commands wait for work outside.
    pub(super) fn is_paused(&self) -> bool {
        // What came back is handled first.
        let is_paused = |work: &Work| work.returned.is_empty() && work.aside.paused_by > 0;
        self.work.as_deref().is_some_and(is_paused)
    }

    pub(super) fn put_aside(&mut self, mut queued: Queued, settings: &EngineSettings) {
        // What the index said is old when the command comes back.
        queued.index = Index::NotAsked;
        let capacity = settings.stash_capacity;
        if self.kept() < capacity {
            self.work().aside.stashed.push(queued);
        } else {
            self.overflow(queued.reply_to, StashLimit::Entity(capacity), settings);
        }
    }

    /// Puts what was put aside in front of what came since.
    pub(super) fn take_back(&mut self) {
        let work = self.work();
        for queued in work.aside.stashed.drain(..).rev() {
            work.stash.push_front(queued);
        }
    }

    /// There is no room for a command. That of the node is no fault of the entity's.
    pub(super) fn overflow(
        &mut self,
        reply_to: ReplyTo,
        limit: StashLimit,
        settings: &EngineSettings,
    ) {
        count_overflow(limit);
        let error = match (settings.stash_overflow, limit) {
            (StashOverflow::Drop, StashLimit::Entity(_)) => {
                tracing::warn!(entity = %self.persistence_id, %limit, "a command is dropped");
                CommandError::Dropped(limit)
            }
            (StashOverflow::Fail, StashLimit::Entity(_)) => {
                self.stop_requested = true;
                let overflowed = &mut self.work().overflowed;
                overflowed.get_or_insert_with(|| limit.to_string());
                CommandError::StashFull(limit)
            }
            (StashOverflow::Reply, _) | (_, StashLimit::Node(_)) => CommandError::StashFull(limit),
        };
        reply_to.answer(Err(error));
    }

    /// Starts work outside. It comes back as `queued`, or as a command without a
    /// sender.
    pub(super) fn go_outside(
        &mut self,
        queued: Option<Queued>,
        work: OutsideWork,
        cx: &mut CellContext<'_>,
    ) {
        let is_asked = queued.as_ref().is_some_and(|queued| !queued.is_own);
        let queued = queued.unwrap_or_else(Queued::of_nobody);
        let capacity = cx.settings.stash_capacity;
        if self.kept() >= capacity {
            let limit = StashLimit::Entity(capacity);
            self.overflow(queued.reply_to, limit, cx.settings);
            return;
        }
        let commands = work.commands;
        let started = match self.event_sourced().start_outside(work) {
            Ok(started) => started,
            Err(error) => {
                self.work().broken = Some(error.to_string());
                queued.reply_to.answer(Err(error));
                return;
            }
        };
        cx.last_ticket.0 += 1;
        let ticket = *cx.last_ticket;
        let aside = &mut self.work().aside;
        aside.paused_by += usize::from(commands == Commands::Wait);
        let (running, abort) = abortable(started);
        let outside = Outside {
            queued,
            commands,
            is_asked,
            _running: Running(abort),
        };
        aside.outside.insert(ticket, outside);
        cx.actions.push(Action::RunOutside(ticket, running));
    }

    /// Work outside came back with a command, or failed.
    pub(crate) fn outside_returned(
        &mut self,
        ticket: OutsideTicket,
        result: Result<Payload, CodecError>,
        cx: &mut CellContext<'_>,
    ) -> Next {
        let work = self.work();
        if let Some(Outside {
            mut queued,
            commands,
            ..
        }) = work.aside.outside.remove(&ticket)
        {
            work.aside.paused_by -= usize::from(commands == Commands::Wait);
            match result {
                Ok(returned) => {
                    queued.go_on_as(returned);
                    work.returned.push_back(queued);
                }
                Err(error) => {
                    tracing::warn!(entity = %self.persistence_id, %error, "work outside failed");
                    let applied = Applied::No;
                    let message = error.message;
                    let error = CommandError::Panicked { message, applied };
                    queued.reply_to.answer(Err(error));
                }
            }
        }
        self.run(cx)
    }

    /// Queues a command of the entity's own before all others.
    pub(super) fn give_itself(&mut self, command: Payload) {
        let mut queued = Queued::of_nobody();
        queued.go_on_as(command);
        self.work().returned.push_back(queued);
    }

    /// Gives up work outside for which no sender waits: the next incarnation begins it
    /// again if it is still wanted.
    pub(super) fn give_up_unasked(&mut self) {
        let aside = &mut self.work().aside;
        let mut unpaused = 0;
        aside.outside.retain(|_, outside| {
            let is_asked = outside.is_asked;
            unpaused += usize::from(!is_asked && outside.commands == Commands::Wait);
            is_asked
        });
        aside.paused_by -= unpaused;
    }

    /// Gives up what the entity began by itself, whether it is outside or has come back:
    /// handled after what the next incarnation begins, it would be there twice.
    pub(super) fn give_up_own(&mut self) {
        self.give_up_unasked();
        let work = self.work();
        work.returned.retain(|queued| !queued.is_own);
        work.stash.retain(|queued| !queued.is_own);
    }

    /// Whether the cell waits for this work.
    pub(crate) fn waits_for(&self, ticket: OutsideTicket) -> bool {
        self.aside()
            .is_some_and(|aside| aside.outside.contains_key(&ticket))
    }

    /// Whether something is kept beyond its deadline, or waits beyond it for work outside.
    pub(crate) fn has_expired_aside(&self, now: Instant) -> bool {
        let is_over = |queued: &Queued| queued.is_overdue(now);
        let Some(work) = self.work.as_deref() else {
            return false;
        };
        let outside = work.aside.outside.values().map(|outside| &outside.queued);
        let mut kept = work.aside.stashed.iter().chain(outside);
        kept.any(is_over) || (self.is_paused() && work.stash.iter().any(is_over))
    }

    /// Answers what is kept beyond its deadline, or waits beyond it for work outside.
    /// That work comes back all the same, and may store events then.
    pub(crate) fn expire_aside(&mut self, cx: &mut CellContext<'_>) -> Next {
        let is_paused = self.is_paused();
        let Work { aside, stash, .. } = self.work();
        let is_over = |queued: &mut Queued| queued.is_overdue(cx.now);
        for queued in aside.stashed.extract_if(.., is_over) {
            queued.refuse_overdue();
        }
        if is_paused {
            let is_over = |queued: &Queued| queued.is_overdue(cx.now);
            let overdue;
            (overdue, *stash) = std::mem::take(stash).into_iter().partition(is_over);
            for queued in overdue {
                queued.refuse_overdue();
            }
        }
        for Outside { queued, .. } in aside.outside.values_mut() {
            if queued.deadline.take_if(|at| *at <= cx.now).is_some() {
                let applied = Applied::Unknown;
                let reply_to = std::mem::replace(&mut queued.reply_to, ReplyTo::Nobody);
                reply_to.answer(Err(CommandError::DeadlineExceeded { applied }));
            }
        }
        self.run(cx)
    }
}

/// A command has no room.
pub(crate) fn count_overflow(limit: StashLimit) {
    let limit = match limit {
        StashLimit::Entity(_) => "entity",
        StashLimit::Node(_) => "node",
    };
    metrics::counter!("perennial_stash_overflows_total", "limit" => limit).increment(1);
}

impl Queued {
    /// Stands for a command without a sender, until it is known.
    fn of_nobody() -> Self {
        Self {
            arrival: 0,
            is_own: true,
            request: Request::Command {
                payload: Payload::json(""),
                command_id: None,
                expected_sequence_nr: None,
                metadata: None,
            },
            deadline: None,
            reply_to: ReplyTo::Nobody,
            trace: Trace::NONE,
            index: Index::NotAsked,
        }
    }

    /// Goes on as another command with the same id and metadata. What happened outside
    /// must be heard of, however late.
    fn go_on_as(&mut self, returned: Payload) {
        if let Request::Command {
            payload,
            expected_sequence_nr,
            ..
        } = &mut self.request
        {
            *payload = returned;
            *expected_sequence_nr = None;
        }
        self.deadline = None;
        self.index = Index::NotAsked;
    }
}
