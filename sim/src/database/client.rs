//! A node's side of the database.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use perennial_persistence::command::CommandId;
use perennial_persistence::journal::{
    Append, AppendError, Appended, EntityListing, EventRange, Journal, JournalError, StoredCommand,
    StoredEvent, StreamBounds, WriteRight,
};
use perennial_persistence::payload::Payload;
use perennial_persistence::persistence_id::PersistenceId;
use perennial_persistence::recovery_reader::{Beginning, BeginningLimits, RecoveryReader, Wanted};
use perennial_persistence::registry::{
    ClusterIdentity, Formation, Incarnation, NodeAddresses, NodeNr, NodeRow, Registry,
    RegistryError,
};
use perennial_persistence::sequence_nr::SequenceNr;
use perennial_persistence::snapshot_store::{Snapshot, SnapshotCriteria, SnapshotStore};
use perennial_persistence::storage::Storage;
use perennial_persistence::writer::{Epoch, SessionUuid, ShardNr};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{Database, now};
use crate::invariants::Recoveries;
use crate::network::{Host, Network};

/// What is not answered in so long is given up.
const PATIENCE: Duration = Duration::from_millis(700);

/// A node's side of the database; clones are the same.
#[derive(Clone)]
pub(crate) struct DatabaseClient {
    pub(crate) database: Database,
    pub(crate) network: Network,
    pub(crate) here: Host,
    pub(crate) recoveries: Recoveries,
}

/// Why there is no answer.
enum NoAnswer {
    /// It was refused, without effect.
    Refused,
    /// It may have had its effect, or have it later.
    Silence,
}

impl DatabaseClient {
    /// The database as the engine wants it.
    pub(crate) fn storage(&self) -> Storage {
        let this = Arc::new(self.clone());
        Storage {
            journal: this.clone(),
            snapshots: this.clone(),
            recoveries: this.clone(),
            registry: this,
            // Not used here.
            states: Arc::clone(&self.database.storage.states),
            order: Arc::clone(&self.database.storage.order),
            deletion: Arc::clone(&self.database.storage.deletion),
        }
    }

    async fn ask<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Database) -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let (answer, answered) = oneshot::channel();
        let (network, database, here) = (self.network.clone(), self.database.clone(), self.here);
        self.network.post(here, Host::Database, what, move || {
            let result = match database.refuses_now() {
                true => Err(NoAnswer::Refused),
                false => Ok(work(&database)),
            };
            network.post(Host::Database, here, what, move || {
                let _ = answer.send(result);
            });
        });
        let heard = async {
            match answered.await {
                Ok(result) => result,
                // Lost on the way.
                Err(_) => std::future::pending().await,
            }
        };
        match timeout(PATIENCE, heard).await {
            Ok(result) => result,
            Err(_) => Err(NoAnswer::Silence),
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Database) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, JournalError> {
        match self.ask(what, work).await {
            Ok(result) => result,
            Err(_) => Err(unavailable(what)),
        }
    }

    async fn book<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&dyn Registry) -> Result<T, RegistryError> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let worked = self.ask(what, move |database| work(&*database.storage.registry));
        match worked.await {
            Ok(result) => result,
            Err(_) => Err(RegistryError::Unavailable {
                message: format!("{what}: no answer"),
                source: None,
            }),
        }
    }
}

fn unavailable(what: &'static str) -> JournalError {
    JournalError::Unavailable {
        message: format!("{what}: no answer"),
        source: None,
    }
}

#[async_trait]
impl Journal for DatabaseClient {
    fn lanes(&self) -> usize {
        self.database.storage.journal.lanes()
    }

    async fn append(&self, session: SessionUuid, lane: usize, batch: &[Append]) -> Vec<Appended> {
        let sent = batch.to_vec();
        let asked = self.ask("append", move |database| {
            database.append(session, lane, &sent)
        });
        let message = || "no answer".to_owned();
        match asked.await {
            Ok(appended) => appended,
            Err(NoAnswer::Refused) => {
                let failure = || AppendError::Unavailable { message: message() };
                batch.iter().map(|_| Appended::none(failure())).collect()
            }
            Err(NoAnswer::Silence) => {
                let failure = || AppendError::Unknown { message: message() };
                batch.iter().map(|_| Appended::none(failure())).collect()
            }
        }
    }

    async fn may_write(
        &self,
        session: SessionUuid,
        shards: &[(ShardNr, Epoch)],
    ) -> Result<Vec<bool>, JournalError> {
        let shards = shards.to_vec();
        self.read("may write", move |database| {
            now(database.storage.journal.may_write(session, &shards))
        })
        .await
    }

    async fn read_events(&self, range: &EventRange) -> Result<Vec<StoredEvent>, JournalError> {
        let range = range.clone();
        self.read("read events", move |database| {
            now(database.storage.journal.read_events(&range))
        })
        .await
    }

    async fn bounds(&self, persistence_id: &PersistenceId) -> Result<StreamBounds, JournalError> {
        let id = persistence_id.clone();
        self.read("bounds", move |database| {
            now(database.storage.journal.bounds(&id))
        })
        .await
    }

    async fn find_commands(
        &self,
        persistence_id: &PersistenceId,
        command_ids: &[CommandId],
    ) -> Result<Vec<Option<StoredCommand>>, JournalError> {
        let (id, command_ids) = (persistence_id.clone(), command_ids.to_vec());
        self.read("find commands", move |database| {
            now(database.storage.journal.find_commands(&id, &command_ids))
        })
        .await
    }

