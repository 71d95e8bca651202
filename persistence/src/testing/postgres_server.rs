//! A real Postgres for tests: a fresh database each, on one server per process.
//!
//! The server is the one that `PERENNIAL_TEST_DATABASE_URL` names, whose user must
//! be allowed to create databases. Without it a private server is started from the
//! installed programs, on a free port of the loopback interface, with its own
//! temporary folder. It does not wait for the disk (`fsync=off`), so it is no
//! measure of speed; one with [`PostgresSetup::durable`] is. It ends, and its folder is removed, when the test process
//! ends in whatever way: a watchdog waits for the end of a pipe that only the test
//! process holds.

#![allow(clippy::unwrap_used)]

use std::env;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::str::FromStr;
use std::sync::OnceLock;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor};
use uuid::Uuid;

use crate::storage::StorageUrl;

/// Names a server to use instead of a private one.
const SERVER_VARIABLE: &str = "PERENNIAL_TEST_DATABASE_URL";

/// How often another port is tried, when somebody else took the one found free.
const PORTS_TRIED: usize = 5;

/// A database of a test's own, removed when dropped.
pub struct TestDatabase {
    server: String,
    name: String,
}

impl TestDatabase {
    /// Makes a database on the process's server, starting that if need be.
    ///
    /// # Panics
    /// When there is no Postgres to use, in one line that says what to install.
    pub async fn new() -> Self {
        Self::on(shared_server()).await
    }

    /// Makes a database on a server of the test's own.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn on(server: &str) -> Self {
        let name = format!("perennial_test_{}", Uuid::new_v4().simple());
        let mut connection = PgConnectOptions::from_str(server)
            .unwrap()
            .connect()
            .await
            .unwrap();
        connection
            .execute(format!("CREATE DATABASE {name}").as_str())
            .await
            .unwrap();
        connection.close().await.unwrap();
        Self {
            server: server.to_owned(),
            name,
        }
    }

    /// Where it is, as a text for flags and settings.
    #[must_use]
    pub fn url_text(&self) -> String {
        with_database(&self.server, &self.name)
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> StorageUrl {
        StorageUrl::parse(&self.url_text()).unwrap()
    }

    /// How to connect to it directly.
    #[must_use]
    pub fn connect_options(&self) -> PgConnectOptions {
        PgConnectOptions::from_str(&self.url_text()).unwrap()
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // The test's runtime may be on its way out, so another does it.
        let remove = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let options = PgConnectOptions::from_str(&server).map_err(std::io::Error::other)?;
                let mut connection = options.connect().await.map_err(std::io::Error::other)?;
                let drop_database = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
                connection
                    .execute(drop_database.as_str())
                    .await
                    .map_err(std::io::Error::other)
            })
        };
        // A server that was stopped by the test takes its databases along.
        let _ = std::thread::spawn(remove).join();
    }
}

/// How a private server differs from the usual one.
#[derive(Debug, Default, Clone, Copy)]
pub struct PostgresSetup<'a> {
    /// Asked of everybody; without one everybody is let in.
    pub password: Option<&'a str>,
    /// Files with its key and its certificate; without them there is no TLS.
    pub tls: Option<(&'a Path, &'a Path)>,
    /// Commits wait for the disk, for measurements; tests are faster without.
    pub durable: bool,
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// A private server, stopped and removed when dropped.
pub struct PostgresServer {
    programs: PathBuf,
    folder: PathBuf,
    port: u16,
    password: Option<String>,
    has_tls: bool,
    durable: bool,
    /// Ends the server when its standard input ends.
    watchdog: Child,
}

