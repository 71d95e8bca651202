//! What the replay filter finds wrong with a stream, in words for the log.

use std::fmt;

use crate::persistence_id::PersistenceId;
use crate::sequence_nr::SequenceNr;
use crate::writer::WriterUuid;

/// One event that another writer's events, or its own writer's, contradict.
///
/// In mode `repair-by-discard-old` the event was discarded, in `warn` it was
/// kept: log it as a warning. In `fail` it comes inside the
/// [`ReplayFilterFailure`] as well: log it as an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// The stream.
    pub persistence_id: PersistenceId,
    /// The number of the event that is wrong.
    pub sequence_nr: SequenceNr,
    /// Who wrote it.
    pub writer: WriterUuid,
    /// What contradicts it.
    pub kind: IssueKind,
}

/// What contradicts an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IssueKind {
    /// Its own writer had stored a higher number before.
    SameWriterWentBack {
        /// The highest number before it.
        last: SequenceNr,
    },
    /// It comes after events of a writer that is newer than its own.
    OldWriterAfterNewer {
        /// The newer writer.
        newer_writer: WriterUuid,
        /// The highest number of the newer writer before it.
        newer_last: SequenceNr,
    },
    /// A newer writer began at its number or below.
    OverlappedByNewWriter {
        /// The newer writer.
        newer_writer: WriterUuid,
        /// Where the newer writer began.
        newer_first: SequenceNr,
    },
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            persistence_id,
            sequence_nr,
            writer,
            kind,
        } = self;
        write!(
            f,
            "Invalid replayed event [sequenceNr={sequence_nr}, writerUUID={writer}] of {persistence_id}: "
        )?;
        match kind {
            IssueKind::SameWriterWentBack { last } => {
                write!(f, "the same writer had already stored {last}.")
            }
            IssueKind::OldWriterAfterNewer {
                newer_writer,
                newer_last,
            } => write!(
                f,
                "it comes from an old writer, after the newer writer {newer_writer} had stored {newer_last}."
            ),
            IssueKind::OverlappedByNewWriter {
                newer_writer,
                newer_first,
            } => write!(
                f,
                "the newer writer {newer_writer} has written from {newer_first} on."
            ),
        }?;
        f.write_str(
            " Perhaps an old writer went on writing after a new one had taken over, \
             or two entities have the same persistence id.",
        )
    }
}

/// The stream was written by two incarnations, and the mode is `fail`. Fail the
/// recovery.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{issue} Look at the stream with `perennial journal verify`, or recover it with another mode of the replay filter."
)]
pub struct ReplayFilterFailure {
    /// The first thing found wrong.
    pub issue: Issue,
}
