//! Groups of several members over a network that fails: nothing that was committed
//! is lost or repeated, whoever leads.
//!
//! Time is tokio's and stands still unless everybody waits, so these tests take no
//! time and do not depend on the machine's.

mod changes;
mod leadership;
mod members;

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
        let member = self.member(node);
        self.node(node).join(member, 0).await.unwrap();
    }

    /// As the node is when it has started anew.
    fn member(&mut self, node: u64) -> Member {
        self.incarnations += 1;
        Member {
            node: NodeNr(node),
            incarnation: self.incarnations,
            session: SessionUuid(Uuid::from_u128(u128::from(self.incarnations))),
            address: String::new(),
            peer_address: loopback_address(NodeNr(node)),
            version: "1".to_owned(),
            weight: 1,
            status: MemberStatus::Joining,
            removing: false,
        }
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
