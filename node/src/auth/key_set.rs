//! The public keys tokens are checked with: a JSON Web Key Set.
//!
//! A key says itself what it may be used for, and a token is checked with nothing else:
//! the algorithm in a token's header only has to agree. Keys with a shared secret are
//! left out, so a public key can never be taken for one. The checking itself is `ring`'s,
//! as it is for TLS. Next: `token.rs`, which finds the key of a token.

use std::collections::HashSet;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;

/// Bytes of a key set, inclusive. Issuers publish a handful of keys.
pub(super) const SET_LEN_MAX: usize = 256 << 10;
/// Keys of a set, inclusive.
const KEYS_MAX: usize = 64;
/// Shorter moduli can be broken, longer ones cost too much: 2048 to 8192 bits.
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// Keys to check tokens with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySet {
    keys: Vec<Key>,
    left_out: Vec<String>,
}

/// Why a text is no usable key set.
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    /// Not JSON of this form.
    #[error(
        "it is no JSON Web Key Set: {0}; expected {{\"keys\": […]}} as the issuer publishes it"
    )]
    Malformed(#[from] serde_json::Error),
    /// Too many bytes.
    #[error("it has more than {SET_LEN_MAX} bytes: keep only the keys of the issuer of the tokens")]
    TooLong,
    /// Too many keys.
    #[error("it has {0} keys, {KEYS_MAX} are allowed: keep only those in use")]
    TooManyKeys(usize),
    /// Two keys of one name.
    #[error("two of its keys have the kid {0:?}: each needs a name of its own")]
    SameKid(String),
    /// None of its keys can be used.
    #[error("none of its keys can check a token{}", shown(.0))]
    NoUsableKey(Vec<String>),
}

fn shown(left_out: &[String]) -> String {
    match left_out {
        [] => ": it is empty".to_owned(),
        left_out => format!(": {}", left_out.join("; ")),
    }
}

/// The algorithms that are accepted at all: those with a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    /// `None` for every other name, `none` and `HS256` among them.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            // The second is its newer name.
            "EdDSA" | "Ed25519" => Self::EdDsa,
            _ => return None,
        })
    }

    fn is_rsa(self) -> bool {
        !matches!(self, Self::Es256 | Self::Es384 | Self::EdDsa)
    }
}

/// One key, with the one algorithm it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    kid: Option<String>,
    pub(super) algorithm: Algorithm,
    material: Material,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Material {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// A point, as `ring` takes it.
    Point(Vec<u8>),
}

impl KeySet {
    /// Reads a key set. Keys of other uses and kinds are left out, and named in
    /// [`KeySet::left_out`].
    ///
    /// # Errors
    /// [`KeySetError`]: the text as a whole cannot be used.
    pub fn parse(text: &[u8]) -> Result<Self, KeySetError> {
        if text.len() > SET_LEN_MAX {
            return Err(KeySetError::TooLong);
        }
        let published: PublishedSet = serde_json::from_slice(text)?;
        if published.keys.len() > KEYS_MAX {
            return Err(KeySetError::TooManyKeys(published.keys.len()));
        }
        let (mut keys, mut left_out, mut kids) = (Vec::new(), Vec::new(), HashSet::new());
        for (index, published) in published.keys.into_iter().enumerate() {
            let kid = published.kid.clone();
            match Key::of(published) {
                Ok(key) => {
                    if let Some(kid) = &kid
                        && !kids.insert(kid.clone())
                    {
                        return Err(KeySetError::SameKid(kid.chars().take(80).collect()));
                    }
                    keys.push(key);
                }
                Err(why) => {
                    let name = kid.map_or_else(
                        || format!("key {}", index + 1),
                        |kid| format!("key {kid:?}"),
                    );
                    left_out.push(format!(
                        "{} {why}",
                        name.chars().take(100).collect::<String>()
                    ));
                }
            }
        }
        if keys.is_empty() {
            return Err(KeySetError::NoUsableKey(left_out));
        }
        Ok(Self { keys, left_out })
    }

    /// How many keys can be used.
    #[must_use]
    pub fn usable(&self) -> usize {
        self.keys.len()
    }

    /// Keys that are not used, each with the reason.
    #[must_use]
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// The key of this name. Without a name it has to be the only one.
    pub(super) fn find(&self, kid: Option<&str>) -> Option<&Key> {
        match kid {
            Some(kid) => self.keys.iter().find(|key| key.kid.as_deref() == Some(kid)),
            None => match &self.keys[..] {
                [only] => Some(only),
                _ => None,
            },
        }
    }
}

