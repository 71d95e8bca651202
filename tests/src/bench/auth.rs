//! What it costs to find out who calls: a token that was checked before, and the same
//! token checked each time.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, anyhow, ensure};
use perennial::auth::{Expected, KeySet, Rules, TokenAccess, authenticate};
use serde_json::{Value, json};

use super::BUILD;
use crate::issuer::{self, Issuer};

/// Checks of each kind.
const CHECKS: u32 = 20_000;
const RULES: &str =
    r#"[{ subject = "shop-*", entity_types = ["counter"], allow = ["send", "read"] }]"#;

/// Measures both on one core.
///
/// # Errors
/// When the token is refused.
pub fn run() -> Result<Value> {
    let issuer = Issuer::new("k")?;
    let keys = || KeySet::parse(issuer.published().as_bytes());
    let expected = Expected {
        issuer: issuer::ISSUER.into(),
        audience: issuer::AUDIENCE.into(),
        clock_skew: Duration::ZERO,
        groups_claim: "groups".into(),
    };
    let token = issuer.token("shop-1", &["shop", "web"], Duration::from_secs(3600));
    let now = SystemTime::now();
    let checked_keys = keys()?;
    let each_time = per_check(|| authenticate(&token, &checked_keys, &expected, now).is_ok())?;
    let access = TokenAccess::new(keys()?, expected, Arc::new(Rules::parse(RULES)?));
    let remembered = per_check(|| access.caller(&token, now).is_ok())?;
    Ok(json!({
        "build": BUILD,
        "algorithm": "ES256",
        "token_bytes": token.len(),
        "checked_each_time_us": each_time,
        "remembered_us": remembered,
    }))
}

/// Microseconds of one check, the best of several runs.
fn per_check(check: impl Fn() -> bool) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let began = Instant::now();
        for _ in 0..CHECKS {
            ensure!(check(), anyhow!("a good token is refused"));
        }
        best = best.min(began.elapsed().as_secs_f64() * 1e6 / f64::from(CHECKS));
    }
    Ok((best * 100.0).round() / 100.0)
}
