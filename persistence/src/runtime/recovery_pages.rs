//! One recovery, permit in hand: where it begins, then page by page.
//!
//! Where it begins is read together with others (`recovery_queue.rs`), and for
//! most entities that is all. A stream that goes on is read by itself, through a
//! small lane of its own, so that huge streams do not hold up small ones. Each
//! page is checked for gaps, passes through the replay filter and goes to the
//! cell's worker; the next is read only when the cell has folded it in. So a
//! recovery holds one page in memory, however long the stream (I-10). What the
//! events mean is the cell's business. Next: `cell/recovering.rs`.

use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use crate::actor;
use crate::engine::EngineSettings;
use crate::journal::{Journal, JournalError, StoredEvent};
use crate::persistence_id::PersistenceId;
use crate::recovery_reader::composed::read_without_events;
use crate::recovery_reader::{Beginning, Wanted};
use crate::replay::Replay;
use crate::replay_filter::Issue;
use crate::sequence_nr::SequenceNr;
use crate::snapshot_store::{SnapshotCriteria, SnapshotStore};
use crate::storage::Storage;
use crate::trace::Trace;

use super::awaited_recovery::Awaited;
use super::cell::{PageVerdict, RecoveryPage};
use super::contained::contained;
use super::recovery_queue::{RecoveryQueue, not_in_time};
use super::worker::{Address, WorkerHandle};

/// Why a recovery did not come to its end.
#[derive(Debug, Clone)]
pub(crate) enum RecoveryFault {
    /// The journal cannot be read; the entity is not to blame.
    Unavailable(String),
    /// The stream is damaged.
    Damaged(String),
}

/// A recovery that an entity asked for.
pub(crate) struct Recovery {
    pub(crate) persistence_id: PersistenceId,
    pub(crate) plan: actor::Recovery,
    pub(crate) to: Address,
    pub(crate) worker: WorkerHandle,
    pub(crate) awaited: Awaited,
    /// A step of the command's that started the entity.
    pub(crate) trace: Trace,
}

/// What recoveries read from and are bounded by.
pub(crate) struct PageSource {
    queue: RecoveryQueue,
    /// The lane of those that do not fit in with others.
    lane: Semaphore,
    journal: Arc<dyn Journal>,
    snapshots: Arc<dyn SnapshotStore>,
    settings: Arc<EngineSettings>,
}

impl PageSource {
    /// Starts the tasks that read.
    pub(crate) fn start(
        storage: &Storage,
        settings: &Arc<EngineSettings>,
        tasks: &mut tokio::task::JoinSet<()>,
    ) -> Self {
        let queue = RecoveryQueue::default();
        queue.start(&storage.recoveries, settings.recovery_event_timeout, tasks);
        Self {
            queue,
            lane: Semaphore::new(storage.recoveries.concurrency().max(1)),
            journal: Arc::clone(&storage.journal),
            snapshots: Arc::clone(&storage.snapshots),
            settings: Arc::clone(settings),
        }
    }

