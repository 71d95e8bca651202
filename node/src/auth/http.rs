//! Who asks at the HTTP port: the same clients, tokens, certificates and rules as on the
//! port for gRPC.
//!
//! Whoever builds a page there asks [`Access::authorize_http`] once for a request, before
//! anything else, and then the [`Caller`] for each thing the page shows:
//! `caller.may_somewhere(Right::Status)` for nodes, shards and rates,
//! `caller.may(Right::Read, entity_type)` for an entity's state and lists,
//! `caller.may(Right::Events, entity_type)` for its events. Probes and metrics are not
//! asked for: they hold no entity data. Who is not known gets [`AuthError`] as a response,
//! which makes browsers ask for a token.

use std::sync::Arc;
use std::time::SystemTime;

use axum::http::header::{CACHE_CONTROL, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use super::access::Access;
use super::bearer::{basic, bearer};
use super::caller::Caller;
use super::error::AuthError;
use crate::tls::client_certificate::ClientCertificate;

impl Access {
    /// Who asks, by headers and the certificate of the connection, which stands in the
    /// extensions of a request if it has one that was verified. Besides `Bearer`, the token may be the password of `Basic`, so
    /// that a browser asks for it; pages must therefore change nothing.
    ///
    /// # Errors
    /// [`AuthError`]; as a response it is 401, with what to do as its text.
    pub fn authorize_http(
        &self,
        headers: &HeaderMap,
        certificate: Option<&ClientCertificate>,
        now: SystemTime,
    ) -> Result<Arc<Caller>, AuthError> {
        match basic(headers) {
            Some(token) => self.known(Some(&token), certificate, now),
            None if matches!(self, Self::Everybody(_)) => self.known(None, None, now),
            None => self.known(bearer(headers)?, certificate, now),
        }
    }
}

impl IntoResponse for AuthError {
    fn into_response(self) -> Response {
        let headers = [
            (WWW_AUTHENTICATE, "Bearer"),
            (
                WWW_AUTHENTICATE,
                "Basic realm=\"Perennial: a token as the password\", charset=\"UTF-8\"",
            ),
            (CACHE_CONTROL, "no-store"),
        ];
        let headers = axum::response::AppendHeaders(headers);
        (StatusCode::UNAUTHORIZED, headers, format!("{self}\n")).into_response()
    }
}
