//! A journal behind a circuit breaker.
//!
//! While the breaker is open nothing is sent to the journal: calls fail at once
//! as unavailable, and cells refuse what they could not store, so that
//! entities stay in memory and do not all recover when the journal is back. One
//! probe at a time finds out whether it is. Conflicts, fences and refused rows
//! are answers and never open it. It decides nothing about what is stored.
//! Next: `circuit_breaker.rs`, which decides when it opens.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::{Instant, timeout};

use crate::circuit_breaker::{Admittance, CircuitBreaker, CircuitBreakerSettings, CircuitState};
use crate::command::CommandId;
use crate::command_error::CommandError;
use crate::journal::{
    Append, AppendError, Appended, EntityListing, EventRange, Journal, JournalError, StoredCommand,
    StoredEvent, StreamBounds, WriteRight,
};
use crate::persistence_id::PersistenceId;
use crate::recovery_reader::{Beginning, BeginningLimits, RecoveryReader, Wanted};
use crate::sequence_nr::SequenceNr;
use crate::writer::{Epoch, SessionUuid, ShardNr};

use super::contained::contained;

/// Asking for entities of a type nobody has costs the journal next to nothing.
const PROBED_TYPE: &str = "-";

/// What callers are told while the breaker is open.
const OPEN_MESSAGE: &str = "it failed several times in a row and is only probed for now";

/// What commands are refused with while the breaker is open.
pub(crate) fn journal_out_of_reach() -> CommandError {
    CommandError::JournalUnavailable {
        message: OPEN_MESSAGE.to_owned(),
    }
}

/// A journal behind a circuit breaker.
pub(crate) struct GuardedJournal {
    inner: Arc<dyn Journal>,
    guard: Mutex<Guard>,
    open: Arc<AtomicBool>,
    settings: CircuitBreakerSettings,
}

struct Guard {
    breaker: CircuitBreaker,
    random: StdRng,
}

impl GuardedJournal {
    pub(crate) fn new(
        inner: Arc<dyn Journal>,
        settings: CircuitBreakerSettings,
        random: StdRng,
    ) -> Self {
        let breaker = CircuitBreaker::new(settings);
        Self {
            inner,
            guard: Mutex::new(Guard { breaker, random }),
            open: Arc::default(),
            settings,
        }
    }

    /// True while commands should not be handled because their events could not
    /// be stored.
    pub(crate) fn is_open(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.open)
    }

    /// Asks the journal whether it is back, whenever the breaker lets a probe
    /// through: commands are refused meanwhile and cannot find out. Runs until
    /// aborted.
    pub(crate) async fn probe(self: Arc<Self>) {
        // The breaker decides when; this only has to ask often enough.
        let interval = self.settings.reset_timeout / 8;
        loop {
            tokio::time::sleep(interval).await;
            if self.open.load(Ordering::Relaxed) {
                // What it says does not matter: the breaker looks at the answer. One
                // that hangs or panics must not be the last probe.
                let probe = contained(self.list_entities(PROBED_TYPE, None, 1));
                let _ = timeout(self.settings.call_timeout, probe).await;
            }
        }
    }

    fn guard(&self) -> MutexGuard<'_, Guard> {
        // Held for a few assignments, which leave the breaker whole.
        self.guard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a call, if the breaker lets it through, and reports on it. `reached`
    /// says whether the journal answered, whatever it said. A call that takes
    /// longer than the call time-out counts as failed, and is still waited for.
    async fn call<T>(
        &self,
        work: impl Future<Output = T>,
        reached: impl FnOnce(&T) -> bool,
    ) -> Option<T> {
        let admitted = self.guard().breaker.admit(Instant::now().into_std());
        let Admittance::Send(ticket) = admitted else {
            return None;
        };
        let began = Instant::now();
        let answer = work.await;
        let in_time = began.elapsed() < self.settings.call_timeout;
        let mut guard = self.guard();
        let Guard { breaker, random } = &mut *guard;
        if reached(&answer) && in_time {
            breaker.succeeded(&ticket);
        } else {
            let random = random.random::<f64>();
            breaker.failed(&ticket, Instant::now().into_std(), random);
        }
        self.publish(breaker.state());
        Some(answer)
    }

    fn publish(&self, state: CircuitState) {
        let open = state != CircuitState::Closed;
        if self.open.swap(open, Ordering::Relaxed) != open {
            if open {
                tracing::error!(
                    "the journal is out of reach: commands are refused until it is back"
                );
            } else {
                tracing::info!("the journal is back");
            }
        }
        let number = match state {
            CircuitState::Closed => 0.0,
            CircuitState::HalfOpen => 1.0,
            CircuitState::Open => 2.0,
        };
        metrics::gauge!("perennial_journal_circuit_state").set(number);
    }

    async fn read<T>(
        &self,
        work: impl Future<Output = Result<T, JournalError>>,
    ) -> Result<T, JournalError> {
        let reached =
            |answer: &Result<T, _>| !matches!(answer, Err(JournalError::Unavailable { .. }));
        self.call(work, reached)
            .await
            .unwrap_or_else(|| Err(refused()))
    }
}

