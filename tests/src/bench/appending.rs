//! Appending as fast as it goes: single events of many streams, on as many lanes as
//! the journal has, in batches of one size.
//!
//! Who stores a batch is a [`BatchWriter`]: the journal ([`JournalWriter`]) or its
//! floor (`bare_insert.rs`).

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bytes::Bytes;
use perennial_persistence::journal::{Append, AtomicWrite, Journal, NewEvent};
use perennial_persistence::payload::{CodecId, Payload};
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr, WriterUuid};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::bench::usage::{Cost, Usage};
use crate::seed::Random;

/// Sizes of batches that are tried, at most the number of outstanding commands:
/// what appends never has more to choose from.
const BATCHES: [usize; 5] = [16, 32, 64, 128, 256];

/// Of each size, while the best is looked for.
const TURNS: u32 = 4;

/// What every event says.
pub(super) const EVENT: &[u8] = br#"{"added":1}"#;
pub(super) const MANIFEST: &str = "added";

/// An event that is to be stored.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) persistence_id: PersistenceId,
    pub(super) sequence_nr: SequenceNr,
    /// Always the same for a stream, and no other's.
    writer: WriterUuid,
}

impl Row {
    pub(super) fn new(persistence_id: PersistenceId, sequence_nr: SequenceNr) -> Self {
        let mut hasher = DefaultHasher::new();
        persistence_id.hash(&mut hasher);
        Self {
            persistence_id,
            sequence_nr,
            writer: WriterUuid(Uuid::from_u64_pair(1, hasher.finish())),
        }
    }
}

/// Stores events in one statement or transaction.
pub(super) trait BatchWriter: Send + 'static {
    fn store(&mut self, rows: &[Row]) -> impl Future<Output = Result<()>> + Send;
}

/// Streams that take turns, and who writes them.
struct Lane<W> {
    writer: W,
    streams: VecDeque<Row>,
}

impl<W: BatchWriter> Lane<W> {
    /// Stores batches for a time; how many events it stored.
    async fn append(&mut self, batch: usize, length: Duration) -> Result<u64> {
        let started = Instant::now();
        let mut events = 0;
        let mut rows = Vec::with_capacity(batch);
        while started.elapsed() < length {
            rows.clear();
            while rows.len() < batch
                && let Some(row) = self.streams.pop_front()
            {
                self.streams.push_back(Row {
                    sequence_nr: row.sequence_nr.next(),
                    ..row.clone()
                });
                rows.push(row);
            }
            self.writer.store(&rows).await?;
            events += rows.len() as u64;
        }
        Ok(events)
    }
}

/// All lanes of one writer, and what they did since their best batch was found.
pub(super) struct Appending<W> {
    lanes: Vec<Lane<W>>,
    batch: usize,
    postgres: Option<u32>,
    events: u64,
    elapsed: Duration,
    used: Option<Usage>,
}

impl<W: BatchWriter> Appending<W> {
    /// One lane for each writer; the streams are dealt out among them, in an order
    /// that has nothing to do with their names.
    pub(super) fn new(writers: Vec<W>, streams: usize, postgres: Option<u32>) -> Result<Self> {
        let mut names: Vec<usize> = (0..streams).collect();
        let mut random = Random::new(1);
        names.sort_by_cached_key(|_| random.next_u64());
        let lane = |writer| Lane {
            writer,
            streams: VecDeque::new(),
        };
        let mut lanes: Vec<Lane<W>> = writers.into_iter().map(lane).collect();
        let count = lanes.len();
        for (place, name) in names.into_iter().enumerate() {
            let id = PersistenceId::new("counter", &format!("append-{name}"))?;
            let first = Row::new(id, SequenceNr::ZERO.next());
            lanes[place % count].streams.push_back(first);
        }
        Ok(Self {
            lanes,
            batch: BATCHES[0],
            postgres,
            events: 0,
            elapsed: Duration::ZERO,
            used: None,
        })
    }

