//! The clients: tasks on a runtime of their own, with a clock that is right.
//!
//! *Counters* add with a command id and try again until they know; *gamblers* have no
//! id and try once; *readers* read; *watchers* do nothing else, and wait for nobody;
//! *hurried* ones send several commands, through one node, without waiting for
//! answers; *forgetful* ones ask for what was done once more, with the same id. *Lone*
//! ones have an entity each, to which nobody else writes: they write once, and look at
//! it for a while. *Bankers* move money between purses. When the trouble is over, a *closer* for each entity writes once and
//! reads once, which must succeed, and one of them counts the money. Next: `clients/behaviour.rs`.

mod asking;
mod banking;
mod behaviour;
mod hints;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::{Builder, RngSeed, Runtime};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use self::behaviour::{Client, Kind};
pub(crate) use self::hints::Hints;
use crate::history::History;
use crate::invariants::transfers::Transfers;
use crate::network::Network;
use crate::verdict::Verdict;
use crate::world::STEP;

/// In runs with purses.
const BANKERS: usize = 2;

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
    /// That anybody writes to.
    pub(crate) entities: usize,
    /// That one client each writes to; numbered after the others.
    pub(crate) lone_entities: usize,
    /// Between which money moves; none in some runs.
    pub(crate) purses: usize,
    pub(crate) transfers: Transfers,
    pub(crate) hints: Hints,
    /// Writers take their time, so that one write is not soon followed by another.
    pub(crate) writes_seldom: bool,
    /// Nothing may fail.
    pub(crate) is_calm: bool,
}

impl Shared {
    fn all_entities(&self) -> usize {
        self.entities + self.lone_entities
    }
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
            Kind::Hurried,
            Kind::Hurried,
            Kind::Forgetful,
        ];
        let lone = self.shared.entities..self.shared.all_entities();
        let bankers = (0..self.shared.purses.min(BANKERS)).map(|_| Kind::Banker);
        let kinds = kinds.into_iter().chain(lone.map(Kind::Lone));
        for kind in kinds.chain(bankers) {
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
        for entity in 0..self.shared.all_entities() {
            let client = self.client(chance);
            self.closing.push(self.runtime.spawn(client.close(entity)));
        }
        let client = self.client(chance);
        let counting = client.count_money();
        self.closing.push(self.runtime.spawn(counting));
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
            patience: None,
        }
    }
}
