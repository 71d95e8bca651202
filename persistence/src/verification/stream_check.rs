//! The check of one stream's events, in the order in which a recovery reads them.
//!
//! Authors are judged by the replay filter itself, so that what is reported is what
//! a recovery would find. Everything kept is bounded, whatever the stream's length.

use std::collections::{BTreeMap, VecDeque};
use std::time::SystemTime;

use super::finding::{Author, Finding, Numbers, Stored};
use crate::payload::CodecId;
use crate::persistence_id::PersistenceId;
use crate::replay_filter::{
    Issue, IssueKind, ReplayFilter, ReplayFilterMode, ReplayFilterSettings, Replayed,
};
use crate::sequence_nr::SequenceNr;
use crate::writer::WriterUuid;

/// Looks further than a recovery does, because a row here is small.
const FILTER: ReplayFilterSettings = ReplayFilterSettings {
    mode: ReplayFilterMode::Warn,
    window_size: 1000,
    max_old_writers: 1000,
};
/// Authors remembered, the latest and those that contradict each other.
const AUTHORS_MAX: usize = 64;
/// Gaps reported singly; further ones are part of the last.
const SINGLY_MAX: usize = 100;

/// The check of one stream.
#[derive(Debug)]
pub(super) struct StreamCheck {
    persistence_id: String,
    deleted_to: SequenceNr,
    /// `None` when the id is malformed.
    filter: Option<ReplayFilter<Seen>>,
    authors: VecDeque<(Author, Contradicted)>,
    /// The last event.
    last: Option<Seen>,
    /// Every number up to this one is accounted for.
    known_to: SequenceNr,
    contradicted: Option<Numbers>,
    repeated: Option<Numbers>,
    left_over: Option<Numbers>,
    unknown_codecs: BTreeMap<CodecId, Numbers>,
    gaps: Vec<(SequenceNr, SequenceNr)>,
}

/// What the filter looks at.
#[derive(Debug, Clone, Copy)]
struct Seen {
    sequence_nr: SequenceNr,
    writer: WriterUuid,
}

/// Whether another author's events contradict an author's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contradicted {
    Yes,
    No,
}

impl Replayed for Seen {
    fn sequence_nr(&self) -> SequenceNr {
        self.sequence_nr
    }

    fn writer(&self) -> WriterUuid {
        self.writer
    }
}

impl StreamCheck {
    pub(super) fn new(persistence_id: String, deleted_to: SequenceNr) -> Self {
        let parsed = PersistenceId::parse(&persistence_id).ok();
        Self {
            filter: parsed.map(|id| ReplayFilter::new(id, FILTER)),
            persistence_id,
            deleted_to,
            authors: VecDeque::new(),
            last: None,
            known_to: deleted_to,
            contradicted: None,
            repeated: None,
            left_over: None,
            unknown_codecs: BTreeMap::new(),
            gaps: Vec::new(),
        }
    }

    pub(super) fn persistence_id(&self) -> &str {
        &self.persistence_id
    }

    /// The next event; `unknown_codec` if nothing reads it.
    pub(super) fn take(
        &mut self,
        sequence_nr: SequenceNr,
        writer: WriterUuid,
        created_at: SystemTime,
        unknown_codec: Option<CodecId>,
    ) {
        if sequence_nr <= self.deleted_to {
            // No recovery reads it.
            add(&mut self.left_over, sequence_nr);
            return;
        }
        if let Some(codec) = unknown_codec {
            let numbers = self.unknown_codecs.entry(codec);
            numbers
                .and_modify(|numbers| numbers.add(sequence_nr))
                .or_insert_with(|| Numbers::one(sequence_nr));
        }
        let seen = Seen {
            sequence_nr,
            writer,
        };
        let same = |last: &Seen| last.sequence_nr == sequence_nr && last.writer == writer;
        if self.last.as_ref().is_some_and(same) {
            add(&mut self.repeated, sequence_nr);
        }
        self.last = Some(seen);
        self.check_gap(sequence_nr);
        self.note_author(seen, created_at);
        self.check_authors(seen);
    }