impl PostgresServer {
    /// Starts a server of its own, for tests that stop it or restart it.
    ///
    /// # Panics
    /// When Postgres is not installed, or does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(PostgresSetup::default())
    }

    /// Starts a server that differs from the usual one.
    ///
    /// # Panics
    /// As [`PostgresServer::start`] does.
    #[must_use]
    pub fn start_with(setup: PostgresSetup<'_>) -> Self {
        let programs = find_programs();
        let folder =
            env::temp_dir().join(format!("perennial-postgres-{}", Uuid::new_v4().simple()));
        std::fs::create_dir(&folder).unwrap();
        let watchdog = watchdog(&programs, &folder);
        let mut server = Self {
            programs,
            folder,
            port: 0,
            password: setup.password.map(str::to_owned),
            has_tls: setup.tls.is_some(),
            durable: setup.durable,
            watchdog,
        };
        let password_file = server.folder.join("password");
        std::fs::write(&password_file, setup.password.unwrap_or("unused")).unwrap();
        let data = server.folder.join("data");
        Self::give_away(&server.folder);
        let authentication = setup.password.map_or("trust", |_| "scram-sha-256");
        // Locale C and UTF-8: what the tests see does not depend on the machine.
        run(unprivileged(&server.programs.join("initdb"))
            .args(["-U", "perennial", "-A", authentication])
            .args(["-E", "UTF8", "--locale=C", "--no-sync"])
            .arg(format!("--pwfile={}", password_file.display()))
            .arg("-D")
            .arg(&data));
        if let Some((key, certificate)) = setup.tls {
            for (file, name) in [(key, "server.key"), (certificate, "server.crt")] {
                let copy = data.join(name);
                std::fs::copy(file, &copy).unwrap();
                let owner_only = std::fs::Permissions::from_mode(0o600);
                std::fs::set_permissions(&copy, owner_only).unwrap();
                Self::give_away(&copy);
            }
        }
        for _ in 0..PORTS_TRIED {
            server.port = free_port();
            if server.try_start_again() {
                return server;
            }
        }
        panic!("Postgres does not start: {}", server.log());
    }

    /// Where its databases are, as a text: that of the database `postgres`.
    #[must_use]
    pub fn url_text(&self) -> String {
        let password = self.password.as_ref().map(|word| format!(":{word}"));
        format!(
            "postgres://perennial{}@127.0.0.1:{}/postgres",
            password.unwrap_or_default(),
            self.port
        )
    }

    /// Stops it as a crash of the machine's power would look to clients: at once.
    pub fn stop_immediately(&self) {
        run(self.pg_ctl().args(["stop", "-w", "-m", "immediate"]));
    }

    /// Stops it like that and starts it again, which repairs what was not finished.
    pub fn restart_immediately(&self) {
        self.stop_immediately();
        self.start_again();
    }

    /// Starts it again after it was stopped, on the same port.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_again(&self) {
        assert!(
            self.try_start_again(),
            "Postgres does not start: {}",
            self.log()
        );
    }

    fn try_start_again(&self) -> bool {
        let settings = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync={} -c max_connections=500 \
             -c ssl={}",
            self.port,
            on_off(self.durable),
            on_off(self.has_tls)
        );
        let mut start = self.pg_ctl();
        start
            .args(["start", "-w", "-o", &settings, "-l"])
            .arg(self.folder.join("log"));
        start.output().is_ok_and(|output| output.status.success())
    }

    fn pg_ctl(&self) -> Command {
        let mut command = unprivileged(&self.programs.join("pg_ctl"));
        command
            .arg("-D")
            .arg(self.folder.join("data"))
            .stdin(Stdio::null());
        command
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// The server does not run as root, so root gives its files to its user.
    fn give_away(path: &Path) {
        if let Some(user) = unprivileged_user() {
            run(Command::new("chown").args(["-R", user]).arg(path));
        }
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// The URL of the process's server.
fn shared_server() -> &'static str {
    // Never dropped: the watchdog ends it with the process.
    static SERVER: OnceLock<(String, Option<PostgresServer>)> = OnceLock::new();
    let (url, _) = SERVER.get_or_init(|| match env::var(SERVER_VARIABLE) {
        Ok(url) => (url, None),
        Err(_) => {
            let server = PostgresServer::start();
            (server.url_text(), Some(server))
        }
    });
    url
}

/// Waits until the test process is gone, then stops the server and removes its
/// folder. In a process group of its own, so that an interrupt from the keyboard
/// does not end it before it has done so.
fn watchdog(programs: &Path, folder: &Path) -> Child {
    const SCRIPT: &str = r#"
        folder=$1; shift
        read -r _ignored
        "$@" -D "$folder/data" stop -w -m immediate
        rm -rf "$folder"
    "#;
    let pg_ctl = unprivileged(&programs.join("pg_ctl"));
    Command::new("sh")
        .args(["-c", SCRIPT, "watchdog"])
        .arg(folder)
        .arg(pg_ctl.get_program())
        .args(pg_ctl.get_args())
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap()
}

/// The folder with Postgres's programs: in the path, or where Debian puts them,
/// the newest version.
fn find_programs() -> PathBuf {
    let in_path = env::var_os("PATH")
        .into_iter()
        .flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| {
            (
                entry.file_name().to_string_lossy().parse().unwrap_or(0),
                entry.path().join("bin"),
            )
        })
        .collect();
    versions.sort();
    let installed = versions.into_iter().rev().map(|(_, folder)| folder);
    let complete = |folder: &PathBuf| {
        ["initdb", "pg_ctl", "postgres"]
            .iter()
            .all(|program| folder.join(program).exists())
    };
    in_path.chain(installed).find(complete).unwrap_or_else(|| {
        panic!(
            "Postgres is not installed: install the package `postgresql`, or set {SERVER_VARIABLE}"
        )
    })
}

/// Postgres refuses to run as root: whom to run it as then.
fn unprivileged_user() -> Option<&'static str> {
    let id = |arguments: &[&str]| Command::new("id").args(arguments).output();
    let root = id(&["-u"]).is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    let exists = |user: &&str| id(&["-u", user]).is_ok_and(|output| output.status.success());
    root.then(|| ["postgres", "nobody"].into_iter().find(exists).unwrap())
}

/// A command that runs as a user Postgres accepts.
fn unprivileged(program: &Path) -> Command {
    let mut command = match unprivileged_user() {
        None => Command::new(program),
        Some(user) => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", user, "--regid"]);
            command
                .arg(group_of(user))
                .arg("--clear-groups")
                .arg(program);
            command
        }
    };
    // A folder every user may be in, and nothing of the caller's Postgres settings.
    command.current_dir("/").env("LC_ALL", "C");
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command
}

fn group_of(user: &str) -> String {
    let output = run(Command::new("id").args(["-g", user]));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn run(command: &mut Command) -> Output {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {said}");
    output
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// The same URL with another database.
fn with_database(server: &str, database: &str) -> String {
    let (rest, parameters) = server
        .split_once('?')
        .map_or((server, None), |(rest, p)| (rest, Some(p)));
    let authority = rest.find("://").map_or(0, |scheme| scheme + 3);
    let end = rest[authority..]
        .find('/')
        .map_or(rest.len(), |slash| authority + slash);
    let parameters = parameters.map(|p| format!("?{p}")).unwrap_or_default();
    format!("{}/{database}{parameters}", &rest[..end])
}

#[cfg(test)]
mod tests {
    use super::with_database;

    #[test]
    fn the_database_of_a_url_is_replaced() {
        for (url, expected) in [
            ("postgres://a:b@h:1/old", "postgres://a:b@h:1/new"),
            ("postgres://h", "postgres://h/new"),
            (
                "postgres://h/old?sslmode=require",
                "postgres://h/new?sslmode=require",
            ),
        ] {
            assert_eq!(with_database(url, "new"), expected);
        }
    }
}
