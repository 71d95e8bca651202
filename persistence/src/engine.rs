//! The entity engine: the handle by which the rest of a node reaches entities.
//!
//! It knows shards as numbers and nothing of who owns them. Each shard belongs to
//! one worker for good. Next: `runtime/worker.rs`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinSet;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::command::{Answer, Envelope};
use crate::command_error::CommandError;
use crate::durable_state::routing::route;
use crate::entity_types::EntityTypes;
use crate::handing_back::{EngineHooks, HandBackReason, HandedBack, TakeBack};
use crate::persistence_id::PersistenceId;
use crate::publication::{Publication, Subscription};
use crate::runtime::confirmations::Confirmations;
use crate::runtime::entity_deletion::EntityDeleter;
use crate::runtime::group_commit::GroupCommit;
use crate::runtime::guarded_journal::{GuardedJournal, GuardedRecoveries};
use crate::runtime::recovery_driver::RecoveryDriver;
use crate::runtime::residency::Residency;
use crate::runtime::snapshot_writer::SnapshotWriter;
use crate::runtime::stash_budget::StashBudget;
use crate::runtime::worker::{DeleteRequest, IdleTimeouts, Worker, WorkerHandle};
use crate::sequence_nr::SequenceNr;
use crate::storage::Storage;
use crate::writer::{Epoch, SessionUuid, ShardNr};

mod fence_watch;
mod figures;
mod past_state;
mod settings;

use fence_watch::FenceWatch;
pub use figures::EngineFigures;
pub(crate) use figures::Tally;
pub use settings::{EngineSettings, StashOverflow};

/// What an entity is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityDescription {
    /// Where it is in its life.
    pub state: EntityState,
    /// Its highest stored number, as far as known in memory; 0 while passive.
    pub sequence_nr: SequenceNr,
    /// Commands that wait.
    pub queued: usize,
    /// What it waits for, in words; empty when for nothing.
    pub waiting_for: Cow<'static, str>,
}

/// Where an entity is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntityState {
    /// Not in memory.
    Passive,
    /// Waiting for a permit, or reading its snapshot and events.
    Recovering,
    /// In memory and ready.
    Live,
    /// Finishing what it accepted, to leave memory after it.
    Passivating,
    /// Failed lately; not started before the back-off ends.
    BackingOff,
}

/// What the workers of an engine share.
pub(crate) struct Shared {
    pub(crate) types: EntityTypes,
    pub(crate) settings: Arc<EngineSettings>,
    pub(crate) session: SessionUuid,
    /// Its journal is behind the circuit breaker.
    pub(crate) storage: Storage,
    journal_open: Arc<AtomicBool>,
    pub(crate) residency: Residency,
    pub(crate) stash_budget: StashBudget,
    pub(crate) commit: GroupCommit,
    pub(crate) recoveries: RecoveryDriver,
    pub(crate) snapshots: SnapshotWriter,
    pub(crate) confirmations: Confirmations,
    take_back: TakeBack,
    pub(crate) deleter: EntityDeleter,
    publication: Publication,
    tally: Arc<Tally>,
    workers: Arc<[WorkerHandle]>,
    fence: FenceWatch,
}

impl Shared {
    pub(crate) fn workers(&self) -> &[WorkerHandle] {
        &self.workers
    }

    /// Whether the circuit breaker keeps calls from the journal.
    pub(crate) fn is_journal_out_of_reach(&self) -> bool {
        self.journal_open.load(Ordering::Relaxed)
    }

    /// The journal refused a write: of the shard, or of the whole session?
    pub(crate) fn suspect_fence(&self) {
        self.fence.suspect(&self.storage.journal, self.session);
    }

    /// Gives requests of an entity back.
    pub(crate) fn hand_back(&self, reason: HandBackReason, envelopes: Vec<Envelope>) {
        (self.take_back)(HandedBack { reason, envelopes });
    }
}

