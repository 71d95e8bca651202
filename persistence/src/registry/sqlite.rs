//! The registry in an SQLite file.
//!
//! There is nothing in flight to wait for when fencing: a fence and an append both
//! hold the file's one write lock. Next: `storage/sqlite.rs`, the file.

mod forming;

use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use self::forming::{FormationRow, NodeColumns};
use crate::registry::{
    Begun, ClusterIdentity, Formation, Incarnation, NodeAddresses, NodeNr, NodeRow, Registry,
    RegistryError, stored_incarnation,
};
use crate::storage::epoch_i64;
use crate::storage::owned::owned;
use crate::storage::sqlite::{SqliteDatabase, sort_failure};
use crate::writer::{Epoch, SessionUuid, ShardNr};

/// A registry in an SQLite file.
pub(crate) struct SqliteRegistry {
    database: Arc<SqliteDatabase>,
}

impl SqliteRegistry {
    pub(crate) fn new(database: Arc<SqliteDatabase>) -> Self {
        Self { database }
    }

    async fn begin(&self, node: NodeNr, number: Option<u64>) -> Result<Incarnation, RegistryError> {
        let database = self.database.clone();
        let session = SessionUuid(Uuid::new_v4());
        let (node_nr, wanted) = (stored(node)?, number.map(stored_incarnation));
        let begun =
            owned(async move { begin_incarnation(&database, node_nr, wanted, session).await });
        let begun = begun
            .await
            .map_err(|error| unavailable("beginning an incarnation", error))?;
        Begun::incarnation(begun, node, number)
    }
}

