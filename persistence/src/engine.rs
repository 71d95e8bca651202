//! The entity engine: the handle by which the rest of a node reaches entities.

use std::time::Duration;

use crate::command::{Answer, Envelope};
use crate::command_error::CommandError;
use crate::entity_types::EntityTypes;
use crate::persistence_id::PersistenceId;
use crate::replay_filter::ReplayFilterSettings;
use crate::sequence_nr::SequenceNr;
use crate::storage::Storage;
use crate::writer::{SessionUuid, ShardNr};

/// Limits and times of the engine. The defaults are those of the settings table
/// in the README.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Tasks that run entities; a shard always belongs to the same one.
    pub workers: usize,
    /// Entities recovering at once (promise I-11).
    pub max_concurrent_recoveries: usize,
    /// How each recovery may wait for its next rows, from the grant of the permit.
    pub recovery_event_timeout: Duration,
    /// What is done about streams with two authors.
    pub replay_filter: ReplayFilterSettings,
    /// Commands that may wait for one entity.
    pub stash_capacity: usize,
    /// First and longest back-off after a failure, and its random share.
    pub backoff_min: Duration,
    /// See `backoff_min`.
    pub backoff_max: Duration,
    /// See `backoff_min`.
    pub backoff_random_factor: f64,
    /// A snapshot after every so many events; 0 for none.
    pub snapshot_every: u64,
    /// Snapshots kept.
    pub snapshot_keep: u64,
    /// How long an append may be undecided.
    pub append_timeout: Duration,
    /// An entity without a command for so long leaves memory.
    pub idle_timeout: Duration,
    /// Entities of the node in memory; beyond it the least recently used leave.
    pub active_entity_limit: usize,
    /// Largest event, reply and state, in bytes.
    pub max_payload: usize,
    /// Requests waiting for a worker.
    pub queue_capacity: usize,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            max_concurrent_recoveries: 50,
            recovery_event_timeout: Duration::from_secs(30),
            replay_filter: ReplayFilterSettings::default(),
            stash_capacity: 4096,
            backoff_min: Duration::from_secs(3),
            backoff_max: Duration::from_secs(30),
            backoff_random_factor: 0.2,
            snapshot_every: 100,
            snapshot_keep: 2,
            append_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            active_entity_limit: 100_000,
            max_payload: 1024 * 1024,
            queue_capacity: 20_000,
        }
    }
}

/// What an entity is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityDescription {
    /// Where it is in its life.
    pub state: EntityState,
    /// Its number, as far as known in memory; 0 while passive.
    pub sequence_nr: SequenceNr,
    /// Commands that wait.
    pub queued: usize,
    /// What it waits for, in words; empty when for nothing.
    pub waiting_for: &'static str,
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

/// The engine's handle; cheap to clone.
#[derive(Clone)]
pub struct EntityEngine {}

impl EntityEngine {
    /// Starts workers, journal lanes and the recovery driver. Needs a tokio
    /// runtime. `session` must have been begun with the storage's registry, so
    /// that earlier sessions of this node are fenced.
    #[must_use]
    pub fn start(
        _types: EntityTypes,
        _storage: Storage,
        _session: SessionUuid,
        _settings: EngineSettings,
    ) -> Self {
        Self {}
    }

    /// Hands a request to its entity. Never waits; always answers.
    pub fn deliver(&self, envelope: Envelope) {
        let error = CommandError::ShardUnavailable {
            shard: envelope.shard.0,
        };
        envelope.reply_to.answer(Err(error));
    }

    /// The state at a past number, computed from snapshot and events without
    /// touching the live entity.
    pub async fn state_at(&self, _persistence_id: &PersistenceId, _nr: SequenceNr) -> Answer {
        Err(CommandError::ShardUnavailable { shard: 0 })
    }

    /// What an entity is doing.
    pub async fn describe(&self, _shard: ShardNr, _persistence_id: &PersistenceId) -> EntityDescription {
        EntityDescription {
            state: EntityState::Passive,
            sequence_nr: SequenceNr::ZERO,
            queued: 0,
            waiting_for: "",
        }
    }

    /// Asks an entity to leave memory; returns when it has, or was not there.
    pub async fn passivate(&self, _shard: ShardNr, _persistence_id: &PersistenceId) {}

    /// Entities in memory.
    #[must_use]
    pub fn live_entities(&self) -> usize {
        0
    }

    /// Finishes what is accepted, refuses what is new, ends all tasks.
    pub async fn stop(&self) {}
}
