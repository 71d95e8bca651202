//! Who makes a call, as the gate found out, for the services behind it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;
use tonic::Extensions;

use super::status::ServiceError;
use crate::auth::denials::{count_denied, count_unknown};
use crate::auth::{AuthError, Caller, Denied, Right};
use crate::connections::protection::ConnectionFacts;

/// Who makes a call, and from where. The gate puts it into the call's extensions.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) caller: Arc<Caller>,
    pub(crate) remote: Option<SocketAddr>,
}

impl Client {
    /// The client of a call. A call that came past the gate has none and is refused.
    pub(crate) fn of(extensions: &Extensions) -> Result<Self, ServiceError> {
        let client = extensions.get::<Self>().cloned();
        client.ok_or_else(|| refused(AuthError::Missing))
    }

    /// Asks for a right for entities of a type; counts when there is none.
    pub(crate) fn may(&self, right: Right, entity_type: &str) -> Result<(), ServiceError> {
        let may = self.caller.may(right, entity_type);
        may.map_err(denied)
    }

    /// Asks for a right for anything at all; counts when there is none.
    pub(super) fn may_somewhere(&self, right: Right) -> Result<(), ServiceError> {
        self.caller.may_somewhere(right).map_err(denied)
    }

    /// How long a stream that begins now may go on.
    pub(crate) fn validity(&self) -> Validity {
        let left = |expires: SystemTime| expires.duration_since(SystemTime::now());
        let left = self
            .caller
            .expires()
            .map(|expires| left(expires).unwrap_or_default());
        // Too far to be represented means for ever.
        Validity(left.and_then(|left| Instant::now().checked_add(left)))
    }
}

/// Where a call comes from.
pub(super) fn remote_of(extensions: &Extensions) -> Option<SocketAddr> {
    extensions
        .get::<ConnectionFacts>()
        .map(|facts| facts.remote)
}

/// Until when the one who opened a stream is who it was.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Validity(Option<Instant>);

impl Validity {
    /// Completes when it is over, and then the stream has to end.
    pub(crate) async fn over(self) -> ServiceError {
        match self.0 {
            Some(end) => tokio::time::sleep_until(end).await,
            None => std::future::pending().await,
        }
        refused(AuthError::Expired)
    }
}

/// Counts a client that is not known.
pub(super) fn refused(error: AuthError) -> ServiceError {
    count_unknown(error);
    error.into()
}

/// Counts a client that has not the right.
fn denied(denied: Denied) -> ServiceError {
    count_denied(&denied);
    denied.into()
}
