//! Recovers entities: permits first come first served, then snapshot and events
//! in pages.
//!
//! The driver owns the permits, not the entities, so that none leaks whatever
//! ends when (I-11). Each granted recovery is a task; it checks the stream for
//! gaps, passes it through the replay filter and sends pages to the cell's
//! worker, the next only when the cell has folded in the one before. What the
//! events mean is the cell's business. Next: `cell/recovering.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::actor;
use crate::engine::EngineSettings;
use crate::journal::{Journal, JournalError, StreamBounds};
use crate::persistence_id::PersistenceId;
use crate::recovery_permits::{Admission, RecoveryPermits};
use crate::replay::Replay;
use crate::replay_filter::Issue;
use crate::sequence_nr::SequenceNr;
use crate::snapshot_store::{Snapshot, SnapshotCriteria, SnapshotStore};
use crate::storage::Storage;

use super::cell::{PageVerdict, RecoveryPage};
use super::contained::contained;
use super::worker::{Address, WorkerHandle};

/// Why a recovery did not come to its end.
#[derive(Debug, Clone)]
pub(crate) enum RecoveryFault {
    /// The journal cannot be read; the entity is not to blame.
    Unavailable(String),
    /// The stream is damaged.
    Damaged(String),
}

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

/// A recovery that an entity asked for.
struct Recovery {
    persistence_id: PersistenceId,
    plan: actor::Recovery,
    to: Address,
    worker: WorkerHandle,
}

/// What a recovery reads from and is bounded by.
struct Source {
    journal: Arc<dyn Journal>,
    snapshots: Arc<dyn SnapshotStore>,
    settings: Arc<EngineSettings>,
}

impl RecoveryDriver {
    pub(crate) fn start(
        storage: &Storage,
        settings: &Arc<EngineSettings>,
        tasks: &mut tokio::task::JoinSet<()>,
    ) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "bounded by the entities in memory: each waits for at most one recovery"
        )]
        let (events, inbox) = mpsc::unbounded_channel();
        let source = Arc::new(Source {
            journal: Arc::clone(&storage.journal),
            snapshots: Arc::clone(&storage.snapshots),
            settings: Arc::clone(settings),
        });
        tasks.spawn(grant_permits(source, inbox, events.downgrade()));
        Self { events }
    }

    /// Queues a recovery; its pages go to `to`.
    pub(crate) fn request(
        &self,
        persistence_id: PersistenceId,
        plan: actor::Recovery,
        worker: WorkerHandle,
        to: Address,
    ) {
        // The driver ends only when the engine has stopped.
        let _ = self.events.send(DriverEvent::Requested(Recovery {
            persistence_id,
            plan,
            to,
            worker,
        }));
    }
}

