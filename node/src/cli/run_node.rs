//! `dev` and `serve`: a node in this process, until it is asked to stop.

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::Output;
use super::failure::Failure;
use crate::config::Settings;
use crate::node::{GRPC_ADDRESS, HTTP_ADDRESS, Node, NodeBuilder};
use crate::telemetry;

const DATA_DIR: &str = "perennial-data";

/// Flags of `dev`, and of `serve` together with its own.
#[derive(Debug, Args)]
pub(super) struct NodeArgs {
    /// Where clients reach the node; port 0 for any that is free.
    #[arg(long, value_name = "ADDR", default_value_t = GRPC_ADDRESS)]
    listen: SocketAddr,
    /// Where health and metrics are; port 0 for any that is free.
    #[arg(long, value_name = "ADDR", default_value_t = HTTP_ADDRESS)]
    http: SocketAddr,
    /// Where other nodes would reach it. Not listened on: a cluster has one node
    /// for now.
    #[arg(long, value_name = "ADDR")]
    peer_listen: Option<SocketAddr>,
    /// Where the node keeps who it is, and its journal if none is given.
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    data_dir: PathBuf,
    /// Where events are stored: sqlite:FILE, postgres://… or memory:
    #[arg(long, value_name = "URL")]
    journal: Option<String>,
    /// A settings file; `config` prints one with all keys.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Flags of `serve`.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// What clients are told to connect to, if not the address listened on.
    #[arg(long, value_name = "HOST[:PORT]")]
    advertise: Option<String>,
    /// Allow addresses that other machines can reach, without encryption.
    #[arg(long)]
    insecure: bool,
}

/// A node to try things on: everything has a default, the schema is kept up to
/// date by itself.
pub(super) async fn dev(
    builder: NodeBuilder,
    args: NodeArgs,
    output: Output,
) -> Result<(), Failure> {
    let types: Vec<&'static str> = builder.entity_types().collect();
    let builder = configured(builder, args, true)?.migrate();
    run(builder, output, |node| tries(node.grpc_address(), &types)).await
}

/// A node to rely on: it is told where its journal is, and does not change the
/// journal's schema.
pub(super) async fn serve(
    builder: NodeBuilder,
    args: ServeArgs,
    output: Output,
) -> Result<(), Failure> {
    let mut builder = configured(builder, args.node, false)?;
    if let Some(address) = args.advertise {
        builder = builder.advertise(address);
    }
    if args.insecure {
        builder = builder.insecure();
    }
    run(builder, output, |_| String::new()).await
}

/// The settings of file, environment and flags.
pub(super) fn load_settings(
    config: Option<&Path>,
    journal: Option<String>,
) -> Result<Settings, Failure> {
    let environment = std::env::vars_os().map(|(name, value)| {
        let text = |part: std::ffi::OsString| part.to_string_lossy().into_owned();
        (text(name), text(value))
    });
    let journal = journal.map(|url| ("persistence.journal.url", url, "--journal"));
    let flags: Vec<_> = journal.into_iter().collect();
    Ok(Settings::load(config, environment, &flags)?)
}

fn configured(
    builder: NodeBuilder,
    args: NodeArgs,
    own_journal: bool,
) -> Result<NodeBuilder, Failure> {
    if args.peer_listen.is_some() {
        eprintln!("note: --peer-listen has no effect yet: a cluster has one node for now");
    }
    let settings = load_settings(args.config.as_deref(), args.journal)?;
    if settings.journal_url.is_none() && !own_journal {
        return Err(Failure::usage(
            "serve needs to know where the journal is: give --journal, or set persistence.journal.url",
        ));
    }
    Ok(builder
        .settings(settings)
        .listen(args.listen)
        .http(args.http)
        .data_dir(args.data_dir))
}

#[derive(Serialize)]
struct Ready<'a> {
    node_id: String,
    grpc: SocketAddr,
    http: SocketAddr,
    journal: &'a str,
}

async fn run(
    builder: NodeBuilder,
    output: Output,
    next_steps: impl FnOnce(&Node) -> String,
) -> Result<(), Failure> {
    telemetry::start_logging();
    let asked_to_stop = stop_signal()?;
    tokio::pin!(asked_to_stop);
    let node = tokio::select! {
        node = builder.start() => node?,
        () = &mut asked_to_stop => return Ok(()),
    };
    announce(&node, output, &next_steps(&node))?;
    Ok(node.run_until(asked_to_stop).await?)
}

/// Completes at SIGTERM or SIGINT. A second one ends the process at once.
fn stop_signal() -> Result<impl Future<Output = ()>, Failure> {
    let failed = |error| Failure::local(format!("cannot wait for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::warn!("asked to stop twice: ending at once, the journal has everything");
            std::process::exit(1);
        });
    })
}

fn announce(node: &Node, output: Output, next_steps: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match output {
        Output::Json => super::write_json(
            &mut out,
            &Ready {
                node_id: node.node_id().0.to_string(),
                grpc: node.grpc_address(),
                http: node.http_address(),
                journal: node.journal(),
            },
        )?,
        Output::Text => {
            writeln!(out, "Perennial node {} is ready.", node.node_id().0)?;
            writeln!(out, "  gRPC     {}", node.grpc_address())?;
            writeln!(
                out,
                "  HTTP     http://{}  /livez /readyz /metrics",
                node.http_address()
            )?;
            writeln!(out, "  journal  {}", node.journal())?;
            write!(out, "{next_steps}")?;
        }
    }
    out.flush()?;
    Ok(())
}

/// Three commands to try next, which work as they are printed.
fn tries(address: SocketAddr, types: &[&str]) -> String {
    let program = program();
    // A node that listens elsewhere has to be named.
    let at = if address == GRPC_ADDRESS {
        String::new()
    } else {
        format!(" --address {address}")
    };
    let commands = if types.contains(&"counter") {
        vec![
            format!("send{at} counter tea '{{\"add\":5}}'"),
            format!("send{at} counter tea '\"get\"'"),
            format!("events{at} counter tea"),
        ]
    } else {
        types
            .iter()
            .map(|name| format!("list{at} {name}"))
            .collect()
    };
    let mut text = String::from("\nTry next, in another terminal:\n");
    for command in commands {
        text.push_str(&format!("  {program} {command}\n"));
    }
    text
}

/// How this program was started: by cargo, or by its own name.
fn program() -> String {
    let path = std::env::args().next().unwrap_or_default();
    let by_cargo = std::env::var_os("CARGO").is_some() || path.contains("target/");
    if by_cargo || path.is_empty() {
        "cargo run --release --".to_owned()
    } else {
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_to_try_name_the_node_when_needed() {
        let text = tries(GRPC_ADDRESS, &["counter"]);
        assert!(text.contains("send counter tea '{\"add\":5}'"), "{text}");
        assert_eq!(text.matches("counter tea").count(), 3);
        let text = tries(SocketAddr::from(([127, 0, 0, 1], 9)), &["counter"]);
        assert_eq!(text.matches("--address 127.0.0.1:9").count(), 3);
    }
}
