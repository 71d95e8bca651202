//! The one place where an error becomes a gRPC status.
//!
//! Every status carries `google.rpc.ErrorInfo`: domain `perennial`, a reason for
//! programs, and `applied`, which says whether the command can have had an effect
//! (promise I-8). Where waiting helps, `google.rpc.RetryInfo` says how long.
//! Nothing else in this crate chooses a status code. Clients read the same
//! details back in `cli/failure.rs`.

use std::collections::HashMap;
use std::time::Duration;

use perennial_persistence::command::InvalidCommandId;
use perennial_persistence::command_error::{Applied, CommandError};
use perennial_persistence::journal::JournalError;
use perennial_persistence::persistence_id::InvalidPersistenceId;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_sharding::control_plane::ProposeError;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::auth::{AuthError, Denied};

/// The domain of every `ErrorInfo`.
pub const ERROR_DOMAIN: &str = "perennial";

/// Longest text of a status, in characters: statuses travel in HTTP headers,
/// which clients limit.
const TEXT_LEN_MAX: usize = 1000;

/// Every reason a status can have, besides the entities' own.
pub const REASONS: &[&str] = &[
    "BACKING_OFF",
    "BUFFER_FULL",
    "COMMAND_ID_INVALID",
    "COMMAND_UNHANDLED",
    "DEADLINE_EXCEEDED",
    "ENTITY_ID_INVALID",
    "ENTITY_PANICKED",
    "ENTITY_TYPE_UNKNOWN",
    "HISTORY_DELETED",
    "JOURNAL_UNAVAILABLE",
    "NODE_UNKNOWN",
    "NO_LEADER",
    "OVERLOADED",
    "OWNER_LOST",
    "PAGE_TOKEN_INVALID",
    "PAYLOAD_INVALID",
    "PAYLOAD_TOO_LARGE",
    "PERMISSION_DENIED",
    "PERSIST_FAILED",
    "PERSIST_REJECTED",
    "RECOVERY_FAILED",
    "SEQUENCE_NR_INVALID",
    "SEQUENCE_NR_MISMATCH",
    "SHARD_UNAVAILABLE",
    "SINGLE_NODE",
    "SLOW_READER",
    "STASH_FULL",
    "UNAUTHENTICATED",
    "WRITER_CONFLICT",
];

/// Why a service answers a request with a status.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceError {
    /// The command, or read, was refused or failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The entity id is malformed.
    #[error(transparent)]
    EntityId(#[from] InvalidPersistenceId),
    /// The command id is malformed.
    #[error(transparent)]
    CommandId(#[from] InvalidCommandId),
    /// A range of events that cannot be read.
    #[error(
        "events from {from} to {to} cannot be read, the stream ends at {highest}: ask for a range within it"
    )]
    EventRange {
        /// First event asked for.
        from: SequenceNr,
        /// Last event asked for.
        to: SequenceNr,
        /// The last there is.
        highest: SequenceNr,
    },
    /// The page token is not one this service gave out for this listing.
    #[error(
        "the page token does not belong to this listing: use next_page_token of the page before, or none"
    )]
    PageToken,
    /// No such node.
    #[error("node {node_id:?} is not a member of this cluster, whose nodes are {known}")]
    NodeUnknown {
        /// Asked for.
        node_id: String,
        /// Who there is.
        known: String,
    },
    /// Something that needs other nodes.
    #[error(
        "no other node is up to hand the shards to: start one, or stop this one instead, nothing is lost"
    )]
    SingleNode,
    /// The cluster could not be told.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The journal could not be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The client does not read what it asked for.
    #[error(
        "nothing of this stream was read for {after:?} (node.limits.slow_reader_timeout): read on, from what came last"
    )]
    SlowReader {
        /// The limit.
        after: Duration,
    },
    /// It is not known who calls.
    #[error(transparent)]
    Unauthenticated(#[from] AuthError),
    /// Who calls may not do this.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// A call that nobody is allowed, because no right is set down for it.
    #[error("{path:.80} is not a call that clients of this service may make: check its name")]
    NoRow {
        /// As the client wrote it.
        path: String,
    },
    /// The node is shutting down and takes nothing on.
    #[error("the node is stopping: send again to another, or later")]
    Stopping,
}

