//! An issuer of tokens: a key, its public part as a file that nodes read, and tokens
//! that say whatever is asked for.
//!
//! Its tokens are made here from the specification and not with the node's code. That
//! nodes take other people's tokens too is shown by `tests/python/test_auth.py`.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Result, anyhow};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use crate::node_process::NodeOptions;

/// Who makes tokens.
pub const ISSUER: &str = "https://issuer.example";
/// Whom they are made for.
pub const AUDIENCE: &str = "perennial-tests";

/// A key of an issuer.
pub struct Issuer {
    key: EcdsaKeyPair,
    kid: String,
}

impl Issuer {
    /// A new key with a name.
    ///
    /// # Errors
    /// When none can be made.
    pub fn new(kid: &str) -> Result<Self> {
        let failed = |error| anyhow!("no key can be made: {error}");
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let der = EcdsaKeyPair::generate_pkcs8(algorithm, &random)
            .map_err(|_| anyhow!("no key can be made"))?;
        let key = EcdsaKeyPair::from_pkcs8(algorithm, der.as_ref(), &random).map_err(failed)?;
        Ok(Self {
            key,
            kid: kid.to_owned(),
        })
    }

    /// Writes the public parts of keys where nodes read them, all at once.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn publish(path: &Path, keys: &[&Self]) -> Result<()> {
        let unseen = path.with_extension("new");
        std::fs::write(&unseen, set(keys))?;
        std::fs::rename(&unseen, path)?;
        Ok(())
    }

    /// The public part as issuers publish it.
    #[must_use]
    pub fn published(&self) -> String {
        set(&[self])
    }

    fn jwk(&self) -> Value {
        // A 4, then both coordinates.
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.kid,
            "x": BASE64_URL_SAFE_NO_PAD.encode(x), "y": BASE64_URL_SAFE_NO_PAD.encode(y),
        })
    }

    /// A token of a subject and its groups that expires after a time.
    ///
    /// # Panics
    /// When the clock is before 1970.
    #[must_use]
    pub fn token(&self, subject: &str, groups: &[&str], lifetime: Duration) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default();
        self.token_of(&json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": subject, "groups": groups,
            "iat": now.as_secs(), "exp": (now + lifetime).as_secs_f64(),
        }))
    }

    /// A token that says this.
    ///
    /// # Panics
    /// When the system has no randomness.
    #[must_use]
    pub fn token_of(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "kid": self.kid, "typ": "JWT"});
        let part = |json: &Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes());
        match signature {
            Ok(signature) => format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)),
            Err(error) => panic!("signing failed: {error}"),
        }
    }
}

fn set(keys: &[&Issuer]) -> String {
    let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
    json!({ "keys": keys }).to_string()
}

/// Lets a node take the tokens of the keys in a file, with these rules, as TOML writes
/// them in one line.
#[must_use]
pub fn with_tokens(options: NodeOptions, keys: &Path, rules: &str) -> NodeOptions {
    options
        .setting("node.auth.jwt.jwks_file", &keys.display().to_string())
        .setting("node.auth.jwt.issuer", ISSUER)
        .setting("node.auth.jwt.audience", AUDIENCE)
        .setting("node.auth.jwt.clock_skew", "0s")
        .setting("node.auth.rules", rules)
}
