//! I-9: what one client sends through one node to one entity is handled in that order.
//!
//! With one exception. An owner may have refused a command, because its entity or its
//! lease was not there, and stored a later one of the same burst when it was back. If
//! the stream to it ends before either was heard, both are sent again: the first is
//! handled now, behind the second. A later command with a lower number is excused by
//! nothing else than the end of that stream, between the sending of the later command
//! and the answer to the earlier one.

use std::collections::BTreeMap;

use perennial_persistence::writer::SessionUuid;

use crate::history::{Burst, Op, Outcome};
use crate::invariants::Stream;
use crate::network::{EndedStream, Host};
use crate::verdict::Verdict;

/// Which streams between nodes have ended, and where sessions lived.
pub(crate) struct Streams {
    pub(crate) ended: Vec<EndedStream>,
    pub(crate) hosts: BTreeMap<SessionUuid, Host>,
}

impl Streams {
    /// Whether the stream from a node to a session's ended within a time, bounds
    /// included.
    fn has_ended(&self, from: Host, to: SessionUuid, within: (u64, u64)) -> bool {
        let to = self.hosts.get(&to);
        self.ended.iter().any(|ended| {
            let is_theirs = ended.opener == from && Some(&ended.accepter) == to;
            is_theirs && within.0 <= ended.at && ended.at <= within.1
        })
    }
}

/// A command that was stored.
#[derive(Clone, Copy)]
struct Stored {
    sequence_nr: u64,
    burst: Burst,
    invoked_at: u64,
    completed_at: u64,
}

/// Compares the numbers of what was sent to an entity in bursts.
pub(crate) fn check(
    entity: &str,
    ops: &[&Op],
    stream: &Stream,
    streams: &Streams,
    verdict: &Verdict,
) {
    let mut bursts: BTreeMap<u64, BTreeMap<usize, Stored>> = BTreeMap::new();
    for op in ops {
        if let (Some(burst), Some(completed)) = (op.burst, &op.completed)
            && let Outcome::Done { sequence_nr, .. } = completed.outcome
        {
            let stored = Stored {
                sequence_nr,
                burst,
                invoked_at: op.invoked_at,
                completed_at: completed.at,
            };
            let places = bursts.entry(burst.number).or_default();
            places.insert(burst.place, stored);
        }
    }
    let is_excused = |earlier: Stored, later: Stored| {
        let within = (later.invoked_at, earlier.completed_at);
        let author = stream.author(later.sequence_nr);
        author.is_some_and(|author| streams.has_ended(later.burst.through, author, within))
    };
    for (burst, places) in bursts {
        let stored: Vec<Stored> = places.into_values().collect();
        let wrong = stored.windows(2).find(|pair| {
            pair[0].sequence_nr >= pair[1].sequence_nr && !is_excused(pair[0], pair[1])
        });
        if let Some(&[earlier, later]) = wrong.and_then(|pair| pair.first_chunk()) {
            let what = format!(
                "{entity}: burst {burst} was handled out of order: {} before {}",
                later.sequence_nr, earlier.sequence_nr
            );
            verdict.violated("I-9", later.completed_at, what);
        }
    }
}
