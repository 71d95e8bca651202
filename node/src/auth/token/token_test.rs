use std::time::Duration;

use proptest::prelude::*;
use ring::hmac;
use serde_json::{Value, json};

use super::*;
use crate::auth::identity::Proof;
use crate::auth::issuer_test::{AUDIENCE, NOW, Signer, at, claims, encode, expected, set};

/// A set of one key.
pub(in crate::auth) const ED25519_SET: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

fn result(token: &str, keys: &KeySet) -> Result<Identity, AuthError> {
    authenticate(token, keys, &expected(), at(NOW))
}

fn with(name: &str, value: Value) -> Value {
    let mut changed = claims();
    changed[name] = value;
    changed
}

fn without(name: &str) -> Value {
    let mut changed = claims();
    changed.as_object_mut().unwrap().remove(name);
    changed
}

#[test]
fn a_token_of_every_accepted_algorithm_is_good() {
    let (rsa, p256, p384) = (Signer::rsa(), Signer::p256(), Signer::p384());
    let ed25519 = Signer::ed25519();
    let cases = [
        (
            &rsa,
            &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"][..],
        ),
        (&p256, &["ES256"]),
        (&p384, &["ES384"]),
        (&ed25519, &["EdDSA", "Ed25519"]),
    ];
    for (signer, algorithms) in cases {
        for alg in algorithms {
            let mut key = signer.jwk("k");
            key["alg"] = json!(alg);
            let identity = result(&signer.token(alg, &claims()), &set(&[key])).unwrap();
            assert_eq!(
                identity.proof,
                Proof::Token {
                    subject: "orders".into(),
                    groups: vec!["shop".into()]
                },
                "{alg}"
            );
            let until = at(NOW + 600) + Duration::from_secs(30);
            assert_eq!(identity.expires, Some(until));
        }
    }
}

/// The published example of RFC 8037: other people's signature, not ours.
#[test]
fn a_signature_made_elsewhere_is_checked() {
    let signed = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    let signature =
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let keys = KeySet::parse(ED25519_SET.as_bytes()).unwrap();
    // Its payload is a sentence, which is found out only behind the signature.
    let token = format!("{signed}.{signature}");
    let no_claims = AuthError::Malformed("its claims are no JSON object");
    assert_eq!(result(&token, &keys), Err(no_claims));
    let other = format!("{signed}.i{}", &signature[1..]);
    assert_eq!(result(&other, &keys), Err(AuthError::Signature));
}

#[test]
fn what_a_token_claims_is_checked() {
    let signer = Signer::p256();
    let keys = signer.set("k");
    use AuthError::{Audience, Claim, Expired, Issuer, NotYetValid};
    let cases = [
        (claims(), Ok(())),
        (with("iss", json!("https://issuer.example/")), Err(Issuer)),
        (without("iss"), Err(Issuer)),
        (with("iss", json!(["https://issuer.example"])), Err(Issuer)),
        (with("aud", json!(["other", AUDIENCE])), Ok(())),
        (with("aud", json!("perennial2")), Err(Audience)),
        (with("aud", json!([])), Err(Audience)),
        (with("aud", json!([7])), Err(Audience)),
        (without("aud"), Err(Audience)),
        (without("exp"), Err(Claim("exp"))),
        (with("exp", json!("soon")), Err(Claim("exp"))),
        (with("exp", json!(-1)), Err(Claim("exp"))),
        (with("exp", json!(1e300)), Err(Claim("exp"))),
        (with("exp", json!(null)), Err(Claim("exp"))),
        (with("exp", json!(NOW as f64 + 0.5)), Ok(())),
        // Thirty seconds are tolerated.
        (with("exp", json!(NOW - 29)), Ok(())),
        (with("exp", json!(NOW - 30)), Err(Expired)),
        (with("exp", json!(0)), Err(Expired)),
        (with("nbf", json!(NOW + 30)), Ok(())),
        (with("nbf", json!(NOW + 31)), Err(NotYetValid)),
        (with("nbf", json!("now")), Err(Claim("nbf"))),
        (with("iat", json!(NOW + 30)), Ok(())),
        (with("iat", json!(NOW + 31)), Err(NotYetValid)),
        (with("iat", json!([])), Err(Claim("iat"))),
        (without("sub"), Err(Claim("sub"))),
        (with("sub", json!("")), Err(Claim("sub"))),
        (with("sub", json!(7)), Err(Claim("sub"))),
        (with("sub", json!("a\nb")), Err(Claim("sub"))),
        (with("sub", json!("x".repeat(256))), Err(Claim("sub"))),
        (with("sub", json!("x".repeat(255))), Ok(())),
        (
            json!([]),
            Err(AuthError::Malformed("its claims are no JSON object")),
        ),
    ];
    for (claims, outcome) in cases {
        let token = signer.token("ES256", &claims);
        assert_eq!(result(&token, &keys).map(|_| ()), outcome, "{claims}");
    }
}

