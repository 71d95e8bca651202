//! Nodes that share a database become one cluster, in any order, however often they
//! are interrupted.

mod faulty;
mod starts;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use perennial_persistence::registry::{NodeAddresses, NodeNr, RegistryError};
use perennial_persistence::storage::Storage;
use perennial_persistence::storage::memory::MemoryStorage;
use perennial_persistence::writer::Epoch;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use self::faulty::{Faulty, Interruption};
use super::disk::{MemoryDisk, NodeDisk, NodeIdentity};
use super::entry::{ADDRESS_FREE_AFTER, Entered, Entry, EntryError, FORMING_PATIENCE};
use super::presence::{PresenceEnd, stay_present};
use super::*;
use crate::cluster_state::{Member, MemberStatus};
use crate::control_plane::ControlPlane;
use crate::peer::loopback::LoopbackNetwork;
use crate::raft::RaftSettings;
use crate::raft::group_test::OnlyRaft;

const SHARDS: u32 = 8;
const PATIENCE: Duration = Duration::from_secs(120);

/// The database and the network that nodes share.
struct World {
    storage: Storage,
    network: LoopbackNetwork,
    chance: StdRng,
}

/// A machine on which a node runs, again and again.
#[derive(Clone)]
struct Machine {
    entry: Entry,
    disk: MemoryDisk,
    network: LoopbackNetwork,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            storage: MemoryStorage::default().storage(),
            network: LoopbackNetwork::new(seed),
            chance: StdRng::seed_from_u64(seed),
        }
    }

    fn machine(&mut self, name: &str) -> Machine {
        let disk = MemoryDisk::default();
        Machine {
            entry: Entry {
                registry: self.storage.registry.clone(),
                disk: Arc::new(disk.clone()),
                number_of_shards: SHARDS,
                addresses: NodeAddresses {
                    address: format!("{name}:7400"),
                    peer_address: format!("{name}:7402"),
                },
                transport: Arc::new(self.network.transport()),
                settings: RaftSettings::default(),
                luck: self.chance.random(),
            },
            disk,
            network: self.network.clone(),
        }
    }
}

impl Machine {
    /// The same machine with faults of its own on the way to registry and disk.
    fn faulty(&self, faulty: &Faulty) -> Self {
        let mut machine = self.clone();
        machine.entry.registry = Arc::new(faulty.registry(self.entry.registry.clone()));
        machine.entry.disk = Arc::new(faulty.disk(self.disk.clone()));
        machine
    }

    /// Enters and joins the cluster.
    async fn start(&self) -> Entered {
        let entered = self.entry.enter().await.unwrap();
        self.join(&entered).await;
        entered
    }

    /// Starts, and long after that so does another one. If that one has formed the
    /// cluster, this one waits for it.
    async fn start_long_before(&self, other: &Self) -> Vec<Entered> {
        let machine = self.clone();
        let starting = tokio::spawn(async move { machine.start().await });
        sleep(FORMING_PATIENCE * 2).await;
        let other = other.start().await;
        vec![starting.await.unwrap(), other]
    }

    async fn join(&self, entered: &Entered) {
        let control = &entered.control;
        let peer_address = &self.entry.addresses.peer_address;
        let handler = Arc::new(OnlyRaft(control.clone()));
        self.network.listen(peer_address.clone(), handler);
        let member = Member {
            node: entered.incarnation.node,
            incarnation: entered.incarnation.number,
            session: entered.incarnation.session,
            address: self.entry.addresses.address.clone(),
            peer_address: peer_address.clone(),
            version: "1".to_owned(),
            weight: 1,
            status: MemberStatus::Joining,
            removing: false,
        };
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = control.join(member.clone(), 0).await {
            assert!(Instant::now() < deadline, "cannot join: {error}");
        }
    }

    /// As by SIGKILL, and then long enough for everything of it to be gone.
    async fn kill(&self, entered: Entered) {
        self.network.close(&self.entry.addresses.peer_address);
        entered.control.stop().await;
    }

    fn node(&self) -> NodeNr {
        self.disk.identity().unwrap().unwrap().node
    }
}

