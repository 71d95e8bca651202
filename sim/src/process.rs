//! A machine, and the node that runs on it: a runtime of its own, with its own clock.
//!
//! The clock stands still unless the world lets it go on, and may go a little faster or
//! slower than others. A process that is paused executes nothing and finds afterwards
//! that time has passed; one that crashes loses everything but what its disk has
//! synced. What runs is the node's part in its cluster as the product has it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial::node::{ClusterPart, ClusterPartSetup, Ended};
use perennial_persistence::delivery::courier::Courier;
use perennial_persistence::entity_types::EntityTypes;
use perennial_persistence::registry::{NodeAddresses, NodeNr};
use perennial_sharding::cluster_state::ClusterState;
use perennial_sharding::control_plane::{ControlPlane, Leadership};
use perennial_sharding::raft::RaftControlPlane;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::{Builder, RngSeed, Runtime};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::database::{Database, DatabaseClient};
use crate::disk::Disk;
use crate::gateway::{Gateway, Unanswered};
use crate::invariants::Recoveries;
use crate::network::transport::{Transport, peer_address};
use crate::network::{Host, Listener, Network};
use crate::purse::Purse;
use crate::purse::road::Road;
use crate::settings::Settings;
use crate::tally::Tally;
use crate::verdict::Verdict;
use crate::world::STEP;

/// What a node that stops as it should may take for it.
const STOP_MAX: Duration = Duration::from_secs(6);
/// Milliseconds by which a process is behind only after a pause.
const LATE_MIN: u64 = 2 * STEP;
/// How often a stopping node looks whether its clients have got their answers.
const ANSWERED_LOOK: Duration = Duration::from_millis(5);

/// What a process is started with, whichever it is.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) network: Network,
    pub(crate) database: Database,
    pub(crate) recoveries: Recoveries,
    pub(crate) unanswered: Unanswered,
    pub(crate) settings: Settings,
    pub(crate) verdict: Verdict,
}

/// A machine.
pub(crate) struct Machine {
    number: u32,
    surroundings: Surroundings,
    disk: Disk,
    chance: StdRng,
    /// Its milliseconds in one of the world's.
    rate: f64,
    /// Counts the processes.
    life: u64,
    process: Option<Process>,
    paused: u32,
    /// The cluster was told to do without the node.
    is_removed: bool,
    /// It was told to leave.
    is_leaving: bool,
}

struct Process {
    runtime: Runtime,
    road: Road,
    seen: Arc<Seen>,
    /// Milliseconds of its own time that should have passed.
    due: f64,
    passed: u64,
}

/// What is seen of a process from outside.
#[derive(Default)]
struct Seen {
    up: Mutex<Option<Up>>,
    over: Mutex<Option<Over>>,
    /// Asked to stop as it should.
    stop: CancellationToken,
}

/// A node that takes part in the cluster.
#[derive(Clone)]
pub(crate) struct Up {
    pub(crate) node: NodeNr,
    pub(crate) control: RaftControlPlane,
    pub(crate) states: watch::Receiver<Arc<ClusterState>>,
    pub(crate) leadership: watch::Receiver<Leadership>,
}

/// Why a process has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Over {
    /// It was asked to.
    Stopped,
    /// It was taken out of the cluster.
    Removed,
    /// It could not go on.
    Failed(String),
}

impl Machine {
    pub(crate) fn new(number: u32, seed: u64, rate: f64, surroundings: Surroundings) -> Self {
        let mut chance = StdRng::seed_from_u64(seed);
        Self {
            number,
            surroundings,
            disk: Disk::new(chance.random()),
            chance,
            rate,
            life: 0,
            process: None,
            paused: 0,
            is_removed: false,
            is_leaving: false,
        }
    }

    pub(crate) fn host(&self) -> Host {
        Host::Node(self.number)
    }

    /// Counts its processes.
    pub(crate) fn life(&self) -> u64 {
        self.life
    }

    pub(crate) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// The node, once it takes part in the cluster.
    pub(crate) fn up(&self) -> Option<Up> {
        let process = self.process.as_ref()?;
        lock(&process.seen.up).clone()
    }

    /// Whether the cluster does without the node it had.
    pub(crate) fn was_removed(&self) -> bool {
        self.is_removed
    }

    /// Starts a node with what the disk has.
    pub(crate) fn start(&mut self) {
        if self.process.is_some() {
            return;
        }
        self.life += 1;
        self.is_leaving = false;
        let built = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .rng_seed(RngSeed::from_bytes(&self.chance.random::<[u8; 16]>()))
            .build();
        // Without I/O there is nothing the system could refuse.
        let runtime = built.unwrap_or_else(|error| unreachable!("no runtime: {error}"));
        let seen = Arc::new(Seen::default());
        let road = Road::default();
        let life = Life {
            host: self.host(),
            road: road.clone(),
            surroundings: self.surroundings.clone(),
            seen: Arc::clone(&seen),
        };
        let setup = {
            // Couriers are tasks of the process.
            let _inside = runtime.enter();
            self.setup(road.clone())
        };
        runtime.spawn(async move { life.live(setup).await });
        self.process = Some(Process {
            runtime,
            road,
            seen,
            due: 0.0,
            passed: 0,
        });
    }

    /// The process is gone at once, and what its disk had not synced with it.
    pub(crate) fn crash(&mut self) {
        self.end();
        self.disk.crash();
    }

    fn end(&mut self) {
        let Some(process) = self.process.take() else {
            return;
        };
        self.surroundings.network.close(self.host());
        process.road.close();
        drop(process);
        self.surroundings.unanswered.crashed(self.host());
    }