    async fn list_entities(
        &self,
        entity_type: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<EntityListing>, JournalError> {
        let (entity_type, after) = (entity_type.to_owned(), after.map(ToOwned::to_owned));
        self.read("list entities", move |database| {
            let journal = &database.storage.journal;
            now(journal.list_entities(&entity_type, after.as_deref(), limit))
        })
        .await
    }

    async fn delete_events(
        &self,
        right: WriteRight,
        persistence_id: &PersistenceId,
        to: SequenceNr,
    ) -> Result<(), JournalError> {
        let id = persistence_id.clone();
        self.read("delete events", move |database| {
            now(database.storage.journal.delete_events(right, &id, to))
        })
        .await
    }
}

#[async_trait]
impl SnapshotStore for DatabaseClient {
    async fn load(
        &self,
        persistence_id: &PersistenceId,
        criteria: SnapshotCriteria,
    ) -> Result<Option<Snapshot>, JournalError> {
        let id = persistence_id.clone();
        self.read("load snapshot", move |database| {
            now(database.storage.snapshots.load(&id, criteria))
        })
        .await
    }

    async fn save(
        &self,
        right: WriteRight,
        persistence_id: &PersistenceId,
        sequence_nr: SequenceNr,
        payload: &Payload,
    ) -> Result<(), JournalError> {
        let (id, payload) = (persistence_id.clone(), payload.clone());
        self.read("save snapshot", move |database| {
            let snapshots = &database.storage.snapshots;
            now(snapshots.save(right, &id, sequence_nr, &payload))
        })
        .await
    }

    async fn delete(
        &self,
        right: WriteRight,
        persistence_id: &PersistenceId,
        criteria: SnapshotCriteria,
    ) -> Result<(), JournalError> {
        let id = persistence_id.clone();
        self.read("delete snapshots", move |database| {
            now(database.storage.snapshots.delete(right, &id, criteria))
        })
        .await
    }
}

#[async_trait]
impl RecoveryReader for DatabaseClient {
    fn concurrency(&self) -> usize {
        2
    }

    async fn read_beginnings(
        &self,
        wanted: &[Wanted],
        limits: BeginningLimits,
    ) -> Vec<Result<Option<Beginning>, JournalError>> {
        let under_way = self.recoveries.begin(self.here, wanted, self.network.now());
        let sent = wanted.to_vec();
        let begun = under_way.begun();
        let asked = self.ask("recover", move |database| {
            database.journaled.recovering(&begun);
            let recoveries = &database.storage.recoveries;
            now(recoveries.read_beginnings(&sent, limits))
        });
        match asked.await {
            Ok(beginnings) => beginnings,
            Err(_) => wanted.iter().map(|_| Err(unavailable("recover"))).collect(),
        }
    }
}

#[async_trait]
impl Registry for DatabaseClient {
    async fn cluster(&self, number_of_shards: u32) -> Result<ClusterIdentity, RegistryError> {
        self.book("cluster", move |registry| {
            now(registry.cluster(number_of_shards))
        })
        .await
    }

    async fn mint_node(&self) -> Result<NodeNr, RegistryError> {
        self.book("mint node", |registry| now(registry.mint_node()))
            .await
    }

    async fn formation(&self) -> Result<Formation, RegistryError> {
        self.book("formation", |registry| now(registry.formation()))
            .await
    }

    async fn claim_forming(
        &self,
        node: NodeNr,
        seen: Formation,
    ) -> Result<Formation, RegistryError> {
        self.book("claim forming", move |registry| {
            now(registry.claim_forming(node, seen))
        })
        .await
    }

    async fn set_formed(&self, node: NodeNr, generation: u32) -> Result<bool, RegistryError> {
        self.book("set formed", move |registry| {
            now(registry.set_formed(node, generation))
        })
        .await
    }

    async fn reform(&self, generation: u32) -> Result<Formation, RegistryError> {
        self.book("reform", move |registry| now(registry.reform(generation)))
            .await
    }

    async fn fence_earlier_generations(&self, generation: u32) -> Result<(), RegistryError> {
        self.book("fence earlier generations", move |registry| {
            now(registry.fence_earlier_generations(generation))
        })
        .await
    }

    async fn announce(&self, node: NodeNr, addresses: &NodeAddresses) -> Result<(), RegistryError> {
        let addresses = addresses.clone();
        self.book("announce", move |registry| {
            now(registry.announce(node, &addresses))
        })
        .await
    }

    async fn give_sign(
        &self,
        node: NodeNr,
        addresses: &NodeAddresses,
    ) -> Result<bool, RegistryError> {
        let addresses = addresses.clone();
        self.book("give sign", move |registry| {
            now(registry.give_sign(node, &addresses))
        })
        .await
    }

    async fn withdraw(&self, node: NodeNr) -> Result<(), RegistryError> {
        self.book("withdraw", move |registry| now(registry.withdraw(node)))
            .await
    }

    async fn nodes(&self) -> Result<Vec<NodeRow>, RegistryError> {
        self.book("nodes", |registry| now(registry.nodes())).await
    }

    async fn begin_incarnation(&self, node: NodeNr) -> Result<Incarnation, RegistryError> {
        self.book("begin incarnation", move |registry| {
            now(registry.begin_incarnation(node))
        })
        .await
    }

    async fn begin_numbered(
        &self,
        node: NodeNr,
        number: u64,
    ) -> Result<Incarnation, RegistryError> {
        self.book("begin incarnation", move |registry| {
            now(registry.begin_numbered(node, number))
        })
        .await
    }

    async fn fence(
        &self,
        session: SessionUuid,
        shard: Option<(ShardNr, Epoch)>,
    ) -> Result<(), RegistryError> {
        self.book("fence", move |registry| now(registry.fence(session, shard)))
            .await
    }
}
