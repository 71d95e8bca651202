//! What clients do, by their kind; `clients.rs` says what kinds there are.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::asking::{Heard, request_of, tally};
use crate::history::{Burst, Outcome, Wish};
use crate::network::Host;

/// A client that has ids tries so often.
pub(super) const ATTEMPTS_MAX: u32 = 6;
/// A closer tries so often.
const CLOSER_ATTEMPTS_MAX: u32 = 200;
/// A watcher waits for an answer for so many milliseconds.
const WATCHER_PATIENCE: u64 = 40;
/// Readers of what they wrote alone wait a little longer.
const LONE_PATIENCE: u64 = 120;
/// A writer that takes its time takes so many times as long.
const SELDOM: u64 = 12;
/// Commands in a burst, at least and at most.
const BURST: (usize, usize) = (3, 10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gambler,
    Reader,
    Watcher,
    Hurried,
    Forgetful,
    Banker,
    /// The only one who writes to its entity.
    Lone(usize),
}

/// What a client goes to an entity for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    ToRead,
    ToWrite,
}

pub(super) struct Client {
    pub(super) shared: Shared,
    pub(super) chance: StdRng,
    /// Milliseconds it waits for an answer; drawn anew for each if `None`.
    pub(super) patience: Option<u64>,
}

impl Client {
    pub(super) async fn run(mut self, kind: Kind, stopping: CancellationToken) {
        self.patience = (kind == Kind::Watcher).then_some(WATCHER_PATIENCE);
        while !stopping.is_cancelled() {
            self.think(kind).await;
            let entity = self.chance.random_range(0..self.shared.entities);
            match kind {
                Kind::Counter => self.add(entity, true, ATTEMPTS_MAX).await,
                Kind::Gambler => self.add(entity, false, 1).await,
                Kind::Reader | Kind::Watcher => self.read(entity, 1).await,
                Kind::Hurried => self.hurry(entity).await,
                Kind::Forgetful => self.repeat(entity).await,
                Kind::Banker => self.give().await,
                Kind::Lone(entity) => self.write_and_look(entity, &stopping).await,
            }
        }
    }

    pub(super) async fn close(mut self, entity: usize) {
        self.add(entity, true, CLOSER_ATTEMPTS_MAX).await;
        self.read(entity, CLOSER_ATTEMPTS_MAX).await;
    }

    async fn think(&mut self, kind: Kind) {
        let is_hurried = kind == Kind::Hurried && self.shared.hints.crowded().is_some();
        let most = match self.chance.random_range(0..10) {
            _ if is_hurried => 10,
            _ if matches!(kind, Kind::Watcher | Kind::Lone(_)) => 30,
            0 => 1_500,
            1..4 => 10,
            _ => 60,
        };
        let is_writer = !matches!(kind, Kind::Reader | Kind::Watcher | Kind::Lone(_));
        let is_slow = self.shared.writes_seldom && is_writer && !is_hurried;
        let most = if is_slow { most * SELDOM } else { most };
        let time = self.chance.random_range(0..=most);
        sleep(Duration::from_millis(time)).await;
    }

    fn amount(&mut self) -> i64 {
        self.chance.random_range(-4..=8)
    }

