//! The clients: tasks on a runtime of their own, with a clock that is right.
//!
//! *Counters* add with a command id and try again until they know; *gamblers* have no
//! id and try once; *readers* read; *watchers* do nothing else, through one node, and
//! wait for nobody; *hurried* ones send several commands at once,
//! through one node, without waiting. When the trouble is over, a *closer* for each
//! entity writes once and reads once, which must succeed.

use std::time::Duration;

use perennial::EventSourced;
use perennial_persistence::command::{Answer, CommandId, Request};
use perennial_persistence::command_error::{Applied, CommandError};
use perennial_persistence::payload::Payload;
use perennial_persistence::persistence_id::PersistenceId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::{Builder, RngSeed, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::gateway::Asked;
use crate::history::{Burst, History, Outcome, Wish};
use crate::network::{Host, Network};
use crate::tally::{Add, Sum, Tally};
use crate::verdict::Verdict;
use crate::world::STEP;

/// A client that has ids tries so often.
const ATTEMPTS_MAX: u32 = 6;
/// A closer tries so often.
const CLOSER_ATTEMPTS_MAX: u32 = 200;
/// A watcher waits for an answer for so many milliseconds.
const WATCHER_PATIENCE: u64 = 40;
/// A writer that takes its time takes so many times as long.
const SELDOM: u64 = 12;
/// Commands in a burst.
const BURST: usize = 4;

/// What a client heard of an attempt.
enum Heard {
    Answer(Answer),
    /// The node refused the connection.
    Refused,
    Nothing,
}

/// The clients of a run.
pub(crate) struct Clients {
    runtime: Runtime,
    shared: Shared,
    stopping: CancellationToken,
    running: Vec<JoinHandle<()>>,
    closing: Vec<JoinHandle<()>>,
}

/// What clients share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) network: Network,
    pub(crate) history: History,
    pub(crate) verdict: Verdict,
    pub(crate) machines: u32,
    pub(crate) entities: usize,
    /// Nobody writes through this machine, so that a node that is cut off can find
    /// out by itself only that it is.
    pub(crate) for_reading: Option<u32>,
    /// Writers take their time, so that one write is not soon followed by another.
    pub(crate) writes_seldom: bool,
    /// Nothing may fail.
    pub(crate) is_calm: bool,
}

/// The name of an entity.
pub(crate) fn entity_name(entity: usize) -> String {
    format!("e{entity}")
}

impl Clients {
    pub(crate) fn new(seed: u64, shared: Shared) -> Self {
        let built = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .rng_seed(RngSeed::from_bytes(&seed.to_le_bytes()))
            .build();
        // Without I/O there is nothing the system could refuse.
        let runtime = built.unwrap_or_else(|error| unreachable!("no runtime: {error}"));
        Self {
            runtime,
            shared,
            stopping: CancellationToken::new(),
            running: Vec::new(),
            closing: Vec::new(),
        }
    }

    /// Clients of all kinds begin.
    pub(crate) fn begin(&mut self, chance: &mut StdRng) {
        let kinds = [
            Kind::Counter,
            Kind::Counter,
            Kind::Counter,
            Kind::Gambler,
            Kind::Gambler,
            Kind::Reader,
            Kind::Watcher,
            Kind::Watcher,
            Kind::Hurried,
        ];
        for kind in kinds {
            let client = self.client(chance);
            let stopping = self.stopping.clone();
            let running = client.run(kind, stopping);
            self.running.push(self.runtime.spawn(running));
        }
    }

    /// They finish what they do, and stop.
    pub(crate) fn stop(&self) {
        self.stopping.cancel();
    }

    pub(crate) fn have_stopped(&self) -> bool {
        self.running.iter().all(JoinHandle::is_finished)
    }

    /// Each entity is written to and read once more.
    pub(crate) fn close(&mut self, chance: &mut StdRng) {
        for entity in 0..self.shared.entities {
            let client = self.client(chance);
            self.closing.push(self.runtime.spawn(client.close(entity)));
        }
    }

    pub(crate) fn have_closed(&self) -> bool {
        !self.closing.is_empty() && self.closing.iter().all(JoinHandle::is_finished)
    }

    /// Lets a step of time pass.
    pub(crate) fn tick(&self) {
        // Made inside, where the runtime's clock is.
        self.runtime
            .block_on(async { sleep(Duration::from_millis(STEP)).await });
    }

