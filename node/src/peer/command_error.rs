//! The errors of commands on the wire between nodes: every one crosses as what it
//! is, so that a client is told the same whichever node it asked.

use std::time::Duration;

use perennial_persistence::command_error::{Applied, CommandError, StashLimit};
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::writer::WriterUuid;

use super::{Malformed, usize_of_wire, uuid_of_wire, uuid_to_wire};
use crate::proto::peer as wire;
use wire::command_error::stash_limit::Limit;
use wire::command_error::{
    BufferFull, Failing, Kind, Panicked, PayloadInvalid, PayloadTooLarge, Rejected,
    SequenceNrBeyondStream, SequenceNrMismatch, WriterConflict,
};

/// Longest text that crosses, in bytes. Entities make some of the texts, and one
/// that is too long for a message would end the stream of all commands.
const TEXT_LEN_MAX: usize = 8 << 10;

pub(super) fn to_wire(error: CommandError) -> wire::CommandError {
    let kind = match error {
        CommandError::Rejected { reason, message } => Kind::Rejected(Rejected {
            reason: cut(reason),
            message: cut(message),
        }),
        CommandError::EntityTypeUnknown { entity_type } => {
            Kind::EntityTypeUnknown(cut(entity_type))
        }
        CommandError::PayloadInvalid {
            entity_type,
            message,
        } => Kind::PayloadInvalid(PayloadInvalid {
            entity_type: cut(entity_type),
            message: cut(message),
        }),
        CommandError::SequenceNrMismatch { expected, actual } => {
            Kind::SequenceNrMismatch(SequenceNrMismatch {
                expected: expected.get(),
                actual: actual.get(),
            })
        }
        CommandError::SequenceNrBeyondStream { asked, highest } => {
            Kind::SequenceNrBeyondStream(SequenceNrBeyondStream {
                asked: asked.get(),
                highest: highest.get(),
            })
        }
        CommandError::HistoryDeleted { deleted_to } => Kind::HistoryDeleted(deleted_to.get()),
        CommandError::Unhandled { entity_type } => Kind::Unhandled(cut(entity_type)),
        CommandError::PayloadTooLarge { what, len, limit } => {
            Kind::PayloadTooLarge(PayloadTooLarge {
                what: cut(what.into_owned()),
                len: len as u64,
                limit: limit as u64,
            })
        }
        CommandError::StashFull(limit) => Kind::StashFull(stash_limit_to_wire(limit)),
        CommandError::Dropped(limit) => Kind::Dropped(stash_limit_to_wire(limit)),
        CommandError::BufferFull { shard, buffered } => Kind::BufferFull(BufferFull {
            shard,
            buffered: buffered as u64,
        }),
        CommandError::Overloaded { limit } => Kind::Overloaded(limit as u64),
        CommandError::PersistRejected { message } => Kind::PersistRejected(cut(message)),
        CommandError::JournalUnavailable { message } => Kind::JournalUnavailable(cut(message)),
        CommandError::PersistFailed { message } => Kind::PersistFailed(cut(message)),
        CommandError::DeletionUnfinished { message } => Kind::DeletionUnfinished(cut(message)),
        CommandError::WriterConflict {
            sequence_nr,
            ours,
            theirs,
        } => Kind::WriterConflict(WriterConflict {
            sequence_nr: sequence_nr.get(),
            ours: uuid_to_wire(ours.0),
            theirs: uuid_to_wire(theirs.0),
        }),
        CommandError::RecoveryFailed {
            message,
            retry_after,
        } => Kind::RecoveryFailed(failing(message, retry_after)),
        CommandError::BackingOff {
            message,
            retry_after,
        } => Kind::BackingOff(failing(message, retry_after)),
        CommandError::ShardUnavailable { shard } => Kind::ShardUnavailable(shard),
        CommandError::OwnerLost => Kind::OwnerLost(wire::Nothing {}),
        CommandError::DeadlineExceeded { applied } => {
            Kind::DeadlineExceeded(applied_to_wire(applied))
        }
        CommandError::Panicked { message, applied } => Kind::Panicked(Panicked {
            message: cut(message),
            applied: applied_to_wire(applied),
        }),
    };
    wire::CommandError { kind: Some(kind) }
}