/// All of them are in one cluster, of these members and with one leader.
async fn assert_one_cluster(nodes: &[Entered], what: &str) {
    let expected: BTreeSet<NodeNr> = nodes.iter().map(|n| n.incarnation.node).collect();
    assert_eq!(expected.len(), nodes.len(), "{what}: two are the same node");
    let clusters: BTreeSet<_> = nodes
        .iter()
        .map(|n| (n.cluster.cluster_id, n.cluster.generation))
        .collect();
    assert_eq!(clusters.len(), 1, "{what}: {clusters:?}");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let see_all = nodes.iter().all(|node| {
            let state = node.control.state();
            let state = state.borrow();
            state.members.keys().copied().collect::<BTreeSet<_>>() == expected
        });
        let mut leaders = 0;
        for node in nodes {
            leaders += u32::from(node.control.confirm_leadership().await.is_ok());
        }
        assert!(leaders <= 1, "{what}: {leaders} lead");
        if see_all && leaders == 1 {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: no cluster in time");
        sleep(Duration::from_millis(50)).await;
    }
}

fn view(forming: Option<u64>, formed: bool) -> View {
    View {
        node: NodeNr(1),
        formation: Formation {
            generation: 3,
            formed,
            forming: forming.map(NodeNr),
        },
        stalled: false,
        session_generation: 3,
        store_generation: 3,
    }
}

#[test]
fn each_step_follows_from_what_is_seen() {
    let stalled = |view| View {
        stalled: true,
        ..view
    };
    let old_session = |view| View {
        session_generation: 2,
        ..view
    };
    let old_store = |view| View {
        store_generation: 2,
        ..view
    };
    for (seen, step) in [
        (view(None, false), Step::Claim),
        (view(Some(2), false), Step::Wait),
        (stalled(view(Some(2), false)), Step::Claim),
        (old_session(old_store(view(Some(2), false))), Step::Wait),
        // Its own claim it does not take over, it gets on with it.
        (stalled(view(Some(1), false)), Step::Form),
        (
            old_session(old_store(view(Some(1), false))),
            Step::BeginIncarnation,
        ),
        (old_store(view(Some(1), false)), Step::MakeStore),
        (
            old_session(old_store(view(Some(2), true))),
            Step::BeginIncarnation,
        ),
        (old_store(view(Some(2), true)), Step::MakeStore),
        (view(Some(2), true), Step::Join),
        (view(Some(1), true), Step::Join),
    ] {
        assert_eq!(next_step(&seen), step, "{seen:?}");
    }
}

/// Three fresh nodes, started at the same instant, whatever takes how long.
async fn three_fresh_nodes(seed: u64, slowest: Duration) -> u32 {
    let mut world = World::new(seed);
    let machines = ["a", "b", "c"].map(|name| {
        let slow = Faulty::slow(world.chance.random(), slowest);
        world.machine(name).faulty(&slow)
    });
    let starting = machines.map(|machine| tokio::spawn(async move { machine.start().await }));
    let mut nodes = Vec::new();
    for started in starting {
        nodes.push(started.await.unwrap());
    }
    assert_one_cluster(&nodes, &format!("seed {seed}")).await;
    let generation = nodes[0].cluster.generation;
    for node in nodes {
        node.control.stop().await;
    }
    generation
}

#[tokio::test(start_paused = true)]
async fn three_fresh_nodes_form_one_cluster_a_hundred_times() {
    for seed in 0..100 {
        let generation = three_fresh_nodes(seed, Duration::from_millis(30)).await;
        assert_eq!(generation, 1, "seed {seed}: nobody was slow");
    }
}

/// So slow that forming is taken over from nodes that are alive, and go on with it.
#[tokio::test(start_paused = true)]
async fn nodes_that_take_forming_over_from_each_other_form_one_cluster() {
    let first: u64 = rand::rng().random_range(0..1_000_000);
    println!("seeds from {first}");
    let mut highest = 0;
    for seed in first..first + 30 {
        let slowest = FORMING_PATIENCE * 2;
        highest = three_fresh_nodes(seed, slowest).await.max(highest);
    }
    assert!(highest > 1, "nothing was ever taken over");
}

