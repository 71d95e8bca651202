//! One run: machines, database, network and clients, one step after the other.
//!
//! Everything happens on one thread, in an order that the seed decides. In each
//! step of time whatever is due arrives, faults begin and end, every machine and the
//! clients execute what they have to, and what can be seen is checked. When the
//! trouble is over and healed, there must be progress.

use std::collections::BTreeMap;

use perennial_sharding::cluster_state::ClusterCommand;
use perennial_sharding::control_plane::ControlPlane;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::clients::{Clients, Shared, entity_name};
use crate::database::Database;
use crate::gateway::Unanswered;
use crate::history::{History, Op, Order, Outcome};
use crate::invariants::agreement::Leaders;
use crate::invariants::{Journaled, Recoveries, histories};
use crate::network::{Host, Network};
use crate::process::{Machine, Over, Surroundings};
use crate::schedule::{Fault, Mood, Scheduled, TROUBLE, Ways, Whom};
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
    leaders: Leaders,
    machines: Vec<Machine>,
    clients: Clients,
    /// What is to be done at a time.
    due: BTreeMap<(u64, u64), Step>,
    steps: u64,
    lives: u64,
}

/// Something the world does at its time.
#[derive(Debug, Clone)]
enum Step {
    Begin(Scheduled),
    End(Ending),
    Start(u32),
    /// Of a link that flaps: cut if set, and when it ends for good.
    Flap {
        host: Host,
        is_cut: bool,
        period: u64,
        until: u64,
    },
}

