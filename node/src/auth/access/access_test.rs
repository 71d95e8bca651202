use std::time::Duration;

use axum::http::header::AUTHORIZATION;
use rcgen::{CertificateParams, KeyPair, SanType};
use serde_json::json;

use super::*;
use crate::auth::Right;
use crate::auth::issuer_test::{NOW, Signer, at, claims, expected};

fn access(signer: &Signer) -> (Access, Arc<TokenAccess>) {
    let rules = r#"[
        { subject = "orders", entity_types = ["cart"], allow = ["send"] },
        { certificate = "spiffe://shop/orders", entity_types = ["cart"], allow = ["read"] },
    ]"#;
    let rules = Arc::new(Rules::parse(rules).unwrap());
    let tokens = TokenAccess::new(signer.set("k"), expected(), Arc::clone(&rules));
    let tokens = Arc::new(tokens);
    let access = Access::Known {
        tokens: Some(Arc::clone(&tokens)),
        certificates: CertificateAccess::new(rules),
    };
    (access, tokens)
}

fn with_token(token: &str) -> HeaderMap {
    let value = format!("Bearer {token}").parse().unwrap();
    [(AUTHORIZATION, value)].into_iter().collect()
}

fn certificate() -> ClientCertificate {
    certificate_of("spiffe://shop/orders")
}

/// Shown by the client, and verified.
fn certificate_of(uri: &str) -> ClientCertificate {
    let mut params = CertificateParams::default();
    let uri = uri.try_into().unwrap();
    params.subject_alt_names.push(SanType::URI(uri));
    let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    ClientCertificate::of_verified(certificate.der()).unwrap()
}

#[test]
fn a_token_counts_more_than_a_certificate() {
    let signer = Signer::p256();
    let (access, _) = access(&signer);
    let shown = certificate();
    let caller = |headers: &HeaderMap, certificate: Option<&ClientCertificate>| {
        access.caller(headers, certificate, at(NOW))
    };
    let good = with_token(&signer.token("ES256", &claims()));
    let none = HeaderMap::new();
    for (headers, certificate, right) in [
        (&good, None, Right::Send),
        (&good, Some(&shown), Right::Send),
        (&none, Some(&shown), Right::Read),
    ] {
        let caller = caller(headers, certificate).unwrap();
        for asked in [Right::Send, Right::Read, Right::Events] {
            assert_eq!(caller.may(asked, "cart").is_ok(), asked == right, "{asked}");
        }
    }
    assert_eq!(caller(&none, None), Err(AuthError::Missing));
    // One that is bad is not overlooked.
    let bad = with_token("x.y.z");
    assert!(matches!(
        caller(&bad, Some(&shown)),
        Err(AuthError::Malformed(_))
    ));
    let basic: HeaderMap = [(AUTHORIZATION, "Basic OmFiYw==".parse().unwrap())]
        .into_iter()
        .collect();
    assert!(matches!(
        caller(&basic, Some(&shown)),
        Err(AuthError::Malformed(_))
    ));
}

#[test]
fn a_certificate_is_looked_up_in_the_rules_once() {
    let (access, _) = access(&Signer::p256());
    let caller = |certificate: &ClientCertificate| {
        let none = HeaderMap::new();
        access.caller(&none, Some(certificate), at(NOW)).unwrap()
    };
    // Of two connections; the second has another key.
    let (first, again) = (caller(&certificate()), caller(&certificate()));
    assert!(Arc::ptr_eq(&first, &again));
    let other = caller(&certificate_of("spiffe://shop/billing"));
    assert_eq!(other.identity().name(), "spiffe://shop/billing");
    assert!(other.may(Right::Read, "cart").is_err());
}

#[test]
fn without_keys_no_token_is_taken() {
    let access = Access::Known {
        tokens: None,
        certificates: CertificateAccess::new(Arc::new(Rules::NONE)),
    };
    let given = access.caller(&with_token("x.y.z"), Some(&certificate()), at(NOW));
    assert_eq!(given, Err(AuthError::TokensNotTaken));
    assert!(
        access
            .caller(&HeaderMap::new(), Some(&certificate()), at(NOW))
            .is_ok()
    );
}