/// A reader that takes the first and one that takes the last would not agree.
#[test]
fn a_claim_that_stands_twice_is_refused() {
    let signer = Signer::p256();
    let claims = claims()
        .to_string()
        .replace("\"sub\":\"orders\"", "\"sub\":\"orders\",\"sub\":\"root\"");
    let header = json!({"alg": "ES256", "kid": "k"}).to_string();
    let signed = format!("{}.{}", encode(header), encode(claims));
    let token = format!(
        "{signed}.{}",
        encode(signer.sign("ES256", signed.as_bytes()))
    );
    let refused = result(&token, &signer.set("k"));
    assert!(
        matches!(refused, Err(AuthError::Malformed(_))),
        "{refused:?}"
    );
}

#[test]
fn groups_are_a_text_or_a_list_of_texts() {
    let signer = Signer::ed25519();
    let keys = signer.set("k");
    for (claim, groups) in [
        (json!("ops"), &["ops"][..]),
        (json!(["ops", 7, "", "shop"]), &["ops", "shop"]),
        (json!({"ops": true}), &[]),
        (json!(null), &[]),
    ] {
        let token = signer.token("EdDSA", &with("groups", claim));
        let Proof::Token { groups: found, .. } = result(&token, &keys).unwrap().proof else {
            panic!("not a token");
        };
        assert_eq!(found, groups);
    }
}

/// The header is the attacker's: nothing in it may choose how it is checked.
#[test]
fn the_header_does_not_choose_the_algorithm() {
    let (rsa, p256) = (Signer::rsa(), Signer::p256());
    let both = set(&[rsa.jwk("k"), p256.jwk("e")]);
    let head = |alg: &str| json!({"alg": alg, "kid": "k"});
    let signed = |header: &Value| {
        format!(
            "{}.{}",
            encode(header.to_string()),
            encode(claims().to_string())
        )
    };

    for alg in [
        "none", "None", "NONE", "nOnE", "", "HS256", "HS384", "HS512", "ES256K", "RS1",
    ] {
        let message = signed(&head(alg));
        let unsigned = format!("{message}.");
        assert_eq!(result(&unsigned, &both), Err(AuthError::Algorithm), "{alg}");
        let properly = rsa.token_of(&head(alg), &claims());
        assert_eq!(result(&properly, &both), Err(AuthError::Algorithm), "{alg}");
    }

    // Signed with the public key as a shared secret, in each form it has.
    let public = rsa.jwk("k");
    let modulus = public["n"].as_str().unwrap();
    let raw = BASE64_URL_SAFE_NO_PAD.decode(modulus).unwrap();
    for secret in [
        public.to_string().into_bytes(),
        modulus.as_bytes().to_vec(),
        raw,
    ] {
        let message = signed(&head("HS256"));
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let tag = hmac::sign(&key, message.as_bytes());
        let token = format!("{message}.{}", encode(tag));
        assert_eq!(result(&token, &both), Err(AuthError::Algorithm));
    }

    // A good signature of another kind than the key is for.
    for alg in ["PS256", "RS512", "ES256", "EdDSA"] {
        let token = rsa.token_of(&head(alg), &claims());
        assert_eq!(result(&token, &both), Err(AuthError::Algorithm), "{alg}");
    }
    // The key of somebody else under a known name.
    let forged = Signer::p256().token_of(&json!({"alg": "ES256", "kid": "e"}), &claims());
    assert_eq!(result(&forged, &both), Err(AuthError::Signature));
    // A key that the token brings along is not looked at.
    let own = Signer::p256();
    let header =
        json!({"alg": "ES256", "kid": "e", "jwk": own.jwk("e"), "jku": "https://evil.example"});
    let forged = own.token_of(&header, &claims());
    assert_eq!(result(&forged, &both), Err(AuthError::Signature));
}