    fn check_gap(&mut self, sequence_nr: SequenceNr) {
        if sequence_nr > self.known_to.next() {
            let gap = (self.known_to.next(), sequence_nr.previous());
            let are_many = self.gaps.len() >= SINGLY_MAX;
            match self.gaps.last_mut() {
                Some(last) if are_many => last.1 = gap.1,
                _ => self.gaps.push(gap),
            }
        }
        self.known_to = self.known_to.max(sequence_nr);
    }

    fn note_author(&mut self, seen: Seen, at: SystemTime) {
        let is_it = |entry: &&mut (Author, _)| entry.0.writer == seen.writer;
        if let Some((author, _)) = self.authors.iter_mut().rev().find(is_it) {
            author.numbers.add(seen.sequence_nr);
            author.first_at = author.first_at.min(at);
            author.last_at = author.last_at.max(at);
            return;
        }
        if self.authors.len() >= AUTHORS_MAX {
            let is_dispensable = |entry: &(_, Contradicted)| entry.1 == Contradicted::No;
            let place = self.authors.iter().position(is_dispensable);
            self.authors.remove(place.unwrap_or(0));
        }
        let author = Author {
            writer: seen.writer,
            numbers: Numbers::one(seen.sequence_nr),
            first_at: at,
            last_at: at,
        };
        self.authors.push_back((author, Contradicted::No));
    }

    fn check_authors(&mut self, seen: Seen) {
        let Some(filter) = &mut self.filter else {
            return;
        };
        let (mut out, mut issues) = (Vec::new(), Vec::new());
        // It warns and never fails.
        let _ = filter.push(seen, &mut out, &mut issues);
        for issue in issues {
            add(&mut self.contradicted, issue.sequence_nr);
            for writer in involved(&issue) {
                let is_it = |entry: &&mut (Author, _)| entry.0.writer == writer;
                if let Some((_, contradicted)) = self.authors.iter_mut().find(is_it) {
                    *contradicted = Contradicted::Yes;
                }
            }
        }
    }

    /// The last event of the stream was taken.
    pub(super) fn finish(self, findings: &mut Vec<Finding>) {
        let persistence_id = || self.persistence_id.clone();
        if self.filter.is_none() {
            findings.push(Finding::MalformedId {
                persistence_id: persistence_id(),
            });
        }
        if let Some(numbers) = self.contradicted {
            let involved = self.authors.into_iter();
            let involved = involved.filter(|(_, contradicted)| *contradicted == Contradicted::Yes);
            findings.push(Finding::TwoAuthors {
                persistence_id: persistence_id(),
                numbers,
                authors: involved
                    .map(|(author, _)| author)
                    .take(Author::LISTED_MAX)
                    .collect(),
            });
        }
        findings.extend(self.repeated.map(|numbers| Finding::RepeatedNumber {
            persistence_id: persistence_id(),
            numbers,
        }));
        let gap = |(first, last)| Finding::Gap {
            persistence_id: persistence_id(),
            first,
            last,
        };
        findings.extend(self.gaps.into_iter().map(gap));
        let unknown = |(codec, numbers)| Finding::UnknownCodec {
            persistence_id: persistence_id(),
            stored: Stored::Events,
            codec,
            numbers,
        };
        findings.extend(self.unknown_codecs.into_iter().map(unknown));
        findings.extend(self.left_over.map(|numbers| Finding::LeftOver {
            persistence_id: persistence_id(),
            stored: Stored::Events,
            deleted_to: self.deleted_to,
            numbers,
        }));
    }
}

fn add(numbers: &mut Option<Numbers>, nr: SequenceNr) {
    match numbers {
        Some(numbers) => numbers.add(nr),
        None => *numbers = Some(Numbers::one(nr)),
    }
}

/// Who wrote the event, and who contradicts it.
fn involved(issue: &Issue) -> [WriterUuid; 2] {
    let other = match issue.kind {
        IssueKind::SameWriterWentBack { .. } => issue.writer,
        IssueKind::OldWriterAfterNewer { newer_writer, .. }
        | IssueKind::OverlappedByNewWriter { newer_writer, .. } => newer_writer,
    };
    [issue.writer, other]
}
