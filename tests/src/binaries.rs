//! Where the built binaries are.
//!
//! `cargo test` gives a test the paths of its own package's binaries only; the
//! `perennial` binary belongs to another package. It is built once per test
//! process, so that no test ever runs a stale one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

/// The root of the repository.
#[must_use]
pub fn repository() -> &'static Path {
    let tests_crate = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests_crate.parent().unwrap_or(tests_crate)
}

/// The stock `perennial` binary, built in the profile of the running one.
///
/// # Errors
/// When it cannot be built.
pub fn perennial() -> Result<&'static Path> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    if let Some(path) = BUILT.get() {
        return Ok(path);
    }
    let path = build("perennial")?;
    Ok(BUILT.get_or_init(|| path))
}

/// The folder for files made while testing that are worth keeping between runs.
///
/// # Errors
/// When the running binary is not below a target folder.
pub fn target_dir() -> Result<PathBuf> {
    let profile = profile_dir()?;
    let target = profile
        .parent()
        .context("the profile's folder is the root")?;
    Ok(target.to_path_buf())
}

fn build(name: &str) -> Result<PathBuf> {
    let profile = profile_dir()?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // The whole workspace, because cargo then picks the features of shared
    // dependencies as `cargo test --workspace` does, and recompiles nothing.
    command
        .args(["build", "--quiet", "--locked", "--workspace", "--bin", name])
        .current_dir(repository());
    if profile.ends_with("release") {
        command.arg("--release");
    }
    let status = command.status().context("cargo could not be started")?;
    ensure!(
        status.success(),
        "the binary {name} could not be built: {status}"
    );
    Ok(profile.join(name))
}

/// `target/debug` or `target/release`, whichever the running binary is from.
fn profile_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("the running binary has no path")?;
    let dir = exe.parent().context("the running binary is in no folder")?;
    let profile = if dir.ends_with("deps") {
        dir.parent()
    } else {
        Some(dir)
    };
    Ok(profile.context("no profile folder")?.to_path_buf())
}
