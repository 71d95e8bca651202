//! Groups of several members over a network that fails: nothing that was committed
//! is lost or repeated, whoever leads.
//!
//! Time is tokio's and stands still unless everybody waits, so these tests take no
//! time and do not depend on the machine's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use perennial_persistence::registry::NodeNr;
use perennial_persistence::writer::SessionUuid;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::store::{RaftStore, StoreIdentity};
use super::{AddressBook, RaftControlPlane, RaftNode, RaftSettings};
use crate::cluster_state::{ClusterCommand, ClusterState, Member, MemberStatus};
use crate::control_plane::{ControlPlane, ProposeError};
use crate::peer::loopback::{LoopbackNetwork, loopback_address};
use crate::peer::{AcceptedStream, PeerError, PeerHandler, PeerHeader, PeerRequest, PeerResponse};

const SHARDS: u32 = 8;
/// More than any election takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A node that does nothing but take part in its raft group.
pub(crate) struct OnlyRaft(pub(crate) RaftControlPlane);

#[async_trait]
impl PeerHandler for OnlyRaft {
    async fn handle(
        &self,
        header: PeerHeader,
        request: PeerRequest,
    ) -> Result<PeerResponse, PeerError> {
        match self.0.handle(&header, &request).await {
            Some(answer) => answer,
            None => panic!("not asked for in these tests: {request:?}"),
        }
    }

    async fn accept(&self, _stream: AcceptedStream) -> Result<(), PeerError> {
        panic!("no streams in these tests");
    }
}

/// The members of a group and the network between them.
struct World {
    network: LoopbackNetwork,
    chance: StdRng,
    settings: RaftSettings,
    running: BTreeMap<NodeNr, RaftControlPlane>,
    /// What is on the members' disks.
    disks: BTreeMap<NodeNr, RaftStore>,
    /// Real disks, if there are.
    folder: Option<TempDir>,
    incarnations: u64,
}

impl World {
    fn new() -> Self {
        let seed: u64 = rand::rng().random();
        println!("seed {seed}");
        Self {
            network: LoopbackNetwork::new(seed),
            chance: StdRng::seed_from_u64(seed),
            settings: RaftSettings::default(),
            running: BTreeMap::new(),
            disks: BTreeMap::new(),
            folder: None,
            incarnations: 0,
        }
    }

    /// A group of three voters.
    async fn of_three() -> Self {
        let mut world = Self::new();
        world.grow_to_three().await;
        world
    }

    async fn grow_to_three(&mut self) {
        self.form(1).await;
        for node in [2, 3] {
            self.start(node).await;
            self.join(node).await;
        }
        self.wait_for_voters(&[1, 2, 3]).await;
    }

    /// Members on real disks are opened anew with each start.
    fn store(&mut self, identity: StoreIdentity) -> RaftStore {
        let node = identity.node;
        if let Some(folder) = &self.folder {
            let path = folder.path().join(format!("{}.redb", node.0));
            let store = if self.disks.contains_key(&node) {
                RaftStore::open(&path, identity)
            } else {
                RaftStore::create(&path, identity)
            };
            self.disks.insert(node, store.unwrap());
        }
        let new = || RaftStore::in_memory(identity).unwrap();
        self.disks.entry(node).or_insert_with(new).clone()
    }

    fn node(&self, node: u64) -> &RaftControlPlane {
        &self.running[&NodeNr(node)]
    }

    async fn start(&mut self, number: u64) {
        let node = NodeNr(number);
        let identity = StoreIdentity {
            cluster_id: Uuid::from_u128(1),
            generation: 1,
            node,
        };
        let store = self.store(identity);
        let addresses = AddressBook::default();
        for other in self.disks.keys() {
            addresses.insert(*other, 0, &loopback_address(*other));
        }
        let control = RaftControlPlane::start(RaftNode {
            store,
            number_of_shards: SHARDS,
            session: SessionUuid(Uuid::nil()),
            transport: Arc::new(self.network.transport()),
            addresses,
            settings: self.settings.clone(),
            luck: self.chance.random(),
        });
        let control = control.await.unwrap();
        let handler = Arc::new(OnlyRaft(control.clone()));
        self.network.listen(loopback_address(node), handler);
        self.running.insert(node, control);
    }

    async fn form(&mut self, node: u64) {
        self.start(node).await;
        self.node(node).form(PATIENCE).await.unwrap();
        self.join(node).await;
    }

