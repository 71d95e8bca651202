//! Where events live: the [`Journal`] trait and what is passed through it.
//!
//! A journal stores *batches* of appends and reads events back. It does not
//! queue: `group_commit.rs` collects what waits and calls [`Journal::append`]
//! with it, one batch per lane at a time. It knows nothing of entities in
//! memory. Implementations: `journal/memory.rs`, `journal/sqlite.rs`,
//! `journal/postgres.rs`; all pass `journal/conformance.rs`, which authors of
//! other backends can run too.

#[cfg(feature = "testing")]
pub mod conformance;
pub mod memory;
pub(crate) mod postgres;
pub(crate) mod repetition;
pub(crate) mod sqlite;

use std::time::SystemTime;

use async_trait::async_trait;

use crate::command::{CommandId, Metadata};
use crate::payload::Payload;
use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::writer::{Epoch, SessionUuid, ShardNr, WriterUuid};

/// An event on its way to the journal. It gets its sequence number from its
/// place in the append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// The encoded event.
    pub payload: Payload,
    /// Tags by which it can be found.
    pub tags: Vec<String>,
}

/// Events that are stored all or none (promise I-7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtomicWrite {
    /// At least one.
    pub events: Vec<NewEvent>,
    /// The command they come from and its reply, kept with the first event.
    pub command: Option<CommandRecord>,
    /// Stored with each of the events.
    pub metadata: Metadata,
}

/// A command id with the reply its first run got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandRecord {
    /// The client's id for the command.
    pub command_id: CommandId,
    /// What a retry is answered with.
    pub reply: Payload,
}

/// Consecutive atomic writes of one incarnation of one entity.
///
/// They are stored in order; the first that fails takes those after it along,
/// because they were computed from its effects.
#[derive(Debug, Clone)]
pub struct Append {
    /// The stream.
    pub persistence_id: PersistenceId,
    /// Checked against fences, stored with the events.
    pub shard: ShardNr,
    /// Of the shard, when the entity was started.
    pub epoch: Epoch,
    /// The incarnation that writes.
    pub writer: WriterUuid,
    /// Number of the first event; its predecessor must be the stream's highest.
    pub first_sequence_nr: SequenceNr,
    /// At least one.
    pub writes: Vec<AtomicWrite>,
}

impl Append {
    /// Number of events in all writes.
    #[must_use]
    pub fn event_count(&self) -> usize {
        self.writes.iter().map(|write| write.events.len()).sum()
    }

    /// Size of all payloads in bytes, replies included, by which batches are bounded.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        let payloads = self.writes.iter().flat_map(|write| {
            let events = write.events.iter().map(|event| &event.payload);
            events.chain(write.command.iter().map(|command| &command.reply))
        });
        payloads.map(|payload| payload.bytes.len()).sum()
    }
}

/// What became of an [`Append`].
#[derive(Debug)]
pub struct Appended {
    /// How many of its atomic writes are stored, from the first on.
    pub stored_writes: usize,
    /// Why the write after those is not; `None` when all are stored.
    pub failure: Option<AppendError>,
}

impl Appended {
    /// Everything is stored.
    #[must_use]
    pub fn all(append: &Append) -> Self {
        Self {
            stored_writes: append.writes.len(),
            failure: None,
        }
    }

    /// Nothing is stored.
    #[must_use]
    pub fn none(failure: AppendError) -> Self {
        Self {
            stored_writes: 0,
            failure: Some(failure),
        }
    }
}

