//! Turns: the commands, callbacks and signals of a persistent actor, one at a time.
//!
//! What an actor issues in a turn goes out when the turn is over, if no write is out.
//! Callbacks that are due run before the next command. In which order is decided in
//! `persisting.rs`. Next: `settling_turns.rs`, what happens when the journal has
//! spoken.

use crate::actor::StashRequest;
use crate::behavior::ActorCommand;
use crate::command::Request;
use crate::command_error::{CommandError, StashLimit};
use crate::engine::EngineSettings;
use crate::journal::Append;
use crate::runtime::guarded_journal::journal_out_of_reach;

use super::retries::Recalled;
use super::{Action, Cell, CellContext, Index, Next, Queued, Stage};

/// Commands and signals handled before the cell gives way.
const TURNS_MAX: usize = 256;

/// What became of a request that was to be handled.
enum Turn {
    Over,
    /// It has to wait for the write that is out.
    Later(Queued),
    /// The index has to be asked before.
    LookUp(Queued),
}

impl Cell {
    /// Handles what the actor issued when its recovery was completed, then the rest.
    pub(super) fn begin_turns(&mut self, cx: &mut CellContext<'_>) -> Next {
        self.after_turn(Ok(()), None, cx);
        self.run_turns(cx)
    }

    /// Handles what waits, as far as it may be handled now.
    pub(super) fn run_turns(&mut self, cx: &mut CellContext<'_>) -> Next {
        if self.stage != Stage::Ready {
            return Next::Wait;
        }
        let mut may_go_on = true;
        for _ in 0..TURNS_MAX {
            may_go_on = self.may_take_turn(cx);
            if !may_go_on {
                break;
            }
            if let Some(report) = self.work().reports.pop_front() {
                let heard = self.actor().signal(report);
                self.after_turn(heard, None, cx);
                continue;
            }
            let Some(queued) = self.pop_queued() else {
                break;
            };
            let trace = queued.trace.clone();
            match trace.in_scope(|| self.take_turn(queued, cx)) {
                Turn::Over => {}
                Turn::Later(queued) => {
                    self.work().stash.push_front(queued);
                    may_go_on = false;
                    break;
                }
                Turn::LookUp(queued) => {
                    self.work().stash.push_front(queued);
                    return self.look_up(cx);
                }
            }
        }
        self.end_turns(may_go_on)
            .unwrap_or_else(|| self.restart(cx))
    }

    /// What comes after a stop or a panic is for the next incarnation. What is
    /// pending is bounded like what waits (I-10).
    fn may_take_turn(&mut self, cx: &CellContext<'_>) -> bool {
        let status = self.actor().status();
        let has_room = status.pending < cx.settings.stash_capacity;
        !self.stop_requested && !self.is_broken() && !status.stashing && has_room
    }

    /// `None` when the incarnation is to end.
    fn end_turns(&mut self, may_go_on: bool) -> Option<Next> {
        let writing = self.actor().status().writing;
        let ends = self.stop_requested || self.is_broken();
        let work = self.work();
        let waits = !work.stash.is_empty() || !work.reports.is_empty();
        if ends {
            return writing.then_some(Next::Wait);
        }
        if may_go_on && waits {
            return Some(Next::Again);
        }
        if writing {
            return Some(Next::Wait);
        }
        if waits {
            return Some(Next::Again);
        }
        if self.has_aside() {
            return Some(Next::Parked);
        }
        self.work = None;
        Some(Next::Idle)
    }

    fn take_turn(&mut self, queued: Queued, cx: &mut CellContext<'_>) -> Turn {
        // A caller that gave up was told that this is never handled.
        if !queued.reply_to.begin() || queued.is_overdue(cx.now) {
            queued.refuse_overdue();
            return Turn::Over;
        }
        let expected = match &queued.request {
            Request::State => {
                let state = self.encode_state();
                self.confirmed(cx).answer(queued.reply_to, state);
                return Turn::Over;
            }
            Request::Command {
                expected_sequence_nr,
                ..
            } => *expected_sequence_nr,
        };
        let Some(mut queued) = self.attach_retry(queued, cx.settings) else {
            return Turn::Over;
        };
        if cx.journal_out_of_reach {
            // Refused before it is handled: once it is it cannot be undone, and nobody
            // knows beforehand whether it stores something.
            queued.reply_to.answer(Err(journal_out_of_reach()));
            return Turn::Over;
        }
        match self.recall(&queued) {
            Recalled::New { certainly: true } => {}
            // Once it is handled it cannot be undone.
            Recalled::New { certainly: false } | Recalled::AskIndex => {
                return Turn::LookUp(queued);
            }
            Recalled::Stored(reply) => {
                self.confirmed(cx).answer(queued.reply_to, Ok(reply));
                return Turn::Over;
            }
            Recalled::UnderWay if self.actor().status().writing => {
                // What the index said is old when the write is stored.
                queued.index = Index::NotAsked;
                return Turn::Later(queued);
            }
            // The write that carried its id was refused: it is new again.
            Recalled::UnderWay if matches!(queued.index, Index::NotStored { .. }) => {}
            Recalled::UnderWay => return Turn::LookUp(queued),
        }
        if let Some(expected) = expected
            && expected != self.sequence_nr
        {
            let actual = self.sequence_nr;
            let error = CommandError::SequenceNrMismatch { expected, actual };
            self.confirmed(cx).answer(queued.reply_to, Err(error));
            return Turn::Over;
        }
        self.receive(queued, cx);
        Turn::Over
    }

