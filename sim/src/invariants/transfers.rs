//! Money that goes from purse to purse by at-least-once delivery: what was acknowledged
//! has left its purse (I-5), what was refused has not (I-8), and what has left has
//! arrived once, where it should (I-8). So the sum of all purses stays the same.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::purse::{FILLED_WITH, PurseEvent, Transfer};
use crate::verdict::Verdict;

/// What is known of a transfer's beginning from its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    Nothing,
    /// It has begun.
    Given,
    /// It certainly has not, and will not.
    Refused,
}

/// All transfers of a run; clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Transfers(Arc<Mutex<Books>>);

#[derive(Debug, Default)]
struct Books {
    /// By number.
    told: Vec<Told>,
    /// What is stored of each.
    stored: BTreeMap<u64, Stored>,
    balances: BTreeMap<String, i64>,
}

#[derive(Debug)]
struct Stored {
    to: String,
    amount: i64,
    is_taken: bool,
}

impl Transfers {
    /// A client begins one: its number.
    pub(crate) fn begin(&self) -> u64 {
        let mut books = self.books();
        books.told.push(Told::Nothing);
        books.told.len() as u64 - 1
    }

    pub(crate) fn told(&self, op: u64, told: Told) {
        self.books().told[op as usize] = told;
    }

    /// An event of a purse is stored.
    pub(super) fn stored(&self, purse: &str, event: PurseEvent, now: u64, verdict: &Verdict) {
        let mut guard = self.books();
        let books = &mut *guard;
        match event {
            PurseEvent::Given { to, transfer } => books.given(purse, to, transfer, now, verdict),
            PurseEvent::Taken(transfer) => books.taken(purse, transfer, now, verdict),
            PurseEvent::Confirmed(_) => {}
        }
    }

    /// All is over and delivered: compares what clients were told with what is stored.
    pub(crate) fn check(&self, now: u64, verdict: &Verdict) {
        let books = self.books();
        for (op, told) in (0..).zip(&books.told) {
            match (told, books.stored.get(&op)) {
                (Told::Given, None) => {
                    let what = format!("transfer {op} was acknowledged, and is not stored");
                    verdict.violated("I-5", now, what);
                }
                (Told::Refused, Some(_)) => {
                    let what = format!("transfer {op} was refused without effect, and is stored");
                    verdict.violated("I-8", now, what);
                }
                (_, Some(stored)) if !stored.is_taken => {
                    let what = format!("transfer {op} has left its purse, and not arrived");
                    verdict.violated("I-8", now, what);
                }
                _ => {}
            }
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.books().told.len()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn given(&mut self, from: &str, to: String, transfer: Transfer, now: u64, verdict: &Verdict) {
        let Transfer { op, amount } = transfer;
        let balance = self.balance(from);
        *balance -= amount;
        if *balance < 0 {
            let what = format!("transfer {op} takes {amount} from {from}, where there is less");
            verdict.violated("I-12", now, what);
        }
        let stored = Stored {
            to,
            amount,
            is_taken: false,
        };
        if self.stored.insert(op, stored).is_some() {
            let what = format!("transfer {op} leaves a purse twice, now {from}");
            verdict.violated("I-8", now, what);
        }
    }

    fn taken(&mut self, by: &str, transfer: Transfer, now: u64, verdict: &Verdict) {
        let Transfer { op, amount } = transfer;
        *self.balance(by) += amount;
        let (promise, what) = match self.stored.get_mut(&op) {
            None => ("I-4", "before it is stored that it has left"),
            Some(stored) if stored.is_taken => ("I-8", "a second time"),
            Some(stored) => {
                stored.is_taken = true;
                match stored.to == by && stored.amount == amount {
                    true => return,
                    false => ("I-6", "other than it has left"),
                }
            }
        };
        verdict.violated(
            promise,
            now,
            format!("transfer {op} arrives at {by} {what}"),
        );
    }

    fn balance(&mut self, purse: &str) -> &mut i64 {
        let known = self.balances.entry(purse.to_owned());
        known.or_insert(FILLED_WITH)
    }
}
