//! The connections to Postgres: lanes that write, a pool that reads, and a small
//! pool for the registry, so that no kind of work starves another.
//!
//! What a failed statement means is decided here once ([`Failure`]); what is then
//! done about it, by the users. Next: `lane.rs`, one connection that writes.

use std::time::Duration;

use futures::{FutureExt, TryFutureExt};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnection, PgPool, PgPoolOptions, PgRow, Postgres};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::lane::{Backend, Lane};
use crate::journal::JournalError;
use crate::storage::StorageOptions;
use crate::storage::unavailable;
use crate::storage::url::PostgresAddress;
use crate::writer::SessionUuid;

/// Connections for the registry.
const CONTROL_CONNECTIONS: u32 = 2;
/// Connections for fences. They may wait for those they fence, and a node that drains
/// fences many shards: whoever only asks whether the database answers must not stand
/// behind them.
const FENCE_CONNECTIONS: u32 = 4;

/// Every statement finds its rows by an index. A plan made while a table was small
/// would scan it, and go on doing so for a minute of heavy load, until the table is
/// analysed; so scans are ruled out. What remains of them must not look so costly
/// that it is compiled.
pub(crate) const PLANNER: [(&str, &str); 2] = [("enable_seqscan", "off"), ("jit", "off")];

/// Each statement has one good plan, whatever its arguments. Left to itself Postgres
/// goes back and forth between that and planning anew, which costs as much as 30
/// events stored, or 20 entities read.
const ONE_PLAN: [(&str, &str); 1] = [("plan_cache_mode", "force_generic_plan")];

/// First and longest pause before something is tried again. The longest is short
/// enough that work goes on at once when a server is back.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// All connections of one opened storage.
pub(crate) struct Connections {
    /// Lane 0 is for writes other than appends, the rest are the journal's.
    lanes: Vec<Lane>,
    pub(crate) readers: PgPool,
    control: PgPool,
    fences: PgPool,
    pub(crate) options: StorageOptions,
}

/// Builds the arguments of a statement.
macro_rules! arguments {
    ($($value:expr),* $(,)?) => {{
        let built: Result<sqlx::postgres::PgArguments, sqlx::Error> = Ok(Default::default());
        $(let built = built.and_then(|mut arguments| {
            sqlx::Arguments::add(&mut arguments, $value).map_err(sqlx::Error::Encode)?;
            Ok(arguments)
        });)*
        built
    }};
}
pub(crate) use arguments;

impl Connections {
    pub(crate) fn new(address: &PostgresAddress, options: &StorageOptions) -> Self {
        let with_timeout = |longest: Duration| {
            let timeout_ms = longest.as_millis().to_string();
            let timeout = [("statement_timeout", timeout_ms)];
            address.0.as_ref().clone().options(PLANNER).options(timeout)
        };
        let pool = |size: u32| {
            PgPoolOptions::new()
                .max_connections(size.max(1))
                .acquire_timeout(options.connect_timeout)
                // A round trip per query. Reads are repeated instead.
                .test_before_acquire(false)
                // A standby lags behind: what it says is not the truth.
                .after_connect(|connection, _| require_primary(connection).map_ok(drop).boxed())
        };
        // Nobody waits longer for an append, so none works longer on it either.
        let lane_timeout = options.statement_timeout.min(options.append_timeout);
        let lane_options = with_timeout(lane_timeout).options(ONE_PLAN);
        let lane = |_| Lane::new(lane_options.clone(), options.connect_timeout);
        let readers = u32::try_from(options.recovery_connections).unwrap_or(u32::MAX);
        let connect = with_timeout(options.statement_timeout);
        let reader = connect.clone().application_name("perennial reader");
        // Its work is rare, so it can afford to ask.
        let of_primary = |max| {
            pool(max).before_acquire(|connection, _| {
                require_primary(connection)
                    .map(|answer| Ok(answer.is_ok()))
                    .boxed()
            })
        };
        let controller = connect.application_name("perennial registry");
        Self {
            lanes: (0..=options.lanes.max(1)).map(lane).collect(),
            readers: pool(readers).connect_lazy_with(reader.options(ONE_PLAN)),
            control: of_primary(CONTROL_CONNECTIONS).connect_lazy_with(controller.clone()),
            fences: of_primary(FENCE_CONNECTIONS).connect_lazy_with(controller),
            options: options.clone(),
        }
    }