async fn cluster(
    database: &SqliteDatabase,
    number_of_shards: u32,
) -> Result<(Uuid, u32, u32), sqlx::Error> {
    let mut writer = database.writer().await?;
    let mut transaction = writer.begin().await?;
    // Only the first node's row is kept.
    sqlx::query(
        "INSERT OR IGNORE INTO cluster (one, cluster_id, generation, number_of_shards) VALUES (1, ?, 1, ?)",
    )
    .bind(Uuid::new_v4())
    .bind(number_of_shards)
    .execute(&mut *transaction)
    .await?;
    let row = sqlx::query_as("SELECT cluster_id, number_of_shards, generation FROM cluster")
        .fetch_one(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(row)
}

async fn mint_node(database: &SqliteDatabase) -> Result<i64, sqlx::Error> {
    let mut writer = database.writer().await?;
    let mut transaction = writer.begin().await?;
    let node = sqlx::query_scalar(
        "INSERT INTO nodes (last_seen_at) VALUES (CAST(unixepoch('subsec') * 1000000 AS INTEGER)) RETURNING node_nr",
    )
    .fetch_one(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(node)
}

/// Without a number it is the next; `None` when the node is not known.
async fn begin_incarnation(
    database: &SqliteDatabase,
    node: i64,
    number: Option<i64>,
    session: SessionUuid,
) -> Result<Option<Begun>, sqlx::Error> {
    let mut writer = database.writer().await?;
    let mut transaction = writer.begin().await?;
    let last: Option<i64> = sqlx::query_scalar("SELECT incarnation FROM nodes WHERE node_nr = ?")
        .bind(node)
        .fetch_optional(&mut *transaction)
        .await?;
    let Some(last) = last else {
        return Ok(None);
    };
    let number = number.unwrap_or(last + 1);
    if number <= last {
        return Ok(Some(Begun { last, opened: None }));
    }
    sqlx::query(
        "UPDATE nodes SET incarnation = ?, last_seen_at = CAST(unixepoch('subsec') * 1000000 AS INTEGER) \
         WHERE node_nr = ?",
    )
    .bind(number)
    .bind(node)
    .execute(&mut *transaction)
    .await?;
    // A session without a row may not write: the row of a fenced one is only of
    // interest to people, and the latest few will do.
    sqlx::query("DELETE FROM writer_sessions WHERE node_nr = ? AND fenced_at IS NOT NULL AND incarnation < ? - 10")
        .bind(node)
        .bind(number)
        .execute(&mut *transaction)
        .await?;
    sqlx::query(
        "UPDATE writer_sessions SET fenced_at = CAST(unixepoch('subsec') * 1000000 AS INTEGER) \
         WHERE node_nr = ? AND fenced_at IS NULL",
    )
    .bind(node)
    .execute(&mut *transaction)
    .await?;
    let generation = sqlx::query_scalar(
        "INSERT INTO writer_sessions (session, node_nr, incarnation, started_at, generation) \
         VALUES (?, ?, ?, CAST(unixepoch('subsec') * 1000000 AS INTEGER), \
                 coalesce((SELECT generation FROM cluster), 0)) RETURNING generation",
    )
    .bind(session.0)
    .bind(node)
    .bind(number)
    .fetch_one(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(Some(Begun {
        last: number,
        opened: Some((session, generation)),
    }))
}

async fn fence(
    database: &SqliteDatabase,
    session: SessionUuid,
    shard: Option<(ShardNr, Epoch)>,
) -> Result<(), sqlx::Error> {
    let mut writer = database.writer().await?;
    let mut transaction = writer.begin().await?;
    let fence = match shard {
        None => sqlx::query(
            "UPDATE writer_sessions SET fenced_at = CAST(unixepoch('subsec') * 1000000 AS INTEGER) \
             WHERE session = ? AND fenced_at IS NULL",
        )
        .bind(session.0),
        Some((shard, epoch)) => {
            let path = format!("$.\"{shard}\"");
            sqlx::query(
                "UPDATE writer_sessions SET fenced_shards = \
                     json_set(fenced_shards, ?2, max(coalesce(json_extract(fenced_shards, ?2), 0), ?3)) \
                 WHERE session = ?1",
            )
            .bind(session.0)
            .bind(path)
            .bind(epoch_i64(epoch))
        }
    };
    fence.execute(&mut *transaction).await?;
    transaction.commit().await
}

fn unavailable(doing: &str, error: sqlx::Error) -> RegistryError {
    RegistryError::Unavailable {
        message: format!("{doing}: {}", sort_failure(&error).1),
        source: Some(Box::new(error)),
    }
}

/// A number that was minted here, as SQLite stores it.
fn stored(node: NodeNr) -> Result<i64, RegistryError> {
    // No number beyond i64 was ever minted.
    i64::try_from(node.0).map_err(|_| RegistryError::NodeUnknown { node })
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
        generation,
        formed,
        forming: forming.map(|node| NodeNr(node.unsigned_abs())),
    })
}

#[async_trait]
impl Registry for SqliteRegistry {
    async fn cluster(&self, number_of_shards: u32) -> Result<ClusterIdentity, RegistryError> {
        let database = self.database.clone();
        let found = owned(async move { cluster(&database, number_of_shards).await }).await;
        let (cluster_id, stored, generation) =
            found.map_err(|error| unavailable("reading the cluster's row", error))?;
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
        let database = self.database.clone();
        let node = owned(async move { mint_node(&database).await }).await;
        // Numbers are counted from 1.
        node.map(|node| NodeNr(node.unsigned_abs()))
            .map_err(|error| unavailable("minting a node number", error))
    }

    async fn formation(&self) -> Result<Formation, RegistryError> {
        let database = self.database.clone();
        read(owned(async move { forming::formation(&database).await }).await)
    }

    async fn claim_forming(
        &self,
        node: NodeNr,
        seen: Formation,
    ) -> Result<Formation, RegistryError> {
        let (database, node) = (self.database.clone(), stored(node)?);
        let forming = seen.forming.map(stored).transpose()?;
        let seen = (seen.generation, seen.formed, forming);
        read(owned(async move { forming::claim(&database, node, seen).await }).await)
    }

    async fn set_formed(&self, node: NodeNr, generation: u32) -> Result<bool, RegistryError> {
        let (database, node) = (self.database.clone(), stored(node)?);
        let set = owned(async move { forming::set_formed(&database, node, generation).await });
        set.await
            .map_err(|error| unavailable("declaring the cluster formed", error))
    }

    async fn reform(&self, generation: u32) -> Result<Formation, RegistryError> {
        let database = self.database.clone();
        read(owned(async move { forming::reform(&database, generation).await }).await)
    }

    async fn fence_earlier_generations(&self, generation: u32) -> Result<(), RegistryError> {
        let database = self.database.clone();
        let fenced =
            owned(async move { forming::fence_earlier_generations(&database, generation).await });
        fenced
            .await
            .map_err(|error| unavailable("fencing earlier generations", error))
    }

    async fn announce(&self, node: NodeNr, addresses: &NodeAddresses) -> Result<(), RegistryError> {
        let (database, number) = (self.database.clone(), stored(node)?);
        let addresses = addresses.clone();
        let known = owned(async move { forming::announce(&database, number, &addresses).await });
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
        let (database, node) = (self.database.clone(), stored(node)?);
        let addresses = addresses.clone();
        let given = owned(async move { forming::give_sign(&database, node, &addresses).await });
        given
            .await
            .map_err(|error| unavailable("giving a sign of life", error))
    }

    async fn withdraw(&self, node: NodeNr) -> Result<(), RegistryError> {
        let (database, node) = (self.database.clone(), stored(node)?);
        let withdrawn = owned(async move { forming::withdraw(&database, node).await });
        withdrawn
            .await
            .map_err(|error| unavailable("forgetting an address", error))
    }

    async fn nodes(&self) -> Result<Vec<NodeRow>, RegistryError> {
        let database = self.database.clone();
        let listed = owned(async move { forming::nodes(&database).await }).await;
        let listed = listed.map_err(|error| unavailable("listing the nodes", error))?;
        Ok(listed.into_iter().map(node_row).collect())
    }

    async fn begin_incarnation(&self, node: NodeNr) -> Result<Incarnation, RegistryError> {
        self.begin(node, None).await
    }

    async fn begin_numbered(
        &self,
        node: NodeNr,
        number: u64,
    ) -> Result<Incarnation, RegistryError> {
        self.begin(node, Some(number)).await
    }

    async fn fence(
        &self,
        session: SessionUuid,
        shard: Option<(ShardNr, Epoch)>,
    ) -> Result<(), RegistryError> {
        let database = self.database.clone();
        let fenced = owned(async move { fence(&database, session, shard).await }).await;
        fenced.map_err(|error| unavailable("fencing a session", error))
    }
}
