//! Why a command was not answered with a reply.
//!
//! Every variant knows whether the command was certainly not applied or may have
//! been ([`Applied`]), and whether waiting helps ([`CommandError::retry_after`]).
//! The gRPC status of each is decided in one place, in the `node` crate.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::sequence_nr::SequenceNr;
use crate::writer::WriterUuid;

/// Whether a failed command can have had an effect (promise I-8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// Certainly not.
    No,
    /// Undecided: it may have been stored.
    Unknown,
}

/// How many commands may wait, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StashLimit {
    /// For one entity, waiting and put aside together.
    Entity(usize),
    /// For all entities of a node together.
    Node(usize),
}

impl StashLimit {
    /// The setting that says so.
    #[must_use]
    pub fn setting(self) -> &'static str {
        match self {
            Self::Entity(_) => "persistence.stash_capacity",
            Self::Node(_) => "persistence.stash_total",
        }
    }

    /// Its value.
    #[must_use]
    pub fn commands(self) -> usize {
        let (Self::Entity(commands) | Self::Node(commands)) = self;
        commands
    }
}

impl fmt::Display for StashLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keeper = match self {
            Self::Entity(_) => "the entity keeps",
            Self::Node(_) => "the node's entities keep",
        };
        let (commands, setting) = (self.commands(), self.setting());
        write!(
            f,
            "{keeper} {commands} commands that wait, which is the limit ({setting})"
        )
    }
}

