//! What whom is allowed: rules, and the grants that follow from them for one identity.
//!
//! Rules only add up: what no rule allows is denied, and there is nothing that forbids.
//! Grants are made once for an identity and asked for every command. It knows nothing of
//! calls; `grpc/rights.rs` says which right each of them needs.

use std::fmt;

use serde::Deserialize;

use super::identity::{Identity, Proof};

/// Rules of a node, inclusive.
const RULES_MAX: usize = 1000;

/// Something that can be allowed. The first three are about entities and are given by
/// entity type; the others are about the cluster as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// To send commands.
    Send,
    /// To read states and lists of entities.
    Read,
    /// To read stored events.
    Events,
    /// To see nodes, shards and where an entity lives: no contents.
    Status,
    /// To drain nodes, to passivate and to delete entities. Includes `status`, and
    /// neither sending nor reading: who runs a cluster need not see what is in it.
    Admin,
}

impl Right {
    /// All there are.
    pub const ALL: [Self; 5] = [
        Self::Send,
        Self::Read,
        Self::Events,
        Self::Status,
        Self::Admin,
    ];

    /// As the configuration writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Read => "read",
            Self::Events => "events",
            Self::Status => "status",
            Self::Admin => "admin",
        }
    }

    /// Whether it is given by entity type.
    #[must_use]
    pub fn is_of_types(self) -> bool {
        matches!(self, Self::Send | Self::Read | Self::Events)
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name, or the beginning of names with a `*` behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// This one.
    Exactly(String),
    /// All that begin so; all there are when it is empty.
    Beginning(String),
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, String> {
        let (beginning, name) = match text.strip_suffix('*') {
            Some(beginning) => (true, beginning),
            None => (false, text),
        };
        if text.is_empty() || name.contains('*') {
            return Err(format!(
                "{text:?} is neither a name nor the beginning of names with one * at its end"
            ));
        }
        Ok(match beginning {
            true => Self::Beginning(name.to_owned()),
            false => Self::Exactly(name.to_owned()),
        })
    }

    /// Whether this name is meant.
    #[must_use]
    pub fn fits(&self, name: &str) -> bool {
        match self {
            Self::Exactly(exactly) => exactly == name,
            Self::Beginning(beginning) => name.starts_with(beginning.as_str()),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(name) => f.write_str(name),
            Self::Beginning(name) => write!(f, "{name}*"),
        }
    }
}

/// Whom a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// The subject of a token.
    Subject(Pattern),
    /// One of the groups of a token.
    Group(Pattern),
    /// One of the names of a client certificate.
    Certificate(Pattern),
}

impl Who {
    fn is(&self, identity: &Identity) -> bool {
        match (self, &identity.proof) {
            (Self::Subject(pattern), Proof::Token { subject, .. }) => pattern.fits(subject),
            (Self::Group(pattern), Proof::Token { groups, .. }) => {
                groups.iter().any(|group| pattern.fits(group))
            }
            (Self::Certificate(pattern), Proof::Certificate { names }) => {
                names.iter().any(|name| pattern.fits(name))
            }
            _ => false,
        }
    }
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Whom it is about.
    pub who: Who,
    /// Entities of which types.
    pub entity_types: Vec<Pattern>,
    /// What they may.
    pub allow: Vec<Right>,
}

/// The rules of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

/// Why a text is no list of rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidRule(String);

impl Rules {
    /// Nobody may do anything.
    pub const NONE: Self = Self(Vec::new());

    /// Reads a list of tables as TOML writes it in one line.
    ///
    /// # Errors
    /// [`InvalidRule`] says which rule and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, InvalidRule> {
        let written: Written = toml::from_str(&format!("rules = {text}"))
            .map_err(|error| InvalidRule(error.message().to_owned()))?;
        if written.rules.len() > RULES_MAX {
            let count = written.rules.len();
            return Err(InvalidRule(format!(
                "{count} rules are more than {RULES_MAX}"
            )));
        }
        let numbered = written.rules.into_iter().zip(1..);
        let rules = numbered.map(|(rule, nr)| {
            Rule::of(rule).map_err(|why| InvalidRule(format!("rule {nr}: {why}")))
        });
        rules.collect::<Result<_, _>>().map(Self)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter()
    }

    /// What an identity may. Nothing, if it is anonymous: where everybody may do
    /// everything, nobody asks for rules.
    #[must_use]
    pub fn grants(&self, identity: &Identity) -> Grants {
        let mut grants = Grants::default();
        for rule in self.0.iter().filter(|rule| rule.who.is(identity)) {
            for right in &rule.allow {
                grants.add(*right, &rule.entity_types);
            }
        }
        grants
    }
}

