//! The settings of a node: one TOML file, environment variables over it, command
//! line flags over those.
//!
//! Each setting is one [`Key`]: name, default, documentation and how its text is
//! understood, in `config/persistence.rs`, `config/node.rs`, `config/auth.rs`,
//! `config/tls.rs`, `config/limits.rs`, `config/sharding.rs`, `config/cluster.rs` and `config/telemetry.rs`; units are read in
//! `config/value.rs`. What every key is for is printed by `perennial config` and kept in `perennial.toml` beside this
//! crate. Nothing below this crate reads files or the environment. Next:
//! `node.rs`, which starts a node with them.

mod auth;
mod cluster;
mod limits;
mod node;
mod persistence;
mod sharding;
mod telemetry;
mod tls;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use perennial_persistence::backoff::InvalidBackoffSettings;
use perennial_persistence::circuit_breaker::InvalidCircuitBreakerSettings;
use perennial_persistence::engine::EngineSettings;
use perennial_persistence::storage::{StorageOptions, StorageUrl};

pub use self::auth::{AuthSettings, InvalidAuthSettings};
pub use self::cluster::{ClusterSettings, InvalidClusterSettings, Reads};
pub use self::sharding::{ShardingSettings, Share};
pub use self::telemetry::TelemetrySettings;
pub use self::tls::TlsSettings;
use crate::connections::ConnectionLimits;
use crate::tls::TlsError;

/// What a node can be told. Make one with [`Settings::default`] or
/// [`Settings::load`].
#[derive(Debug, Clone)]
pub struct Settings {
    /// Of the entity engine.
    pub engine: EngineSettings,
    /// Of the connections to the journal.
    pub storage: StorageOptions,
    /// Where events are stored.
    pub journal_url: Option<StorageUrl>,
    /// Commands and reads in work at once.
    pub max_in_flight: usize,
    /// How long a stopping node may finish what it accepted.
    pub drain_timeout: Duration,
    /// Certificates, for clients and for other nodes.
    pub tls: TlsSettings,
    /// Towards whoever can reach the ports.
    pub limits: ConnectionLimits,
    /// Who clients are and what they may.
    pub auth: AuthSettings,
    /// Fixed when the cluster is formed.
    pub number_of_shards: u32,
    /// How shards move.
    pub sharding: ShardingSettings,
    /// How nodes find out about each other.
    pub cluster: ClusterSettings,
    /// The node's share of the shards relative to others.
    pub weight: u32,
    /// Where traces go.
    pub telemetry: TelemetrySettings,
}

