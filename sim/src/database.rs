//! The database all nodes share: the in-memory backend, at the other end of the
//! network.
//!
//! What a node asks travels there, takes effect when it arrives, whether or not the
//! node still waits or lives, and the answer travels back. So a commit can land after
//! its client died, or took effect though nobody heard of it. Next:
//! `database/client.rs`, a node's side.

mod client;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use perennial_persistence::journal::{Append, Appended};
use perennial_persistence::storage::Storage;
use perennial_persistence::storage::memory::MemoryStorage;
use perennial_persistence::writer::SessionUuid;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub(crate) use self::client::DatabaseClient;
use crate::invariants::Journaled;

/// The database; clones are the same.
#[derive(Clone)]
pub(crate) struct Database {
    pub(crate) storage: Storage,
    journaled: Journaled,
    trouble: Arc<Mutex<Trouble>>,
}

/// What is wrong with the database itself.
struct Trouble {
    chance: StdRng,
    /// Shares of operations that it refuses, without effect.
    refuses: Vec<f64>,
}

impl Database {
    pub(crate) fn new(seed: u64, journaled: Journaled) -> Self {
        Self {
            storage: MemoryStorage::new(2).storage(),
            journaled,
            trouble: Arc::new(Mutex::new(Trouble {
                chance: StdRng::seed_from_u64(seed),
                refuses: Vec::new(),
            })),
        }
    }

    /// From now on it refuses a share of what it is asked.
    pub(crate) fn refuse(&self, share: f64) {
        self.trouble().refuses.push(share);
    }

    /// Takes that back.
    pub(crate) fn accept(&self, share: f64) {
        let mut trouble = self.trouble();
        if let Some(place) = trouble.refuses.iter().position(|known| *known == share) {
            trouble.refuses.remove(place);
        }
    }

    fn refuses_now(&self) -> bool {
        let mut trouble = self.trouble();
        let share = trouble.refuses.iter().copied().fold(0.0, f64::max);
        share > 0.0 && trouble.chance.random_bool(share)
    }

    fn append(&self, session: SessionUuid, lane: usize, batch: &[Append]) -> Vec<Appended> {
        let appended = now(self.storage.journal.append(session, lane, batch));
        for (append, appended) in batch.iter().zip(&appended) {
            self.journaled.appended(session, append, appended);
        }
        appended
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The in-memory backend waits for nothing unless it is told to, and nobody does.
fn now<T>(work: impl Future<Output = T>) -> T {
    let done = work.now_or_never();
    done.unwrap_or_else(|| unreachable!("the in-memory backend does not wait"))
}
