//! Real faults under real load: processes, sockets, signals, Postgres.
//!
//! A soak starts a cluster ([`world`]), lets independent clients of several kinds use
//! it ([`clients`]), breaks things by a seed ([`schedule`], [`faults`]) and checks what
//! came of it ([`verdict`]): histories are linearizable per entity, the journal has
//! what was acknowledged exactly once, sums add up, a shard has one home in an epoch
//! ([`ownership`]), everything goes on after each fault, and no node ends by itself.
//! Clients work in rounds ([`round`]) that are checked one by one while the next is
//! under way, so a soak of a night needs no more memory than one of minutes.
//!
//! What a fault costs is measured on the way ([`outage`]) and told at the end
//! ([`summary`]). What is needed to look into a violation stays in a folder
//! ([`evidence`]). The `perennial-soak` binary is [`run`] with a command line.
//!
//! Left out: jumps of the clock, because all processes of a machine share one. The
//! simulation has them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::sync::{mpsc, watch};

pub mod attempt;
pub mod clients;
pub mod dump;
pub mod evidence;
pub mod faults;
pub mod outage;
pub mod ownership;
pub mod record;
pub mod round;
pub mod schedule;
pub mod stories;
pub mod summary;
pub mod verdict;
pub mod world;

use self::evidence::Evidence;
use self::outage::Probes;
use self::ownership::Ownership;
use self::round::{Load, Round};
use self::schedule::FaultKind;
use self::stories::Story;
use self::summary::Summary;
use self::verdict::Violation;
use self::world::{Surroundings, World};
use crate::seed::Random;

/// How long the clients of a round work.
const ROUND: Duration = Duration::from_secs(120);
/// How often every node is asked who owns what.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Rounds that wait to be checked.
const ROUNDS_WAITING_MAX: usize = 4;

/// What a soak is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// What happens.
    pub story: Story,
    /// How long, without what the checks take at the end.
    pub lasts: Duration,
    /// Decides the faults and what clients do; not what the machine does.
    pub seed: u64,
    /// What can go wrong in a story that chooses.
    pub faults: Vec<FaultKind>,
    /// Nodes at the beginning, at least 2.
    pub nodes: usize,
    /// Settings of all nodes, by their keys.
    pub settings: Vec<(String, String)>,
    /// The clients.
    pub load: Load,
    /// Entities that are asked when a node is killed.
    pub probes: u64,
    /// Where everything about it is kept.
    pub folder: PathBuf,
    /// Says nothing on standard error.
    pub quiet: bool,
}

/// Runs a soak to its end; what it found.
///
/// # Errors
/// When the cluster cannot be started or looked at. What the cluster does wrong is in
/// the summary.
pub async fn run(options: &Options) -> Result<Summary> {
    let began = Instant::now();
    let evidence = Arc::new(Evidence::new(&options.folder, began, options.quiet)?);
    evidence.event(&format!("seed {}, {options:?}", options.seed));
    let surroundings = match options.story {
        Story::Kill | Story::Rolling => Surroundings::Direct,
        Story::Mixed if options.faults.contains(&FaultKind::FullDisk) => {
            Surroundings::WithSmallDisks
        }
        Story::Mixed => Surroundings::WithProxies,
    };
    let mut world = World::start(
        options.nodes,
        &options.settings,
        surroundings,
        Arc::clone(&evidence),
    )
    .await?;
    evidence.event("the cluster is up");
    let mut summary = Summary::new(options, began);
    if surroundings == Surroundings::WithSmallDisks && world.disks.is_empty() {
        let why = "full-disk: mounting is not allowed here";
        summary.left_out.push(why.to_owned());
    }

    let stopping = watch::Sender::new(false);
    let watching = tokio::spawn(watch_homes(world.addresses(), stopping.subscribe()));
    let (finished, rounds) = mpsc::channel(ROUNDS_WAITING_MAX);
    let database = Arc::clone(&world.database);
    let checking = tokio::spawn(check_rounds(rounds, database, Arc::clone(&evidence)));
    let working = tokio::spawn(work_in_rounds(
        options.clone(),
        world.addresses(),
        began,
        finished,
        stopping.subscribe(),
    ));

    let probes = Probes::new(options.probes, began);
    let all = probes.all();
    probes.ask(&all, &world.addresses(), Instant::now()).await?;
    let told = stories::tell(options, &mut world, &probes, &mut summary).await;
    if let Err(error) = told {
        let place = "the story".to_owned();
        let what = format!("{error:#}");
        summary.violations.push(Violation { place, what });
        world.cluster.heal();
    }
    evidence.event("the story is over; everything is read and compared");
    stopping.send_replace(true);
    working.await??;
    for (book, findings) in checking.await?? {
        summary.add(&book, findings);
    }
    let book = probes.record.close();
    let checked = round::checked(book, outage::PREFIX, &world.database, &evidence);
    let (book, findings) = checked.await?;
    summary.add(&book, findings);
    let (ownership, two_homes) = watching.await?;
    summary.homes_seen(&ownership, &two_homes);
    world.keep_output();
    summary.finish();
    evidence.lines("violations.jsonl", summary.violations.iter())?;
    evidence.lines("summary.json", [&summary])?;
    Ok(summary)
}

/// Lets clients work, a round after the other.
async fn work_in_rounds(
    options: Options,
    addresses: watch::Receiver<Vec<String>>,
    began: Instant,
    finished: mpsc::Sender<Round>,
    mut stopping: watch::Receiver<bool>,
) -> Result<()> {
    let mut random = Random::new(options.seed);
    for number in 0.. {
        let round = Round::start(number, &options.load, addresses.clone(), began, &mut random);
        let stopped = stopping.wait_for(|stop| *stop);
        let stop = tokio::time::timeout(ROUND, stopped).await.is_ok();
        round.stop();
        finished.send(round).await?;
        if stop {
            break;
        }
    }
    Ok(())
}

/// Checks rounds as they come.
async fn check_rounds(
    mut rounds: mpsc::Receiver<Round>,
    database: Arc<crate::database::TestDatabase>,
    evidence: Arc<Evidence>,
) -> Result<Vec<(record::Book, verdict::Findings)>> {
    let mut checked = Vec::new();
    while let Some(round) = rounds.recv().await {
        let (book, findings) = round.finish(&database, &evidence).await?;
        evidence.event(&format!(
            "a round is checked: {} operations, {} violations",
            findings.operations,
            findings.violations.len()
        ));
        // Only its figures are kept.
        checked.push((book.without_histories(), findings));
    }
    Ok(checked)
}

/// Asks every node who owns what, until it is told to stop.
async fn watch_homes(
    addresses: watch::Receiver<Vec<String>>,
    stopping: watch::Receiver<bool>,
) -> (Ownership, Vec<ownership::TwoHomes>) {
    let mut ownership = Ownership::default();
    let mut found = Vec::new();
    while !*stopping.borrow() {
        let now = addresses.borrow().clone();
        for address in now {
            // A node that does not answer says nothing wrong.
            if let Ok(view) = world::view(&address).await {
                found.extend(ownership.observe(&view));
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    (ownership, found)
}
