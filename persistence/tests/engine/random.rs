//! Random programs against an engine over a journal with random faults. Each
//! seed's history is checked in `random/history.rs`; time is virtual.
//!
//! `PERENNIAL_TEST_SEED=n` runs one seed, `PERENNIAL_TEST_SEEDS=n` that many.

#[path = "random/history.rs"]
mod history;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use perennial_persistence::backoff::BackoffSettings;
use perennial_persistence::circuit_breaker::CircuitBreakerSettings;
use perennial_persistence::command::{Answer, CommandId, Envelope, ReplyTo, Request};
use perennial_persistence::engine::{EngineSettings, EntityEngine};
use perennial_persistence::journal::memory::faults::{Fault, Operation};
use perennial_persistence::payload::Payload;
use perennial_persistence::retention::RetentionSettings;
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::trace::Trace;
use perennial_persistence::writer::Epoch;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;

use crate::fixture::{Command, Fixture, notes, shard};
use history::{Attempt, History, Op};

/// Of lengths that spread them over the workers.
const IDS: [&str; 4] = ["a", "bb", "ccc", "dddd"];
const STEPS: usize = 60;
const SEEDS: u64 = 300;

#[tokio::test(start_paused = true)]
async fn random_programs_keep_the_promises() {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let seeds = match number("PERENNIAL_TEST_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("PERENNIAL_TEST_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        let _on_panic = TellSeed(seed);
        Program::new(seed).await.run().await;
    }
}

/// Prints the seed when the test fails.
struct TellSeed(u64);

impl Drop for TellSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with PERENNIAL_TEST_SEED={}", self.0);
        }
    }
}

struct Program {
    f: Fixture,
    random: StdRng,
    /// Counts engines; attempts remember which one they were sent to.
    engine: usize,
    /// A former engine that does not know it was replaced.
    zombie: Option<EntityEngine>,
    killed: Vec<usize>,
    clock: Arc<AtomicU64>,
    ops: Vec<Op>,
    under_way: Vec<(usize, JoinHandle<Attempt>)>,
    others: Vec<JoinHandle<()>>,
    deletes_events: bool,
}

fn settings(seed: u64, random: &mut StdRng) -> EngineSettings {
    let ms = Duration::from_millis;
    EngineSettings {
        workers: random.random_range(1..=3),
        max_concurrent_recoveries: random.random_range(1..=3),
        recovery_event_timeout: ms(200),
        stash_capacity: random.random_range(3..=20),
        backoff: BackoffSettings {
            min: ms(5),
            max: ms(40),
            random_factor: 0.2,
        },
        circuit_breaker: CircuitBreakerSettings {
            max_failures: random.random_range(3..=10),
            call_timeout: ms(500),
            reset_timeout: ms(16),
        },
        retention: RetentionSettings {
            every: *[0, 1, 2, 5].choose(random).unwrap(),
            keep: random.random_range(1..=2),
            delete_events: random.random_bool(0.3),
        },
        idle_timeout: ms(random.random_range(100..=2000)),
        active_entity_limit: random.random_range(1..=4),
        seed: Some(seed),
        ..EngineSettings::default()
    }
}

