//! Whether what a part of a soak wrote down and what is stored is right.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;

use super::dump::{self, DumpedEvent};
use super::record::Book;
use crate::history::linearizability::{self, Verdict};
use crate::history::model::Model;
use crate::history::{History, Outcome, journal};

/// How far the search for an order goes before it is given up; far more than a
/// history of which all goes well needs.
const EFFORT_MAX: usize = 2_000_000;

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Where, as `type|id`, or in words.
    pub place: String,
    /// What.
    pub what: String,
}

/// What the checks found.
#[derive(Debug, Default)]
pub struct Findings {
    /// What must not be.
    pub violations: Vec<Violation>,
    /// Entities for which the search for an order was given up.
    pub undecided: Vec<String>,
    /// Entities that were checked.
    pub entities: u64,
    /// Operations that were checked.
    pub operations: u64,
    /// Stored events that were checked.
    pub events: u64,
}

/// Checks everything about the entities of a book.
///
/// # Errors
/// When a stored event cannot be read.
pub fn check(book: &Book, streams: &BTreeMap<String, Vec<DumpedEvent>>) -> Result<Findings> {
    let mut findings = Findings::default();
    findings.histories("counter", &book.counters);
    findings.histories("account", &book.accounts);
    findings.journal(book, streams);
    findings.sums(book, streams)?;
    if book.counts.given_up > 0 {
        let count = book.counts.given_up;
        findings.violation(
            "progress",
            format!("I-8: {count} operations were never answered"),
        );
    }
    Ok(findings)
}

impl Findings {
    fn violation(&mut self, place: &str, what: String) {
        let place = place.to_owned();
        self.violations.push(Violation { place, what });
    }

    /// I-12.
    fn histories<M: Model>(&mut self, entity_type: &str, history: &History<M>) {
        self.operations += history.len() as u64;
        self.entities += history.by_entity().len() as u64;
        for (entity, verdict) in linearizability::check_all(history, EFFORT_MAX) {
            let place = format!("{entity_type}|{entity}");
            match verdict {
                Verdict::Linearizable => {}
                Verdict::Undecided { .. } => self.undecided.push(place),
                Verdict::Violation(violation) => {
                    let operations = history.of(&entity);
                    let unexplained = violation.unexplained.iter();
                    let unexplained: Vec<_> = unexplained.map(|index| operations[*index]).collect();
                    let what = format!(
                        "I-12: after {} operations, in state {}, nothing explains {unexplained:?}",
                        violation.explained.len(),
                        violation.state
                    );
                    self.violation(&place, what);
                }
            }
        }
    }

    /// I-2, I-3, I-5, I-8.
    fn journal(&mut self, book: &Book, streams: &BTreeMap<String, Vec<DumpedEvent>>) {
        let none_sent = BTreeMap::new();
        let none_stored = Vec::new();
        let entities = book.commands.keys().chain(streams.keys());
        for entity in entities.collect::<std::collections::BTreeSet<_>>() {
            let events = streams.get(entity).unwrap_or(&none_stored);
            self.events += events.len() as u64;
            let events: Vec<_> = events.iter().map(|event| event.stored.clone()).collect();
            let commands = book.commands.get(entity).unwrap_or(&none_sent);
            for fault in journal::check(&events, commands) {
                self.violation(entity, fault.to_string());
            }
        }
    }

    /// What is stored adds up to what was read last, and no money came or went.
    fn sums(&mut self, book: &Book, streams: &BTreeMap<String, Vec<DumpedEvent>>) -> Result<()> {
        let sum_of = |entity: String| -> Result<i64> {
            streams
                .get(&entity)
                .map_or(Ok(0), |events| dump::sum(events))
        };
        for (counter, operations) in book.counters.by_entity() {
            let entity = format!("counter|{counter}");
            let stored = sum_of(entity.clone())?;
            let last = operations.iter().rev().find_map(|last| match last.outcome {
                Outcome::Completed { reply, .. } => Some(reply),
                Outcome::Unknown => None,
            });
            // Only what is unknown can have come later.
            let all_known = operations
                .iter()
                .all(|operation| operation.outcome != Outcome::Unknown);
            if let Some(last) = last
                && all_known
                && last != stored
            {
                let what = format!("I-5: {stored} is stored, {last} was read last");
                self.violation(&entity, what);
            }
        }
        let mut there = 0;
        for account in book.accounts.by_entity().keys() {
            there += sum_of(format!("account|{account}"))?;
        }
        let (put_in, unsettled) = (book.put_in, book.unsettled);
        if there > put_in || there < put_in - unsettled {
            let what = format!(
                "I-8: {put_in} was put in, {unsettled} may be on its way, {there} is there"
            );
            self.violation("all accounts", what);
        }
        Ok(())
    }
}