/// Why a command was not answered with a reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The entity's own rules refuse it.
    #[error("{message}")]
    Rejected {
        /// The entity's own reason, in capitals.
        reason: String,
        /// For a person.
        message: String,
    },
    /// No such entity type is registered.
    #[error(
        "entity type {entity_type:?} is not registered on this node: check the spelling, or register it"
    )]
    EntityTypeUnknown {
        /// What was asked for.
        entity_type: String,
    },
    /// The command's bytes are not a command of this entity type.
    #[error("the payload is not a command of entity type {entity_type:?}: {message}")]
    PayloadInvalid {
        /// The type addressed.
        entity_type: String,
        /// What the codec said.
        message: String,
    },
    /// The client expected another sequence number.
    #[error(
        "the entity is at sequence number {actual}, not {expected}: read it again, then decide anew"
    )]
    SequenceNrMismatch {
        /// Given with the command.
        expected: SequenceNr,
        /// The entity's.
        actual: SequenceNr,
    },
    /// A state was asked for at a number the stream has not reached.
    #[error(
        "sequence number {asked} is beyond the end of the stream, {highest}: ask for at most that"
    )]
    SequenceNrBeyondStream {
        /// Asked for.
        asked: SequenceNr,
        /// The highest stored.
        highest: SequenceNr,
    },
    /// History from before a deletion was asked for.
    #[error("history up to sequence number {deleted_to} is deleted: ask for a later one")]
    HistoryDeleted {
        /// The last deleted.
        deleted_to: SequenceNr,
    },
    /// The entity does not handle this command, or not now.
    #[error("entity type {entity_type:?} does not handle this command in its present state")]
    Unhandled {
        /// The type addressed.
        entity_type: String,
    },
    /// An event, reply or state is larger than allowed.
    #[error("{what} has {len} bytes: at most {limit} are allowed")]
    PayloadTooLarge {
        /// "the command", "an event", ...
        what: Cow<'static, str>,
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Too many commands wait, for this entity or on its node.
    #[error("{0}: send fewer at once, or retry later")]
    StashFull(StashLimit),
    /// The same, where `persistence.stash_overflow` says that such commands are dropped.
    #[error("{0}, and it drops what comes then: retry later")]
    Dropped(StashLimit),
    /// The shard's buffer is full.
    #[error(
        "{buffered} commands wait for a home of shard {shard}, which is the limit: retry later"
    )]
    BufferFull {
        /// The shard.
        shard: u32,
        /// How many wait.
        buffered: usize,
    },
    /// The node has as many commands in flight as it accepts.
    #[error(
        "the node has {limit} commands in flight, which is its limit: send fewer at once, or retry later"
    )]
    Overloaded {
        /// `node.max_in_flight`, or the length of the full queue.
        limit: usize,
    },
    /// An event was refused before it was sent to the journal.
    #[error("an event could not be stored and was refused before storing: {message}")]
    PersistRejected {
        /// Why.
        message: String,
    },
    /// The journal cannot be reached; nothing was sent.
    #[error("the journal cannot be reached, nothing was stored: retry later ({message})")]
    JournalUnavailable {
        /// What the journal said.
        message: String,
    },
    /// The outcome of an append is undecided at the deadline.
    #[error(
        "the journal did not say whether the events are stored: retry with the same command id ({message})"
    )]
    PersistFailed {
        /// What the journal said.
        message: String,
    },
    /// The entity is deleted in part, or not at all.
    #[error("the entity may not be deleted completely: ask again until it is ({message})")]
    DeletionUnfinished {
        /// What the journal said.
        message: String,
    },
    /// Another author of the stream was first.
    #[error(
        "another writer stored sequence number {sequence_nr} first: ours is {ours}, theirs {theirs}; \
         the entity restarts, retry"
    )]
    WriterConflict {
        /// The contested number.
        sequence_nr: SequenceNr,
        /// The writer that lost.
        ours: WriterUuid,
        /// The author of the stored event, or nil when it is not known.
        theirs: WriterUuid,
    },
    /// Recovery failed.
    #[error("the entity could not be recovered: {message}")]
    RecoveryFailed {
        /// Names entity, sequence number and manifest.
        message: String,
        /// When the entity may be tried again.
        retry_after: Duration,
    },
    /// The entity failed lately and is not started before its back-off ends.
    #[error(
        "the entity failed lately and is not restarted before {retry_after:?} have passed: {message}"
    )]
    BackingOff {
        /// The last failure.
        message: String,
        /// What is left of the back-off.
        retry_after: Duration,
    },
    /// The shard has no home here.
    #[error("shard {shard} has no home at present: retry later")]
    ShardUnavailable {
        /// The shard.
        shard: u32,
    },
    /// Forwarded, and the owner was lost before it answered.
    #[error("the node that owned the shard was lost before it answered: retry with a command id")]
    OwnerLost,
    /// The deadline passed.
    #[error("the deadline passed {}", match .applied { Applied::No => "before the command was handled", Applied::Unknown => "while the command was handled: it may have been stored" })]
    DeadlineExceeded {
        /// Whether handling had begun.
        applied: Applied,
    },
    /// The entity's code panicked.
    #[error("the entity panicked: {message}; it restarts from the journal")]
    Panicked {
        /// The panic's message.
        message: String,
        /// Unknown when it happened after an append.
        applied: Applied,
    },
}

impl CommandError {
    /// Whether the command can have had an effect.
    #[must_use]
    pub fn applied(&self) -> Applied {
        match self {
            Self::PersistFailed { .. } | Self::DeletionUnfinished { .. } | Self::OwnerLost => {
                Applied::Unknown
            }
            Self::DeadlineExceeded { applied } | Self::Panicked { applied, .. } => *applied,
            _ => Applied::No,
        }
    }

    /// How long to wait before a retry can succeed, where waiting helps.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RecoveryFailed { retry_after, .. } | Self::BackingOff { retry_after, .. } => {
                Some(*retry_after)
            }
            Self::StashFull(_)
            | Self::Dropped(_)
            | Self::BufferFull { .. }
            | Self::Overloaded { .. }
            | Self::WriterConflict { .. }
            | Self::PersistFailed { .. } => Some(Duration::from_millis(100)),
            Self::JournalUnavailable { .. }
            | Self::ShardUnavailable { .. }
            | Self::DeletionUnfinished { .. } => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}
