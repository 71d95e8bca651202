//! A bearer token: a JSON Web Token, signed, in its compact form.
//!
//! [`authenticate`] is all there is to it, and it is pure: no clock, no cache, no file.
//! Nothing a token says is believed before its signature is checked with the key it
//! names, by the algorithm that key is for. Next: `claims.rs` for what is checked then,
//! `access.rs` for the cache before it.

use std::time::SystemTime;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::claims::{Claimed, Claims, Expected};
use super::error::AuthError;
use super::identity::Identity;
use super::key_set::{Algorithm, KeySet};

/// Bytes of a token, inclusive; it has to fit into a header beside others.
pub(super) const TOKEN_LEN_MAX: usize = 8 << 10;

/// The kinds of token that are taken: one without a kind, and those of access tokens.
const KINDS: [&str; 4] = ["JWT", "at+jwt", "application/jwt", "application/at+jwt"];

/// Whose token it is.
///
/// # Errors
/// [`AuthError`]: never what a token holds, only what is wrong with it.
pub fn authenticate(
    token: &str,
    keys: &KeySet,
    expected: &Expected,
    now: SystemTime,
) -> Result<Identity, AuthError> {
    claimed(token, keys, expected, now).map(|claimed| claimed.identity)
}

pub(super) fn claimed(
    token: &str,
    keys: &KeySet,
    expected: &Expected,
    now: SystemTime,
) -> Result<Claimed, AuthError> {
    if token.len() > TOKEN_LEN_MAX {
        return Err(AuthError::TooLong {
            len: token.len(),
            len_max: TOKEN_LEN_MAX,
        });
    }
    // The last dot parts what is signed from the signature.
    let parts = token.rsplit_once('.');
    let (signed, signature) = parts.ok_or(AuthError::Malformed("it has no three parts"))?;
    let (header, payload) = match signed.split_once('.') {
        Some((header, payload)) if !payload.contains('.') => (header, payload),
        _ => return Err(AuthError::Malformed("it has no three parts")),
    };
    let header: Header = read(header).ok_or(AuthError::Malformed("its header is no JSON"))?;
    if header.crit.is_some() {
        return Err(AuthError::Malformed(
            "it has extensions that nobody here knows",
        ));
    }
    let is_of = |kind: &String| KINDS.iter().any(|known| known.eq_ignore_ascii_case(kind));
    if !header.typ.as_ref().is_none_or(is_of) {
        return Err(AuthError::Malformed(
            "it is of another type than JWT or at+jwt",
        ));
    }
    let algorithm = Algorithm::of_name(&header.alg).ok_or(AuthError::Algorithm)?;
    let key = keys
        .find(header.kid.as_deref())
        .ok_or(AuthError::KeyUnknown)?;
    if key.algorithm != algorithm {
        return Err(AuthError::Algorithm);
    }
    let signature = BASE64_URL_SAFE_NO_PAD.decode(signature);
    let signature =
        signature.map_err(|_| AuthError::Malformed("its signature is not base64url"))?;
    if !key.has_signed(signed.as_bytes(), &signature) {
        return Err(AuthError::Signature);
    }
    let claims: Claims =
        read(payload).ok_or(AuthError::Malformed("its claims are no JSON object"))?;
    claims.check(expected, now)
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    /// Extensions that must be understood: there are none.
    crit: Option<IgnoredAny>,
}

fn read<T: for<'a> Deserialize<'a>>(part: &str) -> Option<T> {
    let json = BASE64_URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice(&json).ok()
}

#[cfg(test)]
#[path = "token/token_test.rs"]
#[allow(clippy::unwrap_used)]
pub(super) mod token_test;