/// One setting.
#[derive(Clone, Copy)]
pub struct Key {
    /// Its dotted name, as in the file.
    pub name: &'static str,
    /// The text that gives its default.
    pub default: &'static str,
    /// What it is, its unit, and why one would change it.
    pub doc: &'static str,
    /// Understands a text, or says what was expected instead.
    set: fn(&mut Settings, &str) -> Result<(), value::Expected>,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The settings file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A command line flag.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(variable) => write!(f, "environment variable {variable}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// There is no such key.
    #[error(
        "unknown setting {key:?} = {value:?} in {from}: expected one of the keys that `perennial config` lists{}",
        .nearest.map(|nearest| format!("; did you mean {nearest:?}?")).unwrap_or_default()
    )]
    UnknownKey {
        /// As written.
        key: String,
        /// As written.
        value: String,
        /// Where.
        from: Source,
        /// The key most like it, if one is.
        nearest: Option<&'static str>,
    },
    /// The value cannot be used.
    #[error("bad value {value:?} of setting {key:?} in {from}: expected {expected}")]
    BadValue {
        /// The key.
        key: String,
        /// As written.
        value: String,
        /// Where.
        from: Source,
        /// What would have been good.
        expected: String,
    },
    /// The back-off's settings contradict each other.
    #[error(transparent)]
    Backoff(#[from] InvalidBackoffSettings),
    /// The circuit breaker's settings cannot work.
    #[error(transparent)]
    CircuitBreaker(#[from] InvalidCircuitBreakerSettings),
    /// The cluster's times contradict each other.
    #[error(transparent)]
    Cluster(#[from] InvalidClusterSettings),
    /// Settings of certificates that need each other.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Authentication is set up by halves.
    #[error(transparent)]
    Auth(#[from] InvalidAuthSettings),
    /// The file cannot be read.
    #[error("cannot read the settings file {}: check the path and its permissions", .path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("the settings file {} is not valid TOML", .path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
}

impl Default for Settings {
    fn default() -> Self {
        let mut settings = Self {
            engine: EngineSettings::default(),
            storage: StorageOptions::default(),
            journal_url: None,
            max_in_flight: 0,
            drain_timeout: Duration::ZERO,
            tls: TlsSettings::UNSET,
            limits: ConnectionLimits::UNSET,
            auth: AuthSettings::UNSET,
            number_of_shards: 0,
            sharding: ShardingSettings::UNSET,
            cluster: ClusterSettings::UNSET,
            weight: 0,
            telemetry: TelemetrySettings::default(),
        };
        for key in Self::keys() {
            // The texts are constants; `every_default_is_a_good_value` sets them all.
            let set = (key.set)(&mut settings, key.default);
            assert!(set.is_ok(), "the default of {} is a bad value", key.name);
        }
        settings
    }
}

impl Settings {
    /// Every key there is, in the order they are documented.
    pub fn keys() -> impl Iterator<Item = &'static Key> {
        [
            persistence::KEYS,
            node::KEYS,
            tls::KEYS,
            limits::KEYS,
            auth::KEYS,
            sharding::KEYS,
            cluster::KEYS,
            telemetry::KEYS,
        ]
        .into_iter()
        .flatten()
    }

    /// The defaults, then the file, then the environment, then the flags, given
    /// as key, value and the flag's name.
    ///
    /// Only variables that start with `PERENNIAL_` and contain `__` are settings:
    /// `PERENNIAL_PERSISTENCE__SNAPSHOT__EVERY` is `persistence.snapshot.every`.
    ///
    /// # Errors
    /// [`SettingsError`] names key, value, where it stands, and what was expected.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[(&'static str, String, &'static str)],
    ) -> Result<Self, SettingsError> {
        let mut settings = Self::default();
        if let Some(path) = file {
            settings.set_all(&read_file(path)?, path)?;
        }
        // In a fixed order: some keys are two ways to say the same.
        let environment: BTreeMap<String, String> = environment.into_iter().collect();
        for (variable, value) in environment {
            if let Some(key) = key_of_variable(&variable) {
                settings.set(&key, &value, Source::Environment(variable))?;
            }
        }
        for (key, value, flag) in flags {
            settings.set(key, value, Source::Flag(flag))?;
        }
        settings.fitting()
    }

    /// The defaults, then a file's text; the path is for messages.
    pub(crate) fn of_text(text: &str, path: &Path) -> Result<Self, SettingsError> {
        let mut settings = Self::default();
        settings.set_all(text, path)?;
        settings.fitting()
    }

    /// Sets what a file's text says.
    fn set_all(&mut self, text: &str, path: &Path) -> Result<(), SettingsError> {
        for (key, value) in entries(text, path)? {
            self.set(&key, &value, Source::File(path.to_owned()))?;
        }
        Ok(())
    }

    /// Checks what no setting can say alone.
    fn fitting(self) -> Result<Self, SettingsError> {
        self.engine.backoff.validate()?;
        self.engine.circuit_breaker.validate()?;
        self.cluster.liveness()?;
        self.cluster.raft()?;
        self.region()?;
        self.tls.of_clients()?;
        self.tls.of_peers()?;
        self.validate_auth()?;
        Ok(self)
    }

    /// Whether authentication is set up as a whole.
    ///
    /// # Errors
    /// [`SettingsError::Auth`] and [`SettingsError::Tls`] name the keys.
    pub fn validate_auth(&self) -> Result<(), SettingsError> {
        let clients = self.tls.of_clients()?;
        let show_certificates = clients.is_some_and(|(files, _)| files.ca.is_some());
        Ok(self.auth.validate(show_certificates)?)
    }

    /// Sets one key from its text.
    ///
    /// # Errors
    /// [`SettingsError::UnknownKey`] and [`SettingsError::BadValue`].
    pub fn set(&mut self, key: &str, value: &str, from: Source) -> Result<(), SettingsError> {
        let Some(known) = Self::keys().find(|known| known.name == key) else {
            return Err(SettingsError::UnknownKey {
                key: key.to_owned(),
                value: printable(value),
                from,
                nearest: nearest_key(key),
            });
        };
        (known.set)(self, value).map_err(|expected| SettingsError::BadValue {
            key: key.to_owned(),
            value: printable(value),
            from,
            expected,
        })
    }

    /// A settings file that sets every key to its default, each with its
    /// documentation: what `perennial config` prints.
    #[must_use]
    pub fn reference() -> String {
        let mut text = String::from(
            "# All settings of Perennial with their defaults, as `perennial config` prints them.\n\
             # Give a file like this with --config; leave out what stays as it is. A variable\n\
             # such as PERENNIAL_PERSISTENCE__SNAPSHOT__EVERY overrides a file, a flag both.\n",
        );
        let mut section = "";
        for key in Self::keys() {
            // Every key has a section: see `every_key_is_documented`.
            let (key_section, name) = key.name.rsplit_once('.').unwrap_or(("", key.name));
            if key_section != section {
                section = key_section;
                text.push_str(&format!("\n[{section}]\n"));
            } else {
                text.push('\n');
            }
            for line in wrap(key.doc, 96) {
                text.push_str(&format!("# {line}\n"));
            }
            // Numbers and empty lists.
            let bare = key.default.parse::<f64>().is_ok() || key.default == "[]";
            let quote = if bare { "" } else { "\"" };
            text.push_str(&format!("{name} = {quote}{}{quote}\n", key.default));
        }
        text
    }
}

fn read_file(path: &Path) -> Result<String, SettingsError> {
    std::fs::read_to_string(path).map_err(|source| SettingsError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

/// Keys and texts of a file, in its order.
fn entries(text: &str, path: &Path) -> Result<Vec<(String, String)>, SettingsError> {
    let table = text
        .parse::<toml::Table>()
        .map_err(|source| SettingsError::Syntax {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
    let mut entries = Vec::new();
    flatten("", table, &mut entries);
    Ok(entries)
}

fn flatten(section: &str, table: toml::Table, entries: &mut Vec<(String, String)>) {
    for (name, value) in table {
        let key = if section.is_empty() {
            name
        } else {
            format!("{section}.{name}")
        };
        match value {
            toml::Value::Table(table) => flatten(&key, table, entries),
            toml::Value::String(text) => entries.push((key, text)),
            // Numbers and lists read as they are written; dates fit no key.
            other => entries.push((key, other.to_string())),
        }
    }
}

/// `PERENNIAL_NODE__MAX_PAYLOAD` is `node.max_payload`; `None` for a variable
/// that is no setting, such as `PERENNIAL_ADDRESS`.
fn key_of_variable(variable: &str) -> Option<String> {
    let name = variable.strip_prefix("PERENNIAL_")?;
    name.contains("__")
        .then(|| name.replace("__", ".").to_lowercase())
}

/// A value as an error shows it: cut to a readable length, and of a URL, which may
/// hold a password, only the scheme.
fn printable(value: &str) -> String {
    match value.split_once(':') {
        Some((scheme, _)) => format!("{}:***", scheme.chars().take(30).collect::<String>()),
        None => value.chars().take(120).collect(),
    }
}

/// The key that shares the longest beginning with a wrong one, beyond its section.
fn nearest_key(wrong: &str) -> Option<&'static str> {
    let shared = |name: &str| {
        let equal = |(a, b): &(char, char)| a == b;
        name.chars().zip(wrong.chars()).take_while(equal).count()
    };
    let nearest = Settings::keys()
        .map(|key| key.name)
        .max_by_key(|name| shared(name))?;
    let section_len = nearest.rfind('.').map_or(0, |dot| dot + 1);
    (shared(nearest) > section_len).then_some(nearest)
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
#[path = "config/config_test.rs"]
#[allow(clippy::unwrap_used)]
mod config_test;
