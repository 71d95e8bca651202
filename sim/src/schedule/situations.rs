//! Faults that meet: each situation aims several of them at one place.
//!
//! Single faults seldom find what takes two or three of them, one after the other,
//! where somebody looks. These are the known ways to hurt a service like this one: a
//! write that lands after its author has gone, an owner that nobody but its readers
//! reaches, a shard that moves away behind the back of a sender.

use rand::Rng;
use rand::rngs::StdRng;

use super::{Fault, Scheduled, Whom, ways};

/// A situation that begins at `at`.
pub(super) fn draw(machines: u32, at: u64, chance: &mut StdRng) -> Vec<Scheduled> {
    match chance.random_range(0..10) {
        0 => late_writes(machines, at, chance),
        1..5 => held_writes(machines, at, chance),
        5..7 => desert(machines, at, chance),
        _ => moved_behind_a_cut(machines, at, chance),
    }
}

fn some_machine(machines: u32, chance: &mut StdRng) -> u32 {
    chance.random_range(0..machines)
}

/// A machine other than this one.
fn another(machine: u32, machines: u32, chance: &mut StdRng) -> u32 {
    (machine + chance.random_range(1..machines)) % machines
}

/// A machine's commits are late, and while some are on their way, something happens
/// to it.
fn late_writes(machines: u32, at: u64, chance: &mut StdRng) -> Vec<Scheduled> {
    let machine = Whom::Machine(some_machine(machines, chance));
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
    vec![late, then]
}

/// What a machine has sent to the database for a short while is on its way for long:
/// it lands after its shards have moved, or after its process has gone and the next one
/// has come.
fn held_writes(machines: u32, at: u64, chance: &mut StdRng) -> Vec<Scheduled> {
    let number = some_machine(machines, chance);
    let machine = Whom::Machine(number);
    let window = chance.random_range(150..600);
    let by = chance.random_range(900..2_600);
    let held_at = |at, lasts| Scheduled {
        at,
        lasts,
        fault: Fault::Held(machine, by),
    };
    let then = |at, lasts, fault| Scheduled { at, lasts, fault };
    match chance.random_range(0..10) {
        // The next process comes while they are on their way.
        0..3 => {
            let soon = chance.random_range(5..300);
            let held = held_at(at, window);
            vec![held, then(at + window - 4, soon, Fault::Crash(machine))]
        }
        // Others take over while they are.
        3..6 => {
            let lasts = by + chance.random_range(0..1_000);
            let fault = match chance.random_ratio(1, 2) {
                true => Fault::Crash(machine),
                false => Fault::Isolate(machine, ways(chance)),
            };
            let held = held_at(at, window);
            vec![held, then(at + window - 4, lasts, fault)]
        }
        // The machine's shards are handed off.
        6..8 => {
            let lasts = chance.random_range(1_000..3_000);
            let before = chance.random_range(0..700);
            let held = held_at(at, window);
            vec![held, then(at + before, lasts, Fault::Restart(machine))]
        }
        // Another machine comes and gets some of them.
        _ => {
            let comes = Whom::Machine(another(number, machines, chance));
            let away = chance.random_range(1_000..2_000);
            let later = at + away + chance.random_range(0..500);
            let gone = then(at, away, Fault::Restart(comes));
            vec![gone, held_at(later, window)]
        }
    }
}

/// A machine, or two, reach nobody but the database and clients, who mostly read there
/// and write elsewhere.
fn desert(machines: u32, at: u64, chance: &mut StdRng) -> Vec<Scheduled> {
    let whom = match chance.random_ratio(1, 2) {
        true => Whom::Leader,
        false => Whom::Machine(some_machine(machines, chance)),
    };
    let with_neighbour = machines > 3 && chance.random_ratio(1, 3);
    vec![Scheduled {
        at,
        lasts: chance.random_range(1_200..3_500),
        fault: Fault::Desert(whom, with_neighbour),
    }]
}

/// Two machines do not reach each other, and the shards of one move to others: what
/// the other has sent it arrives, if at all, when they have gone.
fn moved_behind_a_cut(machines: u32, at: u64, chance: &mut StdRng) -> Vec<Scheduled> {
    let from = some_machine(machines, chance);
    let sender = another(from, machines, chance);
    let cut_at = |at, chance: &mut StdRng| Scheduled {
        at,
        lasts: chance.random_range(150..1_400),
        fault: Fault::CutLink(sender, from, ways(chance)),
    };
    let restart = |at, lasts, machine| Scheduled {
        at,
        lasts,
        fault: Fault::Restart(Whom::Machine(machine)),
    };
    let lasts = chance.random_range(500..2_500);
    let rest: Vec<u32> = (0..machines)
        .filter(|machine| ![from, sender].contains(machine))
        .collect();
    match chance.random_ratio(1, 2) {
        true => {
            let moves = at + chance.random_range(0..200);
            vec![cut_at(at, chance), restart(moves, lasts, from)]
        }
        // They move to one that comes.
        false => {
            let comes = rest[chance.random_range(0..rest.len())];
            let later = at + lasts + chance.random_range(0..400);
            vec![restart(at, lasts, comes), cut_at(later, chance)]
        }
    }
}