async fn grant_permits(
    source: Arc<Source>,
    mut inbox: mpsc::UnboundedReceiver<DriverEvent>,
    events: mpsc::WeakUnboundedSender<DriverEvent>,
) {
    let running = metrics::gauge!("perennial_recoveries_running");
    let waiting = metrics::gauge!("perennial_recoveries_waiting");
    let mut permits = RecoveryPermits::new(source.settings.max_concurrent_recoveries);
    let mut queued = std::collections::HashMap::new();
    let mut last_ticket: u64 = 0;
    let start = |recovery: Recovery, ticket: u64| {
        let permit = Permit {
            ticket,
            events: events.clone(),
        };
        tokio::spawn(run_recovery(Arc::clone(&source), recovery, permit));
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

async fn run_recovery(source: Arc<Source>, recovery: Recovery, permit: Permit) {
    let began = Instant::now();
    if let Err(fault) = source.recover(&recovery).await {
        recovery.worker.recovery_fault(recovery.to, fault);
    }
    metrics::histogram!("perennial_recovery_duration_seconds")
        .record(began.elapsed().as_secs_f64());
    drop(permit);
}

impl Source {
    async fn recover(&self, recovery: &Recovery) -> Result<(), RecoveryFault> {
        let id = &recovery.persistence_id;
        let mut criteria = recovery.plan.snapshots();
        let mut refused = false;
        loop {
            let (bounds, mut snapshot) = self
                .step(async {
                    futures::try_join!(self.journal.bounds(id), self.load_snapshot(id, criteria))
                })
                .await?;
            if number(snapshot.as_ref()) < bounds.deleted_to {
                // They were read side by side. What was deleted in between was
                // replaced by a newer snapshot before, so now it is found.
                snapshot = self.step(self.load_snapshot(id, criteria)).await?;
            }
            let nr = number(snapshot.as_ref());
            if refused && nr < bounds.deleted_to {
                return Err(damaged(format_args!(
                    "{id}: no snapshot is understood that stands for the deleted events up to {}: restore the \
                     code that reads it",
                    bounds.deleted_to
                )));
            }
            match self.send_pages(recovery, bounds, snapshot).await {
                Ok(PageVerdict::SnapshotRefused) => {
                    refused = true;
                    if let Some(criteria) = &mut criteria {
                        criteria.max_sequence_nr = nr.previous();
                    }
                }
                Ok(PageVerdict::Taken | PageVerdict::Over) => return Ok(()),
                Err(RecoveryFault::Damaged(what))
                    if self.step(self.journal.bounds(id)).await? != bounds =>
                {
                    return Err(RecoveryFault::Unavailable(format!(
                        "the stream changed while it was read ({what})"
                    )));
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    async fn load_snapshot(
        &self,
        id: &PersistenceId,
        criteria: Option<SnapshotCriteria>,
    ) -> Result<Option<Snapshot>, JournalError> {
        match criteria {
            Some(criteria) => self.snapshots.load(id, criteria).await,
            None => Ok(None),
        }
    }

    /// Sends a snapshot and the events after it, page by page.
    async fn send_pages(
        &self,
        recovery: &Recovery,
        bounds: StreamBounds,
        mut snapshot: Option<Snapshot>,
    ) -> Result<PageVerdict, RecoveryFault> {
        let id = &recovery.persistence_id;
        let settings = self.settings.replay_filter;
        let nr = number(snapshot.as_ref());
        let to = recovery
            .plan
            .replay_to(nr.max(bounds.deleted_to), bounds.highest);
        let mut replay = Replay::new(id, nr, bounds, to, settings).map_err(damaged)?;
        loop {
            let stored = match replay.next_page() {
                Some(range) => self.step(self.journal.read_events(&range)).await?,
                None => Vec::new(),
            };
            let mut issues = Vec::new();
            let events = replay.take_page(stored, &mut issues);
            report(id, &issues);
            let page = RecoveryPage {
                snapshot: snapshot.take(),
                events: events.map_err(damaged)?,
                discarded: !issues.is_empty(),
                end: replay.is_over().then_some(bounds),
            };
            match recovery.send(page).await {
                PageVerdict::Taken => {}
                verdict => return Ok(verdict),
            }
        }
    }

    /// One step of a recovery, bounded in time. The clock starts here, with the
    /// permit in hand: waiting for it is not counted.
    async fn step<T>(
        &self,
        work: impl Future<Output = Result<T, JournalError>>,
    ) -> Result<T, RecoveryFault> {
        let limit: Duration = self.settings.recovery_event_timeout;
        match timeout(limit, contained(work)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error @ JournalError::Corrupt { .. })) => {
                Err(RecoveryFault::Damaged(error.to_string()))
            }
            Ok(Err(error)) => Err(RecoveryFault::Unavailable(error.to_string())),
            Err(_) => Err(RecoveryFault::Unavailable(format!(
                "nothing was read for {limit:?}, which is persistence.recovery_event_timeout"
            ))),
        }
    }
}

impl Recovery {
    /// Sends a page and waits for what the cell says to it. A cell that is gone
    /// needs no more.
    async fn send(&self, page: RecoveryPage) -> PageVerdict {
        let (verdict, answer) = oneshot::channel();
        self.worker.recovery_page(self.to, page, verdict);
        answer.await.unwrap_or(PageVerdict::Over)
    }
}

/// Up to where a snapshot replaces the events.
fn number(snapshot: Option<&Snapshot>) -> SequenceNr {
    snapshot.map_or(SequenceNr::ZERO, |snapshot| snapshot.sequence_nr)
}

fn damaged(what: impl std::fmt::Display) -> RecoveryFault {
    RecoveryFault::Damaged(what.to_string())
}

/// One log record for each thing found wrong with a stream, and a count.
fn report(id: &PersistenceId, issues: &[Issue]) {
    for issue in issues {
        let entity_type = id.entity_type().to_owned();
        metrics::counter!("perennial_replay_filter_issues_total", "entity_type" => entity_type)
            .increment(1);
        tracing::warn!(entity = %id, "{issue}");
    }
}
