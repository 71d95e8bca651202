//! The registry in Postgres: the cluster's row, node numbers, sessions, fences.
//!
//! A fence updates the rows that appends lock, and so waits for those in flight
//! and stops those to come. A connection that stalls with the lock held is ended:
//! a fence must not depend on the one it fences. Next:
//! `storage/postgres/connections.rs`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgArguments;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use crate::registry::{ClusterIdentity, Incarnation, NodeNr, Registry, RegistryError};
use crate::storage::epoch_i64;
use crate::storage::owned::owned;
use crate::storage::postgres::connections::{
    Connections, Failure, Retry, arguments, connection_name,
};
use crate::writer::{Epoch, SessionUuid, ShardNr};

/// How long a fence waits before it ends the connections that block it.
const BLOCKED_BEFORE_ENDING: Duration = Duration::from_millis(500);

/// A registry in Postgres.
pub(crate) struct PostgresRegistry {
    connections: Arc<Connections>,
}

impl PostgresRegistry {
    pub(crate) fn new(connections: Arc<Connections>) -> Self {
        Self { connections }
    }
}

/// Rows are locked in order, so that two fences never wait for each other.
const FENCE_SESSIONS: &str = "\
    WITH locked AS ( \
        SELECT session, lane FROM perennial.writer_sessions WHERE session = ANY ($1) \
        ORDER BY session, lane FOR NO KEY UPDATE \
    ) \
    UPDATE perennial.writer_sessions s SET fenced_at = now() FROM locked \
    WHERE s.session = locked.session AND s.lane = locked.lane AND s.fenced_at IS NULL";

const FENCE_SHARD: &str = "\
    WITH locked AS ( \
        SELECT session, lane FROM perennial.writer_sessions WHERE session = ANY ($1) \
        ORDER BY session, lane FOR NO KEY UPDATE \
    ) \
    UPDATE perennial.writer_sessions s \
    SET fenced_shards = s.fenced_shards \
        || jsonb_build_object($2::text, greatest((s.fenced_shards ->> $2::text)::bigint, $3)) \
    FROM locked WHERE s.session = locked.session AND s.lane = locked.lane";

const END_BLOCKERS: &str = "\
    SELECT count(pg_terminate_backend(a.pid)) FROM unnest(pg_blocking_pids($1)) AS b (pid) \
    JOIN pg_stat_activity a ON a.pid = b.pid WHERE a.application_name = ANY ($2)";

/// The node's row stays locked until the new session is there, so of two
/// incarnations begun at once the later sees, and fences, the earlier.
const OPEN_SESSION: &str = "\
    WITH node AS ( \
        UPDATE perennial.nodes SET incarnation = incarnation + 1, last_seen_at = now() WHERE node_nr = $1 \
        RETURNING incarnation \
    ), opened AS ( \
        INSERT INTO perennial.writer_sessions (session, lane, node_nr, incarnation) \
        SELECT $2, lane, $1, incarnation FROM node, unnest($3::int[]) AS lanes (lane) \
    ) \
    SELECT incarnation FROM node";