    fn client(&self, chance: &mut StdRng) -> Client {
        Client {
            shared: self.shared.clone(),
            chance: StdRng::seed_from_u64(chance.random()),
            is_watcher: false,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Counter,
    Gambler,
    Reader,
    Watcher,
    Hurried,
}

struct Client {
    shared: Shared,
    chance: StdRng,
    is_watcher: bool,
}

impl Client {
    async fn run(mut self, kind: Kind, stopping: CancellationToken) {
        self.is_watcher = matches!(kind, Kind::Watcher);
        while !stopping.is_cancelled() {
            self.think(kind).await;
            let entity = self.chance.random_range(0..self.shared.entities);
            match kind {
                Kind::Counter => self.add(entity, true, ATTEMPTS_MAX).await,
                Kind::Gambler => self.add(entity, false, 1).await,
                Kind::Reader | Kind::Watcher => self.read(entity, 1).await,
                Kind::Hurried => self.hurry(entity).await,
            }
        }
    }

    async fn close(mut self, entity: usize) {
        self.add(entity, true, CLOSER_ATTEMPTS_MAX).await;
        self.read(entity, CLOSER_ATTEMPTS_MAX).await;
    }

    async fn think(&mut self, kind: Kind) {
        let most = match self.chance.random_range(0..10) {
            _ if self.is_watcher => 30,
            0 => 1_500,
            1..4 => 10,
            _ => 60,
        };
        let is_reader = matches!(kind, Kind::Reader | Kind::Watcher);
        let is_slow = self.shared.writes_seldom && !is_reader;
        let most = if is_slow { most * SELDOM } else { most };
        let time = self.chance.random_range(0..=most);
        sleep(Duration::from_millis(time)).await;
    }

    fn amount(&mut self) -> i64 {
        self.chance.random_range(-4..=8)
    }

    /// Through which node a wish goes.
    fn machine(&mut self, wish: Wish) -> Host {
        let machines = self.shared.machines;
        let any = self.chance.random_range(0..machines);
        let machine = match self.shared.for_reading {
            Some(quiet) if self.is_watcher => quiet,
            Some(quiet) if wish == Wish::Read && self.chance.random_ratio(1, 3) => quiet,
            Some(quiet) if wish != Wish::Read && any == quiet => (any + 1) % machines,
            _ => any,
        };
        Host::Node(machine)
    }

    async fn add(&mut self, entity: usize, has_id: bool, attempts: u32) {
        let amount = self.amount();
        let wish = Wish::Add { amount, has_id };
        let op = self.invoke(entity, wish, None);
        self.pursue(op, entity, wish, attempts).await;
    }

    async fn read(&mut self, entity: usize, attempts: u32) {
        let op = self.invoke(entity, Wish::Read, None);
        self.pursue(op, entity, Wish::Read, attempts).await;
    }

    /// Tries until the outcome is known, or often enough.
    async fn pursue(&mut self, op: u64, entity: usize, wish: Wish, attempts: u32) {
        let mut in_doubt = None;
        let mut outcome = Outcome::NotApplied {
            why: "never tried".to_owned(),
        };
        for attempt in 0..attempts {
            if attempt > 0 {
                let pause = self.chance.random_range(10..200);
                sleep(Duration::from_millis(pause)).await;
            }
            let machine = self.machine(wish);
            let requests = vec![request_of(op, wish)];
            let heard = self.ask(machine, entity, requests).await.pop();
            outcome = self.outcome_of(op, heard.unwrap_or(Heard::Nothing));
            match &outcome {
                Outcome::Done { .. } => break,
                // An earlier attempt may have its effect yet.
                Outcome::Rejected | Outcome::NotApplied { .. } if in_doubt.is_some() => {}
                Outcome::Rejected => break,
                Outcome::NotApplied { .. } => {}
                Outcome::Unknown { why } => in_doubt = Some(why.clone()),
            }
        }
        if let Some(why) = in_doubt
            && !matches!(outcome, Outcome::Done { .. })
        {
            outcome = Outcome::Unknown { why };
        }
        self.complete(op, outcome);
    }

    /// Several commands at once, to one entity through one node.
    async fn hurry(&mut self, entity: usize) {
        let number = self.chance.random();
        let wishes: Vec<(u64, Wish)> = (0..BURST)
            .map(|place| {
                let wish = Wish::Add {
                    amount: self.chance.random_range(0..=3),
                    has_id: true,
                };
                let burst = Some(Burst { number, place });
                (self.invoke(entity, wish, burst), wish)
            })
            .collect();
        let machine = self.machine(wishes[0].1);
        let requests = wishes.iter().map(|(op, wish)| request_of(*op, *wish));
        let heard = self.ask(machine, entity, requests.collect()).await;
        for ((op, _), heard) in wishes.into_iter().zip(heard) {
            let outcome = self.outcome_of(op, heard);
            self.complete(op, outcome);
        }
    }

    fn invoke(&self, entity: usize, wish: Wish, burst: Option<Burst>) -> u64 {
        let now = self.shared.network.now();
        let op = self.shared.history.invoke(entity, wish, burst, now);
        let trace = self.shared.network.trace();
        trace.note(now, || format!("operation {op} on e{entity}: {wish:?}"));
        op
    }

    fn complete(&self, op: u64, outcome: Outcome) {
        let now = self.shared.network.now();
        let trace = self.shared.network.trace();
        trace.note(now, || format!("operation {op}: {outcome:?}"));
        self.shared.history.complete(op, outcome, now);
    }

    fn outcome_of(&self, op: u64, heard: Heard) -> Outcome {
        let outcome = match heard {
            Heard::Answer(Ok(reply)) => match serde_json::from_slice::<Sum>(&reply.payload.bytes) {
                Ok(sum) => Outcome::Done {
                    sequence_nr: reply.sequence_nr.get(),
                    sum,
                },
                Err(error) => Outcome::Unknown {
                    why: error.to_string(),
                },
            },
            Heard::Answer(Err(CommandError::Rejected { .. })) => Outcome::Rejected,
            Heard::Answer(Err(error)) => match error.applied() {
                Applied::No => Outcome::NotApplied {
                    why: error.to_string(),
                },
                Applied::Unknown => Outcome::Unknown {
                    why: error.to_string(),
                },
            },
            Heard::Refused => Outcome::NotApplied {
                why: "connection refused".to_owned(),
            },
            Heard::Nothing => Outcome::Unknown {
                why: "no answer".to_owned(),
            },
        };
        if self.shared.is_calm
            && let Outcome::NotApplied { why } | Outcome::Unknown { why } = &outcome
            && why != "connection refused"
        {
            let now = self.shared.network.now();
            let what = format!("operation {op} failed although nothing did: {why}");
            self.shared.verdict.violated("I-9", now, what);
        }
        outcome
    }

    /// Sends requests to a node, one soon after the other, and hears what comes back
    /// in time.
    async fn ask(&mut self, machine: Host, entity: usize, requests: Vec<Request>) -> Vec<Heard> {
        let id = PersistenceId::new(Tally::ENTITY_TYPE, &entity_name(entity));
        // The name is well formed.
        let id = id.unwrap_or_else(|error| unreachable!("{error}"));
        let patience = match self.shared.is_calm {
            true => 20_000,
            false if self.is_watcher => WATCHER_PATIENCE,
            false => self.chance.random_range(300..3_000),
        };
        let has_deadline =
            !self.shared.is_calm && (self.is_watcher || self.chance.random_ratio(1, 2));
        let patience = Duration::from_millis(patience);
        let mut asked = Vec::new();
        let mut answers = Vec::new();
        let mut places = Vec::new();
        let gap = match self.chance.random_ratio(1, 2) {
            true => 0,
            false => self.chance.random_range(1..40),
        };
        for (place, request) in requests.into_iter().enumerate() {
            let pause = if place == 0 { 0 } else { gap };
            asked.push(Asked {
                attempt: self.chance.random(),
                persistence_id: id.clone(),
                request,
                deadline: has_deadline.then_some(patience),
                pause: Duration::from_millis(pause),
            });
            let (place, answer) = oneshot::channel();
            places.push(place);
            answers.push(answer);
        }
        let network = self.shared.network.clone();
        let (here, trace_name) = (Host::Clients, "request");
        self.shared
            .network
            .post(here, machine, trace_name, move || {
                let listener = network.listener(machine);
                let gateway = listener.as_ref().and_then(|known| known.gateway.clone());
                let (Some(listener), Some(gateway)) = (listener, gateway) else {
                    network.post(machine, here, "refuse", move || {
                        for place in places {
                            let _ = place.send(Heard::Refused);
                        }
                    });
                    return;
                };
                let now = network.now();
                gateway.expect(&asked, now);
                let runtime = listener.runtime.clone();
                listener.runtime.spawn(async move {
                    for (asked, place) in asked.into_iter().zip(places) {
                        if !asked.pause.is_zero() {
                            sleep(asked.pause).await;
                        }
                        let answer = gateway.take(asked, now);
                        let network = network.clone();
                        runtime.spawn(async move {
                            let answer = answer.await;
                            network.post(machine, here, "answer", move || {
                                let _ = place.send(Heard::Answer(answer));
                            });
                        });
                    }
                });
            });
        // Longer than the node takes to say that it took too long.
        let give_up = Instant::now() + patience + Duration::from_millis(100);
        let mut heard = Vec::new();
        for answer in answers {
            let heard_one = async {
                match answer.await {
                    Ok(heard) => heard,
                    // Lost on the way.
                    Err(_) => std::future::pending().await,
                }
            };
            let heard_one = timeout_at(give_up, heard_one).await;
            heard.push(heard_one.unwrap_or(Heard::Nothing));
        }
        heard
    }
}

fn request_of(op: u64, wish: Wish) -> Request {
    let Wish::Add { amount, has_id } = wish else {
        return Request::State;
    };
    let payload = serde_json::to_vec(&Add { op, amount });
    // Two numbers have a JSON form.
    let payload = payload.unwrap_or_else(|error| unreachable!("{error}"));
    let command_id = CommandId::parse(&format!("op-{op}"));
    Request::Command {
        payload: Payload::json(payload),
        command_id: command_id.ok().flatten().filter(|_| has_id),
        expected_sequence_nr: None,
        metadata: None,
    }
}
