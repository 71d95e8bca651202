//! Whether the operations on one entity could have been executed one at a time, in an
//! order that respects real time and explains every answer (I-12).
//!
//! The search is the one of Wing and Gong: take an operation that may come next, see
//! whether the model gives the same answer, go on from there, come back if that leads
//! nowhere. As Lowe showed, most of the work is in coming to the same place by another
//! way, so places (which operations were taken, and the state) are remembered. Each
//! entity is checked by itself, which is enough: linearizability is a local property.
//!
//! An operation of unknown outcome may come next from the moment it began, for ever,
//! and may be left out. Two shortcuts keep that from exploding: one that would change
//! nothing is left out, and of several that ask the same the oldest goes first, since
//! whatever the younger explains, the older does too.
//!
//! `stateright`, which is used for models elsewhere, has a tester for the same
//! property. It remembers no places and so needs exponential time on long histories;
//! here it is what the checker is compared with on short ones.

use std::collections::{BTreeMap, HashSet};

use super::model::Model;
use super::{History, Moment, OperationOf, Outcome};

#[cfg(test)]
mod linearizability_test;

/// What the check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// There is such an order.
    Linearizable,
    /// There is none.
    Violation(Violation),
    /// The effort allowed was spent before either was found. Nothing is known.
    Undecided {
        /// Places that were looked at.
        explored: usize,
    },
}

/// How far an order can be found. Indices are those of the operations given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The longest order that explains the answers of what it contains.
    pub explained: Vec<usize>,
    /// What may come next after it, and has an answer that nothing explains.
    pub unexplained: Vec<usize>,
    /// The state after the longest order.
    pub state: String,
}

/// Decides for the operations of one entity, in any order; `effort_max` is how many
/// places of the search are looked at before it is given up. A history of which all
/// goes well needs about one for each operation.
#[must_use]
pub fn check<M: Model>(operations: &[&OperationOf<M>], effort_max: usize) -> Verdict {
    Search::<M>::new(operations).run(effort_max)
}

/// Decides for each entity of a history; those that are not linearizable, or undecided.
#[must_use]
pub fn check_all<M: Model>(history: &History<M>, effort_max: usize) -> BTreeMap<String, Verdict> {
    let entities = history.by_entity().into_iter();
    let checked = entities.map(|(entity, operations)| {
        let verdict = check::<M>(&operations, effort_max);
        (entity.to_owned(), verdict)
    });
    checked
        .filter(|(_, verdict)| *verdict != Verdict::Linearizable)
        .collect()
}

/// An operation that was answered.
struct Answered<'a, M: Model> {
    index: usize,
    invoked: Moment,
    completed: Moment,
    call: &'a M::Call,
    reply: &'a M::Reply,
}

/// An operation of unknown outcome.
struct Unknown<'a, M: Model> {
    index: usize,
    invoked: Moment,
    call: &'a M::Call,
    /// The latest of those that began before it and ask the same; it goes first.
    alike_before: Option<usize>,
}

struct Search<'a, M: Model> {
    /// By when they began.
    answered: Vec<Answered<'a, M>>,
    /// By when they began.
    unknown: Vec<Unknown<'a, M>>,
}

/// Which operations were taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Taken {
    /// All answered ones before this one, which was not.
    first_left: usize,
    /// Answered ones after it; sorted.
    beyond: Vec<usize>,
    /// Unknown ones; sorted.
    unknown: Vec<usize>,
}

#[derive(Debug, Clone, Copy)]
enum Candidate {
    Answered(usize),
    Unknown(usize),
}

