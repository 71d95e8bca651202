//! What goes wrong, and when: drawn from the seed, as a list. Each fault ends by
//! itself, so any prefix of the list is a schedule too; see `shrinking.rs`. Next:
//! `schedule/situations.rs`, where faults meet; `world/faults.rs`, which performs them.

mod situations;

use std::fmt;

use rand::Rng;
use rand::rngs::StdRng;

/// Whom a fault strikes; decided when it does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Whom {
    /// This machine.
    Machine(u32),
    /// The machine whose node leads, or the first.
    Leader,
}

/// Which way a cut goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ways {
    /// Nothing passes.
    Both,
    /// Nothing comes in.
    In,
    /// Nothing goes out.
    Out,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// The process is killed, and started again at the end.
    Crash(Whom),
    /// The process executes nothing.
    Pause(Whom),
    /// Nothing passes between it and the other nodes; clients and database do not
    /// notice.
    Isolate(Whom, Ways),
    /// Nothing passes between it and anybody but clients.
    CutOff(Whom),
    /// Nothing passes between two nodes; hurried clients send through the first.
    CutLink(u32, u32, Ways),
    /// Isolated again and again: on and off, each for so many milliseconds.
    Flap(Whom, u64),
    /// What it sends to other nodes, and they to it, takes up to so many milliseconds
    /// longer.
    Slow(Whom, u64),
    /// What nodes send each other is lost, with a probability of so many percent.
    Lossy(u8),
    /// It does not reach the database.
    NoDatabase(Whom),
    /// Nobody reaches the database.
    Outage,
    /// What it asks the database arrives up to so many milliseconds later.
    LateCommits(Whom, u64),
    /// What it asks the database arrives so many milliseconds later, and lone writers
    /// write at once.
    Held(Whom, u64),
    /// It and, if set, the machine next to it reach nobody but each other, the database
    /// and clients, who write elsewhere and mostly read there.
    Desert(Whom, bool),
    /// What anybody asks the database arrives up to so many milliseconds later.
    SlowDatabase(u64),
    /// What the database answers it is lost, with a probability of so many percent.
    LostAnswers(Whom, u8),
    /// The database refuses what it is asked, with a probability of so many percent.
    Refusals(u8),
    /// The node stops as it should, and is started again at the end.
    Restart(Whom),
    /// The node is taken out of the cluster, and a new one comes at the end.
    Replace(Whom),
    /// The leader hands leadership over.
    StepDown,
}

impl Fault {
    /// Its name, whomever it strikes.
    #[must_use]
    pub fn kind(&self) -> String {
        let shown = format!("{self:?}");
        let name = shown.split('(').next();
        name.unwrap_or_default().to_owned()
    }
}

/// A fault with its time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scheduled {
    /// Milliseconds after the cluster is up.
    pub at: u64,
    /// For so many milliseconds.
    pub lasts: u64,
    /// What goes wrong.
    pub fault: Fault,
}

impl fmt::Display for Scheduled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>6} ms, for {:>5} ms: {:?}",
            self.at, self.lasts, self.fault
        )
    }
}

/// What a run is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Planned movement only: no command may fail (I-9).
    Calm,
    /// Some faults.
    Rough,
    /// Many faults, also at the same time.
    Storm,
    /// Situations in which faults meet, one after the other.
    Aimed,
}

/// Faults happen within so many milliseconds.
pub(crate) const TROUBLE: u64 = 7_000;

impl Mood {
    pub(crate) fn draw(chance: &mut StdRng) -> Self {
        match chance.random_range(0..10) {
            0..2 => Self::Calm,
            2..4 => Self::Rough,
            4..6 => Self::Storm,
            _ => Self::Aimed,
        }
    }

    /// Faults of a run with so many machines.
    pub(crate) fn schedule(self, machines: u32, chance: &mut StdRng) -> Vec<Scheduled> {
        let mut schedule = match self {
            Self::Calm => calm(machines, chance),
            Self::Rough => {
                let count = chance.random_range(3..=8);
                mixed(count, machines, chance)
            }
            Self::Storm => {
                let count = chance.random_range(8..=16);
                mixed(count, machines, chance)
            }
            Self::Aimed => aimed(machines, chance),
        };
        schedule.sort_by_key(|scheduled| scheduled.at);
        schedule
    }
}

