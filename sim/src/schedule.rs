//! What goes wrong, and when: drawn from the seed, as a list. Each fault ends by
//! itself, so any prefix of the list is a schedule too; see `shrinking.rs`.

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
    /// Nothing passes between two nodes.
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
}

/// Faults happen within so many milliseconds.
pub(crate) const TROUBLE: u64 = 7_000;

impl Mood {
    pub(crate) fn draw(chance: &mut StdRng) -> Self {
        match chance.random_range(0..10) {
            0..2 => Self::Calm,
            2..6 => Self::Rough,
            _ => Self::Storm,
        }
    }

    /// Faults of a run with so many machines.
    pub(crate) fn schedule(self, machines: u32, chance: &mut StdRng) -> Vec<Scheduled> {
        let count = match self {
            Self::Calm => chance.random_range(2..=5),
            Self::Rough => chance.random_range(3..=8),
            Self::Storm => chance.random_range(8..=20),
        };
        let mut schedule: Vec<Scheduled> = Vec::new();
        for _ in 0..count {
            let at = chance.random_range(0..TROUBLE);
            if self != Self::Calm && chance.random_ratio(1, 5) {
                schedule.extend(with_writes_under_way(machines, at, chance));
                continue;
            }
            let (fault, lasts) = match self {
                Self::Calm => planned(machines, chance),
                Self::Rough | Self::Storm => unplanned(machines, chance),
            };
            schedule.push(Scheduled { at, lasts, fault });
        }
        schedule.sort_by_key(|scheduled| scheduled.at);
        if self == Self::Calm {
            one_at_a_time(&mut schedule);
        }
        schedule
    }
}

/// Planned work waits until what was planned before is done.
fn one_at_a_time(schedule: &mut [Scheduled]) {
    let mut free_at = 0;
    for scheduled in schedule {
        scheduled.at = scheduled.at.max(free_at);
        free_at = scheduled.at + scheduled.lasts + 2_500;
    }
}

/// A machine's commits are late, and while some are on their way, something happens
/// to it.
fn with_writes_under_way(machines: u32, at: u64, chance: &mut StdRng) -> [Scheduled; 2] {
    let machine = Whom::Machine(chance.random_range(0..machines));
    let late = Scheduled {
        at,
        lasts: chance.random_range(300..1_500),
        fault: Fault::LateCommits(machine, chance.random_range(300..2_500)),
    };
    let fault = match chance.random_range(0..5) {
        0 => Fault::Crash(machine),
        1 => Fault::Pause(machine),
        2 => Fault::Isolate(machine, ways(chance)),
        _ => Fault::Restart(machine),
    };
    let then = Scheduled {
        at: at + chance.random_range(50..1_200),
        lasts: match fault {
            Fault::Crash(_) | Fault::Restart(_) => chance.random_range(10..400),
            _ => chance.random_range(700..2_500),
        },
        fault,
    };
    [late, then]
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
