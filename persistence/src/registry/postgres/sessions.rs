//! Sessions in Postgres: how they begin, and how they are fenced.
//!
//! A fence updates the rows that appends lock, and so waits for those in flight
//! and stops those to come. A connection that stalls with the lock held is ended:
//! a fence must not depend on the one it fences.

use std::time::Duration;

use sqlx::postgres::PgArguments;
use tokio::time::timeout;
use uuid::Uuid;

use crate::registry::Begun;
use crate::storage::epoch_i64;
use crate::storage::postgres::connections::{Connections, arguments, timed_out};
use crate::storage::postgres::lane::connection_name;
use crate::writer::{Epoch, SessionUuid, ShardNr};

/// How long a fence waits before it ends the connections that block it.
const BLOCKED_BEFORE_ENDING: Duration = Duration::from_millis(500);

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
/// incarnations begun at once the later sees, and fences, the earlier. The cluster's
/// row is locked as well, so a new generation comes either before the session, which
/// is then of that generation, or after it, and then sees it and fences it. Nothing
/// happens unless the number is greater than the last.
const OPEN_SESSION: &str = "\
    WITH cluster AS ( \
        SELECT generation FROM perennial.cluster FOR SHARE \
    ), node AS ( \
        UPDATE perennial.nodes SET incarnation = coalesce($4, incarnation + 1), last_seen_at = now() \
        WHERE node_nr = $1 AND incarnation < coalesce($4, incarnation + 1) \
        RETURNING incarnation, coalesce((SELECT generation FROM cluster), 0) AS generation \
    ), opened AS ( \
        INSERT INTO perennial.writer_sessions (session, lane, node_nr, incarnation, generation) \
        SELECT $2, lane, $1, incarnation, generation FROM node, unnest($3::int[]) AS lanes (lane) \
    ) \
    SELECT incarnation, generation FROM node";

/// Why a session was not opened: the node's last incarnation, and the generation of
/// the session if an earlier attempt has opened it.
const LAST_INCARNATION: &str = "\
    SELECT incarnation, (SELECT max(generation) FROM perennial.writer_sessions WHERE session = $2) \
    FROM perennial.nodes WHERE node_nr = $1";

/// A session without rows may not write: the rows of a fenced one are only of
/// interest to people, and the latest few will do.
const FORGET_SESSIONS: &str = "\
    DELETE FROM perennial.writer_sessions \
    WHERE node_nr = $1 AND fenced_at IS NOT NULL AND incarnation < $2 - 10";

/// Without a number it is the next; `None` when the node is not known. May be
/// repeated with the same session, after an attempt whose outcome is not known.
pub(super) async fn begin_incarnation(
    connections: &Connections,
    node: i64,
    number: Option<i64>,
    session: SessionUuid,
) -> Result<Option<Begun>, sqlx::Error> {
    let mut connection = connections.control().await?;
    let opened: Option<(i64, i32)> = sqlx::query_as(OPEN_SESSION)
        .bind(node)
        .bind(session.0)
        .bind(connections.lane_numbers())
        .bind(number)
        .fetch_optional(connection.inner())
        .await?;
    let (last, generation) = match opened {
        Some((last, generation)) => (last, generation),
        None => {
            let last: Option<(i64, Option<i32>)> = sqlx::query_as(LAST_INCARNATION)
                .bind(node)
                .bind(session.0)
                .fetch_optional(connection.inner())
                .await?;
            match last {
                Some((last, Some(generation))) => (last, generation),
                other => {
                    connection.give_back();
                    return Ok(other.map(|(last, _)| Begun { last, opened: None }));
                }
            }
        }
    };
    let number = number.unwrap_or(last);
    sqlx::query(FORGET_SESSIONS)
        .bind(node)
        .bind(number)
        .execute(connection.inner())
        .await?;
    let earlier: Vec<Uuid> = sqlx::query_scalar(
        "SELECT DISTINCT session FROM perennial.writer_sessions \
         WHERE node_nr = $1 AND incarnation < $2 AND fenced_at IS NULL",
    )
    .bind(node)
    .bind(number)
    .fetch_all(connection.inner())
    .await?;
    connection.give_back();
    fence_rows(connections, &earlier, FENCE_SESSIONS, arguments![&earlier]?).await?;
    Ok(Some(Begun {
        last,
        opened: Some((session, generation.unsigned_abs())),
    }))
}

pub(super) async fn fence_earlier_generations(
    connections: &Connections,
    generation: i32,
) -> Result<(), sqlx::Error> {
    let mut connection = connections.control().await?;
    let earlier: Vec<Uuid> = sqlx::query_scalar(
        "SELECT DISTINCT session FROM perennial.writer_sessions \
         WHERE generation < $1 AND fenced_at IS NULL",
    )
    .bind(generation)
    .fetch_all(connection.inner())
    .await?;
    connection.give_back();
    fence_rows(connections, &earlier, FENCE_SESSIONS, arguments![&earlier]?).await
}

pub(super) async fn fence(
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
    let mut connection = connections.fence().await?;
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(connection.inner())
        .await?;
    {
        let update = sqlx::query_with(sql, arguments).execute(connection.inner());
        let mut update = std::pin::pin!(update);
        loop {
            match timeout(BLOCKED_BEFORE_ENDING, &mut update).await {
                Ok(updated) => break updated?,
                Err(_) => end_blockers(connections, sessions, pid).await,
            }
        }
    };
    connection.give_back();
    Ok(())
}

/// Ends the connections of these sessions that `waiting` waits for.
async fn end_blockers(connections: &Connections, sessions: &[Uuid], waiting: i32) {
    let names: Vec<String> = sessions
        .iter()
        .map(|session| connection_name(SessionUuid(*session)))
        .collect();
    let end = sqlx::query_scalar::<_, i64>(END_BLOCKERS)
        .bind(waiting)
        .bind(names)
        .fetch_one(&connections.readers);
    let ended = timeout(connections.options.connect_timeout, end).await;
    match ended.unwrap_or_else(|_| Err(timed_out())) {
        Ok(0) => {
            tracing::warn!("a fence is blocked by a connection that is not of the fenced session");
        }
        Ok(count) => tracing::warn!(count, "ended stalled connections of a fenced session"),
        // The fence goes on waiting, until the server's time-out ends it.
        Err(error) => tracing::warn!(%error, "could not end the connections that block a fence"),
    }
}
