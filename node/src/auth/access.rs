//! Who calls and what that allows, for each call: the rules, the keys, and a memory of
//! tokens that were found good and of certificates that were shown.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use axum::http::HeaderMap;
use quick_cache::sync::Cache;
use ring::digest;

use super::bearer::bearer;
use super::caller::Caller;
use super::claims::Expected;
use super::error::AuthError;
use super::identity::Identity;
use super::key_set::KeySet;
use super::rules::Rules;
use super::token;
use crate::tls::client_certificate::ClientCertificate;

/// Tokens that are remembered, and certificates. Each takes its digest or names and what
/// it allows; the least used goes first.
const REMEMBERED_MAX: usize = 4096;

/// How a node knows its clients; one for a node.
pub enum Access {
    /// Authentication is not configured: everybody may do everything.
    Everybody(Arc<Caller>),
    /// Everybody has to be known.
    Known {
        /// How tokens are checked, if they are taken.
        tokens: Option<Arc<TokenAccess>>,
        /// What the certificates of connections are worth.
        certificates: CertificateAccess,
    },
}

impl Access {
    /// Where authentication is not configured.
    #[must_use]
    pub fn everybody() -> Self {
        Self::Everybody(Arc::new(Caller::anonymous()))
    }

    /// Who calls. A token counts more than the certificate of the connection, which may
    /// be that of a proxy; one that is not good is never overlooked.
    pub(crate) fn caller(
        &self,
        headers: &HeaderMap,
        certificate: Option<&ClientCertificate>,
        now: SystemTime,
    ) -> Result<Arc<Caller>, AuthError> {
        match self {
            Self::Everybody(anonymous) => Ok(Arc::clone(anonymous)),
            Self::Known { .. } => self.known(bearer(headers)?, certificate, now),
        }
    }

    pub(super) fn known(
        &self,
        token: Option<&str>,
        certificate: Option<&ClientCertificate>,
        now: SystemTime,
    ) -> Result<Arc<Caller>, AuthError> {
        let (tokens, certificates) = match self {
            Self::Everybody(anonymous) => return Ok(Arc::clone(anonymous)),
            Self::Known {
                tokens,
                certificates,
            } => (tokens, certificates),
        };
        match (token, tokens, certificate) {
            (Some(token), Some(tokens), _) => tokens.caller(token, now),
            (Some(_), None, _) => Err(AuthError::TokensNotTaken),
            (None, _, Some(certificate)) => Ok(certificates.caller(certificate)),
            (None, _, None) => Err(AuthError::Missing),
        }
    }
}

/// Certificates as callers, with a memory: a connection shows the same one with each
/// call, and going through all rules takes longer than finding what came of it.
pub struct CertificateAccess {
    rules: Arc<Rules>,
    remembered: Cache<ClientCertificate, Arc<Caller>>,
}

impl CertificateAccess {
    /// Takes what the TLS handshake has verified.
    #[must_use]
    pub fn new(rules: Arc<Rules>) -> Self {
        Self {
            rules,
            remembered: Cache::new(REMEMBERED_MAX),
        }
    }

    /// Whose certificate it is and what that allows. Its time was looked at when the
    /// connection was made, and is not asked for again.
    pub(crate) fn caller(&self, certificate: &ClientCertificate) -> Arc<Caller> {
        if let Some(caller) = self.remembered.get(certificate) {
            return caller;
        }
        let identity = Identity::of_client(certificate);
        let grants = self.rules.grants(&identity);
        let caller = Arc::new(Caller::new(identity, grants));
        let kept = Arc::clone(&caller);
        self.remembered.insert(certificate.clone(), kept);
        caller
    }
}

/// Tokens as callers, with a memory: checking a signature takes tens of microseconds,
/// remembering it takes one.
pub struct TokenAccess {
    expected: Expected,
    rules: Arc<Rules>,
    trusted: RwLock<Arc<Trusted>>,
}

/// Keys, and what was found good with them: other keys begin with an empty memory, so
/// that a token is never good for longer than its key.
struct Trusted {
    keys: KeySet,
    /// By the digest of the token: who reads the memory of a node finds no tokens.
    remembered: Cache<[u8; digest::SHA256_OUTPUT_LEN], Arc<Remembered>>,
}

struct Remembered {
    caller: Arc<Caller>,
    not_before: SystemTime,
}

impl Trusted {
    fn new(keys: KeySet) -> Arc<Self> {
        Arc::new(Self {
            keys,
            remembered: Cache::new(REMEMBERED_MAX),
        })
    }
}

impl TokenAccess {
    /// Takes tokens of these keys.
    #[must_use]
    pub fn new(keys: KeySet, expected: Expected, rules: Arc<Rules>) -> Self {
        Self {
            expected,
            rules,
            trusted: RwLock::new(Trusted::new(keys)),
        }
    }

    /// From now on these are the keys, for calls that begin.
    pub fn replace_keys(&self, keys: KeySet) {
        // The lock is held for nothing that can panic.
        let mut trusted = self.trusted.write().unwrap_or_else(PoisonError::into_inner);
        *trusted = Trusted::new(keys);
    }

    /// Whose token it is and what that allows, remembered if it was asked before.
    ///
    /// # Errors
    /// [`AuthError`]. Tokens that are not good are not remembered, so that nobody can
    /// push out good ones.
    pub fn caller(&self, token: &str, now: SystemTime) -> Result<Arc<Caller>, AuthError> {
        let trusted = Arc::clone(&self.trusted.read().unwrap_or_else(PoisonError::into_inner));
        // Checked again below, but nothing that long is worth a digest.
        if token.len() > token::TOKEN_LEN_MAX {
            return self
                .checked(token, &trusted.keys, now)
                .map(|good| good.caller);
        }
        let mut key = [0; digest::SHA256_OUTPUT_LEN];
        key.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        if let Some(good) = trusted.remembered.get(&key)
            && now >= good.not_before
            && good.caller.expires().is_some_and(|expires| now < expires)
        {
            return Ok(Arc::clone(&good.caller));
        }
        let good = self.checked(token, &trusted.keys, now)?;
        let caller = Arc::clone(&good.caller);
        trusted.remembered.insert(key, Arc::new(good));
        Ok(caller)
    }

    fn checked(
        &self,
        token: &str,
        keys: &KeySet,
        now: SystemTime,
    ) -> Result<Remembered, AuthError> {
        let claimed = token::claimed(token, keys, &self.expected, now)?;
        let grants = self.rules.grants(&claimed.identity);
        Ok(Remembered {
            caller: Arc::new(Caller::new(claimed.identity, grants)),
            not_before: claimed.not_before,
        })
    }

    #[cfg(test)]
    fn remembers(&self) -> usize {
        let trusted = self.trusted.read().unwrap_or_else(PoisonError::into_inner);
        trusted.remembered.len()
    }
}

#[cfg(test)]
#[path = "access/access_test.rs"]
#[allow(clippy::unwrap_used)]
mod access_test;
