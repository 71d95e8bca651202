//! Who a client is, and what it may do.
//!
//! A client is known by a bearer token (`token.rs`, checked against the keys of
//! `key_set.rs`) or by its certificate, which the TLS handshake has checked. Rules in the
//! configuration (`rules.rs`) say what whom is allowed; [`Access`] joins the two.
//! Decisions are plain functions with `now` as an argument; only `jwks_file.rs` reads
//! anything. Which right a call needs stands in `grpc/rights.rs`, and `grpc/gate.rs`
//! asks here before a call is let in; `http.rs` is the same for the HTTP port.
//!
//! Only clients are asked. A command that another node sends on was let in there: the
//! port for other nodes trusts who shows a certificate of the cluster's own authority,
//! and such a node could read the journal anyway. So no identity travels between nodes,
//! and entities do not learn who called.

mod access;
mod bearer;
mod caller;
mod claims;
pub(crate) mod denials;
mod error;
mod http;
mod identity;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod issuer_test;
mod jwks_file;
mod key_set;
mod rules;
mod token;

pub use self::access::{Access, CertificateAccess, TokenAccess};
pub use self::caller::{Caller, Denied};
pub use self::claims::Expected;
pub use self::error::AuthError;
pub use self::identity::{Identity, Proof};
pub use self::jwks_file::{JwksFile, JwksFileError};
pub use self::key_set::{KeySet, KeySetError};
pub use self::rules::{Grants, InvalidRule, Pattern, Right, Rule, Rules, Who};
pub use self::token::authenticate;
