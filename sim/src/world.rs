//! One run: machines, database, network and clients, one step after the other.
//!
//! Everything happens on one thread, in an order that the seed decides. In each
//! step of time whatever is due arrives, faults begin and end, every machine and the
//! clients execute what they have to, and what can be seen is checked. When the
//! trouble is over and healed, there must be progress. Next: `world/faults.rs`.

mod faults;

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use self::faults::Step;
use crate::clients::{Clients, Hints, Shared, entity_name};
use crate::database::Database;
use crate::gateway::Unanswered;
use crate::history::{History, Op, Order, Outcome};
use crate::invariants::agreement::Leaders;
use crate::invariants::burst_order::{self, Streams};
use crate::invariants::transfers::Transfers;
use crate::invariants::{Journaled, Recoveries, histories};
use crate::network::Network;
use crate::process::{Machine, Over, Surroundings};
use crate::schedule::{Mood, Scheduled, TROUBLE};
use crate::settings::{RECOVERIES_MAX, Settings};
use crate::trace::{Trace, TraceHash};
use crate::verdict::{Verdict, Violation};

/// Time goes on in steps of so many milliseconds: a message takes one at least.
pub(crate) const STEP: u64 = 2;
/// The cluster must have formed by then, in milliseconds.
const FORMED_BY: u64 = 10_000;
/// Clients must have stopped so long after the last fault has ended.
const STOPPED_WITHIN: u64 = 30_000;
/// And every entity must be of use again so long after that.
const PROGRESS_WITHIN: u64 = 20_000;
/// And everything that a node has taken must be answered so long after that.
const ANSWERED_WITHIN: u64 = 10_000;
/// A process that could not go on is started again after so many milliseconds.
const START_AGAIN: u64 = 300;
/// Between two looks whether the cluster has been formed.
const LOOK: u64 = 10;

/// What to run.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// Decides everything.
    pub seed: u64,
    /// Only so many of the faults; all of them if `None`.
    pub faults_max: Option<usize>,
    /// Prints all that happens.
    pub shows_trace: bool,
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// Of the run.
    pub seed: u64,
    /// Equal runs have equal ones.
    pub hash: TraceHash,
    /// What went wrong on purpose.
    pub schedule: Vec<Scheduled>,
    /// What should not have.
    pub violations: Vec<Violation>,
    /// Operations of clients.
    pub operations: usize,
    /// Those whose outcome is known and was compared.
    pub compared: usize,
    /// Transfers of money, by at-least-once delivery.
    pub transfers: usize,
    /// Events in the journal.
    pub events: usize,
    /// Leaders that were elected.
    pub leaders: usize,
    /// Processes that were started.
    pub processes: u64,
    /// Milliseconds that have passed in it.
    pub simulated: u64,
}

impl Run {
    /// Runs it to its end, or to the first violation.
    #[must_use]
    pub fn perform(&self) -> Report {
        let mut world = World::new(self);
        world.run();
        world.report(self.seed)
    }
}

struct World {
    now: u64,
    chance: StdRng,
    settings: Settings,
    schedule: Vec<Scheduled>,
    trace: Trace,
    verdict: Verdict,
    network: Network,
    database: Database,
    journaled: Journaled,
    recoveries: Recoveries,
    unanswered: Unanswered,
    history: History,
    transfers: Transfers,
    leaders: Leaders,
    machines: Vec<Machine>,
    clients: Clients,
    hints: Hints,
    /// What is to be done at a time.
    due: BTreeMap<(u64, u64), Step>,
    steps: u64,
    lives: u64,
}

impl World {
    fn new(run: &Run) -> Self {
        let mut chance = StdRng::seed_from_u64(run.seed);
        let settings = Settings::draw(&mut chance);
        let mood = Mood::draw(&mut chance);
        let mut schedule = mood.schedule(settings.machines, &mut chance);
        schedule.truncate(run.faults_max.unwrap_or(usize::MAX));
        let trace = Trace::new(run.shows_trace);
        let verdict = Verdict::default();
        let order = Order::default();
        let network = Network::new(chance.random(), trace.clone());
        let transfers = Transfers::default();
        let journaled = Journaled::new(
            verdict.clone(),
            trace.clone(),
            order.clone(),
            transfers.clone(),
        );
        journaled.set_network(network.clone());
        let database = Database::new(chance.random(), journaled.clone());
        let recoveries =
            Recoveries::new(verdict.clone(), settings.number_of_shards, RECOVERIES_MAX);
        let unanswered = Unanswered::default();
        let history = History::new(order);
        let surroundings = Surroundings {
            network: network.clone(),
            database: database.clone(),
            recoveries: recoveries.clone(),
            unanswered: unanswered.clone(),
            settings: settings.clone(),
            verdict: verdict.clone(),
        };
        let machines = (0..settings.machines)
            .map(|number| {
                let rate = 1.0 + chance.random_range(-settings.drift..=settings.drift);
                Machine::new(number, chance.random(), rate, surroundings.clone())
            })
            .collect();
        let hints = Hints::default();
        let shared = Shared {
            network: network.clone(),
            history: history.clone(),
            verdict: verdict.clone(),
            machines: settings.machines,
            entities: settings.entities,
            lone_entities: settings.lone_entities,
            purses: settings.purses,
            transfers: transfers.clone(),
            hints: hints.clone(),
            writes_seldom: chance.random_bool(0.4),
            is_calm: mood == Mood::Calm,
        };
        let clients = Clients::new(chance.random(), shared);
        Self {
            now: 0,
            chance,
            settings,
            schedule,
            trace,
            verdict,
            network,
            database,
            journaled,
            recoveries,
            unanswered,
            history,
            transfers,
            leaders: Leaders::default(),
            machines,
            clients,
            hints,
            due: BTreeMap::new(),
            steps: 0,
            lives: 0,
        }
    }