/// Why an atomic write is not stored, or not known to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The stream's highest number is not the predecessor of the first event:
    /// another author was first, or the append is stale or leaves a gap. The
    /// entity must stop and recover.
    #[error(
        "stream {persistence_id}: writer {writer} wanted to store {first_sequence_nr}, but the highest stored \
         number is {highest}{}", .other.as_ref().map(ToString::to_string).unwrap_or_default()
    )]
    Conflict {
        /// The stream.
        persistence_id: PersistenceId,
        /// Who wanted to write.
        writer: WriterUuid,
        /// Where.
        first_sequence_nr: SequenceNr,
        /// What is the highest stored number.
        highest: SequenceNr,
        /// The author of the event stored at `first_sequence_nr`, if there is one.
        other: Option<OtherAuthor>,
    },
    /// The session is fenced, as a whole or for this shard and epoch. The entity
    /// must stop; if the whole session is fenced, the node rejoins with a new one.
    #[error(
        "session {session} is fenced for shard {shard} up to epoch {epoch}: the shard has another owner"
    )]
    Fenced {
        /// The session that wanted to write.
        session: SessionUuid,
        /// The shard.
        shard: ShardNr,
        /// The epoch the append carried.
        epoch: Epoch,
    },
    /// The command id is stored already: the write is a retry and was not stored.
    #[error("command {command_id} of {persistence_id} is stored already, at sequence number {}", .stored.sequence_nr)]
    DuplicateCommand {
        /// The stream.
        persistence_id: PersistenceId,
        /// The repeated id.
        command_id: CommandId,
        /// What the first run stored.
        stored: StoredCommand,
    },
    /// The journal refuses these bytes; a retry would fail too. Nothing stored.
    #[error("the journal refuses the write: {message}")]
    Rejected {
        /// What the database said.
        message: String,
    },
    /// Nothing was sent, or what was sent certainly took no effect. A retry can
    /// succeed when the journal is back.
    #[error("the journal cannot be reached, nothing was stored: {message}")]
    Unavailable {
        /// What the driver said.
        message: String,
    },
    /// It may be stored: the connection was lost and the outcome is undecided.
    #[error("the outcome of the write is unknown: {message}")]
    Unknown {
        /// What the driver said.
        message: String,
    },
}

/// Who stored the event that a conflicting append wanted to store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherAuthor {
    /// The author's incarnation.
    pub writer: WriterUuid,
    /// When the event was stored.
    pub created_at: SystemTime,
}

impl std::fmt::Display for OtherAuthor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self
            .created_at
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        write!(
            f,
            ", and writer {} stored that number at {seconds} (Unix time)",
            self.writer
        )
    }
}

/// What the first run of a command stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCommand {
    /// Number of the last event of its atomic write.
    pub sequence_nr: SequenceNr,
    /// Its reply.
    pub reply: Payload,
}

/// An event as the journal holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// The stream.
    pub persistence_id: PersistenceId,
    /// Its number in the stream.
    pub sequence_nr: SequenceNr,
    /// The incarnation that wrote it.
    pub writer: WriterUuid,
    /// The encoded event.
    pub payload: Payload,
    /// Tags by which it can be found.
    pub tags: Vec<String>,
    /// The client's key-value pairs.
    pub metadata: Metadata,
    /// The command it comes from, on the first event of an atomic write.
    pub command_id: Option<CommandId>,
    /// When it was stored, by the journal's clock.
    pub created_at: SystemTime,
}

/// Which events of a stream to read.
#[derive(Debug, Clone)]
pub struct EventRange {
    /// The stream.
    pub persistence_id: PersistenceId,
    /// Lowest number, inclusive.
    pub from: SequenceNr,
    /// Highest number, inclusive.
    pub to: SequenceNr,
    /// At most so many events.
    pub max_events: usize,
    /// Stop after the event that reaches so many payload bytes; at least one
    /// event is returned if there is one.
    pub max_bytes: usize,
}

/// How far a stream reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamBounds {
    /// The highest number ever stored; deletion does not lower it.
    pub highest: SequenceNr,
    /// Events up to this number, inclusive, are deleted.
    pub deleted_to: SequenceNr,
    /// The entity was deleted as a whole at this number, and what it was then is
    /// gone: it began anew after it, in its initial state. Zero if it never was.
    /// Never above `deleted_to`. Next: [`entity_deletion`](crate::entity_deletion).
    pub tombstone: SequenceNr,
}

impl StreamBounds {
    /// The lowest snapshot that is not of what the entity was before it was deleted
    /// as a whole. Lower ones, which an interrupted deletion can have left, must not
    /// be recovered from: they would bring back what is gone.
    #[must_use]
    pub fn first_snapshot(&self) -> SequenceNr {
        match self.tombstone {
            SequenceNr::ZERO => SequenceNr::ZERO,
            tombstone => tombstone.next(),
        }
    }
}

