//! `dev` and `serve`: a node in this process, until it is asked to stop.

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use futures::future::{join_all, try_join_all};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Output;
use super::failure::Failure;
use crate::config::Settings;
use crate::node::{GRPC_ADDRESS, HTTP_ADDRESS, Node, NodeBuilder, PEER_ADDRESS, SharedJournal};
use crate::telemetry;

const DATA_DIR: &str = "perennial-data";

/// Flags of every node.
#[derive(Debug, Args)]
pub(super) struct NodeArgs {
    /// Where clients reach the node; port 0 for any that is free.
    #[arg(long, value_name = "ADDR", default_value_t = GRPC_ADDRESS)]
    listen: SocketAddr,
    /// Where health and metrics are; port 0 for any that is free.
    #[arg(long, value_name = "ADDR", default_value_t = HTTP_ADDRESS)]
    http: SocketAddr,
    /// Where other nodes reach the node; port 0 for any that is free. From an address
    /// that is neither 0.0.0.0 nor 127.0.0.1 it also calls them.
    #[arg(long, value_name = "ADDR", default_value_t = PEER_ADDRESS)]
    peer_listen: SocketAddr,
    /// What other nodes are told to connect to, if not the address listened on; a
    /// name is resolved anew at each connect.
    #[arg(long, value_name = "HOST[:PORT]")]
    advertise_peer: Option<String>,
    /// What clients are told to connect to, if not the address listened on.
    #[arg(long, value_name = "HOST[:PORT]")]
    advertise: Option<String>,
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

/// Flags of `dev`.
#[derive(Debug, Args)]
pub(super) struct DevArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// So many nodes in this process, which form a cluster and share the journal:
    /// each listens on ports 10 above those of the one before, and keeps its data in
    /// DIR/1, DIR/2, and so on.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
}

/// Flags of `serve`.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Allow addresses that other machines can reach on ports without TLS. A port with a
    /// certificate (node.tls, node.peer_tls) is encrypted all the same, so that either
    /// clients or nodes can do without.
    #[arg(long)]
    insecure: bool,
}

/// Nodes to try things on: everything has a default, the schema is kept up to date
/// by itself.
pub(super) async fn dev(
    builder: NodeBuilder,
    args: DevArgs,
    output: Output,
) -> Result<(), Failure> {
    let types: Vec<&'static str> = builder.entity_types().collect();
    let builder = builder.migrate();
    let builders = match args.nodes {
        1 => vec![configured(builder, args.node, true)?],
        nodes => several(&builder, args.node, nodes)?,
    };
    run(builders, output, |node| tries(node.grpc_address(), &types)).await
}

/// A node to rely on: it is told where its journal is, waits for it, and does not
/// change its schema.
pub(super) async fn serve(
    builder: NodeBuilder,
    args: ServeArgs,
    output: Output,
) -> Result<(), Failure> {
    let mut builder = configured(builder, args.node, false)?.wait_for_journal();
    if args.insecure {
        builder = builder.insecure();
    }
    run(vec![builder], output, |_| String::new()).await
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
    let settings = load_settings(args.config.as_deref(), args.journal)?;
    if settings.journal_url.is_none() && !own_journal {
        return Err(Failure::usage(
            "serve needs to know where the journal is: give --journal, or set persistence.journal.url",
        ));
    }
    let mut builder = builder
        .settings(settings)
        .listen(args.listen)
        .http(args.http)
        .peer_listen(args.peer_listen)
        .data_dir(args.data_dir);
    if let Some(address) = args.advertise {
        builder = builder.advertise(address);
    }
    if let Some(address) = args.advertise_peer {
        builder = builder.advertise_peer(address);
    }
    Ok(builder)
}

/// Nodes that differ in ports and data, and share a journal.
fn several(builder: &NodeBuilder, args: NodeArgs, nodes: u16) -> Result<Vec<NodeBuilder>, Failure> {
    if args.advertise.is_some() || args.advertise_peer.is_some() {
        return Err(Failure::usage(
            "one address cannot be that of several nodes: leave --advertise and --advertise-peer out",
        ));
    }
    let settings = load_settings(args.config.as_deref(), args.journal)?;
    let journal = SharedJournal::of(&settings, &args.data_dir);
    (1..=nodes)
        .map(|nr| {
            Ok(builder
                .clone()
                .settings(settings.clone())
                .listen(above(args.listen, nr)?)
                .http(above(args.http, nr)?)
                .peer_listen(above(args.peer_listen, nr)?)
                .data_dir(args.data_dir.join(nr.to_string()))
                .shared_journal(journal.clone()))
        })
        .collect()
}

