//! What came of a soak, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Options;
use super::outage::{Outage, milliseconds};
use super::ownership::{Ownership, TwoHomes};
use super::record::{Book, Counts};
use super::schedule::FaultKind;
use super::stories::Story;
use super::verdict::{Findings, Violation};

/// Everything there is to tell.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// Repeats the faults.
    pub seed: u64,
    /// What happened.
    pub story: Story,
    /// Nodes at the beginning.
    pub nodes: usize,
    /// Settings that are not the default.
    pub settings: Vec<(String, String)>,
    /// With the checks at the end.
    #[serde(serialize_with = "milliseconds", rename = "took_ms")]
    pub took: Duration,
    /// Operations by what came of them.
    pub counts: Counts,
    /// Operations of the histories that were checked.
    pub operations_checked: u64,
    /// Entities that were checked.
    pub entities: u64,
    /// Stored events that were compared.
    pub events: u64,
    /// Homes of shards that were compared, shards by epochs.
    pub homes: usize,
    /// How often each kind of fault was injected.
    pub faults: BTreeMap<FaultKind, u64>,
    /// Kinds that were not possible here, and why.
    pub left_out: Vec<String>,
    /// Each kill as it was felt.
    pub outages: Vec<Outage>,
    /// From the moment a fault was mended until every probe had answered.
    pub mended: BTreeMap<FaultKind, Times>,
    /// Attempts that were not answered as hoped, by what was said.
    pub failed_attempts: BTreeMap<String, u64>,
    /// How long acknowledged commands took.
    pub latency: Latency,
    /// The same of those begun while something was wrong or moved.
    pub latency_moving: Latency,
    /// Entities whose history could not be decided with the effort allowed.
    pub undecided: Vec<String>,
    /// What must not be.
    pub violations: Vec<Violation>,
    /// When it began.
    #[serde(skip)]
    pub began: Instant,
    #[serde(skip)]
    latencies: Vec<(Duration, Duration)>,
    #[serde(skip)]
    moving: Vec<(Duration, Duration)>,
}

/// Some times, by their order.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Times {
    #[serde(skip)]
    all: Vec<Duration>,
    /// How many there are.
    pub count: usize,
    /// Half of them are no longer.
    #[serde(serialize_with = "milliseconds", rename = "p50_ms")]
    pub p50: Duration,
    /// None is longer.
    #[serde(serialize_with = "milliseconds", rename = "max_ms")]
    pub max: Duration,
}

/// How long commands took.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Latency {
    /// How many there are.
    pub count: usize,
    /// Half of them were as quick.
    #[serde(serialize_with = "milliseconds", rename = "p50_ms")]
    pub p50: Duration,
    /// 99 of 100.
    #[serde(serialize_with = "milliseconds", rename = "p99_ms")]
    pub p99: Duration,
    /// 999 of 1000.
    #[serde(serialize_with = "milliseconds", rename = "p999_ms")]
    pub p999: Duration,
    /// All.
    #[serde(serialize_with = "milliseconds", rename = "max_ms")]
    pub max: Duration,
}

impl Times {
    /// Sorts them.
    #[must_use]
    pub fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        Self {
            count: all.len(),
            p50: part(&all, 0.5),
            max: part(&all, 1.0),
            all,
        }
    }
}

impl Latency {
    fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        Self {
            count: all.len(),
            p50: part(&all, 0.5),
            p99: part(&all, 0.99),
            p999: part(&all, 0.999),
            max: part(&all, 1.0),
        }
    }
}

/// The time that so large a part of them, which are sorted, does not exceed.
fn part(sorted: &[Duration], part: f64) -> Duration {
    let rank = (sorted.len() as f64 * part).ceil() as usize;
    let place = rank.saturating_sub(1);
    sorted.get(place).copied().unwrap_or_default()
}

impl Summary {
    /// Nothing yet.
    #[must_use]
    pub fn new(options: &Options, began: Instant) -> Self {
        Self {
            seed: options.seed,
            story: options.story,
            nodes: options.nodes,
            settings: options.settings.clone(),
            took: Duration::ZERO,
            counts: Counts::default(),
            operations_checked: 0,
            entities: 0,
            events: 0,
            homes: 0,
            faults: BTreeMap::new(),
            left_out: vec!["clock jumps: all processes of a machine share its clock".to_owned()],
            outages: Vec::new(),
            mended: BTreeMap::new(),
            failed_attempts: BTreeMap::new(),
            latency: Latency::default(),
            latency_moving: Latency::default(),
            undecided: Vec::new(),
            violations: Vec::new(),
            began,
            latencies: Vec::new(),
            moving: Vec::new(),
        }
    }

    /// A fault was injected.
    pub fn fault(&mut self, kind: FaultKind) {
        *self.faults.entry(kind).or_default() += 1;
    }

    /// Until now, from `since` after the beginning, something was wrong or moved.
    pub fn moved(&mut self, since: Duration) {
        self.moving.push((since, self.began.elapsed()));
    }

    /// After a fault was mended, the last probe answered after this.
    pub fn mended(&mut self, kind: FaultKind, after: Duration) {
        self.mended.entry(kind).or_default().all.push(after);
    }

