//! A lane: one connection that writes, one statement at a time.
//!
//! It is named after the session that writes through it, so that a fence that is
//! blocked by a stalled connection can find and end it. Whoever leaves in the middle
//! of a statement closes it, and with it goes what it knew ([`Tails`]). Next:
//! `journal/postgres/append.rs`, who uses it most.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, timeout, timeout_at};

use super::connections::{require_primary, timed_out};
use crate::journal::postgres::tails::Tails;
use crate::writer::SessionUuid;

/// A lane that was not used for so long is asked whether it still lives before
/// anything is entrusted to it: a dead one would make the outcome unknown.
const IDLE_BEFORE_PING: Duration = Duration::from_secs(1);

/// One connection that writes, opened when first needed.
pub(crate) struct Lane {
    connection: Mutex<Option<LaneConnection>>,
    options: PgConnectOptions,
    connect_timeout: Duration,
}

struct LaneConnection {
    connection: PgConnection,
    /// After which the connection is named.
    session: SessionUuid,
    backend: Backend,
    tails: Tails,
    used: Instant,
}

/// The process that serves a connection: its number, and when its server was
/// started, in microseconds since 1970. Other servers, and the same one after a
/// restart, are other backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) pid: i32,
    pub(crate) server_started: i64,
}

/// A lane in use. Unless it is given back, its connection is closed: whoever
/// leaves in the middle of a statement leaves nothing behind.
pub(crate) struct LaneGuard<'a> {
    slot: MutexGuard<'a, Option<LaneConnection>>,
    current: LaneConnection,
}

impl LaneGuard<'_> {
    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.current.connection
    }

    /// What this connection has stored.
    pub(crate) fn tails(&mut self) -> &mut Tails {
        &mut self.current.tails
    }

    /// Who served the connection when it was made. Behind a proxy that shares
    /// connections it can be another by now.
    pub(crate) fn backend(&self) -> Backend {
        self.current.backend
    }

    /// Keeps the connection for the next user.
    pub(crate) fn give_back(mut self) {
        self.current.used = Instant::now();
        *self.slot = Some(self.current);
    }
}

/// The name of a session's connections in `pg_stat_activity`.
pub(crate) fn connection_name(session: SessionUuid) -> String {
    format!("perennial {session}")
}

impl Lane {
    pub(super) fn new(options: PgConnectOptions, connect_timeout: Duration) -> Self {
        Self {
            connection: Mutex::new(None),
            options,
            connect_timeout,
        }
    }

    /// Waits for its turn and for a living connection named after the session, no
    /// longer than until the deadline. When this fails, nothing was sent.
    pub(crate) async fn acquire(
        &self,
        session: SessionUuid,
        deadline: Instant,
    ) -> Result<LaneGuard<'_>, sqlx::Error> {
        let turn = timeout_at(deadline, self.connection.lock()).await;
        let mut slot = turn.map_err(|_| timed_out())?;
        if let Some(mut kept) = slot.take()
            && kept.session == session
        {
            // Half of the time is left for another connection, if this one is dead.
            let patience = deadline.saturating_duration_since(Instant::now()) / 2;
            let patience = patience.min(self.connect_timeout);
            let lives = kept.used.elapsed() < IDLE_BEFORE_PING
                || matches!(timeout(patience, kept.connection.ping()).await, Ok(Ok(())));
            if lives {
                return Ok(LaneGuard {
                    slot,
                    current: kept,
                });
            }
        }
        let options = self
            .options
            .clone()
            .application_name(&connection_name(session));
        let connect = async {
            let mut connection = options.connect().await?;
            let backend = require_primary(&mut connection).await?;
            Ok::<_, sqlx::Error>((connection, backend))
        };
        let give_up = deadline.min(Instant::now() + self.connect_timeout);
        let connection = timeout_at(give_up, connect).await;
        let (connection, backend) = connection.map_err(|_| timed_out())??;
        let current = LaneConnection {
            connection,
            session,
            backend,
            tails: Tails::default(),
            used: Instant::now(),
        };
        Ok(LaneGuard { slot, current })
    }
}
