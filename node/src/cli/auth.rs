//! `auth check`: what a token or a certificate may do with a configuration, without a
//! node. It says more than a node does, because whoever reads the configuration may know.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::client::TOKEN_VARIABLE;
use super::failure::{Failure, chain};
use super::{Output, run_node, write_json};
use crate::auth::{Identity, JwksFile, KeySet, Pattern, Proof, Right, authenticate};
use crate::config::AuthSettings;

/// What `auth` can do.
#[derive(Debug, Subcommand)]
pub(super) enum AuthCommand {
    /// Say who somebody is and what the rules allow them. Ends with 1 when a token is
    /// refused.
    Check(CheckArgs),
}

/// Flags of `auth check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The settings file with keys and rules.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A file with the token; without it, and without --certificate, it comes from
    /// PERENNIAL_TOKEN.
    #[arg(long, value_name = "FILE", conflicts_with = "certificate")]
    token_file: Option<PathBuf>,
    /// Instead of a token, a name in a client certificate.
    #[arg(long, value_name = "NAME")]
    certificate: Vec<String>,
}

/// What is found, for scripts.
#[derive(Serialize)]
struct Printed {
    name: String,
    proven_by: &'static str,
    groups: Vec<String>,
    expires_in_seconds: Option<u64>,
    send: Vec<String>,
    read: Vec<String>,
    events: Vec<String>,
    status: bool,
    admin: bool,
}

pub(super) async fn run(command: AuthCommand, output: Output) -> Result<ExitCode, Failure> {
    let AuthCommand::Check(args) = command;
    let settings = run_node::load_settings(args.config.as_deref(), None)?.auth;
    let mut out = std::io::stdout().lock();
    if !settings.is_configured() {
        return Err(Failure::usage(
            "these settings have neither keys nor rules: everybody may do everything; set node.auth.rules",
        ));
    }
    let now = SystemTime::now();
    let identity = if args.certificate.is_empty() {
        let token = token(args.token_file.as_deref())?;
        let keys = keys(&settings).await?;
        let identity = authenticate(&token, &keys, &settings.expected, now);
        identity.map_err(|error| Failure::local(format!("the token is refused: {error}")))?
    } else {
        Identity::of_certificate(args.certificate)
    };
    let found = found(&settings, &identity, now);
    match output {
        Output::Json => write_json(&mut out, &found)?,
        Output::Text => print(&mut out, &found)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn token(file: Option<&Path>) -> Result<String, Failure> {
    let Some(path) = file else {
        let token = std::env::var(TOKEN_VARIABLE).unwrap_or_default();
        return match token.trim() {
            "" => Err(Failure::usage(format!(
                "there is no token: give --token-file, or set {TOKEN_VARIABLE}"
            ))),
            token => Ok(token.to_owned()),
        };
    };
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| {
        Failure::usage(format!(
            "cannot read the token in {}: {error}",
            path.display()
        ))
    })?;
    Ok(text.trim().to_owned())
}

async fn keys(settings: &AuthSettings) -> Result<KeySet, Failure> {
    let Some(path) = &settings.jwks_file else {
        return Err(Failure::usage(
            "these settings take no tokens: set node.auth.jwt.jwks_file, or give --certificate",
        ));
    };
    let opened = JwksFile::open(path).await;
    let (_, keys) = opened.map_err(|error| Failure::usage(chain(&error)))?;
    for key in keys.left_out() {
        eprintln!("note: {key}, and is not used");
    }
    Ok(keys)
}

fn found(settings: &AuthSettings, identity: &Identity, now: SystemTime) -> Printed {
    let grants = settings.rules.grants(identity);
    let types = |right| grants.types(right).iter().map(Pattern::to_string).collect();
    let groups = match &identity.proof {
        Proof::Token { groups, .. } => groups.clone(),
        Proof::Certificate { .. } | Proof::Anonymous => Vec::new(),
    };
    let left = identity
        .expires
        .map(|expires| expires.duration_since(now).unwrap_or_default());
    Printed {
        name: identity.name().to_owned(),
        proven_by: identity.proven_by(),
        groups,
        expires_in_seconds: left.map(|left| left.as_secs()),
        send: types(Right::Send),
        read: types(Right::Read),
        events: types(Right::Events),
        status: grants.allow_somewhere(Right::Status),
        admin: grants.allow_somewhere(Right::Admin),
    }
}

fn print(out: &mut impl Write, found: &Printed) -> Result<(), Failure> {
    writeln!(out, "{} (by {})", found.name, found.proven_by)?;
    if !found.groups.is_empty() {
        writeln!(out, "  groups   {}", found.groups.join(", "))?;
    }
    if let Some(seconds) = found.expires_in_seconds {
        let left = humantime::format_duration(std::time::Duration::from_secs(seconds));
        writeln!(out, "  expires  in {left}")?;
    }
    for (right, types) in [
        ("send", &found.send),
        ("read", &found.read),
        ("events", &found.events),
    ] {
        let types = match types.is_empty() {
            true => "no".to_owned(),
            false => types.join(", "),
        };
        writeln!(out, "  {right:<8} {types}")?;
    }
    for (right, has) in [("status", found.status), ("admin", found.admin)] {
        writeln!(out, "  {right:<8} {}", if has { "yes" } else { "no" })?;
    }
    Ok(())
}