/// One line of a listing of entities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityListing {
    /// The entity.
    pub persistence_id: PersistenceId,
    /// Its highest number.
    pub sequence_nr: SequenceNr,
}

/// Why reading or deleting failed.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The journal cannot be reached, or did not answer in time. Retry later.
    #[error("the journal cannot be reached: {message}")]
    Unavailable {
        /// What was being done and what the driver said.
        message: String,
        /// The driver's error.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// A row cannot be understood; it was written by something else or damaged.
    #[error(
        "stream {persistence_id}, sequence number {sequence_nr}: the stored row is damaged: {message}"
    )]
    Corrupt {
        /// The stream, as stored.
        persistence_id: String,
        /// The event or snapshot.
        sequence_nr: SequenceNr,
        /// What is wrong with it.
        message: String,
    },
    /// A deletion beyond the end of the stream was asked for. Nothing is deleted.
    #[error(
        "events can be deleted up to a number less than or equal to lastSequenceNr {highest}, not up to {asked}"
    )]
    DeleteBeyondStream {
        /// Asked for.
        asked: SequenceNr,
        /// The highest stored.
        highest: SequenceNr,
    },
    /// The writing session is fenced: see [`AppendError::Fenced`].
    #[error("session {session} is fenced: the shard has another owner")]
    Fenced {
        /// The session.
        session: SessionUuid,
    },
}

/// The right under which something other than an append is written: snapshots,
/// deletions. Checked against fences like an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteRight {
    /// The node's session.
    pub session: SessionUuid,
    /// The entity's shard.
    pub shard: ShardNr,
    /// Of the shard, when the entity was started.
    pub epoch: Epoch,
}

/// A store of event streams.
///
/// Methods may be cancelled by dropping their future only where a doc comment
/// says so; callers run them in tasks that own them.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// How many batches can usefully be appended at once. Fixed while it lives.
    fn lanes(&self) -> usize {
        1
    }

    /// Stores each append of the batch on its own merits: a failing append does
    /// not touch the others (J19, and the extra cases of the conformance kit).
    ///
    /// No two appends of a batch, or of batches under way at the same time, are
    /// for the same stream. Returns one outcome per append, in order.
    async fn append(&self, session: SessionUuid, lane: usize, batch: &[Append]) -> Vec<Appended>;

    /// Whether the session may write to these shards under these epochs, one answer
    /// for each in order. "No" stays true for ever; "yes" was true at some moment
    /// after the call began, which confirms what was read before. Under
    /// [`Epoch::LAST`] it says whether the session is fenced as a whole.
    async fn may_write(
        &self,
        session: SessionUuid,
        shards: &[(ShardNr, Epoch)],
    ) -> Result<Vec<bool>, JournalError>;

    /// Events in ascending order. Fewer than `max_events` mean either that the
    /// byte limit was reached or that the range is exhausted; an empty answer
    /// means that it is exhausted.
    async fn read_events(&self, range: &EventRange) -> Result<Vec<StoredEvent>, JournalError>;

    /// How far the stream reaches; zeros for one that was never written.
    async fn bounds(&self, persistence_id: &PersistenceId) -> Result<StreamBounds, JournalError>;

    /// What earlier runs of these command ids stored, one answer per id in order.
    async fn find_commands(
        &self,
        persistence_id: &PersistenceId,
        command_ids: &[CommandId],
    ) -> Result<Vec<Option<StoredCommand>>, JournalError>;

    /// Entities of a type in ascending byte order of their ids, starting after
    /// `after`, at most `limit`.
    async fn list_entities(
        &self,
        entity_type: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<EntityListing>, JournalError>;

    /// Deletes events up to a number, inclusive; [`SequenceNr::MAX`] means all.
    /// The highest number stays. Command ids and replies stay known (J12 to J18).
    ///
    /// # Errors
    /// [`JournalError::DeleteBeyondStream`] deletes nothing.
    async fn delete_events(
        &self,
        right: WriteRight,
        persistence_id: &PersistenceId,
        to: SequenceNr,
    ) -> Result<(), JournalError>;
}