/// A session without rows may not write: the rows of a fenced one are only of
/// interest to people, and the latest few will do.
const FORGET_SESSIONS: &str = "\
    DELETE FROM perennial.writer_sessions \
    WHERE node_nr = $1 AND fenced_at IS NOT NULL AND incarnation < $2 - 10";

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
/// in the way of, while there is time. All of it can be done twice.
macro_rules! until_decided {
    ($connections:expr, $work:expr) => {{
        let mut retry = Retry::until(Instant::now() + $connections.options.connect_timeout);
        loop {
            match $work.await {
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
    let mut connection = connections.control.acquire().await?;
    sqlx::query(CLUSTER)
        .bind(Uuid::new_v4())
        .bind(number_of_shards)
        .execute(&mut *connection)
        .await?;
    sqlx::query_as("SELECT cluster_id, number_of_shards, generation FROM perennial.cluster")
        .fetch_one(&mut *connection)
        .await
}

async fn mint_node(connections: &Connections) -> Result<i64, sqlx::Error> {
    let mut connection = connections.control.acquire().await?;
    sqlx::query_scalar("INSERT INTO perennial.nodes DEFAULT VALUES RETURNING node_nr")
        .fetch_one(&mut *connection)
        .await
}

/// Number and session of the new incarnation; `None` when the node is not known.
async fn begin_incarnation(
    connections: &Connections,
    node: i64,
) -> Result<Option<(i64, Uuid)>, sqlx::Error> {
    let session = Uuid::new_v4();
    let mut connection = connections.control.acquire().await?;
    let number: Option<i64> = sqlx::query_scalar(OPEN_SESSION)
        .bind(node)
        .bind(session)
        .bind(connections.lane_numbers())
        .fetch_optional(&mut *connection)
        .await?;
    let Some(number) = number else {
        return Ok(None);
    };
    sqlx::query(FORGET_SESSIONS)
        .bind(node)
        .bind(number)
        .execute(&mut *connection)
        .await?;
    let earlier: Vec<Uuid> = sqlx::query_scalar(
        "SELECT DISTINCT session FROM perennial.writer_sessions \
         WHERE node_nr = $1 AND incarnation < $2 AND fenced_at IS NULL",
    )
    .bind(node)
    .bind(number)
    .fetch_all(&mut *connection)
    .await?;
    drop(connection);
    fence_rows(connections, &earlier, FENCE_SESSIONS, arguments![&earlier]?).await?;
    Ok(Some((number, session)))
}

async fn fence(
    connections: &Connections,
    session: SessionUuid,
    shard: Option<(ShardNr, Epoch)>,
) -> Result<(), sqlx::Error> {
    let sessions = [session.0];
    let (sql, arguments) = match shard {
        None => (FENCE_SESSIONS, arguments![&sessions[..]]?),
        Some((shard, epoch)) => (
            FENCE_SHARD,
            arguments![&sessions[..], shard.to_string(), epoch_i64(epoch)]?,
        ),
    };
    fence_rows(connections, &sessions, sql, arguments).await
}

/// Updates the rows of sessions, and ends their connections if they block it.
async fn fence_rows(
    connections: &Connections,
    sessions: &[Uuid],
    sql: &str,
    arguments: PgArguments,
) -> Result<(), sqlx::Error> {
    let mut connection = connections.control.acquire().await?;
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut *connection)
        .await?;
    let mut update = std::pin::pin!(sqlx::query_with(sql, arguments).execute(&mut *connection));
    loop {
        match timeout(BLOCKED_BEFORE_ENDING, &mut update).await {
            Ok(updated) => return updated.map(|_| ()),
            Err(_) => end_blockers(connections, sessions, pid).await,
        }
    }
}

/// Ends the connections of these sessions that `waiting` waits for.
async fn end_blockers(connections: &Connections, sessions: &[Uuid], waiting: i32) {
    let names: Vec<String> = sessions
        .iter()
        .map(|session| connection_name(SessionUuid(*session)))
        .collect();
    let ended: Result<i64, sqlx::Error> = sqlx::query_scalar(END_BLOCKERS)
        .bind(waiting)
        .bind(names)
        .fetch_one(&connections.readers)
        .await;
    match ended {
        Ok(0) => {
            tracing::warn!("a fence is blocked by a connection that is not of the fenced session");
        }
        Ok(count) => tracing::warn!(count, "ended stalled connections of a fenced session"),
        // The fence goes on waiting, until the server's time-out ends it.
        Err(error) => tracing::warn!(%error, "could not end the connections that block a fence"),
    }
}

fn unavailable(doing: &str, error: sqlx::Error) -> RegistryError {
    RegistryError::Unavailable {
        message: format!("{doing}: {error}"),
        source: Some(Box::new(error)),
    }
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

    async fn begin_incarnation(&self, node: NodeNr) -> Result<Incarnation, RegistryError> {
        let connections = self.connections.clone();
        // No number beyond i64 was ever minted.
        let node_nr = i64::try_from(node.0).map_err(|_| RegistryError::NodeUnknown { node })?;
        let begun = owned(async move {
            until_decided!(connections, begin_incarnation(&connections, node_nr))
        });
        let begun = begun
            .await
            .map_err(|error| unavailable("beginning an incarnation", error))?;
        let (number, session) = begun.ok_or(RegistryError::NodeUnknown { node })?;
        Ok(Incarnation {
            node,
            number: number.unsigned_abs(),
            session: SessionUuid(session),
        })
    }

    async fn fence(
        &self,
        session: SessionUuid,
        shard: Option<(ShardNr, Epoch)>,
    ) -> Result<(), RegistryError> {
        let connections = self.connections.clone();
        let fenced =
            owned(async move { until_decided!(connections, fence(&connections, session, shard)) });
        fenced
            .await
            .map_err(|error| unavailable("fencing a session", error))
    }
}
