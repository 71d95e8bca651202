//! What a token says, once its signature is known to be good.

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::error::AuthError;
use super::identity::{Identity, Proof};

/// Bytes of a subject or a group, inclusive.
const NAME_LEN_MAX: usize = 255;

/// What a token has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Claim `iss`, exactly.
    pub issuer: String,
    /// One of claim `aud`, exactly.
    pub audience: String,
    /// How much the clocks of issuer and node may differ.
    pub clock_skew: Duration,
    /// The claim that holds groups.
    pub groups_claim: String,
}

/// Claims as they are written. A claim that stands twice is refused.
#[derive(Deserialize)]
pub(super) struct Claims {
    iss: Option<Value>,
    aud: Option<Value>,
    sub: Option<Value>,
    exp: Option<Value>,
    nbf: Option<Value>,
    iat: Option<Value>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// An identity and from when on it may be used, inclusive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claimed {
    pub(super) identity: Identity,
    pub(super) not_before: SystemTime,
}

impl Claims {
    pub(super) fn check(self, expected: &Expected, now: SystemTime) -> Result<Claimed, AuthError> {
        if self.iss.as_ref().and_then(Value::as_str) != Some(&expected.issuer) {
            return Err(AuthError::Issuer);
        }
        if !names(self.aud.as_ref()).any(|audience| audience == expected.audience) {
            return Err(AuthError::Audience);
        }
        let skew = expected.clock_skew;
        let expires = time(self.exp.as_ref()).and_then(|at| at.checked_add(skew));
        let expires = expires.ok_or(AuthError::Claim("exp"))?;
        let mut not_before = SystemTime::UNIX_EPOCH;
        for (name, claim) in [("nbf", &self.nbf), ("iat", &self.iat)] {
            if claim.is_none() {
                continue;
            }
            let at = time(claim.as_ref()).ok_or(AuthError::Claim(name))?;
            // Before 1970 there is nothing to compare with.
            not_before = not_before.max(at.checked_sub(skew).unwrap_or(at));
        }
        if now >= expires {
            return Err(AuthError::Expired);
        }
        if now < not_before {
            return Err(AuthError::NotYetValid);
        }
        let subject = self.sub.as_ref().and_then(Value::as_str);
        let subject = subject.filter(|name| is_name(name));
        let subject = subject.ok_or(AuthError::Claim("sub"))?.to_owned();
        let groups = names(self.others.get(&expected.groups_claim));
        let groups = groups.filter(|name| is_name(name)).map(str::to_owned);
        Ok(Claimed {
            identity: Identity {
                proof: Proof::Token {
                    subject,
                    groups: groups.collect(),
                },
                expires: Some(expires),
            },
            not_before,
        })
    }
}

/// One text, or a list of texts.
fn names(claim: Option<&Value>) -> impl Iterator<Item = &str> {
    let (one, many) = match claim {
        Some(Value::Array(values)) => (None, values.as_slice()),
        Some(value) => (Some(value), &[][..]),
        None => (None, &[][..]),
    };
    one.into_iter().chain(many).filter_map(Value::as_str)
}

/// Goes into logs and messages as it is.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_LEN_MAX && !name.chars().any(char::is_control)
}

/// Seconds since 1970, with or without a fraction.
fn time(claim: Option<&Value>) -> Option<SystemTime> {
    let seconds = claim?.as_f64()?;
    let since_1970 = Duration::try_from_secs_f64(seconds).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(since_1970)
}