/// A place in the search, and the ways on from it that were not tried yet.
struct Place<S> {
    taken: Taken,
    state: S,
    untried: std::vec::IntoIter<Candidate>,
    /// The last one taken; none at the beginning.
    came_by: Option<usize>,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(operations: &[&'a OperationOf<M>]) -> Self {
        let mut answered = Vec::new();
        let mut unknown: Vec<Unknown<'a, M>> = Vec::new();
        let mut sorted: Vec<(usize, &'a OperationOf<M>)> =
            operations.iter().copied().enumerate().collect();
        sorted.sort_by_key(|(_, operation)| operation.invocation.at);
        for (index, operation) in sorted {
            let (invoked, call) = (operation.invocation.at, &operation.invocation.call);
            match &operation.outcome {
                Outcome::Completed { reply, at } => answered.push(Answered {
                    index,
                    invoked,
                    // A clock that goes back does not make an operation impossible.
                    completed: (*at).max(invoked),
                    call,
                    reply,
                }),
                Outcome::Unknown => unknown.push(Unknown {
                    index,
                    invoked,
                    call,
                    alike_before: unknown.iter().rposition(|before| before.call == call),
                }),
            }
        }
        Self { answered, unknown }
    }

    fn run(&self, effort_max: usize) -> Verdict {
        let mut seen: HashSet<(Taken, M::State)> = HashSet::new();
        let mut path = vec![self.place(Taken::default(), M::State::default(), None)];
        let mut furthest: Option<(usize, Violation)> = None;
        loop {
            let Some(place) = path.last_mut() else {
                return match furthest {
                    Some((_, violation)) => Verdict::Violation(violation),
                    // Not reached: the path is never empty before its first place was
                    // left, which is noted.
                    None => Verdict::Linearizable,
                };
            };
            if place.taken.first_left == self.answered.len() {
                return Verdict::Linearizable;
            }
            let Some(candidate) = place.untried.next() else {
                let count = place.taken.answered();
                if furthest.as_ref().is_none_or(|(most, _)| *most < count) {
                    furthest = Some((count, self.violation(&path)));
                }
                path.pop();
                continue;
            };
            let Some((taken, state, index)) = self.take(place, candidate) else {
                continue;
            };
            if seen.contains(&(taken.clone(), state.clone())) {
                continue;
            }
            if seen.len() >= effort_max {
                return Verdict::Undecided {
                    explored: seen.len(),
                };
            }
            seen.insert((taken.clone(), state.clone()));
            path.push(self.place(taken, state, Some(index)));
        }
    }

    fn place(&self, taken: Taken, state: M::State, came_by: Option<usize>) -> Place<M::State> {
        let untried = self.candidates(&taken).into_iter();
        Place {
            taken,
            state,
            untried,
            came_by,
        }
    }

    /// What may come next: whatever began before the first of those that are left was
    /// answered. Those answered first are tried first, unknown ones last.
    fn candidates(&self, taken: &Taken) -> Vec<Candidate> {
        let mut first_answer = Moment::MAX;
        let mut answered = Vec::new();
        for place in taken.first_left..self.answered.len() {
            let operation = &self.answered[place];
            if operation.invoked > first_answer {
                break;
            }
            if taken.beyond.binary_search(&place).is_err() {
                first_answer = first_answer.min(operation.completed);
                answered.push(place);
            }
        }
        answered.sort_by_key(|place| self.answered[*place].completed);
        let has_begun = |place: &usize| self.unknown[*place].invoked <= first_answer;
        let is_taken = |place: &usize| taken.unknown.binary_search(place).is_ok();
        let is_next = |place: &usize| {
            let alike = self.unknown[*place].alike_before;
            !is_taken(place) && alike.is_none_or(|before| is_taken(&before))
        };
        let unknown = (0..self.unknown.len()).take_while(has_begun);
        let unknown = unknown.filter(is_next).map(Candidate::Unknown);
        let answered = answered.into_iter().map(Candidate::Answered);
        answered.chain(unknown).collect()
    }

    /// Where a candidate leads to: nowhere if its answer was another, or if it would
    /// only be left out.
    fn take(
        &self,
        from: &Place<M::State>,
        candidate: Candidate,
    ) -> Option<(Taken, M::State, usize)> {
        let mut taken = from.taken.clone();
        match candidate {
            Candidate::Answered(place) => {
                let operation = &self.answered[place];
                let (state, reply) = M::run(&from.state, operation.call);
                taken.take_answered(place);
                (reply == *operation.reply).then_some((taken, state, operation.index))
            }
            Candidate::Unknown(place) => {
                let operation = &self.unknown[place];
                let (state, _) = M::run(&from.state, operation.call);
                insert_sorted(&mut taken.unknown, place);
                (state != from.state).then_some((taken, state, operation.index))
            }
        }
    }

    fn violation(&self, path: &[Place<M::State>]) -> Violation {
        let end = path.last();
        let candidates = end.map(|place| self.candidates(&place.taken));
        let candidates = candidates.unwrap_or_default().into_iter();
        Violation {
            explained: path.iter().filter_map(|place| place.came_by).collect(),
            unexplained: candidates
                .filter_map(|candidate| match candidate {
                    Candidate::Answered(place) => Some(self.answered[place].index),
                    Candidate::Unknown(_) => None,
                })
                .collect(),
            state: end.map_or_else(String::new, |place| format!("{:?}", place.state)),
        }
    }
}

impl Taken {
    fn answered(&self) -> usize {
        self.first_left + self.beyond.len()
    }

    fn take_answered(&mut self, place: usize) {
        if place != self.first_left {
            insert_sorted(&mut self.beyond, place);
            return;
        }
        self.first_left += 1;
        let left = self.first_left;
        let joined = (left..).zip(&self.beyond);
        let joined = joined.take_while(|(place, taken)| place == *taken).count();
        self.beyond.drain(..joined);
        self.first_left += joined;
    }
}

fn insert_sorted(sorted: &mut Vec<usize>, new: usize) {
    if let Err(place) = sorted.binary_search(&new) {
        sorted.insert(place, new);
    }
}