/// What is planned waits until what was planned before is done.
fn calm(machines: u32, chance: &mut StdRng) -> Vec<Scheduled> {
    let count = chance.random_range(2..=5);
    let mut times: Vec<u64> = (0..count)
        .map(|_| chance.random_range(0..TROUBLE))
        .collect();
    times.sort_unstable();
    let mut free_at = 0;
    let planned = times.into_iter().map(|at| {
        let (fault, lasts) = planned(machines, chance);
        let at = at.max(free_at);
        free_at = at + lasts + 2_500;
        Scheduled { at, lasts, fault }
    });
    planned.collect()
}

fn mixed(count: usize, machines: u32, chance: &mut StdRng) -> Vec<Scheduled> {
    let mut schedule = Vec::new();
    for _ in 0..count {
        let at = chance.random_range(0..TROUBLE);
        if chance.random_ratio(1, 4) {
            schedule.extend(situations::draw(machines, at, chance));
        } else {
            let (fault, lasts) = unplanned(machines, chance);
            schedule.push(Scheduled { at, lasts, fault });
        }
    }
    schedule
}

/// A situation begins when the one before has had time to come to its end.
fn aimed(machines: u32, chance: &mut StdRng) -> Vec<Scheduled> {
    let mut schedule = Vec::new();
    let mut free_at = chance.random_range(0..500);
    while free_at < TROUBLE {
        let situation = situations::draw(machines, free_at, chance);
        let ends = situation.iter().map(|s| s.at + s.lasts).max();
        free_at = ends.unwrap_or(free_at) + chance.random_range(600..2_000);
        schedule.extend(situation);
    }
    schedule
}

fn planned(machines: u32, chance: &mut StdRng) -> (Fault, u64) {
    match chance.random_range(0..4) {
        0 => (Fault::StepDown, 0),
        _ => (
            Fault::Restart(whom(machines, chance)),
            chance.random_range(1_000..3_000),
        ),
    }
}

fn unplanned(machines: u32, chance: &mut StdRng) -> (Fault, u64) {
    let whom = whom(machines, chance);
    let percent = |chance: &mut StdRng| chance.random_range(3..=30);
    let brief = chance.random_range(50..700);
    let long = chance.random_range(500..3_500);
    match chance.random_range(0..19) {
        0..2 => (Fault::Crash(whom), chance.random_range(20..2_500)),
        2..4 => (Fault::Pause(whom), chance.random_range(100..2_500)),
        4..7 => (Fault::Isolate(whom, ways(chance)), long),
        7 => (Fault::CutOff(whom), long),
        8 => {
            let one = chance.random_range(0..machines);
            let other = (one + chance.random_range(1..machines)) % machines;
            (Fault::CutLink(one, other, ways(chance)), long)
        }
        9 => (Fault::Flap(whom, chance.random_range(30..600)), long),
        10 => (Fault::Slow(whom, chance.random_range(20..400)), long),
        11 => (Fault::Lossy(percent(chance)), long),
        12 => (Fault::NoDatabase(whom), long),
        13 => match chance.random_ratio(1, 2) {
            true => (Fault::Outage, brief),
            false => (Fault::SlowDatabase(chance.random_range(50..600)), long),
        },
        14..16 => (
            Fault::LateCommits(whom, chance.random_range(100..2_500)),
            long,
        ),
        16 => (Fault::LostAnswers(whom, percent(chance)), long),
        17 => match chance.random_range(0..3) {
            0 => (Fault::Refusals(percent(chance)), brief),
            1 => (Fault::Replace(whom), chance.random_range(500..2_500)),
            _ => (Fault::StepDown, 0),
        },
        _ => (Fault::Restart(whom), chance.random_range(20..2_000)),
    }
}

fn whom(machines: u32, chance: &mut StdRng) -> Whom {
    match chance.random_range(0..3) {
        0 => Whom::Leader,
        _ => Whom::Machine(chance.random_range(0..machines)),
    }
}

fn ways(chance: &mut StdRng) -> Ways {
    match chance.random_range(0..4) {
        0 => Ways::In,
        1 => Ways::Out,
        _ => Ways::Both,
    }
}
