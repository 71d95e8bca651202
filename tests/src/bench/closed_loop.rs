//! A closed loop: whenever a command is answered, the next one is sent.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bytes::Bytes;
use perennial::proto::v1::SendRequest;
use tokio::task::JoinSet;

use crate::bench::Shape;
use crate::client::{Client, Failure};
use crate::seed::Random;

/// The seed of the choice of entities; the same in every run.
const SEED: u64 = 1;

/// What is sent, and how much of it at once.
pub struct Load {
    entity_ids: Arc<[String]>,
    outstanding: usize,
    random: Random,
}

/// Latencies of the commands of one run, in ascending order.
pub struct Measured {
    latencies: Vec<Duration>,
    elapsed: Duration,
}

impl Measured {
    fn new(mut latencies: Vec<Duration>, elapsed: Duration) -> Self {
        latencies.sort_unstable();
        Self { latencies, elapsed }
    }

    /// How many commands were answered.
    #[must_use]
    pub fn count(&self) -> usize {
        self.latencies.len()
    }

    /// Commands per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency that so large a part of the commands did not exceed, in
    /// milliseconds to three decimals; 0 when there was none.
    #[must_use]
    pub fn percentile_ms(&self, part: f64) -> f64 {
        let place = (self.latencies.len() as f64 * part) as usize;
        let last = self.latencies.len().saturating_sub(1);
        let latency = self.latencies.get(place.min(last)).copied();
        let micros = latency.unwrap_or_default().as_micros();
        micros as f64 / 1000.0
    }
}

impl Load {
    /// Commands to so many counters, so many outstanding.
    #[must_use]
    pub fn new(entities: usize, outstanding: usize) -> Self {
        Self {
            entity_ids: (0..entities)
                .map(|number| format!("bench-{number}"))
                .collect(),
            outstanding,
            random: Random::new(SEED),
        }
    }

    /// Sends one command to each counter, so that all of them are live.
    ///
    /// # Errors
    /// When any command fails.
    pub async fn touch_all(&self, client: &Client) -> Result<()> {
        let mut failed = None;
        let commands = self.entity_ids.iter().map(|id| add_one_to(id));
        let answered =
            |_, response: _| failed = failed.take().or_else(|| Failure::in_response(&response));
        client
            .pipeline(self.outstanding, commands, answered)
            .await?;
        match failed {
            Some(failure) => bail!("a command failed: {failure:?}"),
            None => Ok(()),
        }
    }

    /// Keeps commands outstanding for a time.
    ///
    /// # Errors
    /// When any command fails.
    pub async fn run(
        &mut self,
        shape: Shape,
        client: &Client,
        length: Duration,
    ) -> Result<Measured> {
        match shape {
            Shape::Commands => self.run_commands(client, length).await,
            Shape::Stream => self.run_stream(client, length).await,
        }
    }

    async fn run_commands(&mut self, client: &Client, length: Duration) -> Result<Measured> {
        let started = Instant::now();
        let mut callers = JoinSet::new();
        for _ in 0..self.outstanding {
            let client = client.clone();
            let entity_ids = self.entity_ids.clone();
            let mut random = Random::new(self.random.next_u64());
            callers.spawn(async move {
                let mut latencies = Vec::new();
                while started.elapsed() < length {
                    let sent = Instant::now();
                    client.send(add_one(&entity_ids, &mut random)).await?;
                    latencies.push(sent.elapsed());
                }
                Ok::<_, Failure>(latencies)
            });
        }
        let mut latencies = Vec::new();
        while let Some(caller) = callers.join_next().await {
            match caller? {
                Ok(measured) => latencies.extend(measured),
                Err(failure) => bail!("a command failed: {failure:?}"),
            }
        }
        Ok(Measured::new(latencies, started.elapsed()))
    }

    async fn run_stream(&mut self, client: &Client, length: Duration) -> Result<Measured> {
        let started = Instant::now();
        let sent = RefCell::new(Vec::new());
        let mut latencies = Vec::new();
        let mut failed = None;
        let commands = std::iter::from_fn(|| {
            sent.borrow_mut().push(Instant::now());
            let go_on = started.elapsed() < length;
            go_on.then(|| add_one(&self.entity_ids, &mut self.random))
        });
        let answered = |place: u64, response: _| {
            failed = failed.take().or_else(|| Failure::in_response(&response));
            // Places are counted from 0 in memory, so they fit.
            latencies.push(sent.borrow()[place as usize].elapsed());
        };
        client
            .pipeline(self.outstanding, commands, answered)
            .await?;
        if let Some(failure) = failed {
            bail!("a command failed: {failure:?}");
        }
        Ok(Measured::new(latencies, started.elapsed()))
    }
}

fn add_one(entity_ids: &[String], random: &mut Random) -> SendRequest {
    add_one_to(&entity_ids[random.below(entity_ids.len() as u64) as usize])
}

fn add_one_to(entity_id: &str) -> SendRequest {
    SendRequest {
        entity_type: "counter".to_owned(),
        entity_id: entity_id.to_owned(),
        payload: Bytes::from_static(br#"{"add":1}"#),
        ..SendRequest::default()
    }
}
