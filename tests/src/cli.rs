//! The command line as a person or a script uses it.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::binaries;
use crate::node_process::isolated;

/// No command of the tests takes nearly so long; one that hangs is ended.
const ENDS_WITHIN: Duration = Duration::from_secs(120);

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// Standard output as JSON.
    ///
    /// # Errors
    /// When it is none; with everything that was printed.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(self.stdout.trim()).with_context(|| format!("not JSON: {self:?}"))
    }
}

/// Prepares `perennial ARGS…`; it ends at the latest with the handle to it.
///
/// # Errors
/// When the binary is not there.
pub fn command(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Command> {
    let mut command = Command::from(isolated(&binaries::perennial()?));
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    Ok(command)
}

/// Runs `perennial ARGS…` to its end.
///
/// # Errors
/// When it cannot be started or does not end in time.
pub async fn run(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Outcome> {
    outcome(command(args)?.spawn()?).await
}

/// Waits for the end of a command.
///
/// # Errors
/// When it does not end in time; it is then killed.
pub async fn outcome(child: Child) -> Result<Outcome> {
    let output = tokio::time::timeout(ENDS_WITHIN, child.wait_with_output())
        .await
        .context("the command does not end")??;
    Ok(Outcome {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