/// How a fault ends.
#[derive(Debug, Clone)]
enum Ending {
    Start(u32),
    StartAnew(u32),
    Resume(u32),
    Join(Vec<(Host, Host)>),
    SpeedUp(Vec<(Host, Host)>, (u64, u64)),
    LoseNoMore(Vec<(Host, Host)>, f64),
    Accept(f64),
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
        let journaled = Journaled::new(verdict.clone(), trace.clone(), order.clone());
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
        let shared = Shared {
            network: network.clone(),
            history: history.clone(),
            verdict: verdict.clone(),
            machines: settings.machines,
            entities: settings.entities,
            for_reading: chance
                .random_bool(0.5)
                .then(|| chance.random_range(0..settings.machines)),
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
            leaders: Leaders::default(),
            machines,
            clients,
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

    fn perform(&mut self, step: Step) {
        match step {
            Step::Begin(scheduled) => {
                self.trace.note(self.now, || format!("begins: {scheduled}"));
                self.begin(scheduled);
            }
            Step::End(ending) => {
                self.trace.note(self.now, || format!("ends: {ending:?}"));
                self.end(ending);
            }
            Step::Start(number) => self.start(number),
            Step::Flap {
                host,
                is_cut,
                period,
                until,
            } => {
                let links = self.to_nodes(host, Ways::Both);
                for &(from, to) in &links {
                    match is_cut {
                        true => self.network.join(from, to),
                        false => self.network.cut(from, to),
                    }
                }
                if !is_cut || self.now < until {
                    let again = Step::Flap {
                        host,
                        is_cut: !is_cut,
                        period,
                        until,
                    };
                    self.plan(self.now + period, again);
                }
            }
        }
    }

    fn begin(&mut self, scheduled: Scheduled) {
        let Scheduled { lasts, fault, .. } = scheduled;
        let ending = match fault {
            Fault::Crash(whom) => {
                let machine = self.machine(whom);
                self.machines[machine as usize].crash();
                Ending::Start(machine)
            }
            Fault::Pause(whom) => {
                let machine = self.machine(whom);
                self.machines[machine as usize].pause();
                Ending::Resume(machine)
            }
            Fault::Isolate(whom, ways) => {
                let host = self.host(whom);
                self.cut(self.to_nodes(host, ways))
            }
            Fault::CutOff(whom) => {
                let host = self.host(whom);
                let mut links = self.to_nodes(host, Ways::Both);
                links.extend(to_database(host));
                self.cut(links)
            }
            Fault::CutLink(one, other, ways) => {
                self.cut(links(Host::Node(one), Host::Node(other), ways))
            }
            Fault::Flap(whom, period) => {
                let flap = Step::Flap {
                    host: self.host(whom),
                    is_cut: false,
                    period,
                    until: self.now + lasts,
                };
                self.perform(flap);
                return;
            }
            Fault::Slow(whom, by) => {
                let host = self.host(whom);
                self.slow_down(self.to_nodes(host, Ways::Both), (0, by))
            }
            Fault::Lossy(percent) => {
                let share = f64::from(percent) / 100.0;
                let links = self.between_nodes();
                self.lose(links, share)
            }
            Fault::NoDatabase(whom) => {
                let host = self.host(whom);
                self.cut(to_database(host))
            }
            Fault::Outage => {
                let hosts = self.machines.iter().map(Machine::host);
                self.cut(hosts.flat_map(to_database).collect())
            }
            Fault::LateCommits(whom, by) => {
                let host = self.host(whom);
                self.slow_down(vec![(host, Host::Database)], (0, by))
            }
            Fault::SlowDatabase(by) => {
                let hosts = self.machines.iter().map(Machine::host);
                let links = hosts.map(|host| (host, Host::Database)).collect();
                self.slow_down(links, (0, by))
            }
            Fault::LostAnswers(whom, percent) => {
                let link = (Host::Database, self.host(whom));
                self.lose(vec![link], f64::from(percent) / 100.0)
            }
            Fault::Refusals(percent) => {
                let share = f64::from(percent) / 100.0;
                self.database.refuse(share);
                Ending::Accept(share)
            }
            Fault::Restart(whom) => {
                let machine = self.machine(whom);
                self.machines[machine as usize].stop();
                Ending::Start(machine)
            }
            Fault::Replace(whom) => {
                let machine = self.machine(whom);
                self.remove(machine);
                Ending::StartAnew(machine)
            }
            Fault::StepDown => {
                let machine = &self.machines[self.machine(Whom::Leader) as usize];
                if let Some(up) = machine.up() {
                    machine.run(async move {
                        up.control
                            .hand_over_leadership(std::time::Duration::from_secs(1))
                            .await;
                    });
                }
                return;
            }
        };
        self.plan(self.now + lasts, Step::End(ending));
    }

    fn end(&mut self, ending: Ending) {
        match ending {
            Ending::Start(machine) | Ending::StartAnew(machine)
                if self.machines[machine as usize].is_running() =>
            {
                // It takes its time to stop, or has been started by another fault.
                let machine_is = &self.machines[machine as usize];
                if machine_is.is_stopping() {
                    self.plan(self.now + LOOK, Step::End(ending));
                }
            }
            Ending::Start(machine) => self.start(machine),
            Ending::StartAnew(machine) => {
                if self.machines[machine as usize].was_removed() {
                    self.machines[machine as usize].wipe_disk();
                }
                self.start(machine);
            }
            Ending::Resume(machine) => self.machines[machine as usize].resume(),
            Ending::Join(links) => {
                for (from, to) in links {
                    self.network.join(from, to);
                }
            }
            Ending::SpeedUp(links, by) => {
                for (from, to) in links {
                    self.network.speed_up(from, to, by);
                }
            }
            Ending::LoseNoMore(links, share) => {
                for (from, to) in links {
                    self.network.lose_no_more(from, to, share);
                }
            }
            Ending::Accept(share) => self.database.accept(share),
        }
    }

    fn start(&mut self, number: u32) {
        let machine = &mut self.machines[number as usize];
        if !machine.is_running() {
            self.lives += 1;
            machine.start();
        }
    }

    /// Has the node of a machine taken out of the cluster.
    fn remove(&mut self, number: u32) {
        let Some(going) = self.machines[number as usize].up() else {
            return;
        };
        let Some(session) = going.states.borrow().session_up(going.node) else {
            return;
        };
        let leave = ClusterCommand::Leave {
            node: going.node,
            session,
            remove: true,
            at: 0,
        };
        self.machines[number as usize].note_removal();
        self.machines[number as usize].run(async move {
            // If nobody hears it, it stays.
            let _ = going.control.propose(leave).await;
        });
    }

    fn machine(&self, whom: Whom) -> u32 {
        match whom {
            Whom::Machine(number) => number,
            Whom::Leader => {
                let leads = |machine: &&Machine| {
                    let leader = machine.up().map(|up| {
                        let leadership = *up.leadership.borrow();
                        (up.node, leadership.leader)
                    });
                    matches!(leader, Some((node, Some(leader))) if node == leader)
                };
                let leader = self.machines.iter().position(|machine| leads(&machine));
                leader.unwrap_or(0) as u32
            }
        }
    }

    fn host(&self, whom: Whom) -> Host {
        Host::Node(self.machine(whom))
    }

    /// The links between a node and all others.
    fn to_nodes(&self, host: Host, ways: Ways) -> Vec<(Host, Host)> {
        let others = self.machines.iter().map(Machine::host);
        let others = others.filter(|other| *other != host);
        others.flat_map(|other| links(host, other, ways)).collect()
    }

    fn between_nodes(&self) -> Vec<(Host, Host)> {
        let hosts = self.machines.iter().map(Machine::host);
        hosts
            .flat_map(|host| self.to_nodes(host, Ways::Out))
            .collect()
    }

    fn cut(&self, links: Vec<(Host, Host)>) -> Ending {
        for &(from, to) in &links {
            self.network.cut(from, to);
        }
        Ending::Join(links)
    }

    fn slow_down(&self, links: Vec<(Host, Host)>, by: (u64, u64)) -> Ending {
        for &(from, to) in &links {
            self.network.slow_down(from, to, by);
        }
        Ending::SpeedUp(links, by)
    }

    fn lose(&self, links: Vec<(Host, Host)>, share: f64) -> Ending {
        for &(from, to) in &links {
            self.network.lose(from, to, share);
        }
        Ending::LoseNoMore(links, share)
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
        for entity in 0..self.settings.entities {
            let name = entity_name(entity);
            let of_entity: Vec<&Op> = ops.iter().filter(|op| op.entity == entity).collect();
            let stream = streams.get(&name).cloned().unwrap_or_default();
            histories::check(&name, &of_entity, &stream, &self.verdict);
        }
    }

    fn report(self, seed: u64) -> Report {
        let ops = self.history.ops();
        let is_known = |op: &&Op| {
            let completed = op.completed.as_ref();
            completed.is_some_and(|done| !matches!(done.outcome, Outcome::Unknown { .. }))
        };
        let streams = self.journaled.streams();
        Report {
            seed,
            hash: self.trace.hash(),
            schedule: self.schedule.clone(),
            violations: self.verdict.found(),
            operations: ops.len(),
            compared: ops.iter().filter(is_known).count(),
            events: streams.values().map(|stream| stream.events.len()).sum(),
            leaders: self.leaders.count(),
            processes: self.lives,
            simulated: self.now,
        }
    }
}

fn links(one: Host, other: Host, ways: Ways) -> Vec<(Host, Host)> {
    match ways {
        Ways::Both => vec![(one, other), (other, one)],
        Ways::In => vec![(other, one)],
        Ways::Out => vec![(one, other)],
    }
}

fn to_database(host: Host) -> Vec<(Host, Host)> {
    links(host, Host::Database, Ways::Both)
}