/// The engine's handle; cheap to clone.
#[derive(Clone)]
pub struct EntityEngine {
    shared: Arc<Shared>,
    tasks: Arc<Mutex<EngineTasks>>,
}

#[derive(Default)]
struct EngineTasks {
    workers: JoinSet<()>,
    /// Lanes and the recovery driver; needed until the last worker has ended.
    services: JoinSet<()>,
}

/// A shard whose entities are leaving memory.
#[derive(Debug)]
pub struct ShardStop {
    /// Which.
    pub shard: ShardNr,
    /// Told by dropping.
    all_left: oneshot::Receiver<()>,
}

impl ShardStop {
    /// Returns when they have left. Safe to cancel.
    pub async fn all_left(&mut self) {
        let _ = (&mut self.all_left).await;
    }
}

impl EntityEngine {
    /// Starts workers, journal lanes and the recovery driver. Needs a tokio
    /// runtime. `session` must have been begun with the storage's registry, so
    /// that earlier sessions of this node are fenced (I-2).
    #[must_use]
    pub fn start(
        types: EntityTypes,
        storage: Storage,
        session: SessionUuid,
        settings: EngineSettings,
    ) -> Self {
        Self::start_in_cluster(types, storage, session, settings, EngineHooks::default())
    }

    /// As [`EntityEngine::start`], where shards move between nodes.
    #[must_use]
    pub fn start_in_cluster(
        types: EntityTypes,
        storage: Storage,
        session: SessionUuid,
        settings: EngineSettings,
        hooks: EngineHooks,
    ) -> Self {
        let settings = Arc::new(settings);
        let count = settings.workers.max(1);
        let (workers, queues): (Vec<_>, Vec<_>) = (0..count)
            .map(|_| WorkerHandle::new(settings.queue_capacity.max(1)))
            .unzip();
        let workers: Arc<[WorkerHandle]> = workers.into();
        let mut tasks = EngineTasks::default();
        let random = |stream: u64| match settings.seed {
            // Each session draws its own, whatever the seed: a writer drawn twice
            // looks like one that was replaced long ago, and the replay filter
            // discards what it wrote.
            Some(seed) => StdRng::seed_from_u64(xxh3_64_with_seed(
                session.0.as_bytes(),
                seed.wrapping_add(stream),
            )),
            None => StdRng::from_os_rng(),
        };
        let storage = route(storage, types.durable());
        let journal = Arc::new(GuardedJournal::new(
            storage.journal,
            settings.circuit_breaker,
            random(count as u64),
        ));
        let journal_open = journal.is_open();
        tasks.services.spawn(Arc::clone(&journal).probe());
        let recoveries = Arc::new(GuardedRecoveries {
            inner: storage.recoveries,
            journal: Arc::clone(&journal),
        });
        let storage = Storage {
            journal,
            recoveries,
            ..storage
        };
        let tally = Arc::new(Tally::default());
        let commit = GroupCommit::new(storage.journal.lanes(), Arc::clone(&tally));
        let publication = Publication::new(settings.publication_capacity);
        commit.start(
            &storage.journal,
            session,
            &publication,
            &workers,
            &mut tasks.services,
        );
        let recoveries = RecoveryDriver::start(&storage, &settings, &tally, &mut tasks.services);
        let snapshots = SnapshotWriter::new(&storage);
        let timeouts = IdleTimeouts {
            default: settings.idle_timeout,
            by_type: settings.idle_timeouts.clone(),
        };
        let confirmations = Confirmations::new(hooks.read_guard);
        confirmations.start(&storage.journal, session, &mut tasks.services);
        let deleter = EntityDeleter::new(&storage, &snapshots);
        let shared = Arc::new(Shared {
            types,
            session,
            storage,
            journal_open,
            residency: Residency::new(settings.active_entity_limit, timeouts, count),
            stash_budget: StashBudget::new(settings.stash_total),
            commit,
            recoveries,
            snapshots,
            confirmations,
            take_back: hooks.take_back,
            deleter,
            publication,
            tally,
            workers,
            fence: FenceWatch::default(),
            settings: Arc::clone(&settings),
        });
        for (number, queues) in queues.into_iter().enumerate() {
            let random = random(number as u64);
            let worker = Worker::new(number, Arc::clone(&shared), random);
            tasks.workers.spawn(worker.run(queues));
        }
        Self {
            shared,
            tasks: Arc::new(Mutex::new(tasks)),
        }
    }

