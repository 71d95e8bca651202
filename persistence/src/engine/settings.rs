//! The limits and times of an engine, with their defaults. What they limit is decided
//! where it happens; how they are written in a file is the business of whoever starts
//! the engine.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::backoff::BackoffSettings;
use crate::circuit_breaker::CircuitBreakerSettings;
use crate::recovery_permits::MAX_CONCURRENT_RECOVERIES_DEFAULT;
use crate::replay_filter::ReplayFilterSettings;
use crate::retention::RetentionSettings;

/// Limits and times of the engine. The defaults are those of the settings table
/// in the README.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Tasks that run entities; a shard always belongs to the same one.
    pub workers: usize,
    /// Entities recovering at once (promise I-11).
    pub max_concurrent_recoveries: usize,
    /// How long each step of a recovery may take, from the grant of the permit, and
    /// each look-up of command ids.
    pub recovery_event_timeout: Duration,
    /// What is done about streams with two authors.
    pub replay_filter: ReplayFilterSettings,
    /// Commands that may wait for one entity, those it has put aside included. Beyond
    /// it the next one is let in all the same if none waits to be handled: it may be the
    /// one that brings back what was put aside.
    pub stash_capacity: usize,
    /// Commands that may wait for all entities together; further ones are answered
    /// STASH_FULL. An entity in memory for which none waits still gets its next one.
    pub stash_total: usize,
    /// What becomes of a command beyond `stash_capacity`.
    pub stash_overflow: StashOverflow,
    /// How long an entity stays down after it failed for a reason of its own.
    pub backoff: BackoffSettings,
    /// When the journal is spared because it fails.
    pub circuit_breaker: CircuitBreakerSettings,
    /// When snapshots are taken, and how many are kept.
    pub retention: RetentionSettings,
    /// An entity without a request for so long leaves memory.
    pub idle_timeout: Duration,
    /// The same for entity types that differ from the others.
    pub idle_timeouts: BTreeMap<String, Duration>,
    /// Entities of the node in memory; beyond it the least recently used leave.
    pub active_entity_limit: usize,
    /// Largest event, reply and state, in bytes.
    pub max_payload: usize,
    /// Requests waiting for one worker.
    pub queue_capacity: usize,
    /// Stored events kept for subscribers that lag behind.
    pub publication_capacity: usize,
    /// Seeds writer uuids (together with the session) and back-off; `None` draws
    /// from the operating system.
    pub seed: Option<u64>,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            max_concurrent_recoveries: MAX_CONCURRENT_RECOVERIES_DEFAULT,
            recovery_event_timeout: Duration::from_secs(30),
            replay_filter: ReplayFilterSettings::default(),
            stash_capacity: 4096,
            stash_total: 1_000_000,
            stash_overflow: StashOverflow::Reply,
            backoff: BackoffSettings::default(),
            circuit_breaker: CircuitBreakerSettings::default(),
            retention: RetentionSettings::default(),
            idle_timeout: Duration::from_secs(120),
            idle_timeouts: BTreeMap::new(),
            active_entity_limit: 100_000,
            max_payload: 1024 * 1024,
            queue_capacity: 20_000,
            publication_capacity: 4096,
            seed: None,
        }
    }
}

/// What becomes of a command for which an entity has no room
/// (`persistence.stash_overflow`). It is answered in any case (I-8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StashOverflow {
    /// It is answered STASH_FULL.
    #[default]
    Reply,
    /// It is answered STASH_FULL, and the entity fails when what it has handled is
    /// stored: what waits is refused, and it starts over when its back-off ends.
    Fail,
    /// It is answered OVERLOADED, with a warning in the log.
    Drop,
}