    /// A retry whose original is under way gets its answer and is not handled. Gives back
    /// what is none.
    fn attach_retry(&mut self, queued: Queued, settings: &EngineSettings) -> Option<Queued> {
        let Some(command_id) = queued.request.command_id() else {
            return Some(queued);
        };
        let Some(origin) = self.actor().under_way(command_id) else {
            return Some(queued);
        };
        let capacity = settings.stash_capacity;
        if origin.attached() < capacity {
            origin.attach(queued.reply_to);
        } else {
            self.overflow(queued.reply_to, StashLimit::Entity(capacity), settings);
        }
        None
    }

    fn receive(&mut self, queued: Queued, cx: &mut CellContext<'_>) {
        let Queued {
            arrival,
            is_own,
            request,
            deadline,
            reply_to,
            trace,
            index,
        } = queued;
        let Request::Command {
            payload,
            command_id,
            metadata,
            ..
        } = &request
        else {
            // Only commands are received.
            return;
        };
        let issued = self.actor().status().issued;
        let received = self.actor().receive(ActorCommand {
            payload,
            command_id: command_id.clone(),
            metadata: metadata.clone(),
            reply_to,
        });
        let (turn, stashed) = match received {
            Ok(None) => (Ok(()), None),
            Ok(Some(reply_to)) => {
                let stashed = Queued {
                    arrival,
                    is_own,
                    request,
                    deadline,
                    reply_to,
                    trace: trace.clone(),
                    index,
                };
                (Ok(()), Some(stashed))
            }
            Err(message) => (Err(message), None),
        };
        if trace.span().is_some() && self.actor().status().issued > issued {
            self.work().appending.push(trace);
        }
        self.after_turn(turn, stashed, cx);
    }

    /// A turn is over: carries out what was asked for, runs the callbacks that are
    /// due, and sends what was issued.
    pub(super) fn after_turn(
        &mut self,
        turn: Result<(), String>,
        stashed: Option<Queued>,
        cx: &mut CellContext<'_>,
    ) {
        let mut turn = turn;
        let mut stashed = stashed;
        loop {
            self.carry_out_asked(stashed.take(), cx);
            turn = match turn.and_then(|()| self.actor().run_due()) {
                Ok(true) => Ok(()),
                Ok(false) => break,
                Err(message) => {
                    self.break_off(message);
                    break;
                }
            };
        }
        let status = self.actor().status();
        self.sequence_nr = status.issued;
        self.stored_nr = status.applied;
        self.send(cx);
    }

    fn carry_out_asked(&mut self, mut stashed: Option<Queued>, cx: &mut CellContext<'_>) {
        let asked = self.actor().take_asked();
        for (command_id, sequence_nr) in &asked.recorded {
            self.command_ids.remember(command_id, *sequence_nr);
        }
        self.stop_requested |= asked.stop;
        cx.actions
            .extend(asked.storage.into_iter().map(Action::Store));
        if !asked.reports.is_empty() {
            self.work().reports.extend(asked.reports);
        }
        for request in asked.stash {
            match (request, stashed.take()) {
                (StashRequest::Stash, Some(queued)) => self.put_aside(queued, cx.settings),
                (StashRequest::Stash, None) => {}
                (StashRequest::UnstashAll, kept) => {
                    stashed = kept;
                    self.take_back();
                }
            }
        }
    }

    /// The actor panicked. What it has issued goes out if no write is out, as if it
    /// had panicked a little later; else it is given up (5.5 and 5.6 of the cases).
    /// When the outcome is known the next incarnation finds it in its journal.
    fn break_off(&mut self, message: String) {
        tracing::error!(entity = %self.persistence_id, message, "the entity panicked; restarting it");
        let entity_type = self.persistence_id.entity_type().to_owned();
        metrics::counter!("perennial_entity_panics_total", "entity_type" => entity_type)
            .increment(1);
        let actor = self.actor();
        actor.settle();
        if actor.status().writing {
            actor.abort_unsent();
        }
        self.work().broken = Some(message);
    }

    fn send(&mut self, cx: &mut CellContext<'_>) {
        if let Some((first_sequence_nr, writes)) = self.actor().next_batch() {
            let append = Append {
                persistence_id: self.persistence_id.clone(),
                shard: self.shard,
                epoch: self.epoch,
                writer: self.writer,
                first_sequence_nr,
                writes,
            };
            let traces = std::mem::take(&mut self.work().appending);
            cx.actions.push(Action::Append(append, traces));
        }
    }
}
