//! Command ids: whether a command is the retry of one that stored events (I-8).
//!
//! The journal's index is the truth, the cell's cache saves most questions to it.

use std::collections::HashMap;

use crate::command::{CommandId, Reply, Request};
use crate::command_error::CommandError;
use crate::command_id_cache::Recall;
use crate::journal::StoredCommand;

use super::{Action, Cell, CellContext, Index, Next, Queued, Stage};

/// Command ids asked for in one look-up. Less than the command id cache holds,
/// so that what is stored between a look-up and its use is still in the cache.
const LOOK_UP_MAX: usize = 128;

/// What is known of a command before it is handled.
pub(super) enum Recalled {
    /// It is no retry; or it may be one, and the index must be asked before an
    /// answer is given.
    New { certainly: bool },
    /// The first run's answer.
    Stored(Reply),
    /// The first run's events are not stored yet: ask the index when they are.
    UnderWay,
    /// Ask the index before handling it.
    AskIndex,
}

impl Cell {
    pub(super) fn recall(&self, queued: &Queued) -> Recalled {
        let Request::Command {
            command_id: Some(command_id),
            ..
        } = &queued.request
        else {
            return Recalled::New { certainly: true };
        };
        let certainly = match (self.command_ids.lookup(command_id), &queued.index) {
            (_, Index::Stored(stored)) => {
                return Recalled::Stored(Reply {
                    payload: stored.reply.clone(),
                    sequence_nr: stored.sequence_nr,
                    duplicate: true,
                });
            }
            (Recall::Known(nr), _) if nr > self.stored_nr => return Recalled::UnderWay,
            // The index knew nothing at a later number: another id with the
            // same hash.
            (Recall::Known(nr), Index::NotStored { asked_at }) if nr <= *asked_at => true,
            (Recall::Known(_), _) => return Recalled::AskIndex,
            (Recall::CertainlyNew, _) | (Recall::Unknown, Index::NotStored { .. }) => true,
            (Recall::Unknown, Index::NotAsked) if self.retries_likely => {
                return Recalled::AskIndex;
            }
            (Recall::Unknown, Index::NotAsked) => false,
        };
        Recalled::New { certainly }
    }

    /// Asks the index about the requests at the head of the stash.
    pub(super) fn look_up(&mut self, cx: &mut CellContext<'_>) -> Next {
        self.stage = Stage::LookingUp;
        let stash = &self.work().stash;
        let ids = stash.iter().take(LOOK_UP_MAX).filter_map(|queued| {
            let Request::Command { command_id, .. } = &queued.request else {
                return None;
            };
            command_id.clone()
        });
        cx.actions.push(Action::FindCommands(ids.collect()));
        Next::Wait
    }

    /// The index has answered about the ids it was asked for.
    pub(crate) fn commands_found(
        &mut self,
        asked: &[CommandId],
        found: Result<Vec<Option<StoredCommand>>, String>,
        cx: &mut CellContext<'_>,
    ) -> Next {
        self.stage = Stage::Ready;
        let found = match found {
            Ok(found) => found,
            Err(message) => {
                // Without the index a retry cannot be told from a new command.
                self.refuse_asked(asked, &CommandError::JournalUnavailable { message });
                return self.run(cx);
            }
        };
        self.retries_likely = found.iter().any(Option::is_some);
        let asked_at = self.stored_nr;
        // Appends of unknown outcome may land late. Who is told of one must find it
        // in the state from then on (I-12).
        let is_behind = found.iter().flatten().any(|s| s.sequence_nr > asked_at);
        // By id: an actor's callbacks may have unstashed others meanwhile.
        let found: HashMap<_, _> = asked.iter().zip(found).collect();
        for queued in &mut self.work().stash {
            let Request::Command {
                command_id: Some(command_id),
                ..
            } = &queued.request
            else {
                continue;
            };
            queued.index = match found.get(command_id) {
                Some(Some(stored)) => Index::Stored(stored.clone()),
                Some(None) => Index::NotStored { asked_at },
                None => continue,
            };
        }
        if is_behind {
            self.stop_requested = true;
        }
        self.run(cx)
    }

    /// Refuses the waiting commands with one of these ids.
    fn refuse_asked(&mut self, asked: &[CommandId], error: &CommandError) {
        let is_asked = |queued: &Queued| match &queued.request {
            Request::Command {
                command_id: Some(command_id),
                ..
            } => asked.contains(command_id),
            _ => false,
        };
        let stash = &mut self.work().stash;
        let refused;
        (refused, *stash) = std::mem::take(stash).into_iter().partition(is_asked);
        for queued in refused {
            queued.reply_to.answer(Err(error.clone()));
        }
    }
}