/// What a status says.
struct Verdict {
    code: Code,
    reason: String,
    applied: Applied,
    retry_after: Option<Duration>,
    /// Values a program may want to read without parsing the message.
    values: Vec<(&'static str, String)>,
}

impl Verdict {
    fn new(code: Code, reason: &str) -> Self {
        Self {
            code,
            reason: cut(reason, 64),
            applied: Applied::No,
            retry_after: None,
            values: Vec::new(),
        }
    }

    fn with(mut self, name: &'static str, value: &impl ToString) -> Self {
        self.values.push((name, value.to_string()));
        self
    }
}

impl From<ServiceError> for Status {
    fn from(error: ServiceError) -> Self {
        let verdict = judge(&error);
        let applied = match verdict.applied {
            Applied::No => "no",
            Applied::Unknown => "unknown",
        };
        let mut metadata = HashMap::from([("applied".to_owned(), applied.to_owned())]);
        for (name, value) in verdict.values {
            metadata.insert(name.to_owned(), cut(&value, TEXT_LEN_MAX));
        }
        let mut details = ErrorDetails::with_error_info(verdict.reason, ERROR_DOMAIN, metadata);
        if let Some(delay) = verdict.retry_after {
            details.set_retry_info(Some(delay));
        }
        let message = cut(&error.to_string(), TEXT_LEN_MAX);
        Self::with_error_details(verdict.code, message, details)
    }
}

/// The status of a refused or failed command.
pub(crate) fn status_of(error: CommandError) -> Status {
    ServiceError::Command(error).into()
}

/// A status of the transport as one of ours: gRPC itself refuses messages beyond
/// the decode limit, and says so without details.
pub(crate) fn explained(status: Status) -> Status {
    if status.code() != Code::OutOfRange || !status.details().is_empty() {
        return status;
    }
    let values = HashMap::from([("applied".to_owned(), "no".to_owned())]);
    let details = ErrorDetails::with_error_info("PAYLOAD_TOO_LARGE", ERROR_DOMAIN, values);
    Status::with_error_details(
        Code::OutOfRange,
        cut(status.message(), TEXT_LEN_MAX),
        details,
    )
}

/// The same as a message, for the responses of a stream.
pub(crate) fn message_of(status: &Status) -> tonic_types::Status {
    use prost::Message;
    // `Status` holds the encoded message; one without details has none.
    tonic_types::Status::decode(status.details()).unwrap_or_else(|_| tonic_types::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}

/// The reason for programs; an entity's own for a rejection.
pub(crate) fn reason_of(error: &CommandError) -> &str {
    command_code_and_reason(error).1
}

impl ServiceError {
    /// The reason for programs; an entity's own for a rejection.
    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::Command(error) => reason_of(error),
            Self::EntityId(InvalidPersistenceId::EntityType { .. }) => "ENTITY_TYPE_UNKNOWN",
            Self::EntityId(_) => "ENTITY_ID_INVALID",
            Self::CommandId(_) => "COMMAND_ID_INVALID",
            Self::EventRange { .. } | Self::Journal(JournalError::DeleteBeyondStream { .. }) => {
                "SEQUENCE_NR_INVALID"
            }
            Self::PageToken => "PAGE_TOKEN_INVALID",
            Self::NodeUnknown { .. } => "NODE_UNKNOWN",
            Self::SingleNode => "SINGLE_NODE",
            Self::SlowReader { .. } => "SLOW_READER",
            Self::Propose(_) => "NO_LEADER",
            Self::Unauthenticated(_) => "UNAUTHENTICATED",
            Self::Denied(_) | Self::NoRow { .. } => "PERMISSION_DENIED",
            Self::Journal(JournalError::Unavailable { .. }) => "JOURNAL_UNAVAILABLE",
            Self::Journal(JournalError::Corrupt { .. }) => "RECOVERY_FAILED",
            Self::Journal(JournalError::Fenced { .. }) | Self::Stopping => "SHARD_UNAVAILABLE",
        }
    }
}

