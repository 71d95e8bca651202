//! An issuer of tokens for tests: keys of every kind, and whatever one wants to sign.

use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::rsa::PublicKeyComponents;
use ring::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    Ed25519KeyPair, KeyPair, RsaKeyPair,
};
use serde_json::{Value, json};

use super::claims::Expected;
use super::key_set::KeySet;

/// Issuer and audience of good tokens.
pub(super) const ISSUER: &str = "https://issuer.example";
pub(super) const AUDIENCE: &str = "perennial";

/// What good tokens say.
pub(super) fn expected() -> Expected {
    Expected {
        issuer: ISSUER.into(),
        audience: AUDIENCE.into(),
        clock_skew: Duration::from_secs(30),
        groups_claim: "groups".into(),
    }
}

/// The moment of the tests, in seconds since 1970 and as a time.
pub(super) const NOW: u64 = 1_800_000_000;

pub(super) fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Claims of a good token that is good for ten minutes.
pub(super) fn claims() -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "orders", "exp": NOW + 600, "groups": ["shop"]})
}

pub(super) fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// A private key.
pub(super) enum Signer {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair, &'static str),
    Ed(Ed25519KeyPair),
}

impl Signer {
    /// The same for all tests, because making one takes long.
    pub(super) fn rsa() -> Self {
        static KEY: OnceLock<Vec<u8>> = OnceLock::new();
        let der = KEY.get_or_init(|| {
            let made = Command::new("openssl")
                .args(["genpkey", "-algorithm", "RSA", "-outform", "DER"])
                .args(["-pkeyopt", "rsa_keygen_bits:2048"])
                .output();
            made.unwrap().stdout
        });
        // Which form openssl writes depends on its version.
        Self::Rsa(
            RsaKeyPair::from_pkcs8(der)
                .or_else(|_| RsaKeyPair::from_der(der))
                .unwrap(),
        )
    }

    pub(super) fn p256() -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let der = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(algorithm, der.as_ref(), &random);
        Self::Ec(key.unwrap(), "P-256")
    }

    pub(super) fn p384() -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P384_SHA384_FIXED_SIGNING;
        let der = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(algorithm, der.as_ref(), &random);
        Self::Ec(key.unwrap(), "P-384")
    }

    pub(super) fn ed25519() -> Self {
        let der = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed(Ed25519KeyPair::from_pkcs8(der.as_ref()).unwrap())
    }

    /// The public key as issuers publish it, without `alg`.
    pub(super) fn jwk(&self, kid: &str) -> Value {
        match self {
            Self::Rsa(key) => {
                let public = PublicKeyComponents::<Vec<u8>>::from(key.public());
                json!({"kty": "RSA", "use": "sig", "kid": kid, "n": encode(public.n), "e": encode(public.e)})
            }
            Self::Ec(key, curve) => {
                let (x, y) = {
                    let point = &key.public_key().as_ref()[1..];
                    point.split_at(point.len() / 2)
                };
                json!({"kty": "EC", "crv": curve, "kid": kid, "x": encode(x), "y": encode(y)})
            }
            Self::Ed(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": encode(key.public_key())})
            }
        }
    }

    /// A set of this key alone.
    pub(super) fn set(&self, kid: &str) -> KeySet {
        set(&[self.jwk(kid)])
    }

    pub(super) fn sign(&self, alg: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(key) => {
                let padding: &dyn signature::RsaEncoding = match alg {
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    "PS512" => &signature::RSA_PSS_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(padding, &random, message, &mut signature).unwrap();
                signature
            }
            Self::Ec(key, _) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    /// A token with these head and claims, signed as the head says if this key can.
    pub(super) fn token_of(&self, header: &Value, claims: &Value) -> String {
        let signed = format!(
            "{}.{}",
            encode(header.to_string()),
            encode(claims.to_string())
        );
        let alg = header["alg"].as_str().unwrap_or_default();
        let signature = self.sign(alg, signed.as_bytes());
        format!("{signed}.{}", encode(signature))
    }

    pub(super) fn token(&self, alg: &str, claims: &Value) -> String {
        self.token_of(&json!({"alg": alg, "kid": "k", "typ": "JWT"}), claims)
    }
}

pub(super) fn set(keys: &[Value]) -> KeySet {
    KeySet::parse(json!({"keys": keys}).to_string().as_bytes()).unwrap()
}
