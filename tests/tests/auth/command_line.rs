//! Settings and tokens that cannot work are named before anybody relies on them.

use std::time::Instant;

use perennial_tests::cli;
use perennial_tests::issuer::Issuer;
use serde_json::json;
use tempfile::TempDir;

use crate::world::HOUR;

#[tokio::test]
async fn a_node_does_not_start_with_half_an_authentication() {
    let dir = TempDir::new().unwrap();
    let keys = dir.path().join("jwks.json");
    let refused = async |settings: &[(&str, &str)], said: &[&str]| {
        let mut command = cli::command(["dev", "--journal", "memory:"]).unwrap();
        command.current_dir(dir.path());
        for (key, value) in settings {
            let variable = format!("PERENNIAL_{}", key.replace('.', "__").to_uppercase());
            command.env(variable, value);
        }
        let began = Instant::now();
        let outcome = cli::outcome(command.spawn().unwrap()).await.unwrap();
        assert!(
            matches!(outcome.code, Some(1 | 2)),
            "{outcome:?} after {:?}",
            began.elapsed()
        );
        for part in said {
            assert!(outcome.stderr.contains(part), "{part}: {outcome:?}");
        }
    };
    let path = keys.display().to_string();
    let whole = [
        ("node.auth.jwt.jwks_file", path.as_str()),
        ("node.auth.jwt.issuer", "i"),
        ("node.auth.jwt.audience", "a"),
    ];
    refused(&whole, &["node.auth.jwt.jwks_file", "cannot be read"]).await;
    std::fs::write(&keys, r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#).unwrap();
    refused(&whole, &["cannot be used", "shared secret"]).await;
    refused(&whole[..2], &["node.auth.jwt.audience is not set"]).await;
    refused(
        &[("node.auth.rules", "[{ subject = 'a' }]")],
        &["node.auth.rules", "allow"],
    )
    .await;
}

/// `perennial auth check` says before a node is asked what it would say.
#[tokio::test]
async fn a_token_can_be_tried_without_a_node() {
    let dir = TempDir::new().unwrap();
    let keys = dir.path().join("jwks.json");
    let issuer = Issuer::new("k").unwrap();
    Issuer::publish(&keys, &[&issuer]).unwrap();
    let config = dir.path().join("perennial.toml");
    let text = format!(
        "[node.auth.jwt]\njwks_file = \"{}\"\nissuer = \"https://issuer.example\"\naudience = \"perennial-tests\"\n\
         [[node.auth.rules]]\nsubject = \"shop-*\"\nentity_types = [\"counter\", \"cart-*\"]\nallow = [\"send\", \"read\"]\n\
         [[node.auth.rules]]\ncertificate = \"spiffe://shop/ops\"\nallow = [\"admin\"]\n",
        keys.display()
    );
    std::fs::write(&config, text).unwrap();
    let check = async |token: Option<&str>, more: &[&str]| {
        let config = config.to_str().unwrap();
        let args = [&["auth", "check", "--config", config][..], more].concat();
        let mut command = cli::command(args).unwrap();
        command.envs(token.map(|token| ("PERENNIAL_TOKEN", token)));
        cli::outcome(command.spawn().unwrap()).await.unwrap()
    };
    let shop = issuer.token("shop-1", &["shop"], HOUR);
    let good = check(Some(&shop), &["--output", "json"]).await;
    assert_eq!(good.code, Some(0), "{good:?}");
    let good = good.json().unwrap();
    assert_eq!(good["send"], json!(["counter", "cart-*"]));
    assert_eq!(
        (&good["events"], &good["admin"]),
        (&json!([]), &json!(false))
    );
    assert!(
        // As long as nodes take it: their clocks may be behind by node.auth.jwt.clock_skew.
        (3530..=3630).contains(&good["expires_in_seconds"].as_u64().unwrap()),
        "{good}"
    );

    let file = dir.path().join("token");
    std::fs::write(&file, format!("{shop}\n")).unwrap();
    let text = check(None, &["--token-file", file.to_str().unwrap()]).await;
    assert!(text.stdout.contains("send     counter, cart-*"), "{text:?}");
    let admin = check(None, &["--certificate", "spiffe://shop/ops"]).await;
    assert!(admin.stdout.contains("admin    yes"), "{admin:?}");

    let other = Issuer::new("k").unwrap().token("shop-1", &[], HOUR);
    let refused = check(Some(&other), &[]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("signature is wrong"), "{refused:?}");
    assert_eq!(check(None, &[]).await.code, Some(2));
}

#[tokio::test]
async fn the_command_line_keeps_tokens_off_the_network() {
    let mut command = cli::command(["state", "counter", "a"]).unwrap();
    command.env("PERENNIAL_ADDRESS", "192.0.2.1:7400");
    command.env("PERENNIAL_TOKEN", "abc");
    let refused = cli::outcome(command.spawn().unwrap()).await.unwrap();
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("without encryption"), "{refused:?}");
    assert!(!refused.stderr.contains("abc"), "{refused:?}");
}