    /// Takes in what a part of the clients wrote down and what was found in it.
    pub fn add(&mut self, book: &Book, findings: Findings) {
        self.counts.add(&book.counts);
        self.operations_checked += findings.operations;
        self.entities += findings.entities;
        self.events += findings.events;
        self.violations.extend(findings.violations);
        self.undecided.extend(findings.undecided);
        for (said, count) in &book.failed_attempts {
            *self.failed_attempts.entry(said.clone()).or_default() += count;
        }
        self.latencies.extend(&book.latencies);
    }

    /// Takes in what nodes said about shards.
    pub fn homes_seen(&mut self, ownership: &Ownership, two_homes: &[TwoHomes]) {
        self.homes = ownership.homes();
        let found = two_homes.iter().map(|found| Violation {
            place: "shards".to_owned(),
            what: found.to_string(),
        });
        self.violations.extend(found);
    }

    /// Computes what can only be computed at the end.
    pub fn finish(&mut self) {
        self.took = self.began.elapsed();
        // Planned movement is invisible: then no attempt may fail at all.
        if self.story == Story::Rolling {
            for (said, count) in &self.failed_attempts {
                let place = "planned movement".to_owned();
                let what = format!("I-9: {count} attempts failed: {said}");
                self.violations.push(Violation { place, what });
            }
        }
        for times in self.mended.values_mut() {
            *times = Times::of(std::mem::take(&mut times.all));
        }
        let latencies = std::mem::take(&mut self.latencies);
        let is_moving = |began: &Duration| {
            let mut moving = self.moving.iter();
            moving.any(|(from, to)| from <= began && began <= to)
        };
        let moving = latencies.iter().filter(|(began, _)| is_moving(began));
        self.latency_moving = Latency::of(moving.map(|(_, took)| *took).collect());
        self.latency = Latency::of(latencies.into_iter().map(|(_, took)| took).collect());
    }

    /// Outages of kills of nodes that led, or did not: until the first affected entity
    /// answered, and until the last.
    #[must_use]
    pub fn outages_of(&self, leader: bool) -> (Times, Times) {
        let felt = self
            .outages
            .iter()
            .filter(|outage| outage.leader == leader && outage.affected > 0);
        let first = felt.clone().map(|outage| outage.first).collect();
        let last = felt.map(|outage| outage.last).collect();
        (Times::of(first), Times::of(last))
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        writeln!(
            f,
            "seed {}, story {}, {} nodes, {:.0} s",
            self.seed,
            format!("{:?}", self.story).to_lowercase(),
            self.nodes,
            self.took.as_secs_f64()
        )?;
        for (key, value) in &self.settings {
            writeln!(f, "  {key} = {value}")?;
        }
        let mut row = |name: &str, value: String| writeln!(f, "  {name:<44}{value}");
        row("operations", counts.operations.to_string())?;
        row("commands", counts.commands.to_string())?;
        row("  acknowledged", counts.acknowledged.to_string())?;
        row("  rejected by the entity", counts.rejected.to_string())?;
        row("  certainly not applied", counts.not_applied.to_string())?;
        row("  unknown", counts.unknown.to_string())?;
        row("reads", counts.reads.to_string())?;
        row(
            "checked",
            format!(
                "{} operations, {} entities, {} events, {} homes",
                self.operations_checked, self.entities, self.events, self.homes
            ),
        )?;
        for (kind, count) in &self.faults {
            let mended = self.mended.get(kind);
            let mended = mended.map_or_else(String::new, |times| {
                format!(
                    ", all answer after it: p50 {}, max {}",
                    shown(times.p50),
                    shown(times.max)
                )
            });
            row(&format!("fault {kind}"), format!("{count}{mended}"))?;
        }
        for left_out in &self.left_out {
            row("left out", left_out.clone())?;
        }
        for (leader, name) in [
            (true, "kill of the leader"),
            (false, "kill of another node"),
        ] {
            let (first, last) = self.outages_of(leader);
            if last.count > 0 {
                row(
                    &format!("{name}, {} times", last.count),
                    format!(
                        "first entity p50 {}, max {}; last entity p50 {}, max {}",
                        shown(first.p50),
                        shown(first.max),
                        shown(last.p50),
                        shown(last.max)
                    ),
                )?;
            }
        }
        for (name, latency) in [
            ("latency", &self.latency),
            ("latency during movement", &self.latency_moving),
        ] {
            let Latency {
                p50,
                p99,
                p999,
                max,
                ..
            } = latency;
            row(
                name,
                format!(
                    "p50 {}, p99 {}, p99.9 {}, max {}",
                    shown(*p50),
                    shown(*p99),
                    shown(*p999),
                    shown(*max)
                ),
            )?;
        }
        for (said, count) in &self.failed_attempts {
            row(&format!("attempts failed, {said}"), count.to_string())?;
        }
        row("undecided histories", self.undecided.len().to_string())?;
        row("violations", self.violations.len().to_string())?;
        for Violation { place, what } in &self.violations {
            writeln!(f, "VIOLATION {place}: {what}")?;
        }
        Ok(())
    }
}

fn shown(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1e3;
    if milliseconds < 1_000.0 {
        format!("{milliseconds:.1} ms")
    } else {
        format!("{:.2} s", milliseconds / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_those_of_the_sorted_times() {
        let all: Vec<Duration> = (1..=1000).rev().map(Duration::from_millis).collect();
        let latency = Latency::of(all);
        let shown = [latency.p50, latency.p99, latency.p999, latency.max];
        assert_eq!(shown, [500, 990, 999, 1000].map(Duration::from_millis));
        assert_eq!(Latency::of(Vec::new()).max, Duration::ZERO);
    }
}
