//! I-12, I-5, I-4 and I-8, by what clients were told: the journal gives the order in
//! which writes took effect, so it only has to be compared.
//!
//! An operation's place is its event's number, or for a read the number it was told.
//! A history is linearizable if every operation comes after all that had completed
//! before it was invoked, and says what was true at its place; and no place may lie
//! ahead of what was committed when the answer was given.

use std::collections::BTreeMap;

use crate::history::{Op, Outcome, Wish};
use crate::invariants::{Committed, Stream};
use crate::tally::Sum;
use crate::verdict::Verdict;

/// Compares what clients were told with what an entity has stored.
pub(crate) fn check(entity: &str, ops: &[&Op], stream: &Stream, verdict: &Verdict) {
    let past = Past::of(stream);
    let mut floors = Floors::default();
    // By place in the order of everything.
    let mut moments: BTreeMap<u64, Moment<'_>> = BTreeMap::new();
    for op in ops {
        moments.insert(op.invoked, Moment::Invoked(op));
        if let Some(completed) = &op.completed {
            moments.insert(completed.order, Moment::Completed(op, &completed.outcome));
        }
    }
    for (number, committed) in (1..).zip(&stream.events) {
        moments.insert(committed.order, Moment::Committed(number));
    }
    let mut committed = 0;
    for moment in moments.into_values() {
        match moment {
            Moment::Committed(number) => committed = committed.max(number),
            Moment::Invoked(op) => floors.invoked(op),
            Moment::Completed(op, outcome) => {
                let floor = floors.of(op);
                if let Some(place) = past.judge(entity, op, outcome, floor, committed, verdict) {
                    floors.completed(place);
                }
            }
        }
    }
}

enum Moment<'a> {
    Invoked(&'a Op),
    Committed(u64),
    Completed(&'a Op, &'a Outcome),
}

/// What had completed when operations were invoked.
#[derive(Default)]
struct Floors {
    highest: u64,
    at_invocation: BTreeMap<u64, u64>,
}

impl Floors {
    fn invoked(&mut self, op: &Op) {
        self.at_invocation.insert(op.id, self.highest);
    }

    fn completed(&mut self, place: u64) {
        self.highest = self.highest.max(place);
    }

    fn of(&self, op: &Op) -> u64 {
        self.at_invocation.get(&op.id).copied().unwrap_or(0)
    }
}

/// What was true after each event.
struct Past<'a> {
    stream: &'a Stream,
    /// The first is that before any event.
    sums: Vec<Sum>,
    /// Numbers by operation.
    numbers: BTreeMap<u64, u64>,
}

impl<'a> Past<'a> {
    fn of(stream: &'a Stream) -> Self {
        let mut sum = Sum::default();
        let mut sums = vec![sum];
        let mut numbers = BTreeMap::new();
        for (number, committed) in (1..).zip(&stream.events) {
            sum.add(committed.event);
            sums.push(sum);
            numbers.insert(committed.event.op, number);
        }
        Self {
            stream,
            sums,
            numbers,
        }
    }

    /// Judges a completed operation; its place, if it has one.
    fn judge(
        &self,
        entity: &str,
        op: &Op,
        outcome: &Outcome,
        floor: u64,
        committed: u64,
        verdict: &Verdict,
    ) -> Option<u64> {
        let at = op.completed.as_ref().map_or(0, |completed| completed.at);
        let is_read = op.wish == Wish::Read;
        match outcome {
            Outcome::Done { sequence_nr, sum } => {
                let place = *sequence_nr;
                let violated = |promise, what: &str| {
                    let (id, since) = (op.id, op.invoked_at);
                    let what = format!("{entity}, operation {id} of {since} ms at {place}: {what}");
                    verdict.violated(promise, at, what);
                };
                if !is_read && self.stored_at(place) != Some(op.id) {
                    violated("I-5", "acknowledged, and another or none is stored there");
                }
                if place > committed {
                    violated("I-4", "answered before it was committed");
                }
                if self.sums.get(place as usize) != Some(sum) {
                    violated("I-6", &format!("told {sum:?}, which was not the sum"));
                }
                if place < floor || (!is_read && place == floor) {
                    violated("I-12", &format!("{floor} was known before it was invoked"));
                }
                Some(place)
            }
            Outcome::NotApplied { why } => {
                self.check_without_effect(entity, op, why, at, verdict);
                None
            }
            Outcome::Rejected => {
                self.check_without_effect(entity, op, "rejected", at, verdict);
                let Wish::Add { amount, .. } = op.wish else {
                    return None;
                };
                let possible = self.sums.get(floor as usize..=committed as usize);
                let is_right = possible.is_some_and(|sums| sums.iter().any(|s| s.refuses(amount)));
                if !is_right {
                    let what = format!(
                        "{entity}: operation {} was rejected, and no sum since {floor} refuses {amount}",
                        op.id
                    );
                    verdict.violated("I-12", at, what);
                }
                None
            }
            Outcome::Unknown { .. } => None,
        }
    }

    fn check_without_effect(&self, entity: &str, op: &Op, why: &str, at: u64, verdict: &Verdict) {
        if let Some(number) = self.numbers.get(&op.id) {
            let what = format!(
                "{entity}: operation {} was refused without effect ({why}), and is stored at {number}",
                op.id
            );
            verdict.violated("I-8", at, what);
        }
    }

    fn stored_at(&self, number: u64) -> Option<u64> {
        Some(self.committed(number)?.event.op)
    }

    fn committed(&self, number: u64) -> Option<&Committed> {
        let index = usize::try_from(number.checked_sub(1)?).ok()?;
        self.stream.events.get(index)
    }
}
