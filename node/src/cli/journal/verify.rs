//! `journal verify`: whether a journal is whole, and what is wrong if it is not.
//!
//! Findings are printed as they come, one on each line, then a summary. What can be
//! found, and how, is the persistence crate's business (`verification.rs`); here it
//! gets its words, which say what to do.

use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

use perennial_persistence::verification::{
    Author, Finding, Numbers, Stored, Verified, Witness, verify,
};
use serde_json::{Value, json};

use crate::cli::Output;
use crate::cli::failure::Failure;
use crate::config::Settings;
use crate::node::{NodeBuilder, NodeError};

/// How often a long verification says how far it has come.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

pub(super) async fn run(
    builder: &NodeBuilder,
    settings: &Settings,
    output: Output,
) -> Result<(), Failure> {
    let Some(url) = &settings.journal_url else {
        return Err(NodeError::JournalRequired.into());
    };
    let mut printer = Printer {
        output,
        reported_at: Instant::now(),
        failed: None,
    };
    let verified = verify(url, builder.known_codecs(), &mut printer)
        .await
        .map_err(NodeError::from)?;
    if let Some(error) = printer.failed {
        return Err(error.into());
    }
    let mut out = std::io::stdout().lock();
    let Verified {
        streams,
        events,
        snapshots,
        findings,
    } = verified;
    match output {
        Output::Text => writeln!(
            out,
            "{url}: {events} events of {streams} streams and {snapshots} snapshots verified, {findings} findings"
        )?,
        Output::Json => crate::cli::write_json(
            &mut out,
            &json!({"streams": streams, "events": events, "snapshots": snapshots, "findings": findings}),
        )?,
    }
    match findings {
        0 => Ok(()),
        findings => Err(Failure::local(format!(
            "the journal is not whole: {findings} findings"
        ))),
    }
}

struct Printer {
    output: Output,
    reported_at: Instant,
    /// Why nothing more is printed.
    failed: Option<std::io::Error>,
}

impl Witness for Printer {
    fn found(&mut self, finding: Finding) {
        if self.failed.is_some() {
            return;
        }
        let mut out = std::io::stdout().lock();
        let printed = match self.output {
            Output::Text => writeln!(out, "{}", in_words(&finding)),
            Output::Json => writeln!(out, "{}", in_json(&finding)),
        };
        self.failed = printed.err();
    }

    fn progressed(&mut self, so_far: Verified) {
        if self.reported_at.elapsed() < PROGRESS_INTERVAL {
            return;
        }
        self.reported_at = Instant::now();
        let Verified {
            streams,
            events,
            snapshots,
            findings,
        } = so_far;
        // For a person who waits; scripts read standard output.
        eprintln!(
            "so far: {events} events of {streams} streams, {snapshots} snapshots, {findings} findings"
        );
    }
}

fn in_words(finding: &Finding) -> String {
    match finding {
        Finding::TwoAuthors {
            persistence_id: id,
            numbers,
            authors,
        } => {
            let authors: Vec<String> = authors.iter().map(author_in_words).collect();
            format!(
                "{id}: two authors: {} contradict those of another writer; {}. Recovery keeps the newer writer's, \
                 unless persistence.replay_filter.mode says otherwise; delete the rows that are wrong",
                events(numbers),
                authors.join("; ")
            )
        }
        Finding::RepeatedNumber {
            persistence_id: id,
            numbers,
        } => format!(
            "{id}: {} are there more than once, by the same writer: delete the copies",
            events(numbers)
        ),
        Finding::Gap {
            persistence_id: id,
            first,
            last,
        } => format!(
            "{id}: events {first} to {last} are missing: restore them from a backup, or delete the entity"
        ),
        Finding::UnknownCodec {
            persistence_id: id,
            stored,
            codec,
            numbers,
        } => format!(
            "{id}: {} are encoded with codec {}, which this program does not have: verify with the program that \
             wrote them",
            rows(*stored, numbers),
            codec.0
        ),
        Finding::SnapshotAhead {
            persistence_id: id,
            snapshot,
            highest,
        } => format!(
            "{id}: the snapshot at {snapshot} is ahead of the events, which end at {highest}: restore those after \
             it from a backup, or delete the snapshot"
        ),
        Finding::LeftOver {
            persistence_id: id,
            stored,
            deleted_to,
            numbers,
        } => format!(
            "{id}: {} are still there, though everything up to {deleted_to} is deleted: a deletion was interrupted; \
             ask for it again",
            rows(*stored, numbers)
        ),
        Finding::MalformedId { persistence_id: id } => {
            format!("{id:?} is no id that an entity can have: nobody can reach these events")
        }
        Finding::UniqueKeyMissing { key } => format!(
            "the events have no unique key over persistence_id and sequence_nr: two authors are not kept apart; \
             when each stream has one author, make the constraint {key} again"
        ),
    }
}