    async fn join(&mut self, node: u64) {
        self.incarnations += 1;
        let member = Member {
            node: NodeNr(node),
            incarnation: self.incarnations,
            session: SessionUuid(Uuid::from_u128(u128::from(self.incarnations))),
            address: String::new(),
            peer_address: loopback_address(NodeNr(node)),
            version: "1".to_owned(),
            weight: 1,
            status: MemberStatus::Joining,
            removing: false,
        };
        self.node(node).join(member, 0).await.unwrap();
    }

    /// As by SIGKILL: nobody is told, the disk stays.
    async fn kill(&mut self, node: u64) {
        self.network.close(&loopback_address(NodeNr(node)));
        let killed = self.running.remove(&NodeNr(node)).unwrap();
        // Before the next one starts on the same disk.
        killed.stop().await;
    }

    async fn wait_for_voters(&self, voters: &[u64]) {
        let expected: Vec<NodeNr> = voters.iter().copied().map(NodeNr).collect();
        for (node, control) in &self.running {
            eventually(&format!("node {} sees the voters", node.0), || {
                control.voters() == expected
            })
            .await;
        }
    }

    /// Waits until all that run agree on a leader of theirs that has been confirmed.
    async fn leader(&self) -> u64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for (node, control) in &self.running {
                let told = self.running.values();
                let agreed = told
                    .filter(|other| other.leadership().borrow().leader == Some(*node))
                    .count();
                if agreed == self.running.len() && control.confirm_leadership().await.is_ok() {
                    return node.0;
                }
            }
            assert!(Instant::now() < deadline, "no leader");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn another(&self, than: u64) -> u64 {
        let mut others = self.running.keys().filter(|node| node.0 != than);
        others.next().unwrap().0
    }
}

/// Polls with a deadline.
async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A command that changes the state whenever it is applied, and tells by its time
/// which one it was: a member comes back, incarnation by incarnation.
fn numbered(number: u64) -> ClusterCommand {
    ClusterCommand::Join {
        member: Member {
            node: NodeNr(1_000),
            incarnation: number,
            session: SessionUuid(Uuid::from_u128(u128::from(number) << 64)),
            address: String::new(),
            peer_address: String::new(),
            version: String::new(),
            weight: 1,
            status: MemberStatus::Joining,
            removing: false,
        },
        at: number,
    }
}

/// The numbers of the numbered commands that took effect, as far as remembered.
fn effects(state: &Arc<ClusterState>) -> Vec<u64> {
    let events = state.recent_events.iter();
    let numbered = events.filter(|event| event.text.contains("node 1000"));
    numbered.map(|event| event.at).collect()
}

async fn wait_for_index(
    mut state: watch::Receiver<Arc<ClusterState>>,
    index: u64,
) -> Arc<ClusterState> {
    let reached = state.wait_for(|state| state.index >= index);
    let reached = timeout(PATIENCE, reached).await.expect("not in time");
    Arc::clone(&reached.unwrap())
}

#[tokio::test(start_paused = true)]
async fn changes_proposed_anywhere_are_applied_everywhere() {
    let world = World::of_three().await;
    let mut last = 0;
    for number in 1..=30 {
        let through = world.node(number % 3 + 1);
        let index = through.propose(numbered(number)).await.unwrap();
        assert!(index > last);
        last = index;
    }
    let expected = effects(&wait_for_index(world.node(1).state(), last).await);
    assert_eq!(expected, (1..=30).collect::<Vec<u64>>());
    for node in [2, 3] {
        let state = wait_for_index(world.node(node).state(), last).await;
        assert_eq!(effects(&state), expected);
    }
}

/// The leader is killed again and again while changes are proposed: each that was
/// acknowledged is there once, in order, and those of unknown outcome at most once.
#[tokio::test(start_paused = true)]
async fn a_killed_leader_loses_and_repeats_nothing() {
    let mut world = World::of_three().await;
    let mut acknowledged = Vec::new();
    let mut number = 0;
    for _ in 0..6 {
        let leader = world.leader().await;
        let follower = world.another(leader);
        for _ in 0..4 {
            number += 1;
            world
                .node(follower)
                .propose(numbered(number))
                .await
                .unwrap();
            acknowledged.push(number);
        }
        // One is under way when the leader dies.
        number += 1;
        let through = world.node(follower).clone();
        let proposing =
            tokio::spawn(async move { through.propose(numbered(number)).await.is_ok() });
        tokio::task::yield_now().await;
        world.kill(leader).await;
        if proposing.await.unwrap() {
            acknowledged.push(number);
        }
        world.start(leader).await;
        world.join(leader).await;
    }
    world.leader().await;
    let last = world.node(1).propose(numbered(number + 1)).await.unwrap();
    acknowledged.push(number + 1);
    for control in world.running.values() {
        let effects = effects(&wait_for_index(control.state(), last).await);
        assert!(effects.is_sorted_by(|a, b| a < b), "repeated: {effects:?}");
        let lost: Vec<_> = acknowledged
            .iter()
            .filter(|n| !effects.contains(n))
            .collect();
        assert!(lost.is_empty(), "lost {lost:?} of {effects:?}");
    }
}