#[test]
fn the_key_is_found_by_its_name() {
    let (one, two) = (Signer::p256(), Signer::p256());
    let both = set(&[one.jwk("1"), two.jwk("2")]);
    let token = |signer: &Signer, kid: Option<&str>| {
        let mut header = json!({"alg": "ES256"});
        if let Some(kid) = kid {
            header["kid"] = json!(kid);
        }
        signer.token_of(&header, &claims())
    };
    assert!(result(&token(&two, Some("2")), &both).is_ok());
    assert_eq!(
        result(&token(&two, Some("1")), &both),
        Err(AuthError::Signature)
    );
    assert_eq!(
        result(&token(&two, Some("3")), &both),
        Err(AuthError::KeyUnknown)
    );
    // Without a name only when there is no choice.
    assert_eq!(
        result(&token(&two, None), &both),
        Err(AuthError::KeyUnknown)
    );
    assert!(result(&token(&two, None), &two.set("2")).is_ok());
}

#[test]
fn tokens_for_other_uses_are_refused() {
    let signer = Signer::p256();
    let keys = signer.set("k");
    let token = |name: &str, value: Value| {
        let mut header = json!({"alg": "ES256", "kid": "k"});
        header[name] = value;
        result(&signer.token_of(&header, &claims()), &keys)
    };
    for kind in ["JWT", "jwt", "at+jwt", "application/at+jwt"] {
        assert!(token("typ", json!(kind)).is_ok(), "{kind}");
    }
    for kind in ["dpop+jwt", "logout+jwt", "secevent+jwt", ""] {
        assert!(
            matches!(token("typ", json!(kind)), Err(AuthError::Malformed(_))),
            "{kind}"
        );
    }
    assert!(matches!(
        token("crit", json!(["b64"])),
        Err(AuthError::Malformed(_))
    ));
}

#[test]
fn long_tokens_are_not_looked_at() {
    let signer = Signer::p256();
    let long = signer.token("ES256", &with("fill", json!("x".repeat(TOKEN_LEN_MAX))));
    let refused = result(&long, &signer.set("k"));
    assert!(
        matches!(refused, Err(AuthError::TooLong { .. })),
        "{refused:?}"
    );
    let dots = ".".repeat(TOKEN_LEN_MAX);
    assert!(matches!(
        result(&dots, &signer.set("k")),
        Err(AuthError::Malformed(_))
    ));
}

proptest! {
    #[test]
    fn garbage_is_refused(text in ".{0,300}") {
        let keys = KeySet::parse(ED25519_SET.as_bytes()).unwrap();
        prop_assert!(result(&text, &keys).is_err());
    }

    #[test]
    fn garbage_in_three_parts_is_refused(
        header in ".{0,60}", claims in ".{0,60}", signature in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let keys = KeySet::parse(ED25519_SET.as_bytes()).unwrap();
        let token = format!("{}.{}.{}", encode(header), encode(claims), encode(signature));
        prop_assert!(result(&token, &keys).is_err());
    }

    /// Whatever is changed in a good token, it is not good any more.
    #[test]
    fn no_byte_of_a_good_token_can_be_changed(at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_.=-]") {
        let signer = Signer::p256();
        let good = signer.token("ES256", &claims());
        let at = at.index(good.len());
        let mut changed = good.clone();
        changed.replace_range(at..=at, &to);
        prop_assume!(changed != good);
        prop_assert!(result(&changed, &signer.set("k")).is_err());
    }

    #[test]
    fn a_token_is_good_in_its_time_and_no_other(
        exp in NOW - 1000..NOW + 1000, nbf in NOW - 1000..NOW + 1000, skew in 0_u64..100,
    ) {
        let signer = Signer::ed25519();
        let mut claims = with("exp", json!(exp));
        claims["nbf"] = json!(nbf);
        let expected = Expected { clock_skew: Duration::from_secs(skew), ..expected() };
        let token = signer.token("EdDSA", &claims);
        let good = authenticate(&token, &signer.set("k"), &expected, at(NOW)).is_ok();
        prop_assert_eq!(good, nbf <= NOW + skew && NOW < exp + skew);
    }
}
