//! Who did what to the cluster: a line in the log for each call that needs the right
//! `admin`, with the target `perennial::audit`.
//!
//! A call that is allowed is written down twice under one number: before it is done, so
//! that a node that dies over it leaves a trace, and with its outcome. One that is denied
//! is written down once. Never what an entity holds, and never a token.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::client::Client;
use super::status::ServiceError;
use crate::auth::{AuthError, Identity, Right};

/// Strangers written down in a second, so that they cannot fill the disk with their
/// calls; `perennial_auth_denials_total` counts all.
const STRANGERS_PER_SECOND: u32 = 10;
/// Characters of a text that a client wrote.
const TEXT_LEN_MAX: usize = 255;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AdminAction {
    /// To take a node's shards away.
    Drain {
        /// Which node.
        node_id: String,
        /// And the node itself.
        remove: bool,
    },
    /// To take an entity out of memory.
    Passivate {
        /// Its type.
        entity_type: String,
        /// Its id.
        entity_id: String,
    },
    /// To delete an entity for good.
    DeleteEntity {
        /// Its type.
        entity_type: String,
        /// Its id.
        entity_id: String,
    },
}

impl AdminAction {
    fn name(&self) -> &'static str {
        match self {
            Self::Drain { .. } => "drain",
            Self::Passivate { .. } => "passivate",
            Self::DeleteEntity { .. } => "delete_entity",
        }
    }
}

/// The action that a call asks for, for calls that are not read any further.
pub(super) fn action_of(path: &str) -> &'static str {
    match path.rsplit_once('/') {
        Some((_, "Drain")) => "drain",
        Some((_, "Passivate")) => "passivate",
        Some((_, "DeleteEntity")) => "delete_entity",
        _ => "unknown",
    }
}

/// Writes down what is asked and what becomes of it; one for a node.
#[derive(Default)]
pub(crate) struct Audit {
    calls: AtomicU64,
    strangers: Mutex<Strangers>,
}

/// How often strangers were written down in the second that began at `since`.
#[derive(Default)]
struct Strangers {
    since: Option<Instant>,
    written: u32,
    left_out: u64,
}

impl Strangers {
    /// Whether one more is written down, and if so how many were not before it.
    fn note(&mut self, now: Instant) -> Option<u64> {
        let second_over = |since: Instant| now.duration_since(since) >= Duration::from_secs(1);
        if self.since.is_none_or(second_over) {
            (self.since, self.written) = (Some(now), 0);
        }
        if self.written >= STRANGERS_PER_SECOND {
            self.left_out += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl Audit {
    /// Does what an admin asks for, if it is one. This is the only way to ask for the
    /// right `admin`, so nothing is done that is not written down.
    ///
    /// Dropped half-way, when the client has gone, it is written down as abandoned.
    pub(super) async fn admin<T>(
        &self,
        client: &Client,
        action: &AdminAction,
        work: impl Future<Output = Result<T, ServiceError>>,
    ) -> Result<T, ServiceError> {
        let mut line = Line {
            call: self.calls.fetch_add(1, Ordering::Relaxed) + 1,
            client,
            action,
            open: false,
        };
        if let Err(error) = client.may(Right::Admin, "") {
            line.write("denied", Some(&error));
            return Err(error);
        }
        line.write("attempted", None);
        line.open = true;
        let result = work.await;
        line.open = false;
        match &result {
            Ok(_) => line.write("done", None),
            Err(error) => line.write("failed", Some(error)),
        }
        result
    }

    /// Somebody who is not known asked for it. What exactly is not read.
    pub(super) fn stranger(&self, action: &str, remote: Option<SocketAddr>, why: AuthError) {
        let mut strangers = self
            .strangers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let noted = strangers.note(Instant::now());
        drop(strangers);
        if let Some(left_out) = noted {
            tracing::warn!(
                target: "perennial::audit", action, outcome = "denied", remote = remote.map(tracing::field::display),
                reason = why.cause(), strangers_left_out = left_out,
                "an admin call of somebody who is not known"
            );
        }
    }
}

/// One call in the log.
struct Line<'a> {
    call: u64,
    client: &'a Client,
    action: &'a AdminAction,
    /// It is being done.
    open: bool,
}

impl Line<'_> {
    fn write(&self, outcome: &'static str, error: Option<&ServiceError>) {
        let Client { caller, remote } = self.client;
        let identity: &Identity = caller.identity();
        let (call, action) = (self.call, self.action.name());
        let (subject, proven_by) = (identity.name(), identity.proven_by());
        let remote = remote.as_ref().map(tracing::field::display);
        let reason = error.map(ServiceError::reason);
        match self.action {
            AdminAction::Drain { node_id, remove } => tracing::info!(
                target: "perennial::audit", action, outcome, call, subject, proven_by, remote, reason,
                node_id = cut(node_id), remove, "an admin call"
            ),
            AdminAction::Passivate {
                entity_type,
                entity_id,
            }
            | AdminAction::DeleteEntity {
                entity_type,
                entity_id,
            } => tracing::info!(
                target: "perennial::audit", action, outcome, call, subject, proven_by, remote, reason,
                entity_type = cut(entity_type), entity_id = cut(entity_id), "an admin call"
            ),
        }
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if self.open {
            // What was begun may go on without its caller.
            self.write("abandoned", None);
        }
    }
}

/// The beginning of a text that a client wrote. Control characters in it are escaped by
/// whoever writes the log, so that it cannot look like another line.
fn cut(text: &str) -> &str {
    match text.char_indices().nth(TEXT_LEN_MAX) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn strangers_cannot_fill_the_log() {
        let mut strangers = Strangers::default();
        let start = Instant::now();
        let written = (0..100).filter(|_| strangers.note(start).is_some());
        assert_eq!(written.count(), STRANGERS_PER_SECOND as usize);
        let later = start + Duration::from_secs(1);
        let left_out = 100 - u64::from(STRANGERS_PER_SECOND);
        assert_eq!(
            strangers.note(later),
            Some(left_out),
            "none goes unmentioned"
        );
        assert_eq!(strangers.note(later), Some(0));
    }

    #[test]
    fn texts_of_clients_are_cut() {
        assert_eq!(cut("ada"), "ada");
        assert_eq!(cut(&"ä".repeat(300)).chars().count(), TEXT_LEN_MAX);
    }
}
