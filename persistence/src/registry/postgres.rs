//! The registry in Postgres.
//!
//! Every piece of work is owned by a task of its own, so that whoever waits may stop
//! waiting, and is repeated when its connection was lost. Next:
//! `postgres/sessions.rs`, how sessions are fenced; `postgres/forming.rs`, who forms
//! the cluster.

mod forming;
mod sessions;

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use self::forming::{FormationRow, NodeColumns};
use crate::registry::{
    Begun, ClusterIdentity, Formation, Incarnation, NodeAddresses, NodeNr, NodeRow, Registry,
    RegistryError, stored_incarnation,
};
use crate::storage::owned::owned;
use crate::storage::postgres::connections::{Connections, Failure, Retry, timed_out};
use crate::writer::{Epoch, SessionUuid, ShardNr};

/// A registry in Postgres.
pub(crate) struct PostgresRegistry {
    connections: Arc<Connections>,
}

impl PostgresRegistry {
    pub(crate) fn new(connections: Arc<Connections>) -> Self {
        Self { connections }
    }
}

/// Makes the row, if it is the first; and if the database has moved to another
/// server, lifts transaction numbers above all that were stored before.
const CLUSTER: &str = "\
    WITH made AS ( \
        INSERT INTO perennial.cluster (cluster_id, generation, number_of_shards, system_identifier) \
        SELECT $1, 1, $2, system_identifier FROM pg_control_system() \
        ON CONFLICT (one) DO UPDATE \
        SET system_identifier = excluded.system_identifier, \
            tx_offset = (SELECT coalesce(max(tx), 0) + 1 FROM perennial.events) \
        WHERE cluster.system_identifier IS DISTINCT FROM excluded.system_identifier \
        RETURNING 1 \
    ) SELECT count(*) FROM made";

/// Repeats work whose connection was lost or led to a standby, or that others were
/// in the way of, while there is time. All of it can be done twice. An attempt ends
/// when the server would have ended it: no answer comes from one that the network
/// has swallowed.
macro_rules! until_decided {
    ($connections:expr, $work:expr) => {
        until_decided!($connections, $connections.options.statement_timeout, $work)
    };
    ($connections:expr, $attempt_max:expr, $work:expr) => {{
        let mut retry = Retry::until(Instant::now() + $connections.options.connect_timeout);
        loop {
            let attempted = timeout($attempt_max, $work).await;
            match attempted.unwrap_or_else(|_| Err(timed_out())) {
                Err(error) if Failure::of(&error).may_pass() && retry.pause().await => {}
                decided => break decided,
            }
        }
    }};
}

async fn cluster(
    connections: &Connections,
    number_of_shards: i32,
) -> Result<(Uuid, i32, i32), sqlx::Error> {
    let mut connection = connections.control().await?;
    sqlx::query(CLUSTER)
        .bind(Uuid::new_v4())
        .bind(number_of_shards)
        .execute(connection.inner())
        .await?;
    let row =
        sqlx::query_as("SELECT cluster_id, number_of_shards, generation FROM perennial.cluster")
            .fetch_one(connection.inner())
            .await?;
    connection.give_back();
    Ok(row)
}

async fn mint_node(connections: &Connections) -> Result<i64, sqlx::Error> {
    let mut connection = connections.control().await?;
    let node = sqlx::query_scalar("INSERT INTO perennial.nodes DEFAULT VALUES RETURNING node_nr")
        .fetch_one(connection.inner())
        .await?;
    connection.give_back();
    Ok(node)
}

fn unavailable(doing: &str, error: sqlx::Error) -> RegistryError {
    RegistryError::Unavailable {
        message: format!("{doing}: {error}"),
        source: Some(Box::new(error)),
    }
}

/// A number that was minted here, as Postgres stores it.
fn stored(node: NodeNr) -> Result<i64, RegistryError> {
    // No number beyond i64 was ever minted.
    i64::try_from(node.0).map_err(|_| RegistryError::NodeUnknown { node })
}

/// No cluster gets that far.
fn stored_generation(generation: u32) -> i32 {
    i32::try_from(generation).unwrap_or(i32::MAX)
}

/// Minted numbers and counters are not negative.
fn node_row((node, incarnation, address, peer_address, seen): NodeColumns) -> NodeRow {
    NodeRow {
        node: NodeNr(node.unsigned_abs()),
        incarnation: incarnation.unsigned_abs(),
        addresses: NodeAddresses {
            address,
            peer_address,
        },
        seen: seen.unsigned_abs(),
    }
}

fn read(row: Result<Option<FormationRow>, sqlx::Error>) -> Result<Formation, RegistryError> {
    let row = row.map_err(|error| unavailable("reading who forms the cluster", error))?;
    let (generation, formed, forming) = row.ok_or(RegistryError::NotACluster)?;
    Ok(Formation {
        generation: generation.unsigned_abs(),
        formed,
        forming: forming.map(|node| NodeNr(node.unsigned_abs())),
    })
}

#[async_trait]
impl Registry for PostgresRegistry {
    async fn cluster(&self, number_of_shards: u32) -> Result<ClusterIdentity, RegistryError> {
        let connections = self.connections.clone();
        let configured = i32::try_from(number_of_shards).unwrap_or(i32::MAX);
        let found =
            owned(async move { until_decided!(connections, cluster(&connections, configured)) });
        let (cluster_id, stored, generation) = found
            .await
            .map_err(|error| unavailable("reading the cluster's row", error))?;
        let (stored, generation) = (stored.unsigned_abs(), generation.unsigned_abs());
        if stored != number_of_shards {
            let configured = number_of_shards;
            return Err(RegistryError::NumberOfShards { stored, configured });
        }
        Ok(ClusterIdentity {
            cluster_id,
            number_of_shards,
            generation,
        })
    }

