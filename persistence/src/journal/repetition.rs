//! The same command twice in one append: pure.
//!
//! A database finds commands that are stored already; it cannot find one that is
//! about to be stored by an earlier write of the same append.

use std::collections::BTreeMap;

use crate::command::CommandId;
use crate::journal::{Append, AppendError, StoredCommand};

/// A write whose command an earlier write of the same append has.
pub(crate) struct Repetition {
    /// Its place in the append.
    pub(crate) write: usize,
    /// What becomes of it, if all writes before it are stored.
    pub(crate) failure: AppendError,
}

pub(crate) fn first_repetition(append: &Append) -> Option<Repetition> {
    let mut seen: BTreeMap<&CommandId, StoredCommand> = BTreeMap::new();
    let mut last = append.first_sequence_nr.previous();
    for (index, write) in append.writes.iter().enumerate() {
        last = last.plus(write.events.len() as u64);
        let Some(command) = &write.command else {
            continue;
        };
        if let Some(stored) = seen.remove(&command.command_id) {
            let failure = AppendError::DuplicateCommand {
                persistence_id: append.persistence_id.clone(),
                command_id: command.command_id.clone(),
                stored,
            };
            return Some(Repetition {
                write: index,
                failure,
            });
        }
        let stored = StoredCommand {
            sequence_nr: last,
            reply: command.reply.clone(),
        };
        seen.insert(&command.command_id, stored);
    }
    None
}
