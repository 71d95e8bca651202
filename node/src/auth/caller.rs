//! A client and what it may: what a call carries along once it is let in.

use std::time::SystemTime;

use super::identity::{Identity, Proof};
use super::rules::{Grants, Right};

/// Who calls, and what that allows. Made once for a token or a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    identity: Identity,
    grants: Grants,
}

/// A caller that is known and may not do what it wants.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} has not the right {right}{}: whoever runs this service can give it in node.auth.rules",
    .entity_type.as_ref().map(|name| format!(" for entities of type {name:?}")).unwrap_or_default()
)]
pub struct Denied {
    /// The caller's own name.
    pub name: String,
    /// What is missing.
    pub right: &'static str,
    /// For which entities, as the caller wrote it.
    pub entity_type: Option<String>,
}

impl Caller {
    /// A caller with what its rules allow.
    #[must_use]
    pub fn new(identity: Identity, grants: Grants) -> Self {
        Self { identity, grants }
    }

    /// Whoever calls where nobody is asked: may do everything.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::new(Identity::anonymous(), Grants::all())
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What it may.
    #[must_use]
    pub fn grants(&self) -> &Grants {
        &self.grants
    }

    /// Whether nobody was asked who it is.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.identity.proof == Proof::Anonymous
    }

    /// When it is not this caller any more, exclusive.
    #[must_use]
    pub fn expires(&self) -> Option<SystemTime> {
        self.identity.expires
    }

    /// Whether it may do something to entities of a type.
    ///
    /// # Errors
    /// [`Denied`], also for types there are not: what there is, is not told.
    pub fn may(&self, right: Right, entity_type: &str) -> Result<(), Denied> {
        if self.grants.allow(right, entity_type) {
            return Ok(());
        }
        let entity_type = right.is_of_types().then_some(entity_type);
        Err(self.denied(right, entity_type))
    }

    /// Whether it has a right for anything at all; which entities it is about is asked
    /// when that is known.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn may_somewhere(&self, right: Right) -> Result<(), Denied> {
        match self.grants.allow_somewhere(right) {
            true => Ok(()),
            false => Err(self.denied(right, None)),
        }
    }

    fn denied(&self, right: Right, entity_type: Option<&str>) -> Denied {
        Denied {
            name: self.identity.name().to_owned(),
            right: right.name(),
            entity_type: entity_type.map(|name| name.chars().take(80).collect()),
        }
    }
}