    /// For the registry.
    pub(crate) async fn control(&self) -> Result<Borrowed, sqlx::Error> {
        Borrowed::from(&self.control).await
    }

    /// For fences.
    pub(crate) async fn fence(&self) -> Result<Borrowed, sqlx::Error> {
        Borrowed::from(&self.fences).await
    }

    /// Lanes for appends.
    pub(crate) fn append_lanes(&self) -> usize {
        self.lanes.len() - 1
    }

    /// The lane for appends with this number, and its number in the database.
    pub(crate) fn append_lane(&self, lane: usize) -> (&Lane, i32) {
        let number = lane % self.append_lanes() + 1;
        // There are far fewer lanes than that.
        (
            &self.lanes[number],
            i32::try_from(number).unwrap_or(i32::MAX),
        )
    }

    /// The lane for all other writes; its number in the database is 0.
    pub(crate) fn other_lane(&self) -> &Lane {
        &self.lanes[0]
    }

    /// Numbers of all lanes in the database.
    pub(crate) fn lane_numbers(&self) -> Vec<i32> {
        (0..).take(self.lanes.len()).collect()
    }

    /// Reads. Connections that were lost unnoticed are tried over, at most as many
    /// as the pool can hold.
    pub(crate) async fn read(
        &self,
        doing: &'static str,
        sql: &'static str,
        arguments: Result<PgArguments, sqlx::Error>,
    ) -> Result<Vec<PgRow>, JournalError> {
        let failed = |error| unavailable(doing, error);
        let arguments = arguments.map_err(failed)?;
        let mut attempts = self.options.recovery_connections.max(1);
        loop {
            let mut connection = self.readers.acquire().await.map_err(failed)?;
            let query = sqlx::query_with(sql, arguments.clone()).fetch_all(&mut *connection);
            let error = match timeout(self.options.statement_timeout * 2, query).await {
                Ok(Ok(rows)) => return Ok(rows),
                Ok(Err(error)) => error,
                Err(_) => timed_out(),
            };
            if Failure::of(&error) == Failure::Undecided {
                // Not back into the pool.
                drop(connection.detach());
                if attempts > 0 {
                    attempts -= 1;
                    continue;
                }
            }
            return Err(failed(error));
        }
    }

    /// Executes a statement once, whatever becomes of it.
    pub(crate) async fn write_once(
        &self,
        session: SessionUuid,
        sql: &'static str,
        arguments: Result<PgArguments, sqlx::Error>,
    ) -> Result<PgRow, sqlx::Error> {
        let arguments = arguments?;
        let deadline = Instant::now() + self.options.connect_timeout;
        let lane = self.other_lane().acquire(session, deadline).await;
        // Not sent yet, so not undecided, whatever went wrong.
        let mut lane = lane.map_err(|error| sqlx::Error::Configuration(Box::new(error)))?;
        let query = sqlx::query_with(sql, arguments).fetch_one(lane.connection());
        match timeout(self.options.statement_timeout * 2, query).await {
            Ok(Ok(row)) => {
                lane.give_back();
                Ok(row)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
        }
    }

    /// Writes something other than an append. The statements are such that doing
    /// them twice is the same as once, so whatever a connection does, it is tried
    /// over until the deadline.
    pub(crate) async fn write(
        &self,
        session: SessionUuid,
        doing: &'static str,
        sql: &'static str,
        arguments: Result<PgArguments, sqlx::Error>,
    ) -> Result<PgRow, JournalError> {
        let failed = |error| unavailable(doing, error);
        let arguments = arguments.map_err(failed)?;
        let mut retry = Retry::until(Instant::now() + self.options.append_timeout);
        loop {
            let error = match self.other_lane().acquire(session, retry.deadline).await {
                Ok(mut lane) => {
                    let query =
                        sqlx::query_with(sql, arguments.clone()).fetch_one(lane.connection());
                    let error = match timeout_at(retry.deadline, query).await {
                        Ok(Ok(row)) => {
                            lane.give_back();
                            return Ok(row);
                        }
                        Ok(Err(error)) => error,
                        Err(_) => timed_out(),
                    };
                    if !Failure::of(&error).may_pass() {
                        return Err(failed(error));
                    }
                    error
                }
                Err(error) => error,
            };
            if !retry.pause().await {
                return Err(failed(error));
            }
        }
    }
}

/// A connection of a pool, in use. Unless it is given back it is closed: one that was
/// left in the middle of a statement, because no answer came, would keep its place in
/// the pool for as long as none comes.
pub(crate) struct Borrowed {
    connection: PoolConnection<Postgres>,
    is_whole: bool,
}

impl Borrowed {
    async fn from(pool: &PgPool) -> Result<Self, sqlx::Error> {
        Ok(Self {
            connection: pool.acquire().await?,
            is_whole: false,
        })
    }

