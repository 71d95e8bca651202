//! Puts together how a node knows its clients, from its settings.

use std::future::Future;
use std::sync::Arc;

use perennial_persistence::entity_types::EntityTypes;

use super::NodeError;
use crate::auth::{Access, CertificateAccess, JwksFile, Pattern, TokenAccess};
use crate::config::{AuthSettings, Settings};

/// How clients are known, and the file with the keys if tokens are taken.
pub(super) async fn client_access(
    settings: &Settings,
    types: &EntityTypes,
) -> Result<(Arc<Access>, Option<JwksFile>), NodeError> {
    settings.validate_auth()?;
    let settings = &settings.auth;
    if !settings.is_configured() {
        tracing::info!(
            "clients are not asked who they are: whoever reaches the port may do everything; set node.auth.rules to change that"
        );
        return Ok((Arc::new(Access::everybody()), None));
    }
    warn_of_unknown_types(settings, types);
    let rules = Arc::new(settings.rules.clone());
    if rules.is_empty() {
        tracing::warn!(
            "there are no rules in node.auth.rules: clients are known and may do nothing"
        );
    }
    let certificates = CertificateAccess::new(Arc::clone(&rules));
    let Some(path) = &settings.jwks_file else {
        let access = Access::Known {
            tokens: None,
            certificates,
        };
        return Ok((Arc::new(access), None));
    };
    let (file, keys) = JwksFile::open(path).await?;
    tracing::info!(
        issuer = settings.expected.issuer,
        audience = settings.expected.audience,
        keys = keys.usable(),
        rules = rules.iter().count(),
        "clients are known by their tokens"
    );
    let tokens = TokenAccess::new(keys, settings.expected.clone(), rules);
    let access = Access::Known {
        tokens: Some(Arc::new(tokens)),
        certificates,
    };
    Ok((Arc::new(access), Some(file)))
}

/// What reads the keys again when they change; nothing if no tokens are taken.
pub(super) fn follow_keys(
    keys: JwksFile,
    access: &Access,
) -> Option<impl Future<Output = ()> + Send + use<>> {
    match access {
        Access::Known {
            tokens: Some(tokens),
            ..
        } => Some(keys.follow(Arc::clone(tokens))),
        _ => None,
    }
}

/// Not an error: during an update there are nodes that know more types than others.
fn warn_of_unknown_types(settings: &AuthSettings, types: &EntityTypes) {
    for (rule, nr) in settings.rules.iter().zip(1..) {
        for pattern in &rule.entity_types {
            let Pattern::Exactly(name) = pattern else {
                continue;
            };
            if !types.names().any(|known| known == name) {
                tracing::warn!(
                    rule = nr,
                    entity_type = name,
                    "a rule of node.auth.rules names an entity type that this binary does not have"
                );
            }
        }
    }
}
