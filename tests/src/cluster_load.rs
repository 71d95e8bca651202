//! Clients that send to every node of a cluster and keep book of what they were
//! told: the expected side of a story, computed without any code under test.
//!
//! Each command adds one to a counter and has an id of its own. A client repeats it,
//! at one node after the other, until it is acknowledged; so in the end every
//! counter has exactly what was acknowledged, or something was lost or done twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::client::{Client, Failure, command};
use crate::seed::Random;

/// A node that does not answer for so long is given up, and the next is asked.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(8);
/// A command that is not acknowledged for so long is lost.
const GIVE_UP_AFTER: Duration = Duration::from_secs(120);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(10);

/// Clients that go on until they are stopped.
pub struct ClusterLoad {
    stopping: watch::Sender<bool>,
    acknowledged: Arc<AtomicU64>,
    clients: JoinSet<Result<Book>>,
    prefix: String,
}

/// What clients were told.
#[derive(Debug, Default)]
pub struct Book {
    /// By counter: how often it was told to add one, and said that it did.
    pub acknowledged: BTreeMap<u64, i64>,
    /// What was said instead of an acknowledgement; then the command was repeated.
    /// Without connections that were refused.
    pub failures: Vec<Failure>,
    /// How long a command took, from its first attempt to its acknowledgement; in no
    /// order.
    pub latencies: Vec<Duration>,
}

impl ClusterLoad {
    /// So many clients send to so many counters, whose names begin with the prefix.
    #[must_use]
    pub fn start(addresses: &[String], prefix: &str, clients: usize, counters: u64) -> Self {
        let mut random = Random::from_environment();
        let stopping = watch::Sender::new(false);
        let acknowledged = Arc::new(AtomicU64::new(0));
        let mut running = JoinSet::new();
        for first in 0..clients {
            running.spawn(send(Sending {
                addresses: addresses.to_vec(),
                first,
                prefix: prefix.to_owned(),
                counters,
                random: Random::new(random.next_u64()),
                stopping: stopping.subscribe(),
                acknowledged: Arc::clone(&acknowledged),
            }));
        }
        Self {
            stopping,
            acknowledged,
            clients: running,
            prefix: prefix.to_owned(),
        }
    }

    /// Commands acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until so many more commands are acknowledged.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn progress(&self, count: u64) -> Result<()> {
        let goal = self.acknowledged() + count;
        let reached = crate::eventually::eventually("progress", GIVE_UP_AFTER, async || {
            (self.acknowledged() >= goal).then_some(())
        });
        reached.await
    }

    /// Lets the clients finish the commands they have under way; what they were told.
    ///
    /// # Errors
    /// When a command was never acknowledged.
    pub async fn stop(mut self) -> Result<Book> {
        self.stopping.send_replace(true);
        let mut book = Book::default();
        while let Some(client) = self.clients.join_next().await {
            let part = client??;
            for (counter, count) in part.acknowledged {
                *book.acknowledged.entry(counter).or_default() += count;
            }
            book.failures.extend(part.failures);
            book.latencies.extend(part.latencies);
        }
        Ok(book)
    }

    /// Stops, and checks that every counter has exactly what was acknowledged, each
    /// as one event.
    ///
    /// # Errors
    /// When one does not: I-5 if it has less, I-8 if it has more.
    pub async fn stop_and_check(self, address: &str) -> Result<Book> {
        let prefix = self.prefix.clone();
        let book = self.stop().await?;
        let client = Client::lazy(address)?;
        for (counter, expected) in &book.acknowledged {
            let id = format!("{prefix}{counter}");
            let (state, sequence_nr) = client
                .state("counter", &id)
                .await
                .with_context(|| format!("counter {id} does not answer"))?;
            let value = state["value"].as_i64().context("no value")?;
            ensure!(
                value == *expected,
                "I-5, I-8: counter {id} has {value}, acknowledged were {expected}"
            );
            ensure!(
                sequence_nr == value.unsigned_abs(),
                "I-3: counter {id} has {value} in {sequence_nr} events"
            );
        }
        Ok(book)
    }
}

impl Book {
    /// How many commands were acknowledged.
    #[must_use]
    pub fn total(&self) -> i64 {
        self.acknowledged.values().sum()
    }

    /// The latency that so large a part of the commands did not exceed.
    #[must_use]
    pub fn latency(&mut self, part: f64) -> Duration {
        self.latencies.sort_unstable();
        let last = self.latencies.len().saturating_sub(1);
        let place = (self.latencies.len() as f64 * part) as usize;
        self.latencies
            .get(place.min(last))
            .copied()
            .unwrap_or_default()
    }
}

struct Sending {
    addresses: Vec<String>,
    first: usize,
    prefix: String,
    counters: u64,
    random: Random,
    stopping: watch::Receiver<bool>,
    acknowledged: Arc<AtomicU64>,
}

async fn send(mut sending: Sending) -> Result<Book> {
    let clients: Vec<Client> = sending
        .addresses
        .iter()
        .map(|address| Client::lazy(address))
        .collect::<Result<_>>()?;
    let mut book = Book::default();
    let mut node = sending.first;
    while !*sending.stopping.borrow() {
        let counter = sending.random.below(sending.counters);
        let id = format!("{}{counter}", sending.prefix);
        let mut request = command("counter", &id, &json!({"add": 1}));
        request.command_id = Uuid::new_v4().to_string();
        let begun = Instant::now();
        loop {
            let attempt = clients[node % clients.len()].send(request.clone());
            let failure = match tokio::time::timeout(ATTEMPT_TIMEOUT, attempt).await {
                Ok(Ok(_)) => break,
                Ok(Err(failure)) => failure,
                Err(_) => tonic::Status::deadline_exceeded("no answer").into(),
            };
            if begun.elapsed() > GIVE_UP_AFTER {
                bail!("I-8: counter {id} was never told what became of a command: {failure:?}");
            }
            if !failure.refused {
                book.failures.push(failure);
            }
            node += 1;
            tokio::time::sleep(PAUSE).await;
        }
        book.latencies.push(begun.elapsed());
        *book.acknowledged.entry(counter).or_default() += 1;
        sending.acknowledged.fetch_add(1, Ordering::Relaxed);
        node += 1;
    }
    Ok(book)
}
