//! `journal migrate`: makes or updates the schema of a journal. `journal verify`: says
//! whether one is whole (`journal/verify.rs`).

mod verify;

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::Output;
use super::failure::Failure;
use crate::config::Settings;
use crate::node::{NodeBuilder, migrate_journal};

/// What `journal` can do.
#[derive(Debug, Subcommand)]
pub(super) enum JournalCommand {
    /// Make the schema, or bring it up to date. A database that is not a
    /// Perennial journal is not touched.
    Migrate(JournalArgs),
    /// Say whether every stream is whole and has one author. Only reads, may run
    /// beside nodes, and ends with 1 when it finds something.
    Verify(JournalArgs),
}

/// Flags that say which journal.
#[derive(Debug, Args)]
pub(super) struct JournalArgs {
    /// Where the journal is: sqlite:FILE or postgres://…
    #[arg(long, value_name = "URL")]
    journal: Option<String>,
    /// A settings file that says it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl JournalArgs {
    fn settings(self) -> Result<Settings, Failure> {
        super::run_node::load_settings(self.config.as_deref(), self.journal)
    }
}

#[derive(Serialize)]
struct Printed {
    migrated: String,
}

pub(super) async fn run(
    builder: &NodeBuilder,
    command: JournalCommand,
    output: Output,
) -> Result<(), Failure> {
    match command {
        JournalCommand::Migrate(args) => migrate(&args.settings()?, output).await,
        JournalCommand::Verify(args) => verify::run(builder, &args.settings()?, output).await,
    }
}

async fn migrate(settings: &Settings, output: Output) -> Result<(), Failure> {
    let migrated = migrate_journal(settings).await?;
    let mut out = std::io::stdout().lock();
    match output {
        Output::Text => writeln!(out, "{migrated} is up to date")?,
        Output::Json => super::write_json(&mut out, &Printed { migrated })?,
    }
    Ok(())
}