/// What one identity may.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    send: Vec<Pattern>,
    read: Vec<Pattern>,
    events: Vec<Pattern>,
    status: bool,
    admin: bool,
}

impl Grants {
    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        let every = || vec![Pattern::Beginning(String::new())];
        Self {
            send: every(),
            read: every(),
            events: every(),
            status: true,
            admin: true,
        }
    }

    fn add(&mut self, right: Right, entity_types: &[Pattern]) {
        let types = match right {
            Right::Send => &mut self.send,
            Right::Read => &mut self.read,
            Right::Events => &mut self.events,
            Right::Status => {
                self.status = true;
                return;
            }
            Right::Admin => {
                (self.admin, self.status) = (true, true);
                return;
            }
        };
        types.extend_from_slice(entity_types);
    }

    /// The types a right is given for; none for a right of the whole cluster.
    #[must_use]
    pub fn types(&self, right: Right) -> &[Pattern] {
        match right {
            Right::Send => &self.send,
            Right::Read => &self.read,
            Right::Events => &self.events,
            Right::Status | Right::Admin => &[],
        }
    }

    /// Whether a right is given for entities of this type; one of the whole cluster is
    /// given for all types or none.
    #[must_use]
    pub fn allow(&self, right: Right, entity_type: &str) -> bool {
        match right {
            Right::Status => self.status,
            Right::Admin => self.admin,
            of_types => self
                .types(of_types)
                .iter()
                .any(|types| types.fits(entity_type)),
        }
    }

    /// Whether a right is given for anything at all.
    #[must_use]
    pub fn allow_somewhere(&self, right: Right) -> bool {
        match right {
            Right::Status => self.status,
            Right::Admin => self.admin,
            of_types => !self.types(of_types).is_empty(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    rules: Vec<WrittenRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRule {
    subject: Option<String>,
    group: Option<String>,
    certificate: Option<String>,
    entity_types: Option<Vec<String>>,
    allow: Vec<Right>,
}

impl Rule {
    fn of(written: WrittenRule) -> Result<Self, String> {
        let WrittenRule {
            subject,
            group,
            certificate,
            entity_types,
            allow,
        } = written;
        let who = match (subject, group, certificate) {
            (Some(name), None, None) => Who::Subject(Pattern::parse(&name)?),
            (None, Some(name), None) => Who::Group(Pattern::parse(&name)?),
            (None, None, Some(name)) => Who::Certificate(Pattern::parse(&name)?),
            _ => return Err("it needs one of subject, group and certificate".to_owned()),
        };
        if allow.is_empty() {
            return Err("it allows nothing".to_owned());
        }
        let entity_types =
            entity_types.map(|types| types.iter().map(|name| Pattern::parse(name)).collect());
        let entity_types: Vec<Pattern> = entity_types.transpose()?.unwrap_or_default();
        if allow.iter().any(|right| right.is_of_types()) && entity_types.is_empty() {
            return Err(
                "send, read and events need entity_types; [\"*\"] means all of them".to_owned(),
            );
        }
        // Nobody shall think that an admin of one type was made.
        if !entity_types.is_empty()
            && let Some(right) = allow.iter().find(|right| !right.is_of_types())
        {
            return Err(format!(
                "{right} is a right in the whole cluster: give it in a rule of its own, without entity_types"
            ));
        }
        Ok(Self {
            who,
            entity_types,
            allow,
        })
    }
}

#[cfg(test)]
#[path = "rules/rules_test.rs"]
#[allow(clippy::unwrap_used)]
mod rules_test;
