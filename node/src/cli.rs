//! The command line: the same contract as gRPC, for people and scripts.
//!
//! One file for each command in `cli/`. [`main`] is all a binary needs, so that a
//! binary with other entity types has the whole command line as well: see
//! `main.rs`. Exit codes and error texts are made in `cli/failure.rs`.

mod auth;
mod client;
mod cluster;
mod connection;
mod delete;
mod events;
mod failure;
mod health;
mod journal;
mod list;
mod load;
mod payload;
mod run_node;
mod send;
mod state;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use serde::Serialize;
use tokio::runtime::Runtime;

use crate::config::Settings;
use crate::metrics::table;
use crate::node::NodeBuilder;
use failure::Failure;

/// What is still under way in a thread when a command has come to its end gets so long.
const LOOSE_ENDS_MAX: Duration = Duration::from_millis(200);

/// A cluster-sharded persistent entity service.
#[derive(Debug, Parser)]
#[command(name = "perennial", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// How results and errors are printed.
    #[arg(long, global = true, value_enum, default_value = "text")]
    output: Output,
}

/// How results and errors are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For scripts: one JSON value on each line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a node to try things on, with a journal of its own.
    Dev(run_node::DevArgs),
    /// Start a node to rely on.
    Serve(run_node::ServeArgs),
    /// Send one command to one entity.
    Send(send::SendArgs),
    /// Send a file of commands, each exactly once however often it is loaded.
    Load(load::LoadArgs),
    /// Show an entity's state.
    State(state::StateArgs),
    /// Show an entity's events.
    Events(events::EventsArgs),
    /// List the entities of a type.
    List(list::ListArgs),
    /// Delete an entity for good: its events, its snapshots, its replies.
    Delete(delete::DeleteArgs),
    /// Show the cluster and where entities live.
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Look after a journal.
    #[command(subcommand)]
    Journal(journal::JournalCommand),
    /// Look at tokens and rules, without a node.
    #[command(subcommand)]
    Auth(auth::AuthCommand),
    /// Say whether a node takes commands.
    Health(health::HealthArgs),
    /// Print a settings file with all keys and their defaults.
    Config,
    /// Print what the metrics mean, and what to do about them, as Markdown.
    Metrics,
}

/// All commands and flags, as [`main`] understands them: for completions and manual
/// pages, and to check scripts and manifests that call the binary.
#[must_use]
pub fn definition() -> clap::Command {
    Arguments::command()
}

/// Runs the command line of this process to its end. `builder` brings the entity
/// types that `dev` and `serve` run.
///
/// Exit codes: 0 done, 1 failed, 2 called or configured wrongly, 3 rejected by
/// the entity.
#[must_use]
pub fn main(builder: NodeBuilder) -> ExitCode {
    // Exits with 2 by itself when the arguments are wrong.
    let arguments = Arguments::parse();
    let output = arguments.output;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.enable_all();
    // A handler that blocks, as it should not, holds up one thread: the others see to it
    // that deadlines pass and connections are read meanwhile.
    #[cfg(tokio_unstable)]
    runtime.enable_eager_driver_handoff();
    let runtime = match runtime.build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::local(error).report(output),
    };
    match complete(runtime, run(builder, arguments)) {
        Ok(code) => code,
        Err(failure) => failure.report(output),
    }
}

/// Runs something to its end, and waits for nothing that is still under way then: what
/// matters has been waited for. A thread that asks for the address of a node that is
/// gone may hear that there is none only many seconds later.
fn complete<T>(runtime: Runtime, work: impl Future<Output = T>) -> T {
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(LOOSE_ENDS_MAX);
    result
}

async fn run(builder: NodeBuilder, arguments: Arguments) -> Result<ExitCode, Failure> {
    let output = arguments.output;
    match arguments.command {
        Command::Dev(args) => run_node::dev(builder, args, output).await?,
        Command::Serve(args) => run_node::serve(builder, args, output).await?,
        Command::Send(args) => send::run(args, output).await?,
        Command::Load(args) => return load::run(args, output).await,
        Command::State(args) => state::run(args, output).await?,
        Command::Events(args) => events::run(args, output).await?,
        Command::List(args) => list::run(args, output).await?,
        Command::Delete(args) => delete::run(args, output).await?,
        Command::Cluster(command) => cluster::run(command, output).await?,
        Command::Journal(command) => journal::run(&builder, command, output).await?,
        Command::Auth(command) => return auth::run(command, output).await,
        Command::Health(args) => health::run(args, output).await?,
        Command::Config => write!(std::io::stdout().lock(), "{}", Settings::reference())?,
        Command::Metrics => write!(std::io::stdout().lock(), "{}", table::markdown())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes one value on one line.
fn write_json(out: &mut impl Write, value: &impl Serialize) -> Result<(), Failure> {
    serde_json::to_writer(&mut *out, value).map_err(std::io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn a_thread_that_hangs_does_not_keep_the_process() {
        let (release, held) = sync_channel::<()>(1);
        let (ended, end) = sync_channel(1);
        std::thread::spawn(move || {
            let work = async {
                let (hangs, starts) = tokio::sync::oneshot::channel();
                tokio::task::spawn_blocking(move || {
                    hangs.send(()).unwrap();
                    held.recv()
                });
                starts.await.unwrap();
                "done"
            };
            ended.send(complete(Runtime::new().unwrap(), work)).unwrap();
        });
        assert_eq!(end.recv_timeout(Duration::from_secs(60)), Ok("done"));
        drop(release);
    }
}