/// Whether the journal answered at least one of the appends.
fn answered(outcomes: &[Appended]) -> bool {
    let out_of_reach = |outcome: &Appended| {
        matches!(
            outcome.failure,
            Some(AppendError::Unavailable { .. } | AppendError::Unknown { .. })
        )
    };
    outcomes.is_empty() || !outcomes.iter().all(out_of_reach)
}

/// Reads of recoveries, which count like any other call of the journal.
pub(crate) struct GuardedRecoveries {
    pub(crate) inner: Arc<dyn RecoveryReader>,
    pub(crate) journal: Arc<GuardedJournal>,
}

#[async_trait]
impl RecoveryReader for GuardedRecoveries {
    fn concurrency(&self) -> usize {
        self.inner.concurrency()
    }

    async fn read_beginnings(
        &self,
        wanted: &[Wanted],
        limits: BeginningLimits,
    ) -> Vec<Result<Option<Beginning>, JournalError>> {
        let reached = |read: &Vec<Result<_, _>>| {
            let out_of_reach =
                |answer: &Result<_, _>| matches!(answer, Err(JournalError::Unavailable { .. }));
            read.is_empty() || !read.iter().all(out_of_reach)
        };
        let read = self.inner.read_beginnings(wanted, limits);
        let read = self.journal.call(read, reached).await;
        read.unwrap_or_else(|| wanted.iter().map(|_| Err(refused())).collect())
    }
}

fn refused() -> JournalError {
    JournalError::Unavailable {
        message: OPEN_MESSAGE.to_owned(),
        source: None,
    }
}

#[async_trait]
impl Journal for GuardedJournal {
    fn lanes(&self) -> usize {
        self.inner.lanes()
    }

    async fn append(&self, session: SessionUuid, lane: usize, batch: &[Append]) -> Vec<Appended> {
        let appended = self.call(self.inner.append(session, lane, batch), |outcomes| {
            answered(outcomes)
        });
        appended.await.unwrap_or_else(|| {
            let refused = || AppendError::Unavailable {
                message: OPEN_MESSAGE.to_owned(),
            };
            batch.iter().map(|_| Appended::none(refused())).collect()
        })
    }

    async fn may_write(
        &self,
        session: SessionUuid,
        shards: &[(ShardNr, Epoch)],
    ) -> Result<Vec<bool>, JournalError> {
        self.read(self.inner.may_write(session, shards)).await
    }

    async fn read_events(&self, range: &EventRange) -> Result<Vec<StoredEvent>, JournalError> {
        self.read(self.inner.read_events(range)).await
    }

    async fn bounds(&self, persistence_id: &PersistenceId) -> Result<StreamBounds, JournalError> {
        self.read(self.inner.bounds(persistence_id)).await
    }

    async fn find_commands(
        &self,
        persistence_id: &PersistenceId,
        command_ids: &[CommandId],
    ) -> Result<Vec<Option<StoredCommand>>, JournalError> {
        let found = self.inner.find_commands(persistence_id, command_ids);
        self.read(found).await
    }

    async fn list_entities(
        &self,
        entity_type: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<EntityListing>, JournalError> {
        self.read(self.inner.list_entities(entity_type, after, limit))
            .await
    }

    async fn delete_events(
        &self,
        right: WriteRight,
        persistence_id: &PersistenceId,
        to: SequenceNr,
    ) -> Result<(), JournalError> {
        self.read(self.inner.delete_events(right, persistence_id, to))
            .await
    }
}
