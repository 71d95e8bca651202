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
    /// In a Postgres database, schema `perennial`: see [`PostgresAddress`].
    Postgres(PostgresAddress),
}

/// How to connect to Postgres, with the password:
/// `postgres://USER:PASSWORD@HOST:PORT/DATABASE?PARAMETERS`.
///
/// * **Password.** What is in a command line can be read by every user of the
///   machine: put the URL into the configuration file or an environment variable,
///   or leave the password out of it and give it as `PGPASSWORD` or in `~/.pgpass`.
/// * **TLS.** `sslmode=verify-full&sslrootcert=FILE` encrypts and checks that the
///   server's certificate comes from that authority (without `sslrootcert`, from
///   one the system trusts) and is made out to HOST. `sslmode=require` only
///   encrypts. `sslcert` and `sslkey` name a certificate of the client's own.
/// * **Primary.** Connections to a read-only server are given up and made anew, so
///   HOST should be a name that follows a switchover.
/// * **PgBouncer.** Session mode works as it is. Transaction mode needs PgBouncer
///   1.21 or later with `max_prepared_statements` of at least 100: statements are
///   prepared in one round trip and executed in another. (A statement cache of 0 is
///   no way out and refused here: the driver would still prepare by name, and
///   never forget.) In both modes set `ignore_startup_parameters =
///   extra_float_digits, options`; the server's own `statement_timeout` then
///   bounds statements. The pool must be as large as all nodes' lanes, readers and
///   four connections each for the registry, or a fence may wait behind what it
///   fences. `perennial journal migrate` needs a direct connection.
/// * Other parameters: `user`, `password`, `dbname`, `host`, `hostaddr`, `port`,
///   `application_name` (replaced), `options`, `statement-cache-capacity`.
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
                let invalid = |problem| InvalidStorageUrl::Postgres { problem };
                check_parameters(rest).map_err(invalid)?;
                let options =
                    PgConnectOptions::from_str(text).map_err(|error| invalid(error.to_string()))?;
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

/// What a URL may have after its "?". The driver ignores others, with their values
/// in the log; a misspelt `password` must not end up there, nor a misspelt
/// `sslmode` be without effect.
const PARAMETERS: &[&str] = &[
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// Says what is wrong with the parameters, without their values.
fn check_parameters(url: &str) -> Result<(), String> {
    let (_, parameters) = url.split_once('?').unwrap_or((url, ""));
    for parameter in parameters.split('&').filter(|text| !text.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if name == "statement-cache-capacity" && value.parse() == Ok(0_usize) {
            return Err("statement-cache-capacity must be at least 1".into());
        }
        if !PARAMETERS.contains(&name) && !name.starts_with("options[") {
            // Behind an unescaped "?" may be the rest of a password.
            let shown = if parameters.contains('@') { "" } else { name };
            return Err(format!(
                "it has an unknown parameter {shown:?}; known are {}",
                PARAMETERS.join(", ")
            ));
        }
    }
    Ok(())
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
            "postgres://ada@db/shop?passwrod=geheim",
            "postgres://ada:geheim@db/shop?ssl_mode=verify-full",
            "postgres://ada:geheim@db/shop?statement-cache-capacity=0",
            "postgres://ada:4?geheim@db/shop",
        ] {
            let error = StorageUrl::parse(text).unwrap_err();
            assert!(!error.to_string().contains("geheim"), "{error}");
        }
    }
}