fn judge(error: &ServiceError) -> Verdict {
    let reason = error.reason();
    match error {
        ServiceError::Command(error) => judge_command(error),
        ServiceError::EntityId(InvalidPersistenceId::EntityType { entity_type }) => {
            Verdict::new(Code::NotFound, reason).with("entity_type", entity_type)
        }
        ServiceError::EntityId(_) | ServiceError::CommandId(_) | ServiceError::PageToken => {
            Verdict::new(Code::InvalidArgument, reason)
        }
        ServiceError::EventRange { highest, .. } => {
            Verdict::new(Code::InvalidArgument, reason).with("highest", highest)
        }
        ServiceError::NodeUnknown { node_id, .. } => {
            Verdict::new(Code::NotFound, reason).with("node_id", node_id)
        }
        // Of a stream of commands, some were taken and their replies are lost.
        ServiceError::SlowReader { .. } => Verdict {
            applied: Applied::Unknown,
            ..Verdict::new(Code::ResourceExhausted, reason)
        },
        ServiceError::Unauthenticated(error) => {
            Verdict::new(Code::Unauthenticated, reason).with("cause", &error.cause())
        }
        ServiceError::Denied(denied) => {
            Verdict::new(Code::PermissionDenied, reason).with("right", &denied.right)
        }
        ServiceError::NoRow { .. } => Verdict::new(Code::PermissionDenied, reason),
        ServiceError::SingleNode => Verdict::new(Code::FailedPrecondition, reason),
        ServiceError::Propose(error) => Verdict {
            applied: match error {
                ProposeError::NoLeader { .. } => Applied::No,
                ProposeError::Unknown { .. } => Applied::Unknown,
            },
            retry_after: Some(Duration::from_secs(1)),
            ..Verdict::new(Code::Unavailable, reason)
        },
        ServiceError::Journal(JournalError::DeleteBeyondStream { highest, .. }) => {
            Verdict::new(Code::InvalidArgument, reason).with("highest", highest)
        }
        ServiceError::Journal(JournalError::Corrupt {
            persistence_id,
            sequence_nr,
            ..
        }) => Verdict::new(Code::Unavailable, reason)
            .with("persistence_id", persistence_id)
            .with("sequence_nr", sequence_nr),
        ServiceError::Journal(JournalError::Unavailable { .. } | JournalError::Fenced { .. })
        | ServiceError::Stopping => Verdict {
            retry_after: Some(Duration::from_secs(1)),
            ..Verdict::new(Code::Unavailable, reason)
        },
    }
}

