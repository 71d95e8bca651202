//! What the clients of a soak did and were told: histories, the fate of each command,
//! how long things took, and what was said instead of an answer.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::client::Failure;
use crate::history::journal::Fate;
use crate::history::model::account::Account;
use crate::history::model::counter::Counter;
use crate::history::{History, Moment};

/// What clients write down, together.
#[derive(Debug)]
pub struct Record {
    began: Instant,
    book: Mutex<Book>,
}

/// All that is written down.
#[derive(Debug, Default)]
pub struct Book {
    /// Of counters, by the id of the entity.
    pub counters: History<Counter>,
    /// Of accounts, by the id of the entity.
    pub accounts: History<Account>,
    /// Of commands with an id, by the entity as `type|id` and their own id.
    pub commands: BTreeMap<String, BTreeMap<String, Fate>>,
    /// When each acknowledged command began, since the beginning, and how long it took.
    pub latencies: Vec<(Duration, Duration)>,
    /// Attempts that were not answered as hoped, by what was said.
    pub failed_attempts: BTreeMap<String, u64>,
    /// Money that was put into accounts from outside.
    pub put_in: i64,
    /// Money that was taken out of an account, or perhaps was, and not put into another.
    pub unsettled: i64,
    /// The sums.
    pub counts: Counts,
}

/// How many operations came to what.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Operations begun, reads included.
    pub operations: u64,
    /// Those that change something.
    pub commands: u64,
    /// Commands that were acknowledged.
    pub acknowledged: u64,
    /// Commands the entity rejected by its rules.
    pub rejected: u64,
    /// Commands that certainly had no effect, and were not repeated.
    pub not_applied: u64,
    /// Commands of which nobody knows.
    pub unknown: u64,
    /// Reads that were answered.
    pub reads: u64,
    /// Operations that were repeated until they were given up: none should be.
    pub given_up: u64,
}

impl Counts {
    /// Adds those of another part.
    pub fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.commands += other.commands;
        self.acknowledged += other.acknowledged;
        self.rejected += other.rejected;
        self.not_applied += other.not_applied;
        self.unknown += other.unknown;
        self.reads += other.reads;
        self.given_up += other.given_up;
    }
}

impl Book {
    /// What is left of it when it was checked.
    #[must_use]
    pub fn without_histories(self) -> Self {
        Self {
            counters: History::default(),
            accounts: History::default(),
            commands: BTreeMap::new(),
            ..self
        }
    }
}

impl Record {
    /// Nothing yet; times are counted from `began`.
    #[must_use]
    pub fn new(began: Instant) -> Self {
        Self {
            began,
            book: Mutex::new(Book::default()),
        }
    }

    /// Nanoseconds since the beginning.
    #[must_use]
    pub fn now(&self) -> Moment {
        // Enough for centuries.
        self.began.elapsed().as_nanos() as Moment
    }

    /// The book, for as long as the guard lives.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The book, when nobody writes any more.
    #[must_use]
    pub fn close(&self) -> Book {
        std::mem::take(&mut *self.book())
    }

    /// An attempt failed.
    pub fn failed_attempt(&self, failure: &Failure) {
        let mut book = self.book();
        let count = book.failed_attempts.entry(said(failure)).or_default();
        *count += 1;
    }

    /// A command was acknowledged.
    pub fn took(&self, since: Moment) {
        let began = Duration::from_nanos(since);
        let took = Duration::from_nanos(self.now().saturating_sub(since));
        self.book().latencies.push((began, took));
    }
}

/// What was said, without what differs each time.
fn said(failure: &Failure) -> String {
    let Failure {
        code,
        reason,
        applied,
        message,
        refused,
    } = failure;
    match (refused, reason.is_empty()) {
        (true, _) => "connection refused".to_owned(),
        (_, true) => format!("{code:?} of the connection: {message}"),
        (_, false) => format!("{code:?} {reason} (applied: {applied})"),
    }
}
