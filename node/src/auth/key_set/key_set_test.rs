use serde_json::{Value, json};

use super::*;
use crate::auth::issuer_test::{Signer, encode};

fn parse(keys: &[Value]) -> Result<KeySet, KeySetError> {
    KeySet::parse(json!({"keys": keys}).to_string().as_bytes())
}

/// Why a key is left out.
fn left_out(key: &Value) -> String {
    match parse(std::slice::from_ref(key)) {
        Err(KeySetError::NoUsableKey(why)) => why.join(" "),
        other => panic!("{key} is used: {other:?}"),
    }
}

fn changed(mut key: Value, name: &str, value: Value) -> Value {
    key[name] = value;
    key
}

#[test]
fn what_cannot_check_a_token_is_left_out_with_a_reason() {
    let (rsa, p256) = (Signer::rsa().jwk("r"), Signer::p256().jwk("e"));
    let ed = Signer::ed25519().jwk("d");
    for (key, why) in [
        (
            json!({"kty": "oct", "kid": "s", "k": "c2VjcmV0", "alg": "HS256"}),
            "not accepted",
        ),
        (
            json!({"kty": "oct", "kid": "s", "k": "c2VjcmV0"}),
            "shared secret",
        ),
        (json!({"kty": "new"}), "unknown kind"),
        (
            changed(rsa.clone(), "use", json!("enc")),
            "not for signatures",
        ),
        (
            changed(rsa.clone(), "key_ops", json!(["encrypt"])),
            "not for checking",
        ),
        (changed(rsa.clone(), "alg", json!("HS256")), "not accepted"),
        (changed(rsa.clone(), "alg", json!("none")), "not accepted"),
        (
            changed(rsa.clone(), "alg", json!("ES256")),
            "another kind of key",
        ),
        (
            changed(rsa.clone(), "n", json!(encode([0xff; 128]))),
            "2048",
        ),
        (
            changed(rsa.clone(), "n", json!(encode([0xff; 1025]))),
            "2048",
        ),
        (changed(rsa.clone(), "n", json!("!")), "modulus"),
        (changed(rsa.clone(), "e", json!(encode([1]))), "exponent"),
        (changed(rsa.clone(), "e", json!(encode([0, 0]))), "exponent"),
        (changed(rsa, "e", json!(null)), "exponent"),
        (
            changed(p256.clone(), "alg", json!("ES384")),
            "another kind of key",
        ),
        (
            changed(p256.clone(), "alg", json!("RS256")),
            "another kind of key",
        ),
        (changed(p256.clone(), "crv", json!("secp256k1")), "curve"),
        (changed(p256.clone(), "x", json!("AAAA")), "coordinates"),
        (changed(p256, "y", json!(null)), "coordinates"),
        (changed(ed.clone(), "crv", json!("X25519")), "curve"),
        (changed(ed, "x", json!("")), "coordinates"),
    ] {
        let said = left_out(&key);
        assert!(said.contains(why), "{key}: {said}");
    }
}

#[test]
fn one_bad_key_does_not_spoil_the_others() {
    let good = Signer::p256().jwk("good");
    let bad = json!({"kty": "oct", "kid": "bad", "k": "c2VjcmV0"});
    let set = parse(&[bad, good]).unwrap();
    assert_eq!((set.usable(), set.left_out().len()), (1, 1));
    assert!(
        set.left_out()[0].contains("\"bad\""),
        "{:?}",
        set.left_out()
    );
    assert!(set.find(Some("good")).is_some() && set.find(Some("bad")).is_none());
}

#[test]
fn a_number_may_begin_with_a_zero_byte() {
    let key = Signer::rsa();
    let mut jwk = key.jwk("k");
    let modulus = BASE64_URL_SAFE_NO_PAD
        .decode(jwk["n"].as_str().unwrap())
        .unwrap();
    jwk["n"] = json!(encode([&[0][..], &modulus].concat()));
    let set = parse(&[jwk]).unwrap();
    let found = set.find(Some("k")).unwrap();
    assert!(found.has_signed(b"text", &key.sign("RS256", b"text")));
    assert!(!found.has_signed(b"tExt", &key.sign("RS256", b"text")));
}

#[test]
fn a_set_that_cannot_be_used_says_why() {
    let key = Signer::ed25519().jwk("k");
    let error = |text: &str| KeySet::parse(text.as_bytes()).unwrap_err().to_string();
    assert!(error("").contains("JSON Web Key Set"));
    assert!(error("{}").contains("keys"));
    assert!(error(r#"{"keys":[]}"#).contains("empty"));
    assert!(
        parse(&[key.clone(), key.clone()])
            .unwrap_err()
            .to_string()
            .contains("\"k\"")
    );
    let many: Vec<Value> = (0..=KEYS_MAX)
        .map(|nr| changed(key.clone(), "kid", json!(nr.to_string())))
        .collect();
    assert!(matches!(parse(&many), Err(KeySetError::TooManyKeys(65))));
    let long = vec![b' '; SET_LEN_MAX + 1];
    assert!(matches!(KeySet::parse(&long), Err(KeySetError::TooLong)));
}