/// A leader on the wrong side goes on believing, but cannot confirm it, and what is
/// proposed to it is not committed.
#[tokio::test(start_paused = true)]
async fn a_leader_cut_off_confirms_nothing() {
    let mut world = World::of_three().await;
    let old = world.leader().await;
    world.node(old).confirm_leadership().await.unwrap();
    let everybody: Vec<NodeNr> = world.running.keys().copied().collect();
    world.network.faults().isolate(NodeNr(old), everybody);

    let cut_off = world.running.remove(&NodeNr(old)).unwrap();
    let refused = cut_off.confirm_leadership().await;
    assert!(
        matches!(refused, Err(ProposeError::NoLeader { .. })),
        "{refused:?}"
    );
    let proposed = cut_off.propose(numbered(1)).await;
    assert!(
        matches!(proposed, Err(ProposeError::Unknown { .. })),
        "{proposed:?}"
    );

    let new = world.leader().await;
    assert_ne!(new, old);
    let index = world.node(new).propose(numbered(2)).await.unwrap();
    world.network.faults().heal_all();
    let state = wait_for_index(cut_off.state(), index).await;
    assert_eq!(effects(&state), [2]);
}

/// Its messages arrive, the answers do not: it is confirmed by nobody. Whom it cannot
/// reach elect another leader, who must be confirmed meanwhile.
#[tokio::test(start_paused = true)]
async fn a_leader_that_hears_nobody_confirms_nothing() {
    let world = World::of_three().await;
    let old = world.leader().await;
    let faults = world.network.faults();
    for other in world.running.keys().filter(|node| node.0 != old) {
        faults.cut_one_way(*other, NodeNr(old));
    }
    for _ in 0..5 {
        world.node(old).confirm_leadership().await.unwrap_err();
    }
    faults.heal_all();
    let leader = world.leader().await;
    world.node(leader).propose(numbered(1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_late_learner_gets_the_snapshot() {
    let mut world = World::of_three().await;
    // More than the log keeps, so that its beginning is gone.
    for hundred in 0..6 {
        let proposed = (1..=100).map(|number| numbered(hundred * 100 + number));
        let proposed = proposed.map(|command| world.node(1).propose(command));
        for committed in futures::future::join_all(proposed).await {
            committed.unwrap();
        }
    }
    eventually("the log is cut", || {
        let leader = world.disks[&NodeNr(1)].image().purged;
        leader.is_some()
    })
    .await;
    world.start(4).await;
    world.join(4).await;
    let index = world.node(1).propose(numbered(601)).await.unwrap();
    let state = wait_for_index(world.node(4).state(), index).await;
    let expected = wait_for_index(world.node(1).state(), index).await;
    assert_eq!(effects(&state), effects(&expected));
    assert!(world.disks[&NodeNr(4)].image().snapshot.is_some());
    world.wait_for_voters(&[1, 2, 3]).await;

    // It starts from the snapshot again.
    world.kill(4).await;
    world.start(4).await;
    assert!(world.node(4).state().borrow().index > 400);
}

#[tokio::test(start_paused = true)]
async fn a_dead_voter_is_replaced_when_it_has_been_down_for_long() {
    let mut world = World::of_three().await;
    world.start(4).await;
    world.join(4).await;
    let leader = world.leader().await;
    let dead = (1..=3).find(|node| *node != leader).unwrap();
    let session = world.node(leader).state().borrow().members[&NodeNr(dead)].session;
    world.kill(dead).await;
    let down = ClusterCommand::Down {
        node: NodeNr(dead),
        session,
        at: 0,
    };
    world.node(leader).propose(down).await.unwrap();
    tokio::time::sleep(world.settings.voter_replacement_after / 2).await;
    assert!(world.node(leader).voters().contains(&NodeNr(dead)));

    tokio::time::sleep(world.settings.voter_replacement_after / 2).await;
    let expected: Vec<u64> = (1..=4).filter(|node| *node != dead).collect();
    world.wait_for_voters(&expected).await;
    // Without the dead one there is again one to lose.
    let other = world.another(leader);
    world.kill(other).await;
    let leader = world.leader().await;
    world.node(leader).propose(numbered(1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_removed_voter_is_replaced_at_once() {
    let mut world = World::of_three().await;
    world.start(4).await;
    world.join(4).await;
    let leader = world.leader().await;
    let gone = (1..=3).find(|node| *node != leader).unwrap();
    let session = world.node(leader).state().borrow().members[&NodeNr(gone)].session;
    world.kill(gone).await;
    for command in [
        ClusterCommand::Down {
            node: NodeNr(gone),
            session,
            at: 0,
        },
        ClusterCommand::Remove {
            node: NodeNr(gone),
            at: 0,
        },
    ] {
        world.node(leader).propose(command).await.unwrap();
    }
    let expected: Vec<u64> = (1..=4).filter(|node| *node != gone).collect();
    world.wait_for_voters(&expected).await;
}

/// Also when what is said takes a while to get to it.
#[tokio::test(start_paused = true)]
async fn a_removed_node_hears_that_it_was_removed() {
    let mut world = World::of_three().await;
    world.start(4).await;
    world.join(4).await;
    let removed = NodeNr(4);
    let leader = NodeNr(world.leader().await);
    let delay = Duration::from_millis(40);
    world.network.faults().delay(leader, removed, delay);
    let state = world.node(removed.0).state();
    let session = state.borrow().members[&removed].session;
    let leave = ClusterCommand::Leave {
        node: removed,
        session,
        remove: true,
        at: 0,
    };
    let remove = ClusterCommand::Remove {
        node: removed,
        at: 0,
    };
    for command in [leave, remove] {
        world.node(leader.0).propose(command).await.unwrap();
    }
    let heard = || state.borrow().member(removed).is_none();
    eventually("the removed node hears of it", heard).await;
}

/// Of more than two nodes three go on voting; of two the other one does, alone.
#[tokio::test(start_paused = true)]
async fn a_leader_that_is_to_be_removed_leaves_its_vote_and_leadership_to_others() {
    for nodes in [2, 4] {
        let mut world = World::new();
        world.form(1).await;
        for node in 2..=nodes {
            world.start(node).await;
            world.join(node).await;
        }
        let leader = world.leader().await;
        let session = world.node(leader).state().borrow().members[&NodeNr(leader)].session;
        let leave = ClusterCommand::Leave {
            node: NodeNr(leader),
            session,
            remove: true,
            at: 0,
        };
        world.node(leader).propose(leave).await.unwrap();
        let staying: Vec<u64> = (1..=nodes).filter(|node| *node != leader).collect();
        world.wait_for_voters(&staying).await;
        assert!(world.node(leader).hand_over_leadership(PATIENCE).await);
        let successor = world.leader().await;
        assert_ne!(successor, leader);
        let remove = ClusterCommand::Remove {
            node: NodeNr(leader),
            at: 0,
        };
        world.node(successor).propose(remove).await.unwrap();
        world.kill(leader).await;
        world.node(successor).propose(numbered(1)).await.unwrap();
        assert_eq!(world.leader().await, successor);
        world.wait_for_voters(&staying).await;
    }
}

/// Also while nodes give signs of life, each of which has leadership confirmed.
#[tokio::test(start_paused = true)]
async fn leadership_is_handed_over_faster_than_it_is_lost() {
    let world = World::of_three().await;
    let mut signs = tokio::task::JoinSet::new();
    for control in world.running.values() {
        let control = control.clone();
        signs.spawn(async move {
            loop {
                let _ = control.confirm_leadership().await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
    }
    for _ in 0..3 {
        let old = world.leader().await;
        let began = Instant::now();
        let handed_over = world.node(old).hand_over_leadership(PATIENCE).await;
        assert!(handed_over);
        let took = began.elapsed();
        assert!(took < world.settings.election_max, "{took:?}");
        assert_ne!(world.leader().await, old);
        // The former leader follows, and can lead again.
        world.node(old).propose(numbered(1)).await.unwrap();
    }
}

/// The same with real disks, threads and time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_on_disk_forgets_nothing() {
    let mut world = World::new();
    world.folder = Some(tempfile::tempdir().unwrap());
    // Tests share the machine, and its disk is slow then.
    world.settings.heartbeat = Duration::from_millis(200);
    world.settings.election_min = Duration::from_secs(1);
    world.settings.election_max = Duration::from_secs(2);
    world.grow_to_three().await;
    let mut expected = Vec::new();
    for number in 1..=3 {
        let leader = world.leader().await;
        world.node(leader).propose(numbered(number)).await.unwrap();
        expected.push(number);
        world.kill(leader).await;
        let next = world.leader().await;
        let state = world.node(next).state().borrow().clone();
        assert_eq!(effects(&state), expected);
        world.start(leader).await;
        world.join(leader).await;
    }
    for node in [1, 2, 3] {
        world.kill(node).await;
    }
    for node in [1, 2, 3] {
        world.start(node).await;
    }
    let leader = world.leader().await;
    let state = world.node(leader).state().borrow().clone();
    assert_eq!(effects(&state), expected);
}

/// Given up half-way, leadership goes on, here or there.
#[tokio::test(start_paused = true)]
async fn a_handover_can_be_cancelled() {
    let world = World::of_three().await;
    for after in [1, 20, 60, 200, 400] {
        let leader = world.leader().await;
        let handing_over = world.node(leader).hand_over_leadership(PATIENCE);
        let _ = timeout(Duration::from_millis(after), handing_over).await;
        let index = world.node(leader).propose(numbered(after)).await.unwrap();
        let state = wait_for_index(world.node(leader).state(), index).await;
        assert!(effects(&state).contains(&after), "{after} ms");
    }
}

/// Nobody to hand over to: it goes on leading.
#[tokio::test(start_paused = true)]
async fn a_leader_without_successor_stays() {
    let mut world = World::new();
    world.form(1).await;
    assert!(!world.node(1).hand_over_leadership(PATIENCE).await);
    world.node(1).propose(numbered(1)).await.unwrap();
    world.node(1).confirm_leadership().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_only_voter_leads_at_once_when_it_is_restarted() {
    let mut world = World::new();
    world.form(1).await;
    let index = world.node(1).propose(numbered(1)).await.unwrap();
    for _ in 0..3 {
        world.kill(1).await;
        let began = Instant::now();
        world.start(1).await;
        world.node(1).confirm_leadership().await.unwrap();
        assert!(
            began.elapsed() < Duration::from_millis(50),
            "{:?}",
            began.elapsed()
        );
        // What was committed is there when leadership is confirmed.
        let state = world.node(1).state().borrow().clone();
        assert!(state.index >= index);
        assert_eq!(effects(&state), [1]);
    }
}

/// All are killed and come back: nothing is forgotten.
#[tokio::test(start_paused = true)]
async fn a_group_that_was_killed_as_a_whole_goes_on() {
    let mut world = World::of_three().await;
    for round in 1..=3 {
        world.node(1).propose(numbered(round)).await.unwrap();
        for node in [1, 2, 3] {
            world.kill(node).await;
        }
        for node in [1, 2, 3] {
            world.start(node).await;
        }
        let leader = world.leader().await;
        let state = world.node(leader).state().borrow().clone();
        assert_eq!(effects(&state), (1..=round).collect::<Vec<u64>>());
    }
}

/// Confirmations asked for at the same time share a round.
#[tokio::test(start_paused = true)]
async fn many_confirmations_share_a_round() {
    let world = World::of_three().await;
    let leader = world.leader().await;
    let delay = Duration::from_millis(10);
    for other in world.running.keys().filter(|node| node.0 != leader) {
        world.network.faults().delay(NodeNr(leader), *other, delay);
    }
    let began = Instant::now();
    let asked = (0..500).map(|_| world.node(leader).confirm_leadership());
    for confirmed in futures::future::join_all(asked).await {
        confirmed.unwrap();
    }
    // The round that was under way, and the next.
    assert!(began.elapsed() <= 4 * delay, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn messages_get_lost_and_nothing_else_does() {
    let world = World::of_three().await;
    for from in [1, 2, 3] {
        for to in [1, 2, 3] {
            world.network.faults().lose(NodeNr(from), NodeNr(to), 0.1);
        }
    }
    let mut acknowledged = Vec::new();
    for number in 1..=60 {
        let through = world.node(number % 3 + 1);
        if through.propose(numbered(number)).await.is_ok() {
            acknowledged.push(number);
        }
    }
    assert!(acknowledged.len() > 30, "{acknowledged:?}");
    world.network.faults().heal_all();
    world.leader().await;
    let last = world.node(1).propose(numbered(61)).await.unwrap();
    for control in world.running.values() {
        let effects = effects(&wait_for_index(control.state(), last).await);
        assert!(effects.is_sorted_by(|a, b| a < b), "repeated: {effects:?}");
        let lost: Vec<_> = acknowledged
            .iter()
            .filter(|n| !effects.contains(n))
            .collect();
        assert!(lost.is_empty(), "lost {lost:?} of {effects:?}");
    }
}
