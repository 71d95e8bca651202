//! What a run is made of, besides its faults: drawn from the seed.

use std::time::Duration;

use perennial::config::Reads;
use perennial_persistence::backoff::BackoffSettings;
use perennial_persistence::circuit_breaker::CircuitBreakerSettings;
use perennial_persistence::delivery::RedeliverySettings;
use perennial_persistence::engine::EngineSettings;
use perennial_persistence::retention::RetentionSettings;
use perennial_sharding::coordinator::CoordinatorSettings;
use perennial_sharding::failure_detector::DetectorSettings;
use perennial_sharding::leader::LeaderSettings;
use perennial_sharding::lease::LivenessTimes;
use perennial_sharding::raft::RaftSettings;
use perennial_sharding::region::RegionSettings;
use rand::Rng;
use rand::rngs::StdRng;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Entities of a node that recover at once.
pub(crate) const RECOVERIES_MAX: usize = 2;

/// What a run is made of, besides its faults. Times are shorter than the product's
/// defaults, in about the same proportion, so that more happens in a run.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) machines: u32,
    /// That anybody writes to.
    pub(crate) entities: usize,
    /// That one client each writes to.
    pub(crate) lone_entities: usize,
    /// Between which money moves.
    pub(crate) purses: usize,
    pub(crate) number_of_shards: u32,
    pub(crate) reads: Reads,
    pub(crate) raft: RaftSettings,
    pub(crate) times: LivenessTimes,
    pub(crate) leader: LeaderSettings,
    pub(crate) region: RegionSettings,
    /// Clocks go faster or slower by at most this share.
    pub(crate) drift: f64,
}

impl Settings {
    pub(crate) fn draw(chance: &mut StdRng) -> Self {
        let number_of_shards = 6;
        let reads = match chance.random_ratio(1, 4) {
            true => Reads::Journal,
            false => Reads::Lease,
        };
        let (lease, down_after) = (ms(500), ms(600));
        // They fit together: a test says so.
        let times = LivenessTimes::new(ms(100), lease, down_after)
            .unwrap_or_else(|error| unreachable!("{error}"));
        let handoff_timeout = ms(800);
        Self {
            machines: if chance.random_ratio(1, 4) { 4 } else { 3 },
            entities: 5,
            lone_entities: 3,
            purses: if chance.random_ratio(1, 2) { 3 } else { 0 },
            number_of_shards,
            reads,
            raft: RaftSettings {
                heartbeat: ms(50),
                election_min: ms(200),
                election_max: ms(400),
                voters: 3,
                voter_replacement_after: ms(3_000),
            },
            times,
            leader: LeaderSettings {
                coordinator: CoordinatorSettings {
                    joining_patience: ms(200),
                    handoff_timeout,
                    rebalance_interval: ms(300),
                    max_simultaneous: 3,
                },
                detector: DetectorSettings {
                    down_after,
                    journal_patience: ms(1_500),
                    refused_means_dead: reads == Reads::Journal,
                },
                probe_after: ms(200),
            },
            region: RegionSettings {
                handoff_timeout,
                homeless_max: ms(2_500),
                lease_grace: ms(400),
                ..RegionSettings::default()
            },
            drift: 0.04,
        }
    }

    /// Of money that is not known to have arrived.
    pub(crate) fn redelivery() -> RedeliverySettings {
        RedeliverySettings {
            interval: ms(250),
            ..RedeliverySettings::default()
        }
    }

    pub(crate) fn engine(&self, seed: u64) -> EngineSettings {
        EngineSettings {
            workers: 1,
            max_concurrent_recoveries: RECOVERIES_MAX,
            recovery_event_timeout: ms(1_500),
            backoff: BackoffSettings {
                min: ms(100),
                max: ms(500),
                random_factor: 0.2,
            },
            circuit_breaker: CircuitBreakerSettings {
                max_failures: 5,
                call_timeout: ms(1_500),
                reset_timeout: ms(200),
            },
            retention: RetentionSettings {
                every: 7,
                keep: 2,
                delete_events: false,
            },
            idle_timeout: ms(1_200),
            seed: Some(seed),
            ..EngineSettings::default()
        }
    }
}
