//! Recovers entities: permits first come first served, a task for each.
//!
//! The driver owns the permits, not the entities, so that none leaks whatever
//! ends when (I-11). A recovery whose entity has left meanwhile is not begun.
//! Next: `recovery_pages.rs`, what a granted recovery does.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tracing::{Instrument, info_span};

use crate::actor;
use crate::engine::{EngineSettings, Tally};
use crate::persistence_id::PersistenceId;
use crate::recovery_permits::{Admission, RecoveryPermits};
use crate::storage::Storage;
use crate::trace::{TARGET, Trace};

use super::awaited_recovery::Awaiting;
use super::recovery_pages::{PageSource, Recovery};
use super::worker::{Address, WorkerHandle};

/// The handle of the driver; cheap to clone.
#[derive(Clone)]
pub(crate) struct RecoveryDriver {
    /// Bounded by the entities in memory: each waits for at most one recovery.
    events: mpsc::UnboundedSender<DriverEvent>,
}

enum DriverEvent {
    Requested(Recovery),
    /// The permit under this ticket is free again.
    Over(u64),
}

impl RecoveryDriver {
    pub(crate) fn start(
        storage: &Storage,
        settings: &Arc<EngineSettings>,
        tally: &Arc<Tally>,
        tasks: &mut tokio::task::JoinSet<()>,
    ) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "bounded by the entities in memory: each waits for at most one recovery"
        )]
        let (events, inbox) = mpsc::unbounded_channel();
        let source = Arc::new(PageSource::start(storage, settings, tasks));
        let permits = RecoveryPermits::new(settings.max_concurrent_recoveries);
        tasks.spawn(grant_permits(
            permits,
            source,
            inbox,
            events.downgrade(),
            Arc::clone(tally),
        ));
        Self { events }
    }

    /// Queues a recovery; its pages go to `to`. It is not begun any more when what is
    /// returned has been dropped.
    #[must_use]
    pub(crate) fn request(
        &self,
        persistence_id: PersistenceId,
        plan: actor::Recovery,
        worker: WorkerHandle,
        to: Address,
        trace: &Trace,
    ) -> Awaiting {
        let (awaiting, awaited) = Awaiting::begin();
        let trace = trace.step(
            |span| info_span!(target: TARGET, parent: span, "recover", perennial.entity = %persistence_id),
        );
        // The driver ends only when the engine has stopped.
        let _ = self.events.send(DriverEvent::Requested(Recovery {
            persistence_id,
            plan,
            to,
            worker,
            awaited,
            trace,
        }));
        awaiting
    }
}

async fn grant_permits(
    mut permits: RecoveryPermits<u64>,
    source: Arc<PageSource>,
    mut inbox: mpsc::UnboundedReceiver<DriverEvent>,
    events: mpsc::WeakUnboundedSender<DriverEvent>,
    tally: Arc<Tally>,
) {
    let running = metrics::gauge!("perennial_recoveries_running");
    let waiting = metrics::gauge!("perennial_recoveries_waiting");
    let duration = metrics::histogram!("perennial_recovery_duration_seconds");
    let mut queued = std::collections::HashMap::new();
    let mut last_ticket: u64 = 0;
    let start = |recovery: Recovery, ticket: u64| {
        let permit = Permit {
            ticket,
            events: events.clone(),
        };
        let duration = duration.clone();
        tokio::spawn(run_recovery(
            Arc::clone(&source),
            recovery,
            permit,
            duration,
        ));
    };
    while let Some(event) = inbox.recv().await {
        match event {
            DriverEvent::Requested(recovery) => {
                last_ticket += 1;
                match permits.request(last_ticket) {
                    Admission::Granted => start(recovery, last_ticket),
                    Admission::Queued { .. } => {
                        queued.insert(last_ticket, recovery);
                    }
                }
            }
            DriverEvent::Over(ticket) => {
                if let Some(next) = permits.give_back(ticket)
                    && let Some(recovery) = queued.remove(&next)
                {
                    start(recovery, next);
                }
            }
        }
        tally.recoveries(permits.running(), permits.waiting());
        running.set(permits.running() as f64);
        waiting.set(permits.waiting() as f64);
    }
}

/// Gives the permit back when the recovery's task ends, however it ends.
struct Permit {
    ticket: u64,
    events: mpsc::WeakUnboundedSender<DriverEvent>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(events) = self.events.upgrade() {
            let _ = events.send(DriverEvent::Over(self.ticket));
        }
    }
}

async fn run_recovery(
    source: Arc<PageSource>,
    recovery: Recovery,
    permit: Permit,
    duration: metrics::Histogram,
) {
    if !recovery.awaited.is_awaited() {
        return;
    }
    let began = Instant::now();
    // What came before this in the trace was waiting for the permit.
    let replay = recovery
        .trace
        .step(|span| info_span!(target: TARGET, parent: span, "replay"));
    let recovering = source.recover(&recovery).instrument(replay.to_span());
    if let Err(fault) = recovering.await {
        recovery.worker.recovery_fault(recovery.to, fault);
    }
    duration.record(began.elapsed().as_secs_f64());
    drop(permit);
}