    /// Tries all sizes of batches, each for a time, and keeps the best. They take
    /// turns, so that a moment of noise does not decide.
    pub(super) async fn find_best_batch(
        &mut self,
        outstanding: usize,
        each: Duration,
    ) -> Result<()> {
        let most = outstanding / self.lanes.len().max(1);
        let mut stored: Vec<(u64, usize)> = BATCHES
            .into_iter()
            .filter(|batch| *batch <= most)
            .map(|batch| (0, batch))
            .collect();
        for _ in 0..TURNS {
            for (events, batch) in &mut stored {
                *events += self.append(*batch, each / TURNS).await?.0;
            }
        }
        if let Some((_, best)) = stored.into_iter().max() {
            self.batch = best;
        }
        Ok(())
    }

    /// Appends for a time, and counts it.
    pub(super) async fn measure(&mut self, length: Duration) -> Result<()> {
        let before = Usage::now(None, self.postgres)?;
        let (events, elapsed) = self.append(self.batch, length).await?;
        let used = Usage::now(None, self.postgres)?.since(&before);
        self.events += events;
        self.elapsed += elapsed;
        self.used = Some(self.used.map_or(used, |so_far| so_far.plus(&used)));
        Ok(())
    }

    async fn append(&mut self, batch: usize, length: Duration) -> Result<(u64, Duration)> {
        let started = Instant::now();
        let mut working = JoinSet::new();
        for mut lane in self.lanes.drain(..) {
            working.spawn(async move { (lane.append(batch, length).await, lane) });
        }
        let mut events = 0;
        while let Some(done) = working.join_next().await {
            let (appended, lane) = done?;
            events += appended?;
            self.lanes.push(lane);
        }
        Ok((events, started.elapsed()))
    }

    /// Events per second.
    pub(super) fn rate(&self) -> f64 {
        self.events as f64 / self.elapsed.as_secs_f64()
    }

    /// Of one event.
    pub(super) fn cost(&self) -> Option<Cost> {
        Some(self.used?.per_operation(self.events))
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "rate": self.rate().round(),
            "batch": self.batch,
            "lanes": self.lanes.len(),
            "cpu_us_per_event": self.cost().map(Cost::to_json),
        })
    }
}

/// Appends by the journal.
pub(super) struct JournalWriter {
    journal: Arc<dyn Journal>,
    session: SessionUuid,
    lane: usize,
}

impl JournalWriter {
    /// One for each lane of the journal.
    pub(super) fn for_each_lane(journal: &Arc<dyn Journal>, session: SessionUuid) -> Vec<Self> {
        let writer = |lane| Self {
            journal: Arc::clone(journal),
            session,
            lane,
        };
        (0..journal.lanes()).map(writer).collect()
    }
}

impl BatchWriter for JournalWriter {
    async fn store(&mut self, rows: &[Row]) -> Result<()> {
        let appends: Vec<Append> = rows.iter().map(|row| append(row, 1)).collect();
        store_all(&*self.journal, self.session, self.lane, &appends).await
    }
}

/// Stores appends, all of them.
pub(super) async fn store_all(
    journal: &dyn Journal,
    session: SessionUuid,
    lane: usize,
    appends: &[Append],
) -> Result<()> {
    let outcomes = journal.append(session, lane, appends).await;
    match outcomes.into_iter().find_map(|outcome| outcome.failure) {
        Some(failure) => bail!("the journal does not store: {failure}"),
        None => Ok(()),
    }
}

/// So many atomic writes of one event each, from a row's number on.
pub(super) fn append(row: &Row, events: usize) -> Append {
    let event = NewEvent {
        payload: Payload {
            codec: CodecId::JSON,
            manifest: MANIFEST.into(),
            bytes: Bytes::from_static(EVENT),
        },
        tags: Vec::new(),
    };
    let write = AtomicWrite {
        events: vec![event],
        command: None,
        metadata: None,
    };
    Append {
        persistence_id: row.persistence_id.clone(),
        shard: ShardNr(0),
        epoch: Epoch(1),
        writer: row.writer,
        first_sequence_nr: row.sequence_nr,
        writes: vec![write; events],
    }
}
