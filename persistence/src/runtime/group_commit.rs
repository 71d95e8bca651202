//! Group commit: all appends that wait go out as one batch.
//!
//! There is no timer. A lane's next batch is what arrived while the previous one
//! was under way, so one append alone is stored at once and a burst is stored in
//! few statements. Batches are bounded in events and bytes. An entity has at most
//! one append out and always uses the same lane, so a stream's appends never
//! overtake one another. What a lane's queue holds is bounded by the entities in
//! memory.
//!
//! It knows nothing of entities; outcomes go back to the worker they came from.
//! Next: `journal.rs`, where a batch is stored.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures::FutureExt;
use tokio::sync::Notify;
use tracing::{Instrument, Span, info_span};

use crate::engine::Tally;
use crate::journal::{Append, AppendError, Appended, Journal};
use crate::planted::{self, Bug};
use crate::publication::Publication;
use crate::trace::{TARGET, Trace};
use crate::writer::SessionUuid;

use super::contained::contained;
use super::worker::{Address, Outcome, WorkerHandle};

/// Events in one batch; an append with more goes out alone.
const BATCH_EVENTS_MAX: usize = 1024;
/// Payload bytes in one batch; an append with more goes out alone.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The lanes of a node; cheap to clone.
#[derive(Clone)]
pub(crate) struct GroupCommit {
    lanes: Arc<[Lane]>,
    tally: Arc<Tally>,
}

struct Lane {
    waiting: Mutex<VecDeque<Waiting>>,
    arrived: Notify,
}

struct Waiting {
    append: Append,
    /// Steps of the commands it stores events of.
    traces: Vec<Trace>,
    from: Address,
}

impl GroupCommit {
    pub(crate) fn new(lanes: usize, tally: Arc<Tally>) -> Self {
        let lane = || Lane {
            waiting: Mutex::default(),
            arrived: Notify::new(),
        };
        Self {
            lanes: (0..lanes.max(1)).map(|_| lane()).collect(),
            tally,
        }
    }

    /// Starts a task for each lane; they end with the runtime or when aborted.
    pub(crate) fn start(
        &self,
        journal: &Arc<dyn Journal>,
        session: SessionUuid,
        publication: &Publication,
        workers: &Arc<[WorkerHandle]>,
        tasks: &mut tokio::task::JoinSet<()>,
    ) {
        for lane in 0..self.lanes.len() {
            tasks.spawn(run_lane(
                self.clone(),
                lane,
                Arc::clone(journal),
                session,
                publication.clone(),
                Arc::clone(workers),
            ));
        }
    }

    /// Queues an append. The lane follows from the stream, so it is always the same.
    /// Of the commands it stores events of, those that are traced are given.
    pub(crate) fn submit(&self, append: Append, traces: &[Trace], from: Address) {
        let step = |trace: &Trace| {
            trace.step(|span| {
                let events = append.event_count();
                info_span!(target: TARGET, parent: span, "append", perennial.events = events)
            })
        };
        let traces = traces.iter().map(step).collect();
        let hash = xxhash_rust::xxh3::xxh3_64(append.persistence_id.as_str().as_bytes());
        let lane = &self.lanes[(hash % self.lanes.len() as u64) as usize];
        lane.lock().push_back(Waiting {
            append,
            traces,
            from,
        });
        lane.arrived.notify_one();
    }
}