    /// Through which node it goes.
    pub(super) fn machine(&mut self, way: Way) -> Host {
        let machines = self.shared.machines;
        let any = self.chance.random_range(0..machines);
        let hints = &self.shared.hints;
        let mut in_turn = (0..machines).map(|further| (any + further) % machines);
        let fitting = match way {
            Way::ToRead if self.chance.random_ratio(1, 3) => None,
            Way::ToRead => in_turn.find(|machine| hints.is_quiet(*machine)),
            Way::ToWrite => in_turn.find(|machine| !hints.is_quiet(*machine)),
        };
        Host::Node(fitting.unwrap_or(any))
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

    /// Tries until the outcome is known, or often enough. Returns it.
    async fn pursue(&mut self, op: u64, entity: usize, wish: Wish, attempts: u32) -> Outcome {
        let mut in_doubt = None;
        let mut outcome = Outcome::NotApplied {
            why: "never tried".to_owned(),
        };
        for attempt in 0..attempts {
            if attempt > 0 {
                let pause = self.chance.random_range(10..200);
                sleep(Duration::from_millis(pause)).await;
            }
            outcome = self.attempt(op, entity, wish).await;
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
        self.complete(op, outcome.clone());
        outcome
    }

    /// Tries once.
    async fn attempt(&mut self, op: u64, entity: usize, wish: Wish) -> Outcome {
        let machine = self.machine(match wish {
            Wish::Read => Way::ToRead,
            Wish::Add { .. } => Way::ToWrite,
        });
        let requests = vec![request_of(op, wish)];
        let heard = self.ask(machine, &tally(entity), requests, 0).await.pop();
        self.outcome_of(op, heard.unwrap_or(Heard::Nothing))
    }

    /// Several commands, to one entity through one node, without waiting for answers.
    async fn hurry(&mut self, entity: usize) {
        let number = self.chance.random();
        let amounts: Vec<i64> = (0..self.chance.random_range(BURST.0..=BURST.1))
            .map(|_| self.chance.random_range(0..=3))
            .collect();
        let crowded = self.shared.hints.crowded().map(Host::Node);
        let crowded = crowded.filter(|_| self.chance.random_ratio(3, 4));
        let machine = crowded.unwrap_or_else(|| self.machine(Way::ToWrite));
        let send = |(place, amount)| {
            let wish = Wish::Add {
                amount,
                has_id: true,
            };
            let burst = Some(Burst {
                number,
                place,
                through: machine,
            });
            (self.invoke(entity, wish, burst), wish)
        };
        let wishes: Vec<(u64, Wish)> = amounts.into_iter().enumerate().map(send).collect();
        let requests = wishes.iter().map(|(op, wish)| request_of(*op, *wish));
        let gap = match self.chance.random_ratio(1, 3) {
            true => 0,
            false => self.chance.random_range(1..100),
        };
        let heard = self
            .ask(machine, &tally(entity), requests.collect(), gap)
            .await;
        for ((op, _), heard) in wishes.into_iter().zip(heard) {
            let outcome = self.outcome_of(op, heard);
            self.complete(op, outcome);
        }
    }

    /// Adds, is told so, and asks for the same again later, as one does who has
    /// forgotten that it was told: the answer must be the same (I-8).
    async fn repeat(&mut self, entity: usize) {
        let amount = self.amount();
        let has_id = true;
        let wish = Wish::Add { amount, has_id };
        let op = self.invoke(entity, wish, None);
        let first = self.pursue(op, entity, wish, ATTEMPTS_MAX).await;
        if !matches!(first, Outcome::Done { .. }) {
            return;
        }
        let pause = self.chance.random_range(50..2_000);
        sleep(Duration::from_millis(pause)).await;
        let again = self.attempt(op, entity, wish).await;
        if matches!(again, Outcome::Done { .. } | Outcome::Rejected) && again != first {
            let now = self.shared.network.now();
            let what = format!("operation {op} was {first:?}, and when repeated {again:?}");
            self.shared.verdict.violated("I-8", now, what);
        }
    }

    /// Writes once to an entity of its own, and then only looks at it: so a write that
    /// is late finds it as it was.
    async fn write_and_look(&mut self, entity: usize, stopping: &CancellationToken) {
        let calls = self.shared.hints.calls();
        let has_id = self.chance.random_ratio(1, 2);
        self.patience = Some(self.chance.random_range(200..1_000));
        self.add(entity, has_id, 1).await;
        self.patience = Some(LONE_PATIENCE);
        let time = self.chance.random_range(300..2_500);
        let until = Instant::now() + Duration::from_millis(time);
        while Instant::now() < until
            && self.shared.hints.calls() == calls
            && !stopping.is_cancelled()
        {
            let pause = self.chance.random_range(5..60);
            sleep(Duration::from_millis(pause)).await;
            self.read(entity, 1).await;
        }
        self.patience = None;
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
}
