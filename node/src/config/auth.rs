//! Settings of who clients are and what they may.

use std::path::PathBuf;
use std::time::Duration;

use super::Key;
use super::value::duration;
use crate::auth::{Expected, Rules};

/// The shortest text with which a person can see what is meant.
const EXPECTED_RULES: &str = "rules such as [{ subject = \"orders-service\", entity_types = [\"order\", \"cart-*\"], \
     allow = [\"send\", \"read\", \"events\"] }, { group = \"operators\", allow = [\"admin\"] }]";

/// Who clients are and what they may. As long as neither keys nor rules are set,
/// everybody may do everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthSettings {
    /// Where the keys are that tokens are signed with; without it no tokens are taken.
    pub jwks_file: Option<PathBuf>,
    /// What tokens have to say.
    pub expected: Expected,
    /// What whom is allowed.
    pub rules: Rules,
}

/// Authentication that is set up by halves would let in nobody, or the wrong ones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAuthSettings {
    /// Keys alone do not say which of their tokens are for this service.
    #[error(
        "{0} is not set, but node.auth.jwt.jwks_file is: tokens are only good with issuer and audience, set both"
    )]
    TokensOfAnybody(&'static str),
    /// Nobody could ever be known.
    #[error(
        "there are rules in node.auth.rules, and no way to know anybody: set node.auth.jwt.jwks_file to take tokens, or node.tls.client_ca to take certificates"
    )]
    NobodyKnown,
    /// Issuer or audience without keys.
    #[error(
        "node.auth.jwt.jwks_file is not set, but {0} is: without keys no token can be checked, set it too"
    )]
    NoKeys(&'static str),
}

impl AuthSettings {
    pub(super) const UNSET: Self = Self {
        jwks_file: None,
        expected: Expected {
            issuer: String::new(),
            audience: String::new(),
            clock_skew: Duration::ZERO,
            groups_claim: String::new(),
        },
        rules: Rules::NONE,
    };

    /// Whether clients have to be known.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.jwks_file.is_some() || !self.rules.is_empty()
    }

    /// Whether what belongs together is there together. Clients may also be known by
    /// the certificates they show, which is set up elsewhere.
    ///
    /// # Errors
    /// [`InvalidAuthSettings`] names the keys.
    pub(super) fn validate(&self, show_certificates: bool) -> Result<(), InvalidAuthSettings> {
        for (key, value) in [
            ("node.auth.jwt.issuer", &self.expected.issuer),
            ("node.auth.jwt.audience", &self.expected.audience),
        ] {
            match (value.is_empty(), self.jwks_file.is_some()) {
                (true, true) => return Err(InvalidAuthSettings::TokensOfAnybody(key)),
                (false, false) => return Err(InvalidAuthSettings::NoKeys(key)),
                _ => {}
            }
        }
        if self.is_configured() && self.jwks_file.is_none() && !show_certificates {
            return Err(InvalidAuthSettings::NobodyKnown);
        }
        Ok(())
    }
}