fn judge_command(error: &CommandError) -> Verdict {
    let (code, reason) = command_code_and_reason(error);
    let verdict = Verdict {
        applied: error.applied(),
        retry_after: error.retry_after(),
        ..Verdict::new(code, reason)
    };
    match error {
        CommandError::EntityTypeUnknown { entity_type }
        | CommandError::PayloadInvalid { entity_type, .. }
        | CommandError::Unhandled { entity_type } => verdict.with("entity_type", entity_type),
        CommandError::SequenceNrMismatch { expected, actual } => {
            verdict.with("expected", expected).with("actual", actual)
        }
        CommandError::SequenceNrBeyondStream { asked, highest } => {
            verdict.with("asked", asked).with("highest", highest)
        }
        CommandError::HistoryDeleted { deleted_to } => verdict.with("deleted_to", deleted_to),
        CommandError::PayloadTooLarge { len, limit, .. } => {
            verdict.with("len", len).with("limit", limit)
        }
        CommandError::StashFull(limit) | CommandError::Dropped(limit) => verdict
            .with("limit", &limit.commands())
            .with("setting", &limit.setting()),
        CommandError::BufferFull { shard, .. } | CommandError::ShardUnavailable { shard } => {
            verdict.with("shard", shard)
        }
        CommandError::Overloaded { limit } => verdict.with("limit", limit),
        CommandError::WriterConflict {
            sequence_nr,
            ours,
            theirs,
        } => verdict
            .with("sequence_nr", sequence_nr)
            .with("ours", ours)
            .with("theirs", theirs),
        CommandError::Rejected { .. }
        | CommandError::PersistRejected { .. }
        | CommandError::JournalUnavailable { .. }
        | CommandError::PersistFailed { .. }
        | CommandError::DeletionUnfinished { .. }
        | CommandError::RecoveryFailed { .. }
        | CommandError::BackingOff { .. }
        | CommandError::OwnerLost
        | CommandError::DeadlineExceeded { .. }
        | CommandError::Panicked { .. } => verdict,
    }
}

fn command_code_and_reason(error: &CommandError) -> (Code, &str) {
    match error {
        CommandError::Rejected { reason, .. } => (Code::FailedPrecondition, reason),
        CommandError::EntityTypeUnknown { .. } => (Code::NotFound, "ENTITY_TYPE_UNKNOWN"),
        CommandError::PayloadInvalid { .. } => (Code::InvalidArgument, "PAYLOAD_INVALID"),
        CommandError::SequenceNrMismatch { .. } => {
            (Code::FailedPrecondition, "SEQUENCE_NR_MISMATCH")
        }
        CommandError::SequenceNrBeyondStream { .. } => {
            (Code::InvalidArgument, "SEQUENCE_NR_INVALID")
        }
        CommandError::HistoryDeleted { .. } => (Code::OutOfRange, "HISTORY_DELETED"),
        CommandError::Unhandled { .. } => (Code::Unimplemented, "COMMAND_UNHANDLED"),
        CommandError::PayloadTooLarge { .. } => (Code::OutOfRange, "PAYLOAD_TOO_LARGE"),
        CommandError::StashFull(_) => (Code::ResourceExhausted, "STASH_FULL"),
        CommandError::BufferFull { .. } => (Code::ResourceExhausted, "BUFFER_FULL"),
        CommandError::Dropped(_) | CommandError::Overloaded { .. } => {
            (Code::ResourceExhausted, "OVERLOADED")
        }
        CommandError::PersistRejected { .. } => (Code::FailedPrecondition, "PERSIST_REJECTED"),
        CommandError::JournalUnavailable { .. } => (Code::Unavailable, "JOURNAL_UNAVAILABLE"),
        CommandError::PersistFailed { .. } | CommandError::DeletionUnfinished { .. } => {
            (Code::Unavailable, "PERSIST_FAILED")
        }
        CommandError::WriterConflict { .. } => (Code::Aborted, "WRITER_CONFLICT"),
        CommandError::RecoveryFailed { .. } => (Code::Unavailable, "RECOVERY_FAILED"),
        CommandError::BackingOff { .. } => (Code::Unavailable, "BACKING_OFF"),
        CommandError::ShardUnavailable { .. } => (Code::Unavailable, "SHARD_UNAVAILABLE"),
        CommandError::OwnerLost => (Code::Unavailable, "OWNER_LOST"),
        CommandError::DeadlineExceeded { .. } => (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
        CommandError::Panicked { .. } => (Code::Internal, "ENTITY_PANICKED"),
    }
}

fn cut(text: &str, len_max: usize) -> String {
    text.chars().take(len_max).collect()
}

#[cfg(test)]
#[path = "status_test.rs"]
#[allow(clippy::unwrap_used)]
mod status_test;
