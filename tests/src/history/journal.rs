//! What is stored about an entity, compared with what its clients were told.
//!
//! Nothing acknowledged is missing (I-5), nothing is there twice or although it was
//! refused (I-8), numbers have no gap (I-3), and once another writer follows in a
//! stream, the earlier one never writes again (I-2).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

#[cfg(test)]
mod journal_test;

/// An event as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredEvent {
    /// Its number in the stream.
    pub sequence_nr: u64,
    /// The incarnation that wrote it, in whatever form it is stored.
    pub writer: String,
    /// Of the command it comes from, on the first event of an atomic write.
    pub command_id: Option<String>,
    /// On the first event of an atomic write, how many events that has; else 1.
    pub write_len: u64,
}

/// What a client knows of a command with an id, after its last attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    /// It was told that its events are stored, and the entity's number after that.
    Acknowledged {
        /// As in the answer.
        sequence_nr: u64,
    },
    /// It was told by all attempts that nothing was stored, or that the entity
    /// rejects it.
    NotApplied,
    /// It does not know.
    Unknown,
}

/// What is wrong with a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// I-3: the event after another one does not have the next number.
    Gap {
        /// The next number.
        expected: u64,
        /// The one that is there.
        found: u64,
    },
    /// I-8: a command is stored a second time.
    Repeated {
        /// The command.
        command_id: String,
        /// Where it is first.
        first: u64,
        /// Where it is again.
        again: u64,
    },
    /// I-5: a command was acknowledged and is not stored.
    Lost {
        /// The command.
        command_id: String,
        /// What the answer said.
        sequence_nr: u64,
    },
    /// I-8: a command is stored elsewhere than the answer said.
    Elsewhere {
        /// The command.
        command_id: String,
        /// What the answer said.
        answered: u64,
        /// Where its last event is.
        stored: u64,
    },
    /// I-8: a command is stored although its client was told that it is not.
    AppliedThoughRefused {
        /// The command.
        command_id: String,
        /// Where it is.
        sequence_nr: u64,
    },
    /// A command is stored that nobody sent.
    NeverSent {
        /// The command.
        command_id: String,
        /// Where it is.
        sequence_nr: u64,
    },
    /// I-2: a writer is back after another one had followed it.
    WriterBack {
        /// The writer.
        writer: String,
        /// Its last event before.
        left_at: u64,
        /// Its first event afterwards.
        back_at: u64,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gap { expected, found } => {
                write!(f, "I-3: event {found} is where {expected} belongs")
            }
            Self::Repeated {
                command_id,
                first,
                again,
            } => write!(f, "I-8: command {command_id} is at {first} and at {again}"),
            Self::Lost {
                command_id,
                sequence_nr,
            } => write!(
                f,
                "I-5: command {command_id}, acknowledged at {sequence_nr}, is not stored"
            ),
            Self::Elsewhere {
                command_id,
                answered,
                stored,
            } => write!(
                f,
                "I-8: command {command_id}, acknowledged at {answered}, is at {stored}"
            ),
            Self::AppliedThoughRefused {
                command_id,
                sequence_nr,
            } => write!(
                f,
                "I-8: command {command_id}, said not to be applied, is at {sequence_nr}"
            ),
            Self::NeverSent {
                command_id,
                sequence_nr,
            } => write!(
                f,
                "command {command_id} at {sequence_nr} was sent by nobody"
            ),
            Self::WriterBack {
                writer,
                left_at,
                back_at,
            } => write!(
                f,
                "I-2: writer {writer}, followed by another after {left_at}, is back at {back_at}"
            ),
        }
    }
}

/// Compares the stream of one entity, from its first event and in the order of the
/// numbers, with the commands that were sent to it, by their ids. Events without a
/// command id are only checked for their number and writer.
#[must_use]
pub fn check(events: &[StoredEvent], commands: &BTreeMap<String, Fate>) -> Vec<Fault> {
    let mut faults = gaps(events);
    faults.extend(writers_back(events));
    let mut stored: BTreeMap<&str, &StoredEvent> = BTreeMap::new();
    for event in events {
        let Some(command_id) = &event.command_id else {
            continue;
        };
        if let Some(first) = stored.get(command_id.as_str()) {
            faults.push(Fault::Repeated {
                command_id: command_id.clone(),
                first: first.sequence_nr,
                again: event.sequence_nr,
            });
            continue;
        }
        stored.insert(command_id, event);
        if !commands.contains_key(command_id) {
            faults.push(Fault::NeverSent {
                command_id: command_id.clone(),
                sequence_nr: event.sequence_nr,
            });
        }
    }
    let of_commands = commands
        .iter()
        .filter_map(|(id, fate)| fault_of(id, *fate, stored.get(id.as_str()).copied()));
    faults.extend(of_commands);
    faults
}

fn fault_of(command_id: &str, fate: Fate, stored: Option<&StoredEvent>) -> Option<Fault> {
    let command_id = command_id.to_owned();
    match (fate, stored) {
        (Fate::Acknowledged { sequence_nr }, None) => Some(Fault::Lost {
            command_id,
            sequence_nr,
        }),
        (Fate::Acknowledged { sequence_nr }, Some(event)) => {
            let last = event.sequence_nr + event.write_len - 1;
            (last != sequence_nr).then_some(Fault::Elsewhere {
                command_id,
                answered: sequence_nr,
                stored: last,
            })
        }
        (Fate::NotApplied, Some(event)) => Some(Fault::AppliedThoughRefused {
            command_id,
            sequence_nr: event.sequence_nr,
        }),
        (Fate::NotApplied, None) | (Fate::Unknown, _) => None,
    }
}

fn gaps(events: &[StoredEvent]) -> Vec<Fault> {
    let mut expected = 1;
    let mut faults = Vec::new();
    for event in events {
        let found = event.sequence_nr;
        if found != expected {
            faults.push(Fault::Gap { expected, found });
        }
        expected = found + 1;
    }
    faults
}

fn writers_back(events: &[StoredEvent]) -> Vec<Fault> {
    let mut left: BTreeMap<&str, u64> = BTreeMap::new();
    let mut reported: BTreeSet<&str> = BTreeSet::new();
    let mut faults = Vec::new();
    for pair in events.windows(2) {
        let (before, event) = (&pair[0], &pair[1]);
        if before.writer == event.writer {
            continue;
        }
        left.entry(&before.writer).or_insert(before.sequence_nr);
        if let Some(left_at) = left.get(event.writer.as_str())
            && reported.insert(&event.writer)
        {
            faults.push(Fault::WriterBack {
                writer: event.writer.clone(),
                left_at: *left_at,
                back_at: event.sequence_nr,
            });
        }
    }
    faults
}