impl Lane {
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Waiting>> {
        // Held for a push or a drain, which leave the queue whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What waits, up to the bounds; at least one append if there is one.
    fn take_batch(
        &self,
        appends: &mut Vec<Append>,
        from: &mut Vec<Address>,
        traces: &mut Vec<Trace>,
    ) {
        let mut waiting = self.lock();
        let (mut events, mut bytes) = (0, 0);
        while let Some(next) = waiting.front() {
            events += next.append.event_count();
            bytes += next.append.payload_len();
            if !appends.is_empty() && (events > BATCH_EVENTS_MAX || bytes > BATCH_BYTES_MAX) {
                break;
            }
            if let Some(next) = waiting.pop_front() {
                appends.push(next.append);
                from.push(next.from);
                traces.extend(next.traces);
            }
        }
    }
}

async fn run_lane(
    commit: GroupCommit,
    number: usize,
    journal: Arc<dyn Journal>,
    session: SessionUuid,
    publication: Publication,
    workers: Arc<[WorkerHandle]>,
) {
    let lane = &commit.lanes[number];
    let batch_size = metrics::histogram!("perennial_append_batch_size");
    let duration = metrics::histogram!("perennial_append_duration_seconds");
    let mut appends = Vec::new();
    let mut from = Vec::new();
    let mut traces = Vec::new();
    let mut outcomes: Vec<Vec<Outcome>> = workers.iter().map(|_| Vec::new()).collect();
    loop {
        lane.take_batch(&mut appends, &mut from, &mut traces);
        if appends.is_empty() {
            lane.arrived.notified().await;
            continue;
        }
        let began = Instant::now();
        let appended = if planted::is(Bug::AcknowledgeBeforeCommit) {
            let (journal, mut sent) = (Arc::clone(&journal), appends.clone());
            tokio::spawn(async move { append(&*journal, session, number, &mut sent).await });
            appends.iter().map(Appended::all).collect()
        } else {
            let storing = append(&*journal, session, number, &mut appends);
            storing.instrument(batch_span(&traces, number)).await
        };
        traces.clear();
        duration.record(began.elapsed().as_secs_f64());
        batch_size.record(appends.iter().map(Append::event_count).sum::<usize>() as f64);
        for ((to, mut append), appended) in from.drain(..).zip(appends.drain(..)).zip(appended) {
            let stored = appended.stored_writes.min(append.writes.len());
            let unstored = append.writes.split_off(stored);
            commit.tally.stored(append.event_count());
            publication.publish(append);
            outcomes[to.worker].push(Outcome {
                to,
                appended,
                unstored,
            });
        }
        for (worker, outcomes) in workers.iter().zip(&mut outcomes) {
            if !outcomes.is_empty() {
                worker.appended(std::mem::take(outcomes));
            }
        }
    }
}

/// A batch belongs to no command, so it is a trace of its own; it and the appends in it
/// that are traced are linked with each other.
fn batch_span(traces: &[Trace], lane: usize) -> Span {
    if traces.is_empty() {
        return Span::none();
    }
    let batch = info_span!(target: TARGET, parent: None, "append batch", otel.kind = "client", perennial.lane = lane);
    for append in traces.iter().filter_map(Trace::span) {
        batch.follows_from(append);
        append.follows_from(&batch);
    }
    batch
}

/// One outcome for each append, whatever the journal does. A first write without
/// events only asks whether the node may write: what is stored together with it says
/// so, and for the others the journal is asked at the same time.
async fn append(
    journal: &dyn Journal,
    session: SessionUuid,
    lane: usize,
    batch: &mut Vec<Append>,
) -> Vec<Appended> {
    if batch.iter().all(|append| !confirms(append)) {
        return store(journal, session, lane, batch).await;
    }
    let mut places = Vec::with_capacity(batch.len());
    let (mut storing, mut asking) = (Vec::new(), Vec::new());
    for mut append in batch.drain(..) {
        let confirmed = confirms(&append).then(|| append.writes.remove(0));
        let stores = !append.writes.is_empty();
        if stores { &mut storing } else { &mut asking }.push(append);
        places.push((stores, confirmed));
    }
    let (stored, asked) = futures::future::join(
        store(journal, session, lane, &storing),
        confirm(journal, session, &asking),
    )
    .await;
    let mut stored = storing.into_iter().zip(stored);
    let mut asked = asking.into_iter().zip(asked);
    let mut outcomes = Vec::with_capacity(places.len());
    for (stores, confirmed) in places {
        let of = if stores {
            &mut stored.next()
        } else {
            &mut asked.next()
        };
        let Some((mut append, mut outcome)) = of.take() else {
            break;
        };
        if let Some(write) = confirmed {
            append.writes.insert(0, write);
            outcome.stored_writes += usize::from(proves_ownership(&outcome));
        }
        batch.push(append);
        outcomes.push(outcome);
    }
    outcomes
}

fn confirms(append: &Append) -> bool {
    let first = append.writes.first();
    first.is_some_and(|write| write.events.is_empty())
}

/// Whether the journal has said that the session might write.
fn proves_ownership(outcome: &Appended) -> bool {
    match outcome.failure {
        None | Some(AppendError::Rejected { .. } | AppendError::DuplicateCommand { .. }) => true,
        Some(_) => outcome.stored_writes > 0,
    }
}

/// Asks whether the session may still write to the shards of these appends, which
/// have nothing to store.
async fn confirm(journal: &dyn Journal, session: SessionUuid, batch: &[Append]) -> Vec<Appended> {
    if batch.is_empty() {
        return Vec::new();
    }
    let shards: Vec<_> = batch.iter().map(|a| (a.shard, a.epoch)).collect();
    let answers = match contained(journal.may_write(session, &shards)).await {
        Ok(answers) if answers.len() == batch.len() => answers,
        Ok(_) => {
            let message = "the journal returned an invalid number of answers";
            return batch.iter().map(|_| unavailable(message)).collect();
        }
        Err(error) => {
            let message = error.to_string();
            return batch.iter().map(|_| unavailable(&message)).collect();
        }
    };
    let outcome = |(append, may_write): (&Append, bool)| match may_write {
        true => Appended::all(append),
        false => Appended::none(AppendError::Fenced {
            session,
            shard: append.shard,
            epoch: append.epoch,
        }),
    };
    batch.iter().zip(answers).map(outcome).collect()
}

fn unavailable(message: &str) -> Appended {
    Appended::none(AppendError::Unavailable {
        message: message.to_owned(),
    })
}

/// One outcome for each append with events, whatever the journal does.
async fn store(
    journal: &dyn Journal,
    session: SessionUuid,
    lane: usize,
    batch: &[Append],
) -> Vec<Appended> {
    if batch.is_empty() {
        return Vec::new();
    }
    let undecided = |message| batch.iter().map(|_| unknown(message)).collect();
    match AssertUnwindSafe(journal.append(session, lane, batch))
        .catch_unwind()
        .await
    {
        Ok(appended) if appended.len() == batch.len() => {
            batch.iter().zip(appended).map(checked).collect()
        }
        Ok(_) => undecided("the journal returned an invalid number of results"),
        Err(_) => undecided("the journal panicked"),
    }
}

/// An outcome that contradicts itself decides nothing.
fn checked((append, appended): (&Append, Appended)) -> Appended {
    let (stored, writes) = (appended.stored_writes, append.writes.len());
    let is_possible = match appended.failure {
        None => stored == writes,
        Some(_) => stored < writes,
    };
    if is_possible {
        appended
    } else {
        unknown("the journal returned an invalid number of stored writes")
    }
}

fn unknown(message: &str) -> Appended {
    tracing::error!(message, "an append's outcome is unknown");
    Appended::none(AppendError::Unknown {
        message: message.to_owned(),
    })
}