    fn run(&mut self) {
        self.form();
        let begins = self.now;
        self.clients.begin(&mut self.chance);
        let mut healed = begins + TROUBLE;
        for scheduled in self.schedule.clone() {
            healed = healed.max(begins + scheduled.at + scheduled.lasts);
            self.plan(begins + scheduled.at, Step::Begin(scheduled));
        }
        self.pass_until(healed + 100, |_| false);
        self.clients.stop();
        let stopped = |world: &Self| world.clients.have_stopped();
        self.within(STOPPED_WITHIN, "clients have stopped", stopped);
        self.compare();
        self.clients.close(&mut self.chance);
        let closed = |world: &Self| world.clients.have_closed();
        self.within(PROGRESS_WITHIN, "every entity is of use", closed);
        let answered = |world: &Self| world.unanswered.oldest().is_none();
        if !self.pass_until(self.now + ANSWERED_WITHIN, answered)
            && let Some((attempt, host, since)) = self.unanswered.oldest()
        {
            let what =
                format!("request {attempt}, which {host:?} took at {since} ms, is not answered");
            self.violated("I-8", what);
        }
        if !self.verdict.is_guilty() {
            self.compare();
        }
    }

    /// Starts all machines, and waits until the cluster has formed and is balanced.
    fn form(&mut self) {
        for number in 0..self.settings.machines {
            let delay = self.chance.random_range(0..50);
            self.plan(delay, Step::Start(number));
        }
        let formed = |world: &Self| world.now.is_multiple_of(LOOK) && world.has_formed();
        self.within(FORMED_BY, "the cluster has formed", formed);
    }

    fn has_formed(&self) -> bool {
        self.machines.iter().all(|machine| {
            machine.up().is_some_and(|up| {
                let state = up.states.borrow();
                let members = state.members_up().count();
                members == self.machines.len()
                    && state
                        .shards()
                        .all(|(shard, _)| state.owner_of(shard).is_some())
            })
        })
    }

    /// Lets time pass until something holds, which it must in time.
    fn within(&mut self, limit: u64, what: &str, holds: impl Fn(&Self) -> bool) {
        let until = self.now + limit;
        if !self.pass_until(until, holds) {
            let what = format!("not {what} within {limit} ms");
            self.violated("progress", what);
        }
    }

    /// Lets time pass until something holds, at most until a time. Returns whether it
    /// held, or something is wrong already.
    fn pass_until(&mut self, until: u64, holds: impl Fn(&Self) -> bool) -> bool {
        while self.now < until {
            if self.verdict.is_guilty() || holds(self) {
                return true;
            }
            self.tick();
        }
        false
    }

    fn tick(&mut self) {
        self.now += STEP;
        self.network.advance_to(self.now);
        while let Some((&(at, _), _)) = self.due.first_key_value()
            && at <= self.now
            && let Some((_, step)) = self.due.pop_first()
        {
            self.perform(step);
        }
        for number in 0..self.machines.len() {
            if let Some(over) = self.machines[number].tick() {
                self.ended(number as u32, &over);
            }
            self.look(number);
        }
        self.clients.tick();
    }

    /// A process has ended by itself.
    fn ended(&mut self, number: u32, over: &Over) {
        self.trace
            .note(self.now, || format!("machine {number}: {over:?}"));
        if matches!(over, Over::Failed(_)) {
            self.plan(self.now + START_AGAIN, Step::Start(number));
        }
    }

    /// Looks at what a node knows.
    fn look(&mut self, number: usize) {
        let machine = &self.machines[number];
        let Some(up) = machine.up() else {
            return;
        };
        let life = (machine.host(), machine.life());
        self.recoveries.look(life, up.node, &up.states, self.now);
        let leadership = *up.leadership.borrow();
        self.leaders.look(life, leadership, self.now, &self.verdict);
    }

    fn plan(&mut self, at: u64, step: Step) {
        self.steps += 1;
        self.due.insert((at, self.steps), step);
    }

    fn violated(&self, promise: &'static str, what: String) {
        self.verdict.violated(promise, self.now, what);
    }

    /// Compares what clients were told with the journal.
    fn compare(&self) {
        let ops = self.history.ops();
        let streams = self.journaled.streams();
        let between_nodes = Streams {
            ended: self.network.ended_streams(),
            hosts: self.recoveries.hosts(),
        };
        for entity in 0..self.settings.entities + self.settings.lone_entities {
            let name = entity_name(entity);
            let of_entity: Vec<&Op> = ops.iter().filter(|op| op.entity == entity).collect();
            let stream = streams.get(&name).cloned().unwrap_or_default();
            histories::check(&name, &of_entity, &stream, &self.verdict);
            burst_order::check(&name, &of_entity, &stream, &between_nodes, &self.verdict);
        }
    }

    fn report(self, seed: u64) -> Report {
        let ops = self.history.ops();
        let is_known = |op: &&Op| {
            let completed = op.completed.as_ref();
            completed.is_some_and(|done| !matches!(done.outcome, Outcome::Unknown { .. }))
        };
        let streams = self.journaled.streams();
        drop((self.machines, self.clients));
        self.network.end();
        Report {
            seed,
            hash: self.trace.hash(),
            schedule: self.schedule.clone(),
            violations: self.verdict.found(),
            operations: ops.len(),
            compared: ops.iter().filter(is_known).count(),
            transfers: self.transfers.count(),
            events: streams.values().map(|stream| stream.events.len()).sum(),
            leaders: self.leaders.count(),
            processes: self.lives,
            simulated: self.now,
        }
    }
}
