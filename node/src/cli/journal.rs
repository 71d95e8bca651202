//! `journal migrate`: makes or updates the schema of a journal.

use std::io::Write;
use std::path::PathBuf;

use clap::Subcommand;
use serde::Serialize;

use super::Output;
use super::failure::Failure;
use crate::config::Settings;
use crate::node::migrate_journal;

/// What `journal` can do.
#[derive(Debug, Subcommand)]
pub(super) enum JournalCommand {
    /// Make the schema, or bring it up to date. A database that is not a
    /// Perennial journal is not touched.
    Migrate {
        /// Where the journal is: sqlite:FILE or postgres://…
        #[arg(long, value_name = "URL")]
        journal: Option<String>,
        /// A settings file that says it.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

#[derive(Serialize)]
struct Printed {
    migrated: String,
}

pub(super) async fn run(command: JournalCommand, output: Output) -> Result<(), Failure> {
    let JournalCommand::Migrate { journal, config } = command;
    let settings: Settings = super::run_node::load_settings(config.as_deref(), journal)?;
    let migrated = migrate_journal(&settings).await?;
    let mut out = std::io::stdout().lock();
    match output {
        Output::Text => writeln!(out, "{migrated} is up to date")?,
        Output::Json => super::write_json(&mut out, &Printed { migrated })?,
    }
    Ok(())
}