    pub(crate) fn inner(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Keeps the connection for the next user.
    pub(crate) fn give_back(mut self) {
        self.is_whole = true;
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if !self.is_whole {
            self.connection.close_on_drop();
        }
    }
}

/// When to try something again: after pauses that grow, until a deadline.
pub(crate) struct Retry {
    pub(crate) deadline: Instant,
    pause: Duration,
}

impl Retry {
    pub(crate) fn until(deadline: Instant) -> Self {
        let pause = PAUSE_MIN;
        Self { deadline, pause }
    }

    /// Waits; false, at once, when the deadline would pass meanwhile.
    pub(crate) async fn pause(&mut self) -> bool {
        if Instant::now() + self.pause > self.deadline {
            return false;
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        true
    }
}

pub(crate) fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())
}

/// Fails on a server that only reads: a standby, or a primary that was demoted.
pub(crate) async fn require_primary(connection: &mut PgConnection) -> Result<Backend, sqlx::Error> {
    let (read_only, pid, server_started): (bool, i32, i64) = sqlx::query_as(
        "SELECT current_setting('transaction_read_only')::boolean, pg_backend_pid(), \
                (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint",
    )
    .fetch_one(connection)
    .await?;
    if !read_only {
        return Ok(Backend {
            pid,
            server_started,
        });
    }
    let message = "the server is read-only, so it is a standby or is being switched over: let the URL lead to \
                   the primary";
    let kind = std::io::ErrorKind::ConnectionRefused;
    Err(sqlx::Error::Io(std::io::Error::new(kind, message)))
}

/// What a failed statement means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Something in the data: it fails again, whenever it is tried.
    Poisoned,
    /// A row that is there already, perhaps only since a moment ago.
    UniqueViolation,
    /// Others were in the way: certainly not done, and worth trying over.
    Contention,
    /// The server only reads since a switchover: certainly not done, and worth
    /// trying over on another connection, which may lead to the new primary.
    ReadOnly,
    /// The connection was lost, or the server ended the statement: it may have been
    /// done.
    Undecided,
    /// The server refused: certainly not done, and trying over will not help now.
    Refused,
}

impl Failure {
    /// Whether trying over may help, if doing it twice is the same as once.
    pub(crate) fn may_pass(self) -> bool {
        matches!(self, Self::Undecided | Self::Contention | Self::ReadOnly)
    }

    pub(crate) fn of(error: &sqlx::Error) -> Self {
        use sqlx::Error;
        let code = match error {
            Error::Database(error) => error.code(),
            Error::Encode(_) | Error::InvalidArgument(_) => return Self::Poisoned,
            Error::Io(_) | Error::Tls(_) | Error::Protocol(_) | Error::WorkerCrashed => {
                return Self::Undecided;
            }
            _ => return Self::Refused,
        };
        // SQLSTATE: two characters of class, three of detail.
        match code.as_deref() {
            Some("23505") => Self::UniqueViolation,
            Some("55P03") => Self::Contention,
            Some("25006") => Self::ReadOnly,
            Some(code) => match code.get(..2) {
                // Bad data, violated constraint, exceeded limit.
                Some("22" | "23" | "54") => Self::Poisoned,
                // Serialization failure, deadlock.
                Some("40") => Self::Contention,
                // Connection lost; ended by an administrator or a time-out, which
                // can strike between the commit and its report.
                Some("08" | "57") => Self::Undecided,
                _ => Self::Refused,
            },
            None => Self::Refused,
        }
    }
}
