//! Where the repository and the built binaries are.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The binary under test: the `main.rs` of the stock binary, built in this package.
const STOCK: &str = "perennial-stock";

/// The root of the repository.
#[must_use]
pub fn repository() -> &'static Path {
    let tests_crate = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests_crate.parent().unwrap_or(tests_crate)
}

/// The stock binary beside the running one. `cargo test` has built it.
///
/// # Errors
/// When it is not there.
pub fn perennial() -> Result<PathBuf> {
    let path = profile_dir()?.join(STOCK);
    let missing = "is missing: build it with `cargo build -p perennial-tests --bins`";
    ensure!(path.exists(), "{} {missing}", path.display());
    Ok(path)
}

/// Builds what [`perennial()`] finds, for programs that cargo does not build it for.
///
/// # Errors
/// When it does not compile.
pub fn build_perennial() -> Result<()> {
    let mut build = Command::new("cargo");
    build
        .args([
            "build",
            "--quiet",
            "--package",
            "perennial-tests",
            "--bin",
            STOCK,
        ])
        .current_dir(repository());
    if profile_dir()?.ends_with("release") {
        build.arg("--release");
    }
    let status = build.status().context("cargo could not be started")?;
    ensure!(
        status.success(),
        "the stock binary does not compile: {status}"
    );
    Ok(())
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
