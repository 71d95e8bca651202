//! How long entities do not answer when their node is killed: probes on all shards of
//! the victim are asked at the moment of the kill, through the nodes that are left.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use perennial::proto::v1::GetClusterResponse;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_sharding::shard_id::shard_of;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::clients::{Entities, Kind, SoakClient};
use super::record::Record;

/// What the ids of probes begin with.
pub const PREFIX: &str = "probe-";

/// How long a kill was felt.
#[derive(Debug, Clone, Serialize)]
pub struct Outage {
    /// Whether the victim led.
    pub leader: bool,
    /// Probes that were on the victim.
    pub affected: usize,
    /// From the kill until the first of them answered.
    #[serde(serialize_with = "milliseconds")]
    pub first: Duration,
    /// From the kill until the last of them answered.
    #[serde(serialize_with = "milliseconds")]
    pub last: Duration,
}

/// In a summary.
///
/// # Errors
/// When the serializer fails.
pub fn milliseconds<S: serde::Serializer>(
    time: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((time.as_secs_f64() * 1e6).round() / 1e3)
}

/// Counters that are asked when a node is killed.
#[derive(Debug)]
pub struct Probes {
    /// What they were told and answered.
    pub record: Arc<Record>,
    entities: Entities,
}

impl Probes {
    /// So many of them.
    #[must_use]
    pub fn new(count: u64, began: Instant) -> Self {
        Self {
            record: Arc::new(Record::new(began)),
            entities: Entities {
                prefix: PREFIX.to_owned(),
                counters: count,
                accounts: 0,
            },
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.entities.counters
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those on shards of a node, or that move to it, as a node says.
    ///
    /// # Errors
    /// When it says nothing about shards.
    pub fn of_node(&self, view: &GetClusterResponse, node_id: &str) -> Result<Vec<String>> {
        ensure!(view.number_of_shards > 0, "the cluster has no shards");
        let shards: BTreeSet<u32> = view
            .shards
            .iter()
            .filter(|shard| shard.node_id == node_id || shard.target_node_id == node_id)
            .map(|shard| shard.shard_id)
            .collect();
        let mut found = Vec::new();
        for number in 0..self.entities.counters {
            let counter = self.entities.counter(number);
            let id = PersistenceId::new("counter", &counter)?;
            if shards.contains(&shard_of(&id, view.number_of_shards).0) {
                found.push(counter);
            }
        }
        Ok(found)
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<String> {
        let numbers = 0..self.entities.counters;
        numbers
            .map(|number| self.entities.counter(number))
            .collect()
    }

    /// Adds one to each of these, all at once, through nodes at these addresses; when
    /// the first and the last of them answered, counted from `since`.
    ///
    /// # Errors
    /// When something is answered that is no answer.
    pub async fn ask(
        &self,
        counters: &[String],
        addresses: &watch::Receiver<Vec<String>>,
        since: Instant,
    ) -> Result<(Duration, Duration)> {
        let mut asked = JoinSet::new();
        for (number, counter) in counters.iter().cloned().enumerate() {
            let mut client = SoakClient::new(
                number,
                Kind::Adder,
                addresses.clone(),
                self.entities.clone(),
                Arc::clone(&self.record),
                0,
            );
            asked.spawn(async move {
                client.add(&counter, 1).await?;
                anyhow::Ok(since.elapsed())
            });
        }
        let mut times = Vec::new();
        while let Some(time) = asked.join_next().await {
            times.push(time??);
        }
        let first = times.iter().min().copied().context("no probe was asked")?;
        let last = times.iter().max().copied().context("no probe was asked")?;
        Ok((first, last))
    }
}
