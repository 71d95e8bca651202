//! The floor under the journal: its append alone, with the best size of batch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bytes::Bytes;
use futures::future::try_join_all;
use perennial_persistence::journal::{Append, AtomicWrite, Journal, NewEvent};
use perennial_persistence::payload::{CodecId, Payload};
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr, WriterUuid};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::bench::Options;
use crate::bench::usage::Usage;
use crate::foreign_writer::open_with_session;
use crate::seed::Random;

/// Sizes of batches that are tried, at most the number of outstanding commands:
/// a journal behind a node never has more to choose from.
const BATCHES: [usize; 5] = [16, 32, 64, 128, 256];

/// Appends single events to as many streams as there are counters.
///
/// # Errors
/// When the journal cannot be opened or does not store an event.
pub(super) async fn measure(url: &str, options: &Options, postgres: Option<u32>) -> Result<Value> {
    let (storage, session) = open_with_session(url).await?;
    let journal = storage.journal;
    let mut lanes = make_lanes(journal.lanes(), options.entities)?;
    let mut best = (0.0, BATCHES[0]);
    let tried = BATCHES
        .into_iter()
        .filter(|size| size * lanes.len() <= options.outstanding);
    for batch in tried.collect::<Vec<_>>() {
        let (events, elapsed) =
            append_on_all(&journal, session, &mut lanes, batch, options.warm_up()).await?;
        let rate = events as f64 / elapsed.as_secs_f64();
        if rate > best.0 {
            best = (rate, batch);
        }
    }
    let (_, batch) = best;
    let before = Usage::now(None, postgres)?;
    let (events, elapsed) =
        append_on_all(&journal, session, &mut lanes, batch, options.length()).await?;
    let used = Usage::now(None, postgres)?.since(&before);
    Ok(json!({
        "rate": (events as f64 / elapsed.as_secs_f64()).round(),
        "batch": batch,
        "lanes": lanes.len(),
        "cpu_us_per_command": used.per_command(events),
    }))
}

/// A stream and the number its next event gets.
struct Stream {
    persistence_id: PersistenceId,
    next: SequenceNr,
}

/// The streams of each lane, in an order that has nothing to do with their names.
fn make_lanes(count: usize, entities: usize) -> Result<Vec<VecDeque<Stream>>> {
    let mut names: Vec<usize> = (0..entities).collect();
    let mut random = Random::new(1);
    names.sort_by_cached_key(|_| random.next_u64());
    let mut lanes: Vec<VecDeque<Stream>> = (0..count).map(|_| VecDeque::new()).collect();
    for (place, name) in names.into_iter().enumerate() {
        lanes[place % count].push_back(Stream {
            persistence_id: PersistenceId::new("counter", &format!("append-{name}"))?,
            next: SequenceNr::ZERO.next(),
        });
    }
    Ok(lanes)
}

/// Appends on all lanes at once for a time; how many events in how long.
async fn append_on_all(
    journal: &Arc<dyn Journal>,
    session: SessionUuid,
    lanes: &mut [VecDeque<Stream>],
    batch: usize,
    length: Duration,
) -> Result<(usize, Duration)> {
    let started = Instant::now();
    let appending = lanes.iter_mut().enumerate().map(async |(lane, streams)| {
        let mut events = 0;
        while started.elapsed() < length {
            let turn: Vec<Stream> = streams.drain(..batch.min(streams.len())).collect();
            let appends: Vec<Append> = turn.iter().map(append_to).collect();
            for outcome in journal.append(session, lane, &appends).await {
                if let Some(failure) = outcome.failure {
                    bail!("the journal does not store: {failure}");
                }
            }
            events += turn.len();
            streams.extend(turn.into_iter().map(|stream| Stream {
                next: stream.next.next(),
                ..stream
            }));
        }
        Ok(events)
    });
    let events: usize = try_join_all(appending).await?.into_iter().sum();
    Ok((events, started.elapsed()))
}

fn append_to(stream: &Stream) -> Append {
    let event = NewEvent {
        payload: Payload {
            codec: CodecId::JSON,
            manifest: "added".into(),
            bytes: Bytes::from_static(br#"{"added":1}"#),
        },
        tags: Vec::new(),
    };
    Append {
        persistence_id: stream.persistence_id.clone(),
        shard: ShardNr(0),
        epoch: Epoch(1),
        writer: WriterUuid(Uuid::nil()),
        first_sequence_nr: stream.next,
        writes: vec![AtomicWrite {
            events: vec![event],
            command: None,
            metadata: None,
        }],
    }
}
