//! `cluster reform`: a new beginning for a cluster whose nodes have lost what they
//! agreed on, over the same journal.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::cli::failure::Failure;
use crate::cli::run_node::load_settings;
use crate::cli::{Output, write_json};
use crate::node::reform_cluster;

/// Flags of `cluster reform`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ReformArgs {
    /// Where the journal is: sqlite:FILE or postgres://…
    #[arg(long, value_name = "URL")]
    journal: Option<String>,
    /// A settings file that says it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Serialize)]
struct Printed {
    generation: u32,
}

pub(super) async fn run(args: ReformArgs, output: Output) -> Result<(), Failure> {
    let settings = load_settings(args.config.as_deref(), args.journal)?;
    let generation = reform_cluster(&settings).await?;
    let mut out = std::io::stdout().lock();
    match output {
        Output::Text => writeln!(
            out,
            "generation {generation} of the cluster begins with the next node that starts; every event is kept"
        )?,
        Output::Json => write_json(&mut out, &Printed { generation })?,
    }
    Ok(())
}
