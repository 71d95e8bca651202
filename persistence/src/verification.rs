//! Whether a journal is whole: what `perennial journal verify` finds out.
//!
//! [`Verification`] is a plain value that takes the rows of a journal one after the
//! other, sorted by stream, and says what is wrong with them: it holds what it needs
//! of one stream, never a whole one. It reads nothing; [`verify`] does, and writes
//! nothing. What can be wrong: `verification/finding.rs`. One stream's events:
//! `verification/stream_check.rs`.
//!
//! With the unique key and the fence (I-2, I-3) most of it cannot happen. It happens
//! to journals that were imported, merged, restored from a copy that lacked the last
//! commits, or edited by hand.

mod columns;
mod finding;
mod postgres;
mod sqlite;
mod stream_check;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod verification_test;

use std::collections::BTreeSet;
use std::time::SystemTime;

use crate::payload::CodecId;
use crate::sequence_nr::SequenceNr;
use crate::storage::{StorageError, StorageUrl};
use crate::writer::WriterUuid;

pub use finding::{Author, Finding, Numbers, Stored};
use stream_check::StreamCheck;

/// A row of a journal, as far as the verification looks at it. Rows come in this
/// order: all events, by stream, number and the order of storing; all snapshots; all
/// rows about streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// An event.
    Event {
        /// As stored: it may be malformed.
        persistence_id: String,
        /// Its number.
        sequence_nr: SequenceNr,
        /// Who wrote it.
        writer: WriterUuid,
        /// What it is encoded with.
        codec: CodecId,
        /// When it was stored.
        created_at: SystemTime,
        /// Up to where the events of its stream are deleted.
        deleted_to: SequenceNr,
    },
    /// A snapshot.
    Snapshot {
        /// Whose.
        persistence_id: String,
        /// The last event in it.
        sequence_nr: SequenceNr,
        /// What it is encoded with.
        codec: CodecId,
        /// The highest number that the stream ever had, as far as is known.
        highest: SequenceNr,
        /// At which number the entity was deleted as a whole, zero if never.
        tombstone: SequenceNr,
    },
    /// What is kept about a stream whose events were deleted, or some of them.
    Stream {
        /// Which.
        persistence_id: String,
        /// The highest number, as it was when events were deleted last.
        highest: SequenceNr,
        /// Up to where they are deleted.
        deleted_to: SequenceNr,
        /// The highest number of the events that are there, zero if there are none.
        last_event: SequenceNr,
    },
}

/// How much was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verified {
    /// Streams that have events.
    pub streams: u64,
    /// Events.
    pub events: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// What was found wrong.
    pub findings: u64,
}

/// A verification under way.
#[derive(Debug)]
pub struct Verification {
    known_codecs: BTreeSet<CodecId>,
    stream: Option<StreamCheck>,
    verified: Verified,
}

impl Verification {
    /// Of a journal that may hold what these codecs wrote.
    #[must_use]
    pub fn new(known_codecs: impl IntoIterator<Item = CodecId>) -> Self {
        Self {
            known_codecs: known_codecs.into_iter().collect(),
            stream: None,
            verified: Verified::default(),
        }
    }