fn in_json(finding: &Finding) -> Value {
    match finding {
        Finding::TwoAuthors {
            persistence_id,
            numbers,
            authors,
        } => json!({
            "finding": "two_authors", "persistence_id": persistence_id, "first": numbers.first.get(),
            "last": numbers.last.get(), "events": numbers.count,
            "authors": authors.iter().map(author_in_json).collect::<Vec<_>>(),
        }),
        Finding::RepeatedNumber {
            persistence_id,
            numbers,
        } => json!({
            "finding": "repeated_number", "persistence_id": persistence_id, "first": numbers.first.get(),
            "last": numbers.last.get(), "events": numbers.count,
        }),
        Finding::Gap {
            persistence_id,
            first,
            last,
        } => json!({
            "finding": "gap", "persistence_id": persistence_id, "first": first.get(), "last": last.get(),
        }),
        Finding::UnknownCodec {
            persistence_id,
            stored,
            codec,
            numbers,
        } => json!({
            "finding": "unknown_codec", "persistence_id": persistence_id, "codec": codec.0,
            "first": numbers.first.get(), "last": numbers.last.get(), (name(*stored)): numbers.count,
        }),
        Finding::SnapshotAhead {
            persistence_id,
            snapshot,
            highest,
        } => json!({
            "finding": "snapshot_ahead", "persistence_id": persistence_id, "snapshot": snapshot.get(),
            "highest": highest.get(),
        }),
        Finding::LeftOver {
            persistence_id,
            stored,
            deleted_to,
            numbers,
        } => json!({
            "finding": "left_over", "persistence_id": persistence_id, "deleted_to": deleted_to.get(),
            "first": numbers.first.get(), "last": numbers.last.get(), (name(*stored)): numbers.count,
        }),
        Finding::MalformedId { persistence_id } => json!({
            "finding": "malformed_id", "persistence_id": persistence_id,
        }),
        Finding::UniqueKeyMissing { key } => json!({"finding": "unique_key_missing", "key": key}),
    }
}

fn author_in_words(author: &Author) -> String {
    let Author {
        writer,
        numbers,
        first_at,
        last_at,
    } = author;
    format!(
        "writer {writer} stored {} from {} to {}",
        events(numbers),
        time(*first_at),
        time(*last_at)
    )
}

fn author_in_json(author: &Author) -> Value {
    json!({
        "writer": author.writer.to_string(), "first": author.numbers.first.get(),
        "last": author.numbers.last.get(), "events": author.numbers.count,
        "first_at": time(author.first_at), "last_at": time(author.last_at),
    })
}

fn events(numbers: &Numbers) -> String {
    rows(Stored::Events, numbers)
}

fn rows(stored: Stored, numbers: &Numbers) -> String {
    let Numbers { first, last, count } = numbers;
    let stored = name(stored);
    format!("{count} {stored} between {first} and {last}")
}

fn name(stored: Stored) -> &'static str {
    match stored {
        Stored::Events => "events",
        Stored::Snapshots => "snapshots",
    }
}

fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use perennial_persistence::payload::CodecId;
    use perennial_persistence::sequence_nr::SequenceNr;
    use perennial_persistence::writer::WriterUuid;
    use uuid::Uuid;

    use super::*;

    /// Every finding names its stream, in words and in JSON, on one line.
    #[test]
    fn findings_are_one_line_each() {
        let persistence_id = || "counter|a".to_owned();
        let nr = SequenceNr::new;
        let numbers = Numbers {
            first: nr(3),
            last: nr(4),
            count: 2,
        };
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let author = Author {
            writer: WriterUuid(Uuid::nil()),
            numbers,
            first_at: at,
            last_at: at,
        };
        let two_authors = Finding::TwoAuthors {
            persistence_id: persistence_id(),
            numbers,
            authors: vec![author.clone(), author],
        };
        let words = in_words(&two_authors);
        for part in [
            "2 events between 3 and 4",
            "00000000-0000-0000-0000-000000000000",
            "2023-11-14T22:13:20",
        ] {
            assert!(words.contains(part), "{words}");
        }
        let all = [
            two_authors,
            Finding::RepeatedNumber {
                persistence_id: persistence_id(),
                numbers,
            },
            Finding::Gap {
                persistence_id: persistence_id(),
                first: nr(3),
                last: nr(4),
            },
            Finding::UnknownCodec {
                persistence_id: persistence_id(),
                stored: Stored::Snapshots,
                codec: CodecId(77),
                numbers,
            },
            Finding::SnapshotAhead {
                persistence_id: persistence_id(),
                snapshot: nr(4),
                highest: nr(3),
            },
            Finding::LeftOver {
                persistence_id: persistence_id(),
                stored: Stored::Events,
                deleted_to: nr(4),
                numbers,
            },
            Finding::MalformedId {
                persistence_id: persistence_id(),
            },
        ];
        for finding in &all {
            let (words, json) = (in_words(finding), in_json(finding).to_string());
            for text in [&words, &json] {
                assert!(
                    text.contains("counter|a") && text.lines().count() == 1,
                    "{text}"
                );
            }
        }
        let codec = in_json(&all[3]);
        let expected = json!({
            "finding": "unknown_codec", "persistence_id": "counter|a", "codec": 77, "first": 3, "last": 4,
            "snapshots": 2,
        });
        assert_eq!(codec, expected);
    }
}