    /// Hands a request to its entity. Never waits; always answers (I-8).
    pub fn deliver(&self, envelope: Envelope) {
        self.worker(envelope.shard).deliver(envelope);
    }

    /// As [`EntityEngine::deliver`]; gives the request back if there is no room for it
    /// now, or the engine is stopping.
    ///
    /// # Errors
    /// The request itself: try again later.
    #[expect(clippy::result_large_err, reason = "it is handed on, not reported")]
    pub fn offer(&self, envelope: Envelope) -> Result<(), Envelope> {
        self.worker(envelope.shard).offer(envelope)
    }

    /// Takes the entities of shards out of memory. Call it when nothing is delivered
    /// to them any more. What they have stored or are storing is finished and
    /// answered; what waits is handed back to [`EngineHooks::take_back`]. Work that an
    /// entity runs outside is waited for, at most for `limit`, then the command that
    /// waits for it is handed back too.
    ///
    /// Returns for each shard a future that ends when its entities have left. Only an
    /// append whose outcome is not known keeps one for longer than `limit`.
    ///
    /// Safe to cancel; the shards stop all the same, or have not begun to.
    pub async fn stop_shards(&self, shards: &[ShardNr], limit: Duration) -> Vec<ShardStop> {
        let workers = self.shared.workers();
        let mut of_worker: Vec<Vec<_>> = workers.iter().map(|_| Vec::new()).collect();
        let mut stops = Vec::with_capacity(shards.len());
        for &shard in shards {
            let (left, all_left) = oneshot::channel();
            of_worker[shard.0 as usize % workers.len()].push((shard, left));
            stops.push(ShardStop { shard, all_left });
        }
        for (worker, shards) in workers.iter().zip(of_worker) {
            if !shards.is_empty() {
                worker.stop_shards(shards, limit).await;
            }
        }
        stops
    }

    /// The state at a past number, computed from snapshot and events without
    /// touching the live entity. Not bounded by recovery permits: the caller
    /// bounds how many it asks for at once.
    ///
    /// # Errors
    /// [`SequenceNrBeyondStream`](crate::command_error::CommandError::SequenceNrBeyondStream),
    /// [`HistoryDeleted`](crate::command_error::CommandError::HistoryDeleted), and those of a
    /// recovery.
    pub async fn state_at(&self, persistence_id: &PersistenceId, nr: SequenceNr) -> Answer {
        past_state::state_at(&self.shared, persistence_id, nr).await
    }

    /// What an entity is doing.
    pub async fn describe(
        &self,
        shard: ShardNr,
        persistence_id: &PersistenceId,
    ) -> EntityDescription {
        let described = self.worker(shard).describe(persistence_id.clone()).await;
        described.unwrap_or(EntityDescription {
            state: EntityState::Passive,
            sequence_nr: SequenceNr::ZERO,
            queued: 0,
            waiting_for: Cow::Borrowed(""),
        })
    }

    /// Asks an entity to leave memory; returns when it has, or was not there. One that
    /// failed is started by its next command, whatever was left of its back-off.
    /// Commands that arrive meanwhile are kept and bring it back.
    pub async fn passivate(&self, shard: ShardNr, persistence_id: &PersistenceId) {
        self.worker(shard).passivate(persistence_id.clone()).await;
    }