impl Program {
    async fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let settings = settings(seed, &mut random);
        let deletes_events = settings.retention.delete_events && settings.retention.every > 0;
        Self {
            f: Fixture::with(settings).await,
            random,
            engine: 0,
            zombie: None,
            killed: Vec::new(),
            clock: Arc::default(),
            ops: Vec::new(),
            under_way: Vec::new(),
            others: Vec::new(),
            deletes_events,
        }
    }

    async fn run(mut self) {
        for _ in 0..STEPS {
            match self.random.random_range(0..100) {
                0..40 => self.burst(),
                40..50 => self.retry(),
                50..65 => self.pass_time(20).await,
                65..80 => self.arrange_fault(),
                80..87 => self.passivate(),
                87..90 => self.outage().await,
                90..96 => self.settle().await,
                _ => self.restart().await,
            }
        }
        self.end().await;
    }

    /// Several commands to one entity, sent without waiting.
    fn burst(&mut self) {
        let entity = IDS[self.random.random_range(0..IDS.len())];
        for _ in 0..self.random.random_range(1..=8) {
            let op = self.ops.len();
            let texts = |n: usize| (0..n).map(|i| format!("{op}.{i}")).collect::<Vec<_>>();
            let text = || texts(1).remove(0);
            let command = match self.random.random_range(0..100) {
                0..35 => Some(Command::Add(text())),
                35..45 => Some(Command::AddAll(texts(self.random.random_range(2..=3)))),
                45..60 => Some(Command::AddOnce(text())),
                60..75 => Some(Command::List),
                75..83 => None,
                83..87 => Some(Command::ThenStop(text())),
                87..92 => Some(Command::ThenSnapshot(text())),
                92..94 => Some(Command::PanicInHandler),
                94..95 => Some(Command::PanicInApply),
                95..97 => Some(Command::Unhandled),
                _ => Some(Command::Unencodable),
            };
            let command_id = self.random.random_bool(0.6).then(|| format!("id-{op}"));
            let highest = self.ops.len() as u64 / 4;
            let expected = command.is_some() && self.random.random_bool(0.05);
            let expected = expected.then(|| self.random.random_range(0..=highest));
            self.ops
                .push(Op::new(entity, command, command_id, expected));
            self.send(op);
        }
    }

    /// Sends an earlier command again, perhaps while it is under way.
    fn retry(&mut self) {
        for _ in 0..self.random.random_range(1..=4) {
            let recent = self.ops.len().saturating_sub(30);
            let from = *[0, recent].choose(&mut self.random).unwrap();
            if from < self.ops.len() {
                let op = self.random.random_range(from..self.ops.len());
                if self.ops[op].may_be_retried() {
                    self.send(op);
                }
            }
        }
    }

    fn send(&mut self, number: usize) {
        let op = &self.ops[number];
        let request = match &op.command {
            None => Request::State,
            Some(command) => Request::Command {
                payload: Payload::json(serde_json::to_vec(command).unwrap()),
                command_id: op
                    .command_id
                    .as_deref()
                    .and_then(|id| CommandId::parse(id).unwrap()),
                expected_sequence_nr: op.expected.map(SequenceNr::new),
                metadata: None,
            },
        };
        let (to, engine) = match &self.zombie {
            // Nothing but its lease, which is not the engine's business, keeps a
            // replaced node from answering reads.
            Some(zombie) if op.writes() && self.random.random_bool(0.3) => {
                (zombie, self.engine - 1)
            }
            _ => (&self.f.engine, self.engine),
        };
        let deadline = self.random.random_bool(0.03).then(|| {
            let left = Duration::from_millis(self.random.random_range(0..10));
            (tokio::time::Instant::now() + left).into_std()
        });
        let (reply_to, answer) = ReplyTo::ask();
        let invoked = self.clock.fetch_add(1, Ordering::Relaxed);
        to.deliver(Envelope {
            trace: Trace::NONE,
            arrival: 0,
            persistence_id: notes(op.entity),
            shard: shard(op.entity),
            epoch: Epoch(1),
            request,
            deadline,
            reply_to,
        });
        let clock = Arc::clone(&self.clock);
        let attempt = tokio::spawn(async move {
            let answer: Option<Answer> = tokio::time::timeout(Duration::from_secs(600), answer)
                .await
                .expect("I-8: no answer")
                .ok();
            let completed = clock.fetch_add(1, Ordering::Relaxed);
            Attempt {
                engine,
                invoked,
                completed,
                answer,
            }
        });
        self.under_way.push((number, attempt));
    }

    async fn pass_time(&mut self, max_ms: u64) {
        match self.random.random_range(0..=max_ms) {
            0..3 => tokio::task::yield_now().await,
            ms => tokio::time::sleep(Duration::from_millis(ms)).await,
        }
    }

    fn arrange_fault(&mut self) {
        use Operation::{
            Bounds, DeleteEvents, DeleteSnapshots, FindCommands, LoadSnapshot, ReadEvents,
            SaveSnapshot, Write,
        };
        let random = &mut self.random;
        let delay = Fault::Delay(Duration::from_millis(random.random_range(1..300)));
        let (operation, fault) = if random.random_bool(0.6) {
            let after_operations = random.random_range(0..12);
            let late = Fault::Late { after_operations };
            let faults = [Fault::Fail, Fault::Reject, delay, Fault::LoseAnswer, late];
            (Write, *faults.choose(random).unwrap())
        } else {
            let operations = [
                Bounds,
                DeleteEvents,
                DeleteSnapshots,
                FindCommands,
                LoadSnapshot,
                ReadEvents,
                SaveSnapshot,
            ];
            let faults = [Fault::Fail, delay, delay, Fault::Corrupt];
            (
                *operations.choose(random).unwrap(),
                *faults.choose(random).unwrap(),
            )
        };
        let nth = random.random_range(1..8);
        self.f.faults().at(operation, nth, fault);
    }

    fn passivate(&mut self) {
        let entity = IDS[self.random.random_range(0..IDS.len())];
        let engine = self.f.engine.clone();
        self.others.push(tokio::spawn(async move {
            engine.passivate(shard(entity), &notes(entity)).await;
        }));
    }

    async fn outage(&mut self) {
        self.f.faults().set_outage(true);
        self.burst();
        self.pass_time(50).await;
        self.f.faults().set_outage(false);
    }

    /// Waits until everything is answered.
    async fn settle(&mut self) {
        for (op, attempt) in self.under_way.drain(..) {
            let attempt = attempt.await.unwrap();
            assert!(
                attempt.answer.is_some() || self.killed.contains(&attempt.engine),
                "I-8: dropped without an answer: {:?}",
                self.ops[op]
            );
            self.ops[op].attempts.push(attempt);
        }
        for other in self.others.drain(..) {
            other.await.unwrap();
        }
    }

    /// A new process of the same node. The old one is stopped, or is killed, or
    /// goes on without knowing.
    async fn restart(&mut self) {
        match self.random.random_range(0..3) {
            0 => {
                self.f.engine.stop().await;
                assert_eq!(self.f.engine.live_entities(), 0);
                self.f.restart().await;
            }
            1 => {
                // Passivations hold handles of the engine.
                for other in self.others.drain(..) {
                    other.await.unwrap();
                }
                drop(self.f.restart().await);
                self.killed.push(self.engine);
            }
            _ => {
                let zombie = self.f.restart().await;
                if let Some(former) = self.zombie.replace(zombie) {
                    former.stop().await;
                }
                self.engine += 1;
                return;
            }
        }
        self.engine += 1;
        if let Some(former) = self.zombie.take() {
            former.stop().await;
        }
    }

    async fn end(mut self) {
        self.settle().await;
        self.f.faults().release_late_appends();
        if let Some(zombie) = self.zombie.take() {
            zombie.stop().await;
            assert_eq!(zombie.live_entities(), 0);
        }
        let mut histories = Vec::new();
        for entity in IDS {
            // A late append may have landed beside the live entity.
            self.f.passivate(entity).await;
            let live = self.read(entity).await;
            self.f.passivate(entity).await;
            assert_eq!(self.read(entity).await, live, "I-6: replay differs");
            histories.push((entity, live));
        }
        let (live, limit) = (
            self.f.engine.live_entities(),
            self.f.settings().active_entity_limit,
        );
        assert!(live <= limit, "{live} in memory, {limit} allowed");
        self.f.engine.stop().await;
        assert_eq!(self.f.engine.live_entities(), 0);
        for (entity, state) in histories {
            let history = History {
                entity,
                state,
                ops: self.ops.iter().filter(|op| op.entity == entity).collect(),
            };
            history.check();
            history
                .check_storage(&self.f.storage, self.deletes_events)
                .await;
        }
    }

    /// The state, as soon as faults that are still to come let it be read.
    async fn read(&self, entity: &str) -> Vec<String> {
        for _ in 0..1_000 {
            if let Ok(reply) = self.f.ask(entity, &Command::List).await {
                return crate::fixture::texts(&reply);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{entity} does not come back");
    }
}