    /// Takes the next row. What is wrong is added to `findings`, about events when
    /// the last event of their stream was taken.
    pub fn take(&mut self, row: Row, findings: &mut Vec<Finding>) {
        let before = findings.len();
        match row {
            Row::Event {
                persistence_id,
                sequence_nr,
                writer,
                codec,
                created_at,
                deleted_to,
            } => {
                let same = self.stream.as_ref().map(StreamCheck::persistence_id);
                if same != Some(&*persistence_id) {
                    self.end_stream(findings);
                    self.stream = Some(StreamCheck::new(persistence_id, deleted_to));
                    self.verified.streams += 1;
                }
                self.verified.events += 1;
                if let Some(stream) = &mut self.stream {
                    let known = self.known_codecs.contains(&codec);
                    stream.take(sequence_nr, writer, created_at, (!known).then_some(codec));
                }
            }
            Row::Snapshot {
                persistence_id,
                sequence_nr,
                codec,
                highest,
                tombstone,
            } => {
                self.end_stream(findings);
                self.verified.snapshots += 1;
                if !self.known_codecs.contains(&codec) {
                    findings.push(Finding::UnknownCodec {
                        persistence_id: persistence_id.clone(),
                        stored: Stored::Snapshots,
                        codec,
                        numbers: Numbers::one(sequence_nr),
                    });
                }
                if sequence_nr > highest {
                    findings.push(Finding::SnapshotAhead {
                        persistence_id,
                        snapshot: sequence_nr,
                        highest,
                    });
                } else if tombstone > SequenceNr::ZERO && sequence_nr <= tombstone {
                    findings.push(Finding::LeftOver {
                        persistence_id,
                        stored: Stored::Snapshots,
                        deleted_to: tombstone,
                        numbers: Numbers::one(sequence_nr),
                    });
                }
            }
            Row::Stream {
                persistence_id,
                highest,
                deleted_to,
                last_event,
            } => {
                self.end_stream(findings);
                let last = last_event.max(deleted_to);
                if last < highest {
                    findings.push(Finding::Gap {
                        persistence_id,
                        first: last.next(),
                        last: highest,
                    });
                }
            }
        }
        self.verified.findings += (findings.len() - before) as u64;
    }

    /// The last row was taken.
    pub fn finish(mut self, findings: &mut Vec<Finding>) -> Verified {
        let before = findings.len();
        self.end_stream(findings);
        self.verified.findings += (findings.len() - before) as u64;
        self.verified
    }

    /// How far it has come.
    #[must_use]
    pub fn so_far(&self) -> Verified {
        self.verified
    }

    fn end_stream(&mut self, findings: &mut Vec<Finding>) {
        if let Some(stream) = self.stream.take() {
            stream.finish(findings);
        }
    }
}

/// Hears of a verification while it goes on.
pub trait Witness: Send {
    /// Something is wrong.
    fn found(&mut self, finding: Finding);

    /// How far it has come; called often.
    fn progressed(&mut self, so_far: Verified);
}

/// Rows between two reports of progress.
const ROWS_PER_REPORT: u64 = 10_000;

/// A verification with its witness, fed by a backend.
struct Feed<'a> {
    verification: Verification,
    findings: Vec<Finding>,
    witness: &'a mut dyn Witness,
    rows: u64,
}

impl Feed<'_> {
    fn take(&mut self, row: Row) {
        self.verification.take(row, &mut self.findings);
        self.rows += 1;
        if self.rows.is_multiple_of(ROWS_PER_REPORT) {
            self.witness.progressed(self.verification.so_far());
        }
        self.report();
    }

    /// Something that is not about a row.
    fn found(&mut self, finding: Finding) {
        self.verification.verified.findings += 1;
        self.findings.push(finding);
        self.report();
    }

    fn finish(mut self) -> Verified {
        let verified = self.verification.finish(&mut self.findings);
        for finding in self.findings {
            self.witness.found(finding);
        }
        verified
    }

    fn report(&mut self) {
        for finding in self.findings.drain(..) {
            self.witness.found(finding);
        }
    }
}

/// Verifies a journal as it is at one moment; what is stored meanwhile is not looked
/// at. Only reads, takes memory for one stream's check, and may run beside nodes. In
/// Postgres, rows deleted meanwhile cannot be vacuumed before it ends.
///
/// `known_codecs` are those that this program can read.
///
/// # Errors
/// When the journal cannot be opened or read. There is nothing to verify about a
/// journal in memory.
pub async fn verify(
    url: &StorageUrl,
    known_codecs: impl IntoIterator<Item = CodecId>,
    witness: &mut dyn Witness,
) -> Result<Verified, StorageError> {
    let mut feed = Feed {
        verification: Verification::new(known_codecs),
        findings: Vec::new(),
        witness,
        rows: 0,
    };
    match url {
        StorageUrl::Memory => {}
        StorageUrl::Sqlite(path) => sqlite::read(path, &mut feed).await?,
        StorageUrl::Postgres(address) => postgres::read(address, &mut feed).await?,
    }
    Ok(feed.finish())
}
