//! A registry and a disk that are slow, or fail at one step as if the node had been
//! killed there.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use perennial_persistence::registry::{
    ClusterIdentity, Formation, Incarnation, NodeAddresses, NodeNr, NodeRow, Registry,
    RegistryError,
};
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::forming::disk::{DiskError, MemoryDisk, NodeDisk, NodeIdentity};
use crate::raft::store::{RaftStore, RaftStoreError, StoreIdentity};

/// Where a node is interrupted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interruption {
    /// Counts everything asked of registry and disk, from 0.
    pub(super) step: u64,
    /// The step takes effect, and its answer is lost.
    pub(super) after: bool,
}

/// What goes wrong for one node.
#[derive(Clone)]
pub(super) struct Faulty {
    state: Arc<Mutex<State>>,
}

struct State {
    steps: u64,
    interruption: Option<Interruption>,
    slowest: Duration,
    chance: StdRng,
}

impl Faulty {
    pub(super) fn slow(seed: u64, slowest: Duration) -> Self {
        Self::new(seed, slowest, None)
    }

    pub(super) fn interrupted(interruption: Interruption) -> Self {
        Self::new(0, Duration::ZERO, Some(interruption))
    }

    fn new(seed: u64, slowest: Duration, interruption: Option<Interruption>) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                steps: 0,
                interruption,
                slowest,
                chance: StdRng::seed_from_u64(seed),
            })),
        }
    }

    pub(super) fn registry(&self, registry: Arc<dyn Registry>) -> FaultyRegistry {
        FaultyRegistry {
            faulty: self.clone(),
            registry,
        }
    }

    pub(super) fn disk(&self, disk: MemoryDisk) -> FaultyDisk {
        FaultyDisk {
            faulty: self.clone(),
            disk,
        }
    }

    /// Whether this step is interrupted, and if so, whether after its effect. All
    /// that follow are, too: the node is dead.
    fn step(&self) -> Option<bool> {
        let mut state = self.state.lock().unwrap();
        let step = state.steps;
        state.steps += 1;
        let Interruption { step: at, after } = state.interruption?;
        (step >= at).then_some(step == at && after)
    }

    async fn take_time(&self) {
        let time = {
            let mut state = self.state.lock().unwrap();
            let slowest = state.slowest;
            // Mostly fast, now and then slow.
            slowest.mul_f64(state.chance.random::<f64>().powi(4))
        };
        tokio::time::sleep(time).await;
    }

    async fn ask<T>(
        &self,
        asked: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        self.take_time().await;
        let interrupted = self.step();
        if interrupted != Some(false) {
            let answer = asked.await;
            self.take_time().await;
            if interrupted.is_none() {
                return answer;
            }
        }
        Err(RegistryError::Unavailable {
            message: "interrupted".to_owned(),
            source: None,
        })
    }

    fn write<T>(&self, write: impl FnOnce() -> T) -> io::Result<T> {
        let interrupted = self.step();
        if interrupted != Some(false) {
            let written = write();
            if interrupted.is_none() {
                return Ok(written);
            }
        }
        Err(io::Error::other("interrupted"))
    }
}

pub(super) struct FaultyRegistry {
    faulty: Faulty,
    registry: Arc<dyn Registry>,
}

#[async_trait]
impl Registry for FaultyRegistry {
    async fn cluster(&self, number_of_shards: u32) -> Result<ClusterIdentity, RegistryError> {
        let asked = self.registry.cluster(number_of_shards);
        self.faulty.ask(asked).await
    }

    async fn mint_node(&self) -> Result<NodeNr, RegistryError> {
        self.faulty.ask(self.registry.mint_node()).await
    }

    async fn formation(&self) -> Result<Formation, RegistryError> {
        self.faulty.ask(self.registry.formation()).await
    }

    async fn claim_forming(
        &self,
        node: NodeNr,
        seen: Formation,
    ) -> Result<Formation, RegistryError> {
        self.faulty
            .ask(self.registry.claim_forming(node, seen))
            .await
    }

    async fn set_formed(&self, node: NodeNr, generation: u32) -> Result<bool, RegistryError> {
        self.faulty
            .ask(self.registry.set_formed(node, generation))
            .await
    }

    async fn reform(&self, generation: u32) -> Result<Formation, RegistryError> {
        self.faulty.ask(self.registry.reform(generation)).await
    }

    async fn fence_earlier_generations(&self, generation: u32) -> Result<(), RegistryError> {
        let asked = self.registry.fence_earlier_generations(generation);
        self.faulty.ask(asked).await
    }

    async fn announce(&self, node: NodeNr, addresses: &NodeAddresses) -> Result<(), RegistryError> {
        self.faulty
            .ask(self.registry.announce(node, addresses))
            .await
    }

    async fn give_sign(
        &self,
        node: NodeNr,
        addresses: &NodeAddresses,
    ) -> Result<bool, RegistryError> {
        self.faulty
            .ask(self.registry.give_sign(node, addresses))
            .await
    }

    async fn withdraw(&self, node: NodeNr) -> Result<(), RegistryError> {
        self.faulty.ask(self.registry.withdraw(node)).await
    }

    async fn nodes(&self) -> Result<Vec<NodeRow>, RegistryError> {
        self.faulty.ask(self.registry.nodes()).await
    }

    async fn begin_incarnation(&self, node: NodeNr) -> Result<Incarnation, RegistryError> {
        self.faulty.ask(self.registry.begin_incarnation(node)).await
    }

    async fn begin_numbered(
        &self,
        node: NodeNr,
        number: u64,
    ) -> Result<Incarnation, RegistryError> {
        let asked = self.registry.begin_numbered(node, number);
        self.faulty.ask(asked).await
    }

    async fn fence(
        &self,
        session: SessionUuid,
        shard: Option<(ShardNr, Epoch)>,
    ) -> Result<(), RegistryError> {
        self.faulty.ask(self.registry.fence(session, shard)).await
    }
}

pub(super) struct FaultyDisk {
    faulty: Faulty,
    disk: MemoryDisk,
}

fn store_failed(source: &io::Error) -> RaftStoreError {
    RaftStoreError::Damaged {
        path: "(faulty)".into(),
        what: source.to_string(),
    }
}

impl NodeDisk for FaultyDisk {
    fn identity(&self) -> Result<Option<NodeIdentity>, DiskError> {
        self.disk.identity()
    }

    fn set_identity(&self, identity: &NodeIdentity) -> Result<(), DiskError> {
        let written = self.faulty.write(|| self.disk.set_identity(identity));
        written.map_err(|error| DiskError(error.into()))?
    }

    fn make_store(&self, identity: StoreIdentity) -> Result<RaftStore, RaftStoreError> {
        let made = self.faulty.write(|| self.disk.make_store(identity));
        made.map_err(|error| store_failed(&error))?
    }

    fn open_store(&self, identity: StoreIdentity) -> Result<Option<RaftStore>, RaftStoreError> {
        self.disk.open_store(identity)
    }

    fn remove_store(&self, generation: u32) -> io::Result<()> {
        self.faulty.write(|| self.disk.remove_store(generation))?
    }
}