    /// Recovers an entity. An error is for the cell; whatever else ends a recovery
    /// the cell knows.
    pub(crate) async fn recover(&self, recovery: &Recovery) -> Result<(), RecoveryFault> {
        let id = &recovery.persistence_id;
        let mut criteria = recovery.plan.snapshots();
        let mut refused = false;
        loop {
            let mut beginning = self.read_beginning(recovery, criteria).await?;
            beginning.forget_former_life();
            let (nr, bounds) = (beginning.snapshot_nr(), beginning.bounds);
            if refused && nr.max(bounds.tombstone) < bounds.deleted_to {
                return Err(damaged(format_args!(
                    "{id}: no snapshot is understood that stands for the deleted events up to {}: restore the \
                     code that reads it",
                    bounds.deleted_to
                )));
            }
            match self.send_pages(recovery, beginning).await {
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

    async fn read_beginning(
        &self,
        recovery: &Recovery,
        criteria: Option<SnapshotCriteria>,
    ) -> Result<Beginning, RecoveryFault> {
        let id = &recovery.persistence_id;
        let snapshot_max = criteria.map_or(SequenceNr::ZERO, |wanted| wanted.max_sequence_nr);
        if let Some(criteria) = criteria
            && criteria != SnapshotCriteria::up_to(snapshot_max)
        {
            // Rare: a snapshot from a time, or not below a number.
            return self.step(self.in_lane(self.read_alone(id, criteria))).await;
        }
        let wanted = Wanted {
            persistence_id: id.clone(),
            snapshot_max,
        };
        let limit = self.settings.recovery_event_timeout;
        let awaited = recovery.awaited.clone();
        let read = self.queue.read(wanted.clone(), awaited, limit).await;
        if let Some(beginning) = read.map_err(fault)? {
            return Ok(beginning);
        }
        let alone = read_without_events(&*self.journal, &*self.snapshots, &wanted);
        self.step(self.in_lane(alone)).await
    }

    async fn read_alone(
        &self,
        id: &PersistenceId,
        criteria: SnapshotCriteria,
    ) -> Result<Beginning, JournalError> {
        // In this order: what is deleted in between is replaced by a newer snapshot
        // before.
        let bounds = self.journal.bounds(id).await?;
        let snapshot = self.snapshots.load(id, criteria).await?;
        Ok(Beginning {
            bounds,
            snapshot,
            events: Vec::new(),
        })
    }

    /// Sends the snapshot and all events after it, page by page.
    async fn send_pages(
        &self,
        recovery: &Recovery,
        beginning: Beginning,
    ) -> Result<PageVerdict, RecoveryFault> {
        let id = &recovery.persistence_id;
        let (nr, bounds) = (beginning.snapshot_nr(), beginning.bounds);
        let settings = self.settings.replay_filter;
        let to = recovery
            .plan
            .replay_to(nr.max(bounds.deleted_to), bounds.highest);
        let mut replay = Replay::new(id, nr, bounds, to, settings).map_err(damaged)?;
        let mut snapshot = beginning.snapshot;
        // None at the beginning does not mean that there are none.
        let mut events = beginning.events;
        events.retain(|event| event.sequence_nr <= to);
        let mut read = Some(events).filter(|events| !events.is_empty());
        loop {
            let stored = match read.take() {
                Some(events) => events,
                None => self.read_next_page(&replay).await?,
            };
            let mut issues = Vec::new();
            let events = replay.take_page(stored, &mut issues);
            count(id, &issues);
            if events.is_ok() {
                warn(&issues);
            }
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

    async fn read_next_page(&self, replay: &Replay) -> Result<Vec<StoredEvent>, RecoveryFault> {
        match replay.next_page() {
            Some(range) => {
                self.step(self.in_lane(self.journal.read_events(&range)))
                    .await
            }
            None => Ok(Vec::new()),
        }
    }

    /// Waits for its turn in the lane of those that are read by themselves.
    async fn in_lane<T>(
        &self,
        work: impl Future<Output = Result<T, JournalError>>,
    ) -> Result<T, JournalError> {
        // The lane is never closed.
        let _turn = self.lane.acquire().await;
        work.await
    }

    /// One step of a recovery that is read by itself, bounded in time. The clock starts here, with the
    /// permit in hand: waiting for the permit is not counted, waiting to be read is.
    async fn step<T>(
        &self,
        work: impl Future<Output = Result<T, JournalError>>,
    ) -> Result<T, RecoveryFault> {
        let limit = self.settings.recovery_event_timeout;
        let done = timeout(limit, contained(work)).await;
        done.unwrap_or_else(|_| Err(not_in_time(limit)))
            .map_err(fault)
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

fn fault(error: JournalError) -> RecoveryFault {
    match error {
        JournalError::Corrupt { .. } => RecoveryFault::Damaged(error.to_string()),
        error => RecoveryFault::Unavailable(error.to_string()),
    }
}

fn damaged(what: impl std::fmt::Display) -> RecoveryFault {
    RecoveryFault::Damaged(what.to_string())
}

fn count(id: &PersistenceId, issues: &[Issue]) {
    if !issues.is_empty() {
        let entity_type = id.entity_type().to_owned();
        metrics::counter!("perennial_replay_filter_issues_total", "entity_type" => entity_type)
            .increment(issues.len() as u64);
    }
}

/// One log record for each thing found wrong with a stream. What fails a recovery is
/// not among them: that is logged as the error which it is.
fn warn(issues: &[Issue]) {
    for issue in issues {
        tracing::warn!(entity = %issue.persistence_id, "{issue}");
    }
}