#[test]
fn nobody_is_asked_where_nothing_is_configured() {
    let access = Access::everybody();
    for headers in [HeaderMap::new(), with_token("x.y.z")] {
        let caller = access.caller(&headers, None, at(NOW)).unwrap();
        assert!(caller.is_anonymous());
        assert!(caller.may(Right::Admin, "").is_ok());
    }
}

#[test]
fn the_http_port_knows_the_same_clients() {
    use base64::Engine;
    let signer = Signer::p256();
    let (access, _) = access(&signer);
    let token = signer.token("ES256", &claims());
    let password = base64::prelude::BASE64_STANDARD.encode(format!("ada:{token}"));
    let basic = format!("Basic {password}").parse().unwrap();
    let basic: HeaderMap = [(AUTHORIZATION, basic)].into_iter().collect();
    for headers in [with_token(&token), basic] {
        let caller = access.authorize_http(&headers, None, at(NOW)).unwrap();
        assert_eq!(caller.identity().name(), "orders");
    }
    let none = HeaderMap::new();
    assert!(
        access
            .authorize_http(&none, Some(&certificate()), at(NOW))
            .is_ok()
    );
    let error = access.authorize_http(&none, None, at(NOW)).unwrap_err();
    let response = axum::response::IntoResponse::into_response(error);
    assert_eq!(response.status(), 401);
    let ways = response.headers().get_all("www-authenticate").iter();
    assert_eq!(ways.count(), 2);
}

#[test]
fn a_good_token_is_remembered_until_it_expires() {
    let signer = Signer::p256();
    let (_, tokens) = access(&signer);
    let mut timed = claims();
    timed["nbf"] = json!(NOW);
    let token = signer.token("ES256", &timed);
    let first = tokens.caller(&token, at(NOW)).unwrap();
    let again = tokens.caller(&token, at(NOW + 629)).unwrap();
    assert!(Arc::ptr_eq(&first, &again), "it is not checked again");
    // What is remembered is not good for longer or earlier than what is not.
    assert_eq!(
        tokens.caller(&token, at(NOW + 630)),
        Err(AuthError::Expired)
    );
    assert_eq!(
        tokens.caller(&token, at(NOW - 31)),
        Err(AuthError::NotYetValid)
    );
    assert_eq!(tokens.remembers(), 1);
}

#[test]
fn bad_tokens_are_not_remembered_and_good_ones_not_all() {
    let signer = Signer::ed25519();
    let (_, tokens) = access(&signer);
    let stranger = Signer::ed25519();
    for nr in 0..100 {
        let mut claims = claims();
        claims["jti"] = json!(nr);
        let forged = stranger.token("EdDSA", &claims);
        assert_eq!(tokens.caller(&forged, at(NOW)), Err(AuthError::Signature));
    }
    assert_eq!(tokens.remembers(), 0);
    for nr in 0..REMEMBERED_MAX + 500 {
        let mut claims = claims();
        claims["jti"] = json!(nr);
        tokens
            .caller(&signer.token("EdDSA", &claims), at(NOW))
            .unwrap();
    }
    assert!(tokens.remembers() <= REMEMBERED_MAX, "I-10");
    assert!(tokens.remembers() > REMEMBERED_MAX / 2);
}

#[test]
fn other_keys_mean_that_nothing_is_remembered() {
    let (old, new) = (Signer::p256(), Signer::p256());
    let (_, tokens) = access(&old);
    let token = old.token("ES256", &claims());
    let early = at(NOW) - Duration::from_secs(1);
    assert!(tokens.caller(&token, early).is_ok());
    tokens.replace_keys(new.set("k"));
    assert_eq!(tokens.caller(&token, at(NOW)), Err(AuthError::Signature));
    assert!(
        tokens
            .caller(&new.token("ES256", &claims()), at(NOW))
            .is_ok()
    );
}