    async fn mint_node(&self) -> Result<NodeNr, RegistryError> {
        let connections = self.connections.clone();
        let minted = owned(async move { until_decided!(connections, mint_node(&connections)) });
        // Numbers are counted from 1.
        let node = minted.await.map(|node| NodeNr(node.unsigned_abs()));
        node.map_err(|error| unavailable("minting a node number", error))
    }

    async fn formation(&self) -> Result<Formation, RegistryError> {
        let connections = self.connections.clone();
        // One row that is always in memory: by this it is found out whether the
        // database answers, so it must not take long to find that it does not.
        let attempt_max = connections.options.connect_timeout / 2;
        let work = async move {
            until_decided!(connections, attempt_max, forming::formation(&connections))
        };
        read(owned(work).await)
    }

    async fn claim_forming(
        &self,
        node: NodeNr,
        seen: Formation,
    ) -> Result<Formation, RegistryError> {
        let (connections, node) = (self.connections.clone(), stored(node)?);
        let forming = seen.forming.map(stored).transpose()?;
        let seen = (stored_generation(seen.generation), seen.formed, forming);
        read(owned(async move { until_decided!(connections, forming::claim(&connections, node, seen)) }).await)
    }

    async fn set_formed(&self, node: NodeNr, generation: u32) -> Result<bool, RegistryError> {
        let generation = stored_generation(generation);
        let (connections, node) = (self.connections.clone(), stored(node)?);
        let set = owned(async move {
            until_decided!(
                connections,
                forming::set_formed(&connections, node, generation)
            )
        });
        set.await
            .map_err(|error| unavailable("declaring the cluster formed", error))
    }

    async fn reform(&self, generation: u32) -> Result<Formation, RegistryError> {
        let generation = stored_generation(generation);
        let connections = self.connections.clone();
        read(owned(async move { until_decided!(connections, forming::reform(&connections, generation)) }).await)
    }

    async fn fence_earlier_generations(&self, generation: u32) -> Result<(), RegistryError> {
        let generation = stored_generation(generation);
        let connections = self.connections.clone();
        let fenced = owned(async move {
            until_decided!(
                connections,
                sessions::fence_earlier_generations(&connections, generation)
            )
        });
        fenced
            .await
            .map_err(|error| unavailable("fencing earlier generations", error))
    }

    async fn announce(&self, node: NodeNr, addresses: &NodeAddresses) -> Result<(), RegistryError> {
        let (connections, number) = (self.connections.clone(), stored(node)?);
        let addresses = addresses.clone();
        let known = owned(async move {
            until_decided!(
                connections,
                forming::announce(&connections, number, &addresses)
            )
        });
        let known = known
            .await
            .map_err(|error| unavailable("announcing an address", error))?;
        known
            .then_some(())
            .ok_or(RegistryError::NodeUnknown { node })
    }

    async fn give_sign(
        &self,
        node: NodeNr,
        addresses: &NodeAddresses,
    ) -> Result<bool, RegistryError> {
        let (connections, node) = (self.connections.clone(), stored(node)?);
        let addresses = addresses.clone();
        let given = owned(async move {
            until_decided!(
                connections,
                forming::give_sign(&connections, node, &addresses)
            )
        });
        given
            .await
            .map_err(|error| unavailable("giving a sign of life", error))
    }

    async fn withdraw(&self, node: NodeNr) -> Result<(), RegistryError> {
        let (connections, node) = (self.connections.clone(), stored(node)?);
        let withdrawn =
            owned(
                async move { until_decided!(connections, forming::withdraw(&connections, node)) },
            );
        withdrawn
            .await
            .map_err(|error| unavailable("forgetting an address", error))
    }

    async fn nodes(&self) -> Result<Vec<NodeRow>, RegistryError> {
        let connections = self.connections.clone();
        let listed =
            owned(async move { until_decided!(connections, forming::nodes(&connections)) }).await;
        let listed = listed.map_err(|error| unavailable("listing the nodes", error))?;
        Ok(listed.into_iter().map(node_row).collect())
    }

    async fn begin_incarnation(&self, node: NodeNr) -> Result<Incarnation, RegistryError> {
        let (connections, node_nr) = (self.connections.clone(), stored(node)?);
        let begun = owned(async move {
            until_decided!(connections, {
                // The database counts each attempt, which makes them others.
                let session = SessionUuid(Uuid::new_v4());
                sessions::begin_incarnation(&connections, node_nr, None, session)
            })
        });
        let begun = begun
            .await
            .map_err(|error| unavailable("beginning an incarnation", error))?;
        Begun::incarnation(begun, node, None)
    }

    async fn begin_numbered(
        &self,
        node: NodeNr,
        number: u64,
    ) -> Result<Incarnation, RegistryError> {
        let (connections, node_nr) = (self.connections.clone(), stored(node)?);
        let wanted = Some(stored_incarnation(number));
        // All attempts are the same.
        let session = SessionUuid(Uuid::new_v4());
        let begun = owned(async move {
            until_decided!(
                connections,
                sessions::begin_incarnation(&connections, node_nr, wanted, session)
            )
        });
        let begun = begun
            .await
            .map_err(|error| unavailable("beginning an incarnation", error))?;
        Begun::incarnation(begun, node, Some(number))
    }

    async fn fence(
        &self,
        session: SessionUuid,
        shard: Option<(ShardNr, Epoch)>,
    ) -> Result<(), RegistryError> {
        let connections = self.connections.clone();
        let fenced = owned(async move {
            until_decided!(connections, sessions::fence(&connections, session, shard))
        });
        fenced
            .await
            .map_err(|error| unavailable("fencing a session", error))
    }
}
