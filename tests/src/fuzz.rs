//! Feeds nonsense to everything that reads bytes of others, and checks that it is
//! refused with a reason: no panic, no more memory than the input is worth.
//!
//! Inputs are good messages spoilt by chance, or chance alone. One seed gives the
//! same inputs in the same order, so a failure is found again by seed and number.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use perennial::untrusted;
use perennial_sharding::raft::untrusted as raft;

use crate::seed::Random;

/// Bytes of an input, at most.
const INPUT_LEN_MAX: usize = 16 << 10;
/// Bytes a process may grow by while it reads a batch of such inputs.
const GROWTH_MAX: u64 = 64 << 20;
/// Inputs between two looks at the memory.
const BATCH: u64 = 1000;
/// Characters of a reason: it goes into logs and statuses.
const REASON_LEN_MAX: usize = 16 << 10;

/// Something that reads bytes of others.
#[derive(Clone, Copy)]
pub struct Target {
    /// How it is chosen.
    pub name: &'static str,
    examples: fn() -> Vec<Vec<u8>>,
    read: fn(&[u8]) -> Result<(), String>,
}

/// All there are.
pub const TARGETS: &[Target] = &[
    Target {
        name: "request",
        examples: untrusted::examples,
        read: untrusted::request,
    },
    Target {
        name: "settings",
        examples: untrusted::settings_examples,
        read: untrusted::settings,
    },
    Target {
        name: "peer-call",
        examples: || untrusted::peer_examples()[0].clone(),
        read: untrusted::call,
    },
    Target {
        name: "peer-forward",
        examples: || untrusted::peer_examples()[1].clone(),
        read: untrusted::forward,
    },
    Target {
        name: "peer-back",
        examples: || untrusted::peer_examples()[2].clone(),
        read: untrusted::back,
    },
    Target {
        name: "raft-request",
        examples: raft::examples,
        read: raft::request,
    },
    Target {
        name: "raft-response",
        examples: raft::examples,
        read: raft::response,
    },
];

/// What came of the inputs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Report {
    /// Read.
    pub inputs: u64,
    /// Understood all the same.
    pub accepted: u64,
    /// Bytes by which the process grew while it read a batch, at most.
    pub growth: u64,
}

/// Feeds a target until the time is over.
///
/// # Errors
/// The first input that does harm, with what repeats it.
pub fn run(target: Target, seed: u64, time: Duration) -> Result<Report> {
    let mut random = Random::new(seed);
    let examples = (target.examples)();
    ensure!(!examples.is_empty(), "{} has no examples", target.name);
    for example in &examples {
        // Answers are spoilt requests of raft, so of those only that they are refused.
        if target.name != "raft-response" {
            let read = (target.read)(example);
            ensure!(
                read.is_ok(),
                "{}: an example is refused: {read:?}",
                target.name
            );
        }
    }
    let mut report = Report::default();
    let end = Instant::now() + time;
    while Instant::now() < end {
        reset_peak()?;
        let before = memory("VmRSS:")?;
        for _ in 0..BATCH {
            let input = input(&mut random, &examples);
            let fed = feed(target, &input);
            let accepted = fed.with_context(|| {
                format!(
                    "{}, --seed {seed}, input {}: {}",
                    target.name,
                    report.inputs,
                    hex(&input)
                )
            })?;
            report.inputs += 1;
            report.accepted += u64::from(accepted);
        }
        let growth = memory("VmHWM:")?.saturating_sub(before);
        report.growth = report.growth.max(growth);
        ensure!(
            growth <= GROWTH_MAX,
            "{}, --seed {seed}: the inputs before {} took {growth} bytes of memory",
            target.name,
            report.inputs
        );
    }
    Ok(report)
}

/// Whether it was understood.
fn feed(target: Target, input: &[u8]) -> Result<bool> {
    match catch_unwind(AssertUnwindSafe(|| (target.read)(input))) {
        Err(_) => bail!("it panics"),
        Ok(Ok(())) => Ok(true),
        Ok(Err(reason)) => {
            ensure!(!reason.is_empty(), "it is refused without a reason");
            let len = reason.len();
            ensure!(
                len <= REASON_LEN_MAX,
                "the reason has {len} bytes: {reason:.100}"
            );
            Ok(false)
        }
    }
}

/// A good input that was spoilt, or one of chance alone.
fn input(random: &mut Random, examples: &[Vec<u8>]) -> Vec<u8> {
    let pick = |random: &mut Random| examples[random.below(examples.len() as u64) as usize].clone();
    if random.below(10) == 0 {
        let len = random.below(256);
        return (0..len).map(|_| random.next_u64() as u8).collect();
    }
    let mut bytes = pick(random);
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() as u64 + 1) as usize;
        match random.below(8) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, random.next_u64() as u8),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            4 if at < bytes.len() => bytes[at] = random.next_u64() as u8,
            // The largest lengths there are.
            5 => {
                let ends = [1, 15, 127].map(|end| [[0xff; 9].as_slice(), &[end]].concat());
                let varint = &ends[random.below(3) as usize];
                let cut = random.below(varint.len() as u64) as usize;
                bytes.splice(at..at, varint[cut..].iter().copied());
            }
            // A part of another.
            6 => {
                let other = pick(random);
                let from = random.below(other.len() as u64 + 1) as usize;
                bytes.truncate(at);
                bytes.extend(&other[from..]);
            }
            // The same again and again, as nested messages are.
            _ => {
                let part = bytes[at..].to_vec();
                let times = random.below(64);
                for _ in 0..times {
                    if bytes.len() + part.len() > INPUT_LEN_MAX {
                        break;
                    }
                    bytes.extend(&part);
                }
            }
        }
    }
    bytes.truncate(INPUT_LEN_MAX);
    bytes
}

/// The beginning, for a message.
fn hex(bytes: &[u8]) -> String {
    let shown = bytes.iter().take(512).map(|byte| format!("{byte:02x}"));
    shown.collect()
}

/// From now on `VmHWM` is the peak after this.
fn reset_peak() -> Result<()> {
    std::fs::write("/proc/self/clear_refs", "5").context("Linux is needed to see memory peaks")
}

/// A number of `/proc/self/status`, in bytes.
fn memory(name: &str) -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    let kib: u64 = number.context("no such number")?.parse()?;
    Ok(kib << 10)
}