/// The address of the node of this number, counted from 1.
fn above(mut first: SocketAddr, nr: u16) -> Result<SocketAddr, Failure> {
    if first.port() != 0 {
        let port = first.port().checked_add(10 * (nr - 1));
        first.set_port(port.ok_or_else(|| {
            Failure::usage(format!("there is no port for node {nr} above {first}"))
        })?);
    }
    Ok(first)
}

#[derive(Serialize)]
struct Ready<'a> {
    node_id: String,
    grpc: SocketAddr,
    http: SocketAddr,
    peers: SocketAddr,
    journal: &'a str,
}

async fn run(
    builders: Vec<NodeBuilder>,
    output: Output,
    next_steps: impl FnOnce(&Node) -> String,
) -> Result<(), Failure> {
    if let Some(first) = builders.first() {
        // The settings are the same for all nodes of a process.
        telemetry::start(&first.told().telemetry, &first.instance())
            .map_err(|error| Failure::usage(error.to_string()))?;
    }
    let ran = run_until_stopped(builders, output, next_steps).await;
    telemetry::stop().await;
    ran
}

async fn run_until_stopped(
    builders: Vec<NodeBuilder>,
    output: Output,
    next_steps: impl FnOnce(&Node) -> String,
) -> Result<(), Failure> {
    let asked_to_stop = stop_signal()?;
    tokio::pin!(asked_to_stop);
    let starting = try_join_all(builders.into_iter().map(NodeBuilder::start));
    let nodes = tokio::select! {
        nodes = starting => nodes?,
        () = &mut asked_to_stop => return Ok(()),
    };
    for node in &nodes {
        announce(node, output)?;
    }
    if let Some(first) = nodes.first() {
        say(output, &next_steps(first))?;
    }
    // One that ends by itself takes the others along: they are one process.
    let stopping = CancellationToken::new();
    let running = nodes.into_iter().map(|node| {
        let (asked, end_others) = (stopping.clone(), stopping.clone().drop_guard());
        async move {
            let ended = node.run_until(asked.cancelled_owned()).await;
            drop(end_others);
            ended
        }
    });
    let running = join_all(running);
    tokio::pin!(running);
    let ended = tokio::select! {
        ended = &mut running => ended,
        () = asked_to_stop => {
            stopping.cancel();
            running.await
        }
    };
    for ended in ended {
        ended?;
    }
    Ok(())
}

/// Completes at SIGTERM or SIGINT. A second one ends the process at once, with exit
/// code 1.
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

fn announce(node: &Node, output: Output) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match output {
        Output::Json => super::write_json(
            &mut out,
            &Ready {
                node_id: node.node_id().0.to_string(),
                grpc: node.grpc_address(),
                http: node.http_address(),
                peers: node.peer_address(),
                journal: node.journal(),
            },
        )?,
        Output::Text => {
            writeln!(out, "Perennial node {} is ready.", node.node_id().0)?;
            writeln!(out, "  gRPC     {}", node.grpc_address())?;
            writeln!(
                out,
                "  HTTP     http://{}/  status page, /metrics /livez /readyz",
                node.http_address()
            )?;
            writeln!(out, "  peers    {}", node.peer_address())?;
            writeln!(out, "  journal  {}", node.journal())?;
        }
    }
    out.flush()?;
    Ok(())
}

fn say(output: Output, text: &str) -> Result<(), Failure> {
    if output == Output::Text {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()?;
    }
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

    #[test]
    fn each_node_listens_ten_ports_above_the_one_before() {
        let port = |first, nr| {
            let first = SocketAddr::from(([127, 0, 0, 1], first));
            above(first, nr).map(|address| address.port())
        };
        assert_eq!(port(7400, 1), Ok(7400));
        assert_eq!(port(7402, 3), Ok(7422));
        assert_eq!(port(0, 3), Ok(0), "any that is free");
        assert!(port(65_530, 2).is_err());
    }
}