impl Key {
    fn of(published: PublishedKey) -> Result<Self, &'static str> {
        if published
            .usage
            .as_deref()
            .is_some_and(|usage| usage != "sig")
        {
            return Err("is not for signatures");
        }
        if let Some(operations) = &published.key_ops
            && !operations.iter().any(|operation| operation == "verify")
        {
            return Err("is not for checking signatures");
        }
        let named = match published.alg.as_deref() {
            None => None,
            Some(name) => {
                Some(Algorithm::of_name(name).ok_or("has an algorithm that is not accepted")?)
            }
        };
        let curve = published.crv.as_deref();
        let (algorithm, material) = match (published.kty.as_str(), curve) {
            ("RSA", _) => {
                // What signs by far the most tokens, where a key does not say.
                let algorithm = named.unwrap_or(Algorithm::Rs256);
                (
                    algorithm,
                    rsa(published.n.as_deref(), published.e.as_deref())?,
                )
            }
            ("EC", Some("P-256")) => (Algorithm::Es256, point(&published, 32)?),
            ("EC", Some("P-384")) => (Algorithm::Es384, point(&published, 48)?),
            ("OKP", Some("Ed25519")) => (
                Algorithm::EdDsa,
                Material::Point(coordinate(published.x.as_deref(), 32)?),
            ),
            ("EC" | "OKP", _) => return Err("has a curve that is not accepted"),
            ("oct", _) => return Err("is a shared secret, which is never accepted"),
            _ => return Err("is of an unknown kind"),
        };
        let is_rsa = matches!(material, Material::Rsa { .. });
        if algorithm.is_rsa() != is_rsa || named.is_some_and(|named| named != algorithm) {
            return Err("has an algorithm of another kind of key");
        }
        Ok(Self {
            kid: published.kid,
            algorithm,
            material,
        })
    }

    /// Whether `signature` is one of this key for `message`.
    pub(super) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Rsa { modulus, exponent } => {
                let parameters = match self.algorithm {
                    Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
                    Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
                    // The others are never those of an RSA key: see `Key::of`.
                    _ => &signature::RSA_PKCS1_2048_8192_SHA256,
                };
                let key = RsaPublicKeyComponents {
                    n: modulus,
                    e: exponent,
                };
                key.verify(parameters, message, signature).is_ok()
            }
            Material::Point(point) => {
                let parameters: &'static dyn signature::VerificationAlgorithm = match self.algorithm
                {
                    Algorithm::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
                    Algorithm::EdDsa => &signature::ED25519,
                    _ => &signature::ECDSA_P256_SHA256_FIXED,
                };
                UnparsedPublicKey::new(parameters, point)
                    .verify(message, signature)
                    .is_ok()
            }
        }
    }
}

fn rsa(n: Option<&str>, e: Option<&str>) -> Result<Material, &'static str> {
    let number = |text: Option<&str>| -> Option<Vec<u8>> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text?).ok()?;
        // Some issuers write a zero byte before a number whose first bit is set.
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Some(bytes[zeros..].to_vec())
    };
    let (Some(modulus), Some(exponent)) = (number(n), number(e)) else {
        return Err("has no readable modulus and exponent");
    };
    if !MODULUS_BYTES.contains(&modulus.len()) {
        return Err("has not 2048 to 8192 bits");
    }
    // What `ring` takes; with 1 everything would be its own signature.
    if exponent.len() > 4 || matches!(exponent[..], [] | [1 | 2]) {
        return Err("has an exponent that is not accepted");
    }
    Ok(Material::Rsa { modulus, exponent })
}

/// Uncompressed: a 4, then both coordinates.
fn point(published: &PublishedKey, len: usize) -> Result<Material, &'static str> {
    let mut bytes = vec![4];
    bytes.extend(coordinate(published.x.as_deref(), len)?);
    bytes.extend(coordinate(published.y.as_deref(), len)?);
    Ok(Material::Point(bytes))
}

fn coordinate(text: Option<&str>, len: usize) -> Result<Vec<u8>, &'static str> {
    let bytes = text.and_then(|text| BASE64_URL_SAFE_NO_PAD.decode(text).ok());
    let fitting = bytes.filter(|bytes| bytes.len() == len);
    fitting.ok_or("has no readable coordinates of its curve's length")
}

#[derive(Deserialize)]
struct PublishedSet {
    keys: Vec<PublishedKey>,
}

#[derive(Deserialize)]
struct PublishedKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

#[cfg(test)]
#[path = "key_set/key_set_test.rs"]
#[allow(clippy::unwrap_used)]
mod key_set_test;