/// The keys, as documented.
pub(super) const KEYS: &[Key] = &[
    Key {
        name: "node.auth.rules",
        default: "[]",
        doc: "What whom is allowed; as soon as there are rules, or keys for tokens, everybody has \
              to be known and everything else is denied. A list of tables: whom it is about is one \
              of subject (claim sub of a token), group (of a token) and certificate (a URI, DNS \
              name or the subject of a client certificate), each a name or its beginning with a *; \
              allow holds send, read (states, lists) and events for entity_types ([\"*\"] for all), \
              or, without entity_types, status (nodes, shards, where entities live) and admin \
              (drain, passivate, delete; includes status, not reading). Best written as \
              [[node.auth.rules]]; try it with `perennial auth check`.",
        set: |settings, text| {
            let rules = Rules::parse(text).map_err(|error| format!("{EXPECTED_RULES}: {error}"))?;
            settings.auth.rules = rules;
            Ok(())
        },
    },
    Key {
        name: "node.auth.jwt.jwks_file",
        default: "",
        doc: "A file with the public keys of the tokens' issuer, a JSON Web Key Set. With it, \
              clients send a token as `authorization: Bearer …`; without it no tokens are taken. \
              It is read again within seconds when it changes; one that cannot be used changes \
              nothing.",
        set: |settings, text| {
            settings.auth.jwks_file = (!text.is_empty()).then(|| PathBuf::from(text));
            Ok(())
        },
    },
    Key {
        name: "node.auth.jwt.issuer",
        default: "",
        doc: "What the claim iss of a token has to be, exactly. Required with jwks_file: an issuer's \
              keys alone say nothing about who may use them here.",
        set: |settings, text| {
            text.clone_into(&mut settings.auth.expected.issuer);
            Ok(())
        },
    },
    Key {
        name: "node.auth.jwt.audience",
        default: "",
        doc: "What the claim aud of a token has to be or to contain, exactly. Required with \
              jwks_file: it keeps out tokens that the same issuer made for other services.",
        set: |settings, text| {
            text.clone_into(&mut settings.auth.expected.audience);
            Ok(())
        },
    },
    Key {
        name: "node.auth.jwt.clock_skew",
        default: "30s",
        doc: "How far the clocks of issuer and nodes may be apart: a token is good so much earlier \
              and longer. Raise it when fresh tokens are refused as not valid yet, lower it when \
              tokens live for less than some minutes.",
        set: |settings, text| {
            let skew = duration(text, Duration::ZERO)?;
            if skew > CLOCK_SKEW_MAX {
                return Err("a time of at most 10m: mend the clocks instead".to_owned());
            }
            settings.auth.expected.clock_skew = skew;
            Ok(())
        },
    },
    Key {
        name: "node.auth.jwt.groups_claim",
        default: "groups",
        doc: "The claim that holds the groups of a token's subject, a text or a list of texts, for \
              rules with group. Set it to what the issuer calls it, such as \"roles\".",
        set: |settings, text| {
            if text.is_empty() {
                return Err("the name of a claim".to_owned());
            }
            text.clone_into(&mut settings.auth.expected.groups_claim);
            Ok(())
        },
    },
];

/// Beyond it, tokens would hardly expire.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(600);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::config::{Settings, SettingsError, Source};

    fn load(text: &str) -> Result<Settings, SettingsError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Settings::load(Some(file.path()), [], &[])
    }

    #[test]
    fn rules_are_tables_in_a_file_and_a_list_in_a_variable() {
        let tables = load(
            "[node.auth.jwt]\njwks_file = \"/keys\"\nissuer = \"i\"\naudience = \"a\"\n\
             [[node.auth.rules]]\nsubject = \"orders\"\nentity_types = [\"cart\", \"order-*\"]\nallow = [\"send\", \"read\"]\n\
             [[node.auth.rules]]\ngroup = \"ops\"\nallow = [\"admin\"]\n",
        );
        let mut by_variable = Settings::default();
        let list = r#"[{ subject = "orders", entity_types = ["cart", "order-*"], allow = ["send", "read"] },
                       { group = "ops", allow = ["admin"] }]"#;
        let from = Source::Environment("PERENNIAL_NODE__AUTH__RULES".into());
        by_variable.set("node.auth.rules", list, from).unwrap();
        let rules = tables.unwrap().auth.rules;
        assert_eq!(rules, by_variable.auth.rules);
        assert_eq!(rules.iter().count(), 2);
        assert!(by_variable.auth.is_configured());
        assert!(!Settings::default().auth.is_configured());
    }

    #[test]
    fn a_rule_that_is_wrong_is_an_error_that_says_what_is_right() {
        let error = load("[[node.auth.rules]]\nsubject = \"a\"\nallow = [\"fly\"]\n").unwrap_err();
        let error = error.to_string();
        for part in ["node.auth.rules", "fly", "allow = [\"send\"", "file "] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn half_an_authentication_is_none() {
        let keys = "[node.auth.jwt]\njwks_file = \"/keys\"\n";
        for (text, named) in [
            (keys.to_owned(), "node.auth.jwt.issuer is not set"),
            (
                format!("{keys}issuer = \"i\"\n"),
                "node.auth.jwt.audience is not set",
            ),
            (
                "[[node.auth.rules]]\nsubject = \"a\"\nallow = [\"admin\"]\n".to_owned(),
                "no way to know anybody",
            ),
            (
                "[node.auth.jwt]\naudience = \"a\"\n".to_owned(),
                "node.auth.jwt.jwks_file is not set",
            ),
        ] {
            let error = load(&text).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
        let whole = load(&format!("{keys}issuer = \"i\"\naudience = \"a\"\n")).unwrap();
        assert!(whole.auth.is_configured());
    }

    #[test]
    fn clocks_may_not_be_apart_for_hours() {
        let set = |text: &str| load(&format!("[node.auth.jwt]\nclock_skew = \"{text}\"\n"));
        assert!(set("0s").is_ok());
        assert!(set("10m").is_ok());
        assert!(set("11m").is_err());
    }
}
