//! Where a storage is: `memory:`, `sqlite:PATH` or `postgres://…`.
//!
//! Parsed once. A password is never printed: `Debug` and `Display` leave it out,
//! and errors do not repeat the text.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

/// Where a storage is.
#[derive(Clone)]
pub enum StorageUrl {
    /// In this process; nothing survives it.
    Memory,
    /// In one SQLite file.
    Sqlite(PathBuf),
    /// In a Postgres database, schema `perennial`.
    Postgres(PostgresAddress),
}

/// How to connect to Postgres, with the password.
#[derive(Clone)]
pub struct PostgresAddress(pub(crate) Box<PgConnectOptions>);

/// Why a text is not a [`StorageUrl`]. Does not repeat the text, which may hold a
/// password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidStorageUrl {
    /// It begins with none of the known schemes.
    #[error(
        "the journal URL has an unknown scheme{}: use \"memory:\", \"sqlite:PATH\" or \
         \"postgres://USER:PASSWORD@HOST:PORT/DATABASE\"", .scheme.as_ref().map(|s| format!(" {s:?}")).unwrap_or_default()
    )]
    Scheme {
        /// What stands before the first colon, if it looks like a scheme.
        scheme: Option<String>,
    },
    /// `memory:` with something behind it.
    #[error("\"memory:\" takes nothing after the colon")]
    Memory,
    /// `sqlite:` without a usable path.
    #[error(
        "\"sqlite:\" needs the path of a file, as in \"sqlite:data/journal.sqlite\"; for a journal in memory use \"memory:\""
    )]
    SqlitePath,
    /// A Postgres URL that cannot be understood.
    #[error(
        "the Postgres URL cannot be understood: {problem}; use postgres://USER:PASSWORD@HOST:PORT/DATABASE"
    )]
    Postgres {
        /// What the driver said.
        problem: String,
    },
}

impl StorageUrl {
    /// Parses a URL.
    ///
    /// # Errors
    /// [`InvalidStorageUrl`] says what is expected.
    pub fn parse(text: &str) -> Result<Self, InvalidStorageUrl> {
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(InvalidStorageUrl::Scheme { scheme: None });
        };
        match scheme {
            "memory" if rest.is_empty() => Ok(Self::Memory),
            "memory" => Err(InvalidStorageUrl::Memory),
            "sqlite" => {
                let path = rest.strip_prefix("//").unwrap_or(rest);
                if path.is_empty() || path.starts_with(':') || path.ends_with('/') {
                    return Err(InvalidStorageUrl::SqlitePath);
                }
                Ok(Self::Sqlite(PathBuf::from(path)))
            }
            "postgres" | "postgresql" => {
                if !rest.starts_with("//") {
                    let problem = "\"//\" is missing after the scheme".into();
                    return Err(InvalidStorageUrl::Postgres { problem });
                }
                let options = PgConnectOptions::from_str(text).map_err(|error| {
                    let problem = error.to_string();
                    InvalidStorageUrl::Postgres { problem }
                })?;
                Ok(Self::Postgres(PostgresAddress(Box::new(options))))
            }
            _ => Err(InvalidStorageUrl::Scheme {
                scheme: scheme
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '+' || c == '-')
                    .then(|| scheme.chars().take(20).collect()),
            }),
        }
    }

    /// The URL of an SQLite file.
    #[must_use]
    pub fn sqlite(path: &Path) -> Self {
        Self::Sqlite(path.to_owned())
    }
}

impl fmt::Display for StorageUrl {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory:"),
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(address) => address.fmt(f),
        }
    }
}

impl fmt::Display for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &*self.0;
        let (user, host, port) = (
            options.get_username(),
            options.get_host(),
            options.get_port(),
        );
        let database = options.get_database().unwrap_or(user);
        write!(f, "postgres://{user}@{host}:{port}/{database}")
    }
}

impl fmt::Debug for StorageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StorageUrl({self})")
    }
}

impl fmt::Debug for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresAddress({self})")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_understood_and_shown_without_its_password() {
        for (text, shown) in [
            ("memory:", "memory:"),
            ("sqlite:data/j.sqlite", "sqlite:data/j.sqlite"),
            ("sqlite:///var/j.sqlite", "sqlite:/var/j.sqlite"),
            (
                "postgres://ada:geheim@db:5433/shop",
                "postgres://ada@db:5433/shop",
            ),
            (
                "postgresql://ada:geheim@db/shop?sslmode=require",
                "postgres://ada@db:5432/shop",
            ),
        ] {
            let url = StorageUrl::parse(text).unwrap();
            assert_eq!(url.to_string(), shown);
            assert!(!format!("{url:?}").contains("geheim"));
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_without_repeating_it() {
        for text in [
            "",
            "journal.sqlite",
            "memory:x",
            "sqlite:",
            "sqlite::memory:",
            "sqlite:dir/",
            "mysql://ada:geheim@db/shop",
            "postgres:ada:geheim@db",
            "postgres://ada:geheim@db:port/shop",
            "ada:geheim@db",
        ] {
            let error = StorageUrl::parse(text).unwrap_err();
            assert!(!error.to_string().contains("geheim"), "{error}");
        }
    }
}
