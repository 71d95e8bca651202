//! How many entities recover at once: at most a fixed number, first come first
//! served (promise I-11).
//!
//! A pure value: it decides who may go and counts; it knows nothing of what a
//! recovery does. Its keys are whatever the caller tells its recoveries apart
//! by, usually a slab key; a key may be used again as soon as its permit is
//! given back or it is withdrawn. Next: `replay_filter.rs`, what a recovery
//! with a permit reads its events through.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use crate::planted::{self, Bug};

/// Default of `persistence.max_concurrent_recoveries`. Recoveries are read together, many
/// by one call, with several calls under way: 128, with four calls instead of two, came
/// out some 12 % faster in Postgres than 50, and 256 no faster.
pub const MAX_CONCURRENT_RECOVERIES_DEFAULT: usize = 128;

/// The answer to a request for a permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The recovery may start now.
    Granted,
    /// It waits. A later [`RecoveryPermits::give_back`] or
    /// [`RecoveryPermits::withdraw`] names it when its turn has come.
    Queued {
        /// Its place among those that wait; 1 is the next to go.
        position: usize,
    },
}

/// The permits of one node.
#[derive(Debug)]
pub struct RecoveryPermits<K> {
    max: usize,
    running: usize,
    waiting: usize,
    waiting_max_seen: usize,
    standing: HashMap<K, Standing>,
    /// In order of request. An entry counts only while `standing` still has its
    /// key with the same ticket: one that was withdrawn stays here until it
    /// comes up, or until such entries are the majority.
    queue: VecDeque<(K, Ticket)>,
    next_ticket: Ticket,
}

/// Tells two requests of one key apart.
type Ticket = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Running,
    Waiting(Ticket),
}

impl<K: Copy + Eq + Hash> RecoveryPermits<K> {
    /// `max` recoveries at once; 0 counts as 1, or nothing would ever recover.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            max: max.max(1),
            running: 0,
            waiting: 0,
            waiting_max_seen: 0,
            standing: HashMap::new(),
            queue: VecDeque::new(),
            next_ticket: 0,
        }
    }

    /// Asks for a permit. Asking again before it is given back changes nothing:
    /// a key never holds two permits or two places.
    pub fn request(&mut self, key: K) -> Admission {
        match self.standing.get(&key) {
            Some(Standing::Running) => return Admission::Granted,
            Some(Standing::Waiting(ticket)) => {
                let ahead = self.queue.iter().take_while(|(_, other)| other < ticket);
                let position = 1 + ahead.filter(|entry| self.still_waits(entry)).count();
                return Admission::Queued { position };
            }
            None => {}
        }
        if self.running < self.max {
            self.running += 1;
            self.standing.insert(key, Standing::Running);
            return Admission::Granted;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.standing.insert(key, Standing::Waiting(ticket));
        self.queue.push_back((key, ticket));
        self.waiting += 1;
        self.waiting_max_seen = self.waiting_max_seen.max(self.waiting);
        Admission::Queued {
            position: self.waiting,
        }
    }

    /// A recovery has ended, well or badly. Returns who goes next; that one is
    /// running from now on.
    ///
    /// A key that holds no permit changes nothing, so giving back twice (by a
    /// time-out and by the late end) frees one permit only.
    #[must_use = "the key returned holds a permit and has to be started"]
    pub fn give_back(&mut self, key: K) -> Option<K> {
        if self.standing.get(&key) != Some(&Standing::Running) {
            return None;
        }
        self.standing.remove(&key);
        if planted::is(Bug::LeakPermit) && self.running == self.max {
            return None;
        }
        self.running -= 1;
        self.grant_next()
    }

    /// The requester is gone: a permit it holds comes back, and whoever goes
    /// next is returned; a place in the queue is given up, which frees nothing.
    #[must_use = "the key returned holds a permit and has to be started"]
    pub fn withdraw(&mut self, key: K) -> Option<K> {
        let Some(Standing::Waiting(_)) = self.standing.get(&key) else {
            return self.give_back(key);
        };
        self.standing.remove(&key);
        self.waiting -= 1;
        self.forget_withdrawn();
        None
    }

    /// Recoveries that hold a permit.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running
    }

    /// Recoveries that wait for a permit.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// The most that ever waited at the same time.
    #[must_use]
    pub fn waiting_max_seen(&self) -> usize {
        self.waiting_max_seen
    }

    fn grant_next(&mut self) -> Option<K> {
        while let Some(entry) = self.queue.pop_front() {
            if self.still_waits(&entry) {
                self.standing.insert(entry.0, Standing::Running);
                self.waiting -= 1;
                self.running += 1;
                self.forget_withdrawn();
                return Some(entry.0);
            }
        }
        None
    }

    fn still_waits(&self, (key, ticket): &(K, Ticket)) -> bool {
        self.standing.get(key) == Some(&Standing::Waiting(*ticket))
    }

    /// Keeps the queue at no more than twice its living entries, at a cost that
    /// the withdrawals before have paid for.
    fn forget_withdrawn(&mut self) {
        if self.queue.len() <= 2 * self.waiting {
            return;
        }
        let mut queue = std::mem::take(&mut self.queue);
        queue.retain(|entry| self.still_waits(entry));
        self.queue = queue;
    }
}

#[cfg(test)]
mod recovery_permits_test;