/// The node that forms is killed at each step; afterwards it comes back alone, or
/// another one comes first.
#[tokio::test(start_paused = true)]
async fn forming_is_interrupted_at_each_step() {
    let mut interrupted = 0;
    for (other_first, after) in [(false, false), (false, true), (true, false), (true, true)] {
        for step in 0.. {
            let mut world = World::new(step);
            let (one, two) = (world.machine("one"), world.machine("two"));
            let faulty = Faulty::interrupted(Interruption { step, after });
            let what = format!("step {step}, after {after}, other first {other_first}");
            match one.faulty(&faulty).entry.enter().await {
                Ok(entered) => {
                    // It takes no more steps than that.
                    one.kill(entered).await;
                    break;
                }
                Err(error) => assert!(error.to_string().contains("interrupted"), "{error}"),
            }
            interrupted += 1;
            let nodes = if other_first {
                two.start_long_before(&one).await
            } else {
                one.start_long_before(&two).await
            };
            assert_one_cluster(&nodes, &what).await;
            let generation = nodes[0].cluster.generation;
            assert!(other_first || generation == 1, "{what}: its own claim");
            for node in nodes {
                node.control.stop().await;
            }
        }
    }
    assert!(interrupted > 40, "{interrupted}");
}

/// The node that forms is dropped at each await.
#[tokio::test(start_paused = true)]
async fn forming_is_dropped_at_each_await() {
    for polls in 1.. {
        let mut world = World::new(polls);
        let (one, two) = (world.machine("one"), world.machine("two"));
        let entry = one
            .faulty(&Faulty::slow(polls, Duration::from_millis(5)))
            .entry;
        let dropped = {
            let mut entering = Box::pin(entry.enter());
            let mut polled = 0;
            let first_polls = std::future::poll_fn(|context| {
                polled += 1;
                if polled > polls {
                    return std::task::Poll::Ready(None);
                }
                entering.as_mut().poll(context).map(Some)
            });
            first_polls.await
        };
        if let Some(entered) = dropped {
            entered.unwrap().control.stop().await;
            assert!(polls > 20, "{polls}");
            return;
        }
        // Whatever it had started ends with it.
        sleep(Duration::from_millis(100)).await;
        let (first, second) = if polls.is_multiple_of(2) {
            (&one, &two)
        } else {
            (&two, &one)
        };
        let nodes = first.start_long_before(second).await;
        assert_one_cluster(&nodes, &format!("dropped after {polls} polls")).await;
        for node in nodes {
            node.control.stop().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_restarted_node_is_the_same_one_and_its_cluster_goes_on() {
    let mut world = World::new(1);
    let machines = ["a", "b", "c"].map(|name| world.machine(name));
    let mut nodes = Vec::new();
    for machine in &machines {
        nodes.push(machine.start().await);
    }
    for (machine, before) in machines.iter().zip(nodes.clone()) {
        machine.kill(before.clone()).await;
        let after = machine.start().await;
        assert_eq!(after.incarnation.node, before.incarnation.node);
        assert_eq!(after.incarnation.number, before.incarnation.number + 1);
        assert_ne!(after.incarnation.session, before.incarnation.session);
        nodes.retain(|node| node.incarnation.node != after.incarnation.node);
        nodes.push(after);
        assert_one_cluster(&nodes, "restarted").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_is_wiped_restored_or_lacks_its_store_is_a_new_node() {
    for what in ["wiped", "restored", "without its store"] {
        let mut world = World::new(2);
        let (stays, mut broken) = (world.machine("stays"), world.machine("broken"));
        let staying = stays.start().await;
        let before = broken.start().await;
        let node = before.incarnation.node;
        broken.kill(before).await;
        let backup = broken.disk.identity().unwrap().unwrap();
        match what {
            "wiped" => {
                broken.disk = MemoryDisk::default();
                broken.entry.disk = Arc::new(broken.disk.clone());
            }
            "restored" => {
                let started = broken.start().await;
                broken.kill(started).await;
                broken.disk.set_identity(&backup).unwrap();
            }
            _ => broken.disk.remove_store(1).unwrap(),
        }
        let after = broken.start().await;
        assert_ne!(after.incarnation.node, node, "{what}");
        let members = after.control.state().borrow().members.len();
        assert_eq!(members, 3, "{what}: with the one that was");
        staying.control.confirm_leadership().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_belong_together_is_refused() {
    let mut world = World::new(3);
    let first = world.machine("first").start().await;

    let mut other_shards = world.machine("other-shards");
    other_shards.entry.number_of_shards = 2 * SHARDS;
    let error = other_shards.entry.enter().await.err().unwrap();
    let EntryError::Registry(RegistryError::NumberOfShards { stored, configured }) = error else {
        panic!("{error}");
    };
    assert_eq!((stored, configured), (SHARDS, 2 * SHARDS));

    let foreign = world.machine("foreign");
    let identity = NodeIdentity {
        node: NodeNr(1),
        cluster_id: Uuid::from_u128(99),
        incarnation: 4,
        store_generation: 1,
    };
    foreign.disk.set_identity(&identity).unwrap();
    let error = foreign.entry.enter().await.err().unwrap();
    assert!(matches!(error, EntryError::ForeignDisk { .. }), "{error}");
    assert_eq!(
        foreign.disk.identity().unwrap(),
        Some(identity),
        "untouched"
    );

    // A second node with the address of one that is alive.
    let registry = world.storage.registry.clone();
    let same = world.machine("first");
    let staying = stay_present(registry, first.clone(), same.entry.addresses.clone());
    let staying = tokio::spawn(staying);
    let error = same.entry.enter().await.err().unwrap();
    let EntryError::AddressInUse { node, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(node, first.incarnation.node);
    assert!(!staying.is_finished(), "the first one is not disturbed");
}

/// The address of a node that is gone for good is free after a while; if it was not
/// gone after all, it notices.
#[tokio::test(start_paused = true)]
async fn an_address_passes_to_another_node() {
    let mut world = World::new(4);
    let first = world.machine("one");
    let gone = first.start().await;
    world.machine("two").start().await;
    let began = Instant::now();
    let successor = world.machine("one");
    let entered = successor.entry.enter().await.unwrap();
    let took = began.elapsed();
    assert!(took >= ADDRESS_FREE_AFTER, "{took:?}");
    assert_ne!(entered.incarnation.node, gone.incarnation.node);

    let registry = world.storage.registry.clone();
    let end = stay_present(registry, gone, first.entry.addresses.clone()).await;
    assert!(matches!(end, PresenceEnd::AddressTaken { .. }), "{end}");
}

/// Raft's state is lost and the journal kept: the same nodes form a new generation.
/// No session of the old one may write, and all epochs are higher.
#[tokio::test(start_paused = true)]
async fn a_cluster_is_formed_anew_in_a_later_generation() {
    let mut world = World::new(5);
    let registry = world.storage.registry.clone();
    let machines = ["a", "b", "c"].map(|name| world.machine(name));
    let mut before = Vec::new();
    for machine in &machines {
        before.push(machine.start().await);
    }
    // One of them is cut off and goes on.
    let isolated = before[2].clone();
    for node in &before[..2] {
        let faults = world.network.faults();
        faults.cut(node.incarnation.node, isolated.incarnation.node);
    }
    let addresses = machines[2].entry.addresses.clone();
    let staying = tokio::spawn(stay_present(registry.clone(), isolated.clone(), addresses));
    for (machine, node) in machines.iter().zip(before.clone()).take(2) {
        machine.kill(node).await;
    }

    let reformed = registry.reform(1).await.unwrap();
    assert_eq!((reformed.generation, reformed.formed), (2, false));
    let mut after = Vec::new();
    for machine in &machines[..2] {
        after.push(machine.start().await);
    }
    assert_one_cluster(&after, "reformed").await;
    for (node, before) in after.iter().zip(&before) {
        assert_eq!(node.incarnation.node, before.incarnation.node);
        assert_eq!(node.cluster.generation, 2);
        let state = node.control.state().borrow().clone();
        let lowest = state.shards.iter().map(|shard| shard.epoch).min();
        assert!(lowest >= Some(Epoch(2 << 32)), "{lowest:?}");
    }
    let end = staying.await.unwrap();
    assert_eq!(end, PresenceEnd::NewGeneration { before: 1, now: 2 });
    machines[2].kill(isolated).await;
    world.network.faults().heal_all();
    after.push(machines[2].start().await);
    assert_one_cluster(&after, "with the one that was cut off").await;
    assert_eq!(machines[2].node(), before[2].incarnation.node);
}
