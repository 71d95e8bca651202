//! Where recoveries wait to be read, those that wait together by one call.
//!
//! There is no timer: a call reads what arrived while the ones before were under
//! way, so one recovery alone is read at once and a storm in few calls. What waits
//! is bounded by the recoveries that hold a permit. Calls are bounded in entities,
//! events, bytes and time; one that fails or panics costs those it was for an
//! answer, and nobody else.
//!
//! It knows nothing of what is read. Next: `recovery_reader.rs`, who reads.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::timeout;

use crate::journal::JournalError;
use crate::recovery_reader::{Beginning, BeginningLimits, RecoveryReader, Wanted};
use crate::replay::BEGINNING_EVENTS_MAX;

use super::awaited_recovery::Awaited;
use super::contained::contained;

/// Entities of one call.
const ENTITIES_MAX: usize = 64;
/// How often a reader lets everything run that can, before it reads again: an answer
/// goes to the cell, the cell's permit to the driver, and from there to the next.
const TURNS_LEFT_TO_OTHERS: usize = 2;
/// Whoever has more events reads on by itself.
const LIMITS: BeginningLimits = BeginningLimits {
    events_each: BEGINNING_EVENTS_MAX,
    bytes: 16 * 1024 * 1024,
};

/// What is read of one entity; `None` when it is too large to be read with others.
pub(crate) type ReadBeginning = Result<Option<Beginning>, JournalError>;

/// The queue; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct RecoveryQueue(Arc<Shared>);

#[derive(Default)]
struct Shared {
    waiting: Mutex<VecDeque<Waiting>>,
    arrived: Notify,
}

struct Waiting {
    wanted: Wanted,
    awaited: Awaited,
    /// Told when the call begins.
    begun: oneshot::Sender<()>,
    answer: oneshot::Sender<ReadBeginning>,
}

impl RecoveryQueue {
    /// Starts as many readers as calls can usefully be under way at once; they end
    /// with the runtime or when aborted. `limit` is how long a call may take.
    pub(crate) fn start(
        &self,
        reader: &Arc<dyn RecoveryReader>,
        limit: Duration,
        tasks: &mut tokio::task::JoinSet<()>,
    ) {
        for _ in 0..reader.concurrency().max(1) {
            tasks.spawn(run_reader(self.clone(), Arc::clone(reader), limit));
        }
    }

    /// Waits for its turn, for `limit` at most, and then for what is read, until the
    /// call is over: who gave up before would have others read in his place, beyond
    /// what may be read at once (I-11). Safe to cancel: nothing is read for who has
    /// left before his turn, nor for an entity that has.
    pub(crate) async fn read(
        &self,
        wanted: Wanted,
        awaited: Awaited,
        limit: Duration,
    ) -> ReadBeginning {
        let (answer, read) = oneshot::channel();
        let (begun, mut has_begun) = oneshot::channel();
        self.lock().push_back(Waiting {
            wanted,
            awaited,
            begun,
            answer,
        });
        self.0.arrived.notify_one();
        if timeout(limit, &mut has_begun).await.is_err() && self.withdraw(&mut has_begun) {
            return Err(not_in_time(limit));
        }
        read.await.unwrap_or_else(|_| Err(unanswered()))
    }

    /// Whether somebody has left before his turn.
    fn withdraw(&self, has_begun: &mut oneshot::Receiver<()>) -> bool {
        let mut waiting = self.lock();
        // Turns are given under the lock.
        let in_time = has_begun.try_recv() == Err(TryRecvError::Empty);
        has_begun.close();
        waiting.retain(|waiting| !waiting.begun.is_closed());
        in_time
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        // Held for a push or a drain, which leave the queue whole.
        self.0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The next to be read together; none when nobody waits.
    fn take_batch(
        &self,
        wanted: &mut Vec<Wanted>,
        answers: &mut Vec<oneshot::Sender<ReadBeginning>>,
    ) {
        let mut waiting = self.lock();
        while wanted.len() < ENTITIES_MAX
            && let Some(next) = waiting.pop_front()
        {
            let is_needed = next.awaited.is_awaited() && !next.answer.is_closed();
            if is_needed && next.begun.send(()).is_ok() {
                wanted.push(next.wanted);
                answers.push(next.answer);
            }
        }
    }
}

async fn run_reader(queue: RecoveryQueue, reader: Arc<dyn RecoveryReader>, limit: Duration) {
    let batch_size = metrics::histogram!("perennial_recovery_batch_size");
    let mut wanted = Vec::new();
    let mut answers = Vec::new();
    loop {
        queue.take_batch(&mut wanted, &mut answers);
        if wanted.is_empty() {
            queue.0.arrived.notified().await;
            // Those who are about to ask do so first.
            tokio::task::yield_now().await;
            continue;
        }
        batch_size.record(wanted.len() as f64);
        let read = read(&*reader, &wanted, limit).await;
        wanted.clear();
        for (answer, read) in answers.drain(..).zip(read) {
            // Whoever has left in between needs it no more.
            let _ = answer.send(read);
        }
        // Those who have their answer make room for others, who then ask: all that
        // without waiting for anybody outside. Read now, they would be few.
        for _ in 0..TURNS_LEFT_TO_OTHERS {
            tokio::task::yield_now().await;
        }
    }
}

/// One answer for each entity, whatever the reader does.
async fn read(
    reader: &dyn RecoveryReader,
    wanted: &[Wanted],
    limit: Duration,
) -> Vec<ReadBeginning> {
    let call = contained(async { Ok(reader.read_beginnings(wanted, LIMITS).await) });
    let failure = match timeout(limit, call).await {
        Ok(Ok(read)) if read.len() == wanted.len() => return read,
        Ok(Ok(read)) => format!(
            "asked for {} entities, the storage answered for {}",
            wanted.len(),
            read.len()
        ),
        Ok(Err(error)) => error.to_string(),
        Err(_) => late(limit),
    };
    let failed = || unavailable(failure.clone());
    wanted.iter().map(|_| Err(failed())).collect()
}

/// Nothing was heard for too long.
pub(super) fn not_in_time(limit: Duration) -> JournalError {
    unavailable(late(limit))
}

fn late(limit: Duration) -> String {
    format!("nothing was read for {limit:?}, which is persistence.recovery_event_timeout")
}

fn unanswered() -> JournalError {
    unavailable("the entity has left, or the engine is stopping".to_owned())
}

fn unavailable(message: String) -> JournalError {
    JournalError::Unavailable {
        message,
        source: None,
    }
}