    /// Deletes an entity for good: its events, its snapshots, and what is remembered
    /// of its commands. Returns its highest number, which is kept: its next life
    /// begins there, in its initial state; zero for one that never stored anything.
    ///
    /// In order with its commands: what it had accepted is finished before, what
    /// arrives meanwhile is for the next life. An entity that is not in memory,
    /// fails or backs off is deleted as well. Deleting again is the same as deleting
    /// once. Safe to cancel: the deletion goes on.
    ///
    /// # Errors
    /// [`CommandError::JournalUnavailable`] and [`CommandError::ShardUnavailable`]:
    /// nothing is deleted. [`CommandError::DeletionUnfinished`]: ask again until it
    /// is; the entity is as it was, or begins anew with rows of it left.
    pub async fn delete(
        &self,
        shard: ShardNr,
        epoch: Epoch,
        persistence_id: &PersistenceId,
    ) -> Result<SequenceNr, CommandError> {
        let entity_type = persistence_id.entity_type();
        if self.shared.types.get(entity_type).is_none() {
            let entity_type = entity_type.to_owned();
            return Err(CommandError::EntityTypeUnknown { entity_type });
        }
        let persistence_id = persistence_id.clone();
        let request = |done| DeleteRequest {
            persistence_id,
            shard,
            epoch,
            done,
        };
        let deleted = self.worker(shard).delete(request).await;
        let shard = shard.0;
        deleted.unwrap_or(Err(CommandError::ShardUnavailable { shard }))
    }

    /// Events of all entities of this engine, as they are stored from now on.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        self.shared.publication.subscribe()
    }

    /// Entities in memory.
    #[must_use]
    pub fn live_entities(&self) -> usize {
        self.shared.residency.live()
    }

    /// What it counts about itself.
    #[must_use]
    pub fn figures(&self) -> EngineFigures {
        let shared = &self.shared;
        EngineFigures {
            live_entities: shared.residency.live(),
            events_stored: shared.tally.events_stored(),
            commands_waiting: shared.stash_budget.kept(),
            recoveries_running: shared.tally.recoveries_running(),
            recoveries_waiting: shared.tally.recoveries_waiting(),
            recoveries_max: shared.settings.max_concurrent_recoveries,
            journal_out_of_reach: shared.is_journal_out_of_reach(),
        }
    }

    /// From now on so many entities of the node stay in memory. If there are more, the
    /// least recently used leave, a thousand from each worker in a tenth of a second.
    pub fn set_active_entity_limit(&self, limit: usize) {
        self.shared.residency.set_limit(limit);
    }

    /// From now on an entity without a request for so long leaves memory, in general
    /// and for entity types that differ. Time that has passed counts.
    pub fn set_idle_timeouts(&self, default: Duration, by_type: BTreeMap<String, Duration>) {
        let timeouts = IdleTimeouts { default, by_type };
        self.shared.residency.set_timeouts(timeouts);
        for worker in self.shared.workers() {
            worker.idle_timeouts_changed();
        }
    }

    /// Returns when the journal has refused a write because this node's session
    /// is fenced: another process has taken its place, and this one must stop or
    /// rejoin with a new session. Safe to cancel.
    pub async fn fenced(&self) {
        self.shared.fence.fenced().await;
    }

    /// The session under which it writes.
    #[must_use]
    pub fn session(&self) -> SessionUuid {
        self.shared.session
    }

    /// Finishes what entities have accepted, refuses what is new with
    /// SHARD_UNAVAILABLE, and returns when all is answered and no task is left.
    /// Safe to cancel, and to call again: the engine goes on stopping.
    pub async fn stop(&self) {
        for worker in self.shared.workers() {
            worker.stop();
        }
        let mut tasks = self.tasks.lock().await;
        while let Some(ended) = tasks.workers.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a worker failed; what its entities had accepted is not answered");
            }
        }
        self.shared.snapshots.finished().await;
        self.shared.confirmations.finished().await;
        tasks.services.shutdown().await;
    }

    fn worker(&self, shard: ShardNr) -> &WorkerHandle {
        let workers = self.shared.workers();
        &workers[shard.0 as usize % workers.len()]
    }
}