pub(super) fn of_wire(error: wire::CommandError) -> Result<CommandError, Malformed> {
    Ok(match error.kind.ok_or(Malformed::missing("error"))? {
        Kind::Rejected(Rejected { reason, message }) => CommandError::Rejected { reason, message },
        Kind::EntityTypeUnknown(entity_type) => CommandError::EntityTypeUnknown { entity_type },
        Kind::PayloadInvalid(PayloadInvalid {
            entity_type,
            message,
        }) => CommandError::PayloadInvalid {
            entity_type,
            message,
        },
        Kind::SequenceNrMismatch(SequenceNrMismatch { expected, actual }) => {
            CommandError::SequenceNrMismatch {
                expected: SequenceNr::new(expected),
                actual: SequenceNr::new(actual),
            }
        }
        Kind::SequenceNrBeyondStream(SequenceNrBeyondStream { asked, highest }) => {
            CommandError::SequenceNrBeyondStream {
                asked: SequenceNr::new(asked),
                highest: SequenceNr::new(highest),
            }
        }
        Kind::HistoryDeleted(deleted_to) => CommandError::HistoryDeleted {
            deleted_to: SequenceNr::new(deleted_to),
        },
        Kind::Unhandled(entity_type) => CommandError::Unhandled { entity_type },
        Kind::PayloadTooLarge(PayloadTooLarge { what, len, limit }) => {
            CommandError::PayloadTooLarge {
                what: what.into(),
                len: usize_of_wire("len", len)?,
                limit: usize_of_wire("limit", limit)?,
            }
        }
        Kind::StashFull(limit) => CommandError::StashFull(stash_limit_of_wire(limit)?),
        Kind::Dropped(limit) => CommandError::Dropped(stash_limit_of_wire(limit)?),
        Kind::BufferFull(BufferFull { shard, buffered }) => CommandError::BufferFull {
            shard,
            buffered: usize_of_wire("buffered", buffered)?,
        },
        Kind::Overloaded(limit) => CommandError::Overloaded {
            limit: usize_of_wire("limit", limit)?,
        },
        Kind::PersistRejected(message) => CommandError::PersistRejected { message },
        Kind::JournalUnavailable(message) => CommandError::JournalUnavailable { message },
        Kind::PersistFailed(message) => CommandError::PersistFailed { message },
        Kind::DeletionUnfinished(message) => CommandError::DeletionUnfinished { message },
        Kind::WriterConflict(conflict) => CommandError::WriterConflict {
            sequence_nr: SequenceNr::new(conflict.sequence_nr),
            ours: WriterUuid(uuid_of_wire("ours", &conflict.ours)?),
            theirs: WriterUuid(uuid_of_wire("theirs", &conflict.theirs)?),
        },
        Kind::RecoveryFailed(failing) => CommandError::RecoveryFailed {
            message: failing.message,
            retry_after: Duration::from_micros(failing.retry_after_us),
        },
        Kind::BackingOff(failing) => CommandError::BackingOff {
            message: failing.message,
            retry_after: Duration::from_micros(failing.retry_after_us),
        },
        Kind::ShardUnavailable(shard) => CommandError::ShardUnavailable { shard },
        Kind::OwnerLost(wire::Nothing {}) => CommandError::OwnerLost,
        Kind::DeadlineExceeded(applied) => CommandError::DeadlineExceeded {
            applied: applied_of_wire(applied)?,
        },
        Kind::Panicked(Panicked { message, applied }) => CommandError::Panicked {
            message,
            applied: applied_of_wire(applied)?,
        },
    })
}

fn failing(message: String, retry_after: Duration) -> Failing {
    Failing {
        message: cut(message),
        retry_after_us: super::frames::micros(retry_after),
    }
}

fn stash_limit_to_wire(limit: StashLimit) -> wire::command_error::StashLimit {
    let limit = match limit {
        StashLimit::Entity(limit) => Limit::Entity(limit as u64),
        StashLimit::Node(limit) => Limit::Node(limit as u64),
    };
    wire::command_error::StashLimit { limit: Some(limit) }
}

fn stash_limit_of_wire(limit: wire::command_error::StashLimit) -> Result<StashLimit, Malformed> {
    Ok(match limit.limit.ok_or(Malformed::missing("limit"))? {
        Limit::Entity(limit) => StashLimit::Entity(usize_of_wire("limit", limit)?),
        Limit::Node(limit) => StashLimit::Node(usize_of_wire("limit", limit)?),
    })
}

fn applied_to_wire(applied: Applied) -> i32 {
    match applied {
        Applied::No => wire::Applied::No,
        Applied::Unknown => wire::Applied::Unknown,
    }
    .into()
}

fn applied_of_wire(applied: i32) -> Result<Applied, Malformed> {
    match wire::Applied::try_from(applied) {
        Ok(wire::Applied::No) => Ok(Applied::No),
        Ok(wire::Applied::Unknown) => Ok(Applied::Unknown),
        Ok(wire::Applied::Unspecified) | Err(_) => Err(Malformed::new("applied", applied)),
    }
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_LEN_MAX));
    text
}

#[cfg(test)]
#[path = "command_error/command_error_test.rs"]
#[allow(clippy::unwrap_used)]
mod command_error_test;
