//! The gate of the port for clients: nothing behind it runs before it is known who
//! calls.
//!
//! It reads the head of a call and never its message, so strangers cost no more than
//! their head. Rights for single entity types are asked for behind it, by the services.

use std::sync::Arc;
use std::time::SystemTime;

use axum::http::Request;

use super::audit::{Audit, action_of};
use super::client::{Client, refused, remote_of};
use super::rights::{Needs, needs};
use super::status::ServiceError;
use crate::auth::{Access, Right};
use crate::tls::client_certificate::ClientCertificate;

/// What the gate decides with.
pub(crate) struct Gate {
    pub(crate) access: Arc<Access>,
    pub(crate) audit: Arc<Audit>,
}

impl Gate {
    /// Puts the client of a call into its extensions, for the services.
    ///
    /// # Errors
    /// When the call is refused.
    pub(super) fn admit<B>(&self, request: &mut Request<B>) -> Result<(), ServiceError> {
        if let Some(client) = self.let_in(request, SystemTime::now())? {
            request.extensions_mut().insert(client);
        }
        Ok(())
    }

    /// The client of a call, `None` where nobody is asked.
    fn let_in<B>(
        &self,
        request: &Request<B>,
        now: SystemTime,
    ) -> Result<Option<Client>, ServiceError> {
        let path = request.uri().path();
        let row = needs(path);
        if row == Some(Needs::Nothing) {
            return Ok(None);
        }
        let remote = remote_of(request.extensions());
        let certificate = request.extensions().get::<ClientCertificate>();
        let caller = self.access.caller(request.headers(), certificate, now);
        let caller = caller.map_err(|error| {
            if row == Some(Needs::Has(Right::Admin)) {
                self.audit.stranger(action_of(path), remote, error);
            }
            refused(error)
        })?;
        let client = Client { caller, remote };
        match row {
            // Asked, and written down, where it is known what is to be done.
            Some(Needs::Has(Right::Admin)) => {}
            Some(Needs::Has(right)) => client.may_somewhere(right)?,
            Some(Needs::Nothing | Needs::Identity) => {}
            None if client.caller.is_anonymous() => {}
            None => {
                let path = path.to_owned();
                return Err(ServiceError::NoRow { path });
            }
        }
        Ok(Some(client))
    }
}
