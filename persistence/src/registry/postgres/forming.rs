//! Who forms the cluster, and where nodes are, in Postgres. Every statement can be
//! repeated when its answer was lost.

use sqlx::PgConnection;
use sqlx::error::Error;

use crate::registry::{NODES_LISTED_MAX, NodeAddresses};
use crate::storage::postgres::connections::Connections;

/// Generation, formed, forming.
pub(super) type FormationRow = (i32, bool, Option<i64>);
/// Number, incarnation, address, peer address, seen.
pub(super) type NodeColumns = (i64, i64, String, String, i64);

/// `None` when there is no cluster yet.
pub(super) async fn formation(connections: &Connections) -> Result<Option<FormationRow>, Error> {
    let mut connection = connections.control().await?;
    let row = read(connection.inner()).await?;
    connection.give_back();
    Ok(row)
}

async fn read(connection: &mut PgConnection) -> Result<Option<FormationRow>, Error> {
    sqlx::query_as("SELECT generation, formed_at IS NOT NULL, forming_node FROM perennial.cluster")
        .fetch_optional(connection)
        .await
}

pub(super) async fn claim(
    connections: &Connections,
    node: i64,
    (generation, formed, forming): FormationRow,
) -> Result<Option<FormationRow>, Error> {
    let mut connection = connections.control().await?;
    if !formed {
        sqlx::query(
            "UPDATE perennial.cluster \
             SET generation = generation + (forming_node IS NOT NULL)::int, forming_node = $1 \
             WHERE generation = $2 AND formed_at IS NULL AND forming_node IS DISTINCT FROM $1 \
                 AND forming_node IS NOT DISTINCT FROM $3",
        )
        .bind(node)
        .bind(generation)
        .bind(forming)
        .execute(connection.inner())
        .await?;
    }
    let row = read(connection.inner()).await?;
    connection.give_back();
    Ok(row)
}

pub(super) async fn set_formed(
    connections: &Connections,
    node: i64,
    generation: i32,
) -> Result<bool, Error> {
    let mut connection = connections.control().await?;
    let updated = sqlx::query(
        "UPDATE perennial.cluster SET formed_at = coalesce(formed_at, now()) \
         WHERE generation = $1 AND forming_node = $2",
    )
    .bind(generation)
    .bind(node)
    .execute(connection.inner())
    .await?;
    connection.give_back();
    Ok(updated.rows_affected() > 0)
}

pub(super) async fn reform(
    connections: &Connections,
    generation: i32,
) -> Result<Option<FormationRow>, Error> {
    let mut connection = connections.control().await?;
    sqlx::query(
        "UPDATE perennial.cluster \
         SET generation = generation + 1, formed_at = NULL, forming_node = NULL \
         WHERE generation = $1 AND formed_at IS NOT NULL",
    )
    .bind(generation)
    .execute(connection.inner())
    .await?;
    let row = read(connection.inner()).await?;
    connection.give_back();
    Ok(row)
}

/// Whether the node is known.
pub(super) async fn announce(
    connections: &Connections,
    node: i64,
    addresses: &NodeAddresses,
) -> Result<bool, Error> {
    let mut connection = connections.control().await?;
    let updated = sqlx::query(
        "WITH others AS ( \
             UPDATE perennial.nodes SET address = NULL, peer_address = NULL \
             WHERE peer_address = $3 AND node_nr <> $1 \
         ) \
         UPDATE perennial.nodes \
         SET address = $2, peer_address = $3, seen = seen + 1, last_seen_at = now() \
         WHERE node_nr = $1",
    )
    .bind(node)
    .bind(&addresses.address)
    .bind(&addresses.peer_address)
    .execute(connection.inner())
    .await?;
    connection.give_back();
    Ok(updated.rows_affected() > 0)
}

/// Whether the address is still the node's.
pub(super) async fn give_sign(
    connections: &Connections,
    node: i64,
    addresses: &NodeAddresses,
) -> Result<bool, Error> {
    let mut connection = connections.control().await?;
    let updated = sqlx::query(
        "UPDATE perennial.nodes SET seen = seen + 1, last_seen_at = now() \
         WHERE node_nr = $1 AND peer_address = $2",
    )
    .bind(node)
    .bind(&addresses.peer_address)
    .execute(connection.inner())
    .await?;
    connection.give_back();
    Ok(updated.rows_affected() > 0)
}

pub(super) async fn withdraw(connections: &Connections, node: i64) -> Result<(), Error> {
    let mut connection = connections.control().await?;
    sqlx::query(
        "UPDATE perennial.nodes SET address = NULL, peer_address = NULL WHERE node_nr = $1",
    )
    .bind(node)
    .execute(connection.inner())
    .await?;
    connection.give_back();
    Ok(())
}

pub(super) async fn nodes(connections: &Connections) -> Result<Vec<NodeColumns>, Error> {
    let mut connection = connections.control().await?;
    let nodes = sqlx::query_as(
        "SELECT node_nr, incarnation, coalesce(address, ''), peer_address, seen FROM perennial.nodes \
         WHERE peer_address IS NOT NULL ORDER BY last_seen_at DESC, node_nr DESC LIMIT $1",
    )
    .bind(NODES_LISTED_MAX as i64)
    .fetch_all(connection.inner())
    .await?;
    connection.give_back();
    Ok(nodes)
}
