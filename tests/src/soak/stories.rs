//! What happens in a soak, and in which order.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;

use super::Options;
use super::outage::Probes;
use super::schedule::{FaultKind, Schedule};
use super::summary::Summary;
use super::verdict::Violation;
use super::world::World;
use crate::seed::Random;

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Story {
    /// A random node is killed every few seconds, and comes back.
    Kill,
    /// Every node is restarted in turn, two come, and two are removed.
    Rolling,
    /// Faults of all kinds, by the seed.
    Mixed,
}

/// After a fault is mended, every probe is answered within this.
const PROGRESS_WITHIN: Duration = Duration::from_secs(30);

/// Tells a story until its time is over.
///
/// # Errors
/// When the cluster does not do its part.
pub async fn tell(
    options: &Options,
    world: &mut World,
    probes: &Probes,
    summary: &mut Summary,
) -> Result<()> {
    let end = Instant::now() + options.lasts;
    match options.story {
        Story::Kill => kill(options.seed, end, world, probes, summary).await,
        Story::Rolling => rolling(end, world, probes, summary).await,
        Story::Mixed => mixed(options, end, world, probes, summary).await,
    }
}

async fn kill(
    seed: u64,
    end: Instant,
    world: &mut World,
    probes: &Probes,
    summary: &mut Summary,
) -> Result<()> {
    let mut random = Random::new(seed);
    while Instant::now() < end {
        let quiet = random.within(500..3_000);
        tokio::time::sleep(Duration::from_millis(quiet)).await;
        let members = world.members();
        let victim = members[random.below(members.len() as u64) as usize];
        summary.fault(FaultKind::Kill);
        let since = summary.began.elapsed();
        let outage = world.kill_and_restart(victim, probes).await?;
        summary.outages.push(outage);
        recovered(FaultKind::Kill, world, probes, summary).await?;
        summary.moved(since);
    }
    Ok(())
}

async fn rolling(
    end: Instant,
    world: &mut World,
    probes: &Probes,
    summary: &mut Summary,
) -> Result<()> {
    while Instant::now() < end {
        let since = summary.began.elapsed();
        for node in world.members() {
            world.evidence.event(&format!("node {node} is restarted"));
            summary.fault(FaultKind::RollingRestart);
            world.cluster.terminate(node).await?;
            world.restart(node).await?;
            recovered(FaultKind::RollingRestart, world, probes, summary).await?;
        }
        for _ in 0..2 {
            summary.fault(FaultKind::JoinAndRemove);
            world.add().await?;
            world.cluster.settled_without(&world.removed).await?;
        }
        for _ in 0..2 {
            // The oldest, so that in the end none of the first ones is left.
            let oldest = world.members()[0];
            world.remove(oldest).await?;
            recovered(FaultKind::JoinAndRemove, world, probes, summary).await?;
        }
        summary.moved(since);
    }
    Ok(())
}

async fn mixed(
    options: &Options,
    end: Instant,
    world: &mut World,
    probes: &Probes,
    summary: &mut Summary,
) -> Result<()> {
    for planned in Schedule::new(options.seed, &options.faults) {
        if Instant::now() >= end {
            break;
        }
        tokio::time::sleep(planned.quiet).await;
        summary.fault(planned.kind);
        let since = summary.began.elapsed();
        summary
            .outages
            .extend(world.perform(&planned, probes).await?);
        recovered(planned.kind, world, probes, summary).await?;
        summary.moved(since);
    }
    Ok(())
}

/// Everything is whole again: now everybody must be up soon, and every probe answer.
async fn recovered(
    kind: FaultKind,
    world: &mut World,
    probes: &Probes,
    summary: &mut Summary,
) -> Result<()> {
    let mended_at = Instant::now();
    for (node, status) in world.ended_by_themselves() {
        summary.violations.push(Violation {
            place: format!("node {node}"),
            what: format!("ended by itself during {kind}: {status}"),
        });
        world
            .evidence
            .event(&format!("node {node} ended by itself: {status}"));
        world.restart(node).await?;
    }
    let all = probes.all();
    let (_, last) = probes.ask(&all, &world.addresses(), mended_at).await?;
    if last > PROGRESS_WITHIN {
        summary.violations.push(Violation {
            place: "progress".to_owned(),
            what: format!("after {kind} was mended, an entity answered only after {last:.1?}"),
        });
    }
    let up = world.all_up().await?;
    world.evidence.event(&format!(
        "mended: the last probe after {last:.1?}, everybody up after {up:.1?} more"
    ));
    summary.mended(kind, last);
    Ok(())
}
