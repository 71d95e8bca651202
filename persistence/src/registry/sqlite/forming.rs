//! Who forms the cluster, and where nodes are, in an SQLite file.

use sqlx::error::Error;

use crate::registry::{NODES_LISTED_MAX, NodeAddresses};
use crate::storage::sqlite::SqliteDatabase;

/// Generation, formed, forming.
pub(super) type FormationRow = (u32, bool, Option<i64>);
/// Number, incarnation, address, peer address, seen.
pub(super) type NodeColumns = (i64, i64, String, String, i64);

const READ: &str = "SELECT generation, formed_at IS NOT NULL, forming_node FROM cluster";

/// `None` when there is no cluster yet.
pub(super) async fn formation(database: &SqliteDatabase) -> Result<Option<FormationRow>, Error> {
    let mut reader = database.reader().await?;
    sqlx::query_as(READ).fetch_optional(&mut *reader).await
}

pub(super) async fn claim(
    database: &SqliteDatabase,
    node: i64,
    (generation, formed, forming): FormationRow,
) -> Result<Option<FormationRow>, Error> {
    let mut writer = database.writer().await?;
    let mut transaction = writer.begin().await?;
    if !formed {
        sqlx::query(
            "UPDATE cluster SET generation = generation + (forming_node IS NOT NULL), forming_node = ?1 \
             WHERE generation = ?2 AND formed_at IS NULL AND forming_node IS NOT ?1 AND forming_node IS ?3",
        )
        .bind(node)
        .bind(generation)
        .bind(forming)
        .execute(&mut *transaction)
        .await?;
    }
    let formation = sqlx::query_as(READ)
        .fetch_optional(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(formation)
}

pub(super) async fn set_formed(
    database: &SqliteDatabase,
    node: i64,
    generation: u32,
) -> Result<bool, Error> {
    let mut writer = database.writer().await?;
    let mut transaction = writer.begin().await?;
    let updated = sqlx::query(
        "UPDATE cluster \
         SET formed_at = coalesce(formed_at, CAST(unixepoch('subsec') * 1000000 AS INTEGER)) \
         WHERE generation = ? AND forming_node = ?",
    )
    .bind(generation)
    .bind(node)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(updated.rows_affected() > 0)
}

pub(super) async fn reform(
    database: &SqliteDatabase,
    generation: u32,
) -> Result<Option<FormationRow>, Error> {
    let mut writer = database.writer().await?;
    let mut transaction = writer.begin().await?;
    sqlx::query(
        "UPDATE cluster SET generation = generation + 1, formed_at = NULL, forming_node = NULL \
         WHERE generation = ? AND formed_at IS NOT NULL",
    )
    .bind(generation)
    .execute(&mut *transaction)
    .await?;
    let formation = sqlx::query_as(READ)
        .fetch_optional(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(formation)
}

pub(super) async fn fence_earlier_generations(
    database: &SqliteDatabase,
    generation: u32,
) -> Result<(), Error> {
    let mut writer = database.writer().await?;
    let mut transaction = writer.begin().await?;
    sqlx::query(
        "UPDATE writer_sessions SET fenced_at = CAST(unixepoch('subsec') * 1000000 AS INTEGER) \
         WHERE generation < ? AND fenced_at IS NULL",
    )
    .bind(generation)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

/// Whether the node is known.
pub(super) async fn announce(
    database: &SqliteDatabase,
    node: i64,
    addresses: &NodeAddresses,
) -> Result<bool, Error> {
    let mut writer = database.writer().await?;
    let mut transaction = writer.begin().await?;
    sqlx::query(
        "UPDATE nodes SET address = NULL, peer_address = NULL WHERE peer_address = ? AND node_nr <> ?",
    )
    .bind(&addresses.peer_address)
    .bind(node)
    .execute(&mut *transaction)
    .await?;
    let updated = sqlx::query(
        "UPDATE nodes SET address = ?, peer_address = ?, seen = seen + 1, \
                          last_seen_at = CAST(unixepoch('subsec') * 1000000 AS INTEGER) \
         WHERE node_nr = ?",
    )
    .bind(&addresses.address)
    .bind(&addresses.peer_address)
    .bind(node)
    .execute(&mut *transaction)
    .await?;
    if updated.rows_affected() == 0 {
        // Nobody loses an address to a node that is not known.
        transaction.rollback().await?;
        return Ok(false);
    }
    transaction.commit().await?;
    Ok(true)
}

/// Whether the address is still the node's.
pub(super) async fn give_sign(
    database: &SqliteDatabase,
    node: i64,
    addresses: &NodeAddresses,
) -> Result<bool, Error> {
    let mut writer = database.writer().await?;
    let mut transaction = writer.begin().await?;
    let updated = sqlx::query(
        "UPDATE nodes SET seen = seen + 1, last_seen_at = CAST(unixepoch('subsec') * 1000000 AS INTEGER) \
         WHERE node_nr = ? AND peer_address = ?",
    )
    .bind(node)
    .bind(&addresses.peer_address)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(updated.rows_affected() > 0)
}

pub(super) async fn withdraw(database: &SqliteDatabase, node: i64) -> Result<(), Error> {
    let mut writer = database.writer().await?;
    let mut transaction = writer.begin().await?;
    sqlx::query("UPDATE nodes SET address = NULL, peer_address = NULL WHERE node_nr = ?")
        .bind(node)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}

pub(super) async fn nodes(database: &SqliteDatabase) -> Result<Vec<NodeColumns>, Error> {
    let mut reader = database.reader().await?;
    sqlx::query_as(
        "SELECT node_nr, incarnation, coalesce(address, ''), peer_address, seen FROM nodes \
         WHERE peer_address IS NOT NULL ORDER BY last_seen_at DESC, node_nr DESC LIMIT ?",
    )
    .bind(NODES_LISTED_MAX as i64)
    .fetch_all(&mut *reader)
    .await
}