    /// Another, empty disk takes the place of that of a node that was removed.
    pub(crate) fn wipe_disk(&mut self) {
        self.disk.wipe();
        self.is_removed = false;
    }

    /// The cluster is told to do without the node, which stops then.
    pub(crate) fn note_removal(&mut self) {
        self.is_leaving = true;
    }

    /// Whether the process is about to end.
    pub(crate) fn is_stopping(&self) -> bool {
        let process = self.process.as_ref();
        process.is_some_and(|process| self.is_leaving || process.seen.stop.is_cancelled())
    }

    pub(crate) fn pause(&mut self) {
        self.paused += 1;
    }

    pub(crate) fn resume(&mut self) {
        self.paused = self.paused.saturating_sub(1);
    }

    /// Asks the node to stop as it should.
    pub(crate) fn stop(&self) {
        if let Some(process) = &self.process {
            process.seen.stop.cancel();
        }
    }

    /// Runs something in the process.
    pub(crate) fn run(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(process) = &self.process {
            process.runtime.spawn(work);
        }
    }

    /// Lets a step of the world's time pass. Returns why the process has ended, if
    /// it has.
    pub(crate) fn tick(&mut self) -> Option<Over> {
        let process = self.process.as_mut()?;
        process.due += self.rate * STEP as f64;
        if self.paused > 0 {
            return None;
        }
        let behind = process.due as u64 - process.passed;
        process.passed += behind;
        let behind_by = Duration::from_millis(behind);
        match behind {
            0 => return None,
            1..=LATE_MIN => process
                .runtime
                .block_on(async { tokio::time::sleep(behind_by).await }),
            // It was paused: for the process, time has jumped.
            _ => process
                .runtime
                .block_on(async { tokio::time::advance(behind_by).await }),
        }
        let over = lock(&process.seen.over).take()?;
        self.is_removed |= over == Over::Removed;
        self.end();
        Some(over)
    }

    fn setup(&mut self, road: Road) -> ClusterPartSetup {
        let surroundings = &self.surroundings;
        let settings = &surroundings.settings;
        let mut types = EntityTypes::new();
        let purse = Purse(Courier::start(Settings::redelivery(), road));
        let registered = types.register(Tally).and_then(|()| types.register(purse));
        // The names are well formed, and not the same.
        registered.unwrap_or_else(|error| unreachable!("{error}"));
        let client = DatabaseClient {
            database: surroundings.database.clone(),
            network: surroundings.network.clone(),
            here: Host::Node(self.number),
            recoveries: surroundings.recoveries.clone(),
        };
        ClusterPartSetup {
            types,
            storage: client.storage(),
            disk: Arc::new(self.disk.clone()),
            transport: Arc::new(Transport {
                network: surroundings.network.clone(),
                here: Host::Node(self.number),
            }),
            addresses: NodeAddresses {
                address: format!("machine-{}:7400", self.number),
                peer_address: peer_address(self.number),
            },
            number_of_shards: settings.number_of_shards,
            weight: 1,
            raft: settings.raft.clone(),
            luck: self.chance.random_range(0.0..=1.0),
            times: settings.times,
            leader: settings.leader,
            region: settings.region,
            engine: settings.engine(self.chance.random()),
            reads: settings.reads,
        }
    }
}

/// The life of a process, from within.
struct Life {
    host: Host,
    road: Road,
    surroundings: Surroundings,
    seen: Arc<Seen>,
}

impl Life {
    async fn live(self, setup: ClusterPartSetup) {
        let over = self.until_over(setup).await;
        *lock(&self.seen.over) = Some(over);
    }

    async fn until_over(&self, setup: ClusterPartSetup) -> Over {
        let mut part = match ClusterPart::enter(setup).await {
            Ok(part) => part,
            Err(error) => return Over::Failed(error.to_string()),
        };
        let network = &self.surroundings.network;
        let listener = Listener {
            runtime: tokio::runtime::Handle::current(),
            peers: part.peers(),
            gateway: Some(Arc::new(Gateway {
                host: self.host,
                region: part.region().clone(),
                unanswered: self.surroundings.unanswered.clone(),
                verdict: self.surroundings.verdict.clone(),
            })),
        };
        network.listen(self.host, listener.clone());
        self.road.open(part.region().clone());
        *lock(&self.seen.up) = Some(Up {
            node: part.node(),
            control: part.control().clone(),
            states: part.control().state(),
            leadership: part.control().leadership(),
        });
        let over = tokio::select! {
            over = async {
                match part.join().await {
                    Ok(()) => part.over().await,
                    Err(error) => Ended::Failed(error),
                }
            } => over,
            () = self.seen.stop.cancelled() => {
                self.stop(part, listener).await;
                return Over::Stopped;
            }
        };
        match over {
            Ended::Removed => {
                self.stop(part, listener).await;
                Over::Removed
            }
            Ended::Failed(error) => Over::Failed(error.to_string()),
        }
    }

    /// Stops in the order in which a node does.
    async fn stop(&self, part: ClusterPart, listener: Listener) {
        let deadline = Instant::now() + STOP_MAX;
        part.drain(deadline).await;
        let for_nodes = Listener {
            gateway: None,
            ..listener
        };
        self.surroundings.network.listen(self.host, for_nodes);
        while self.surroundings.unanswered.at(self.host) > 0 && Instant::now() < deadline {
            tokio::time::sleep(ANSWERED_LOOK).await;
        }
        *lock(&self.seen.up) = None;
        part.end(deadline).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
