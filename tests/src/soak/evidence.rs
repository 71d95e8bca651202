//! What a soak leaves behind to look into afterwards: what was done when, the output
//! of the nodes, and with a violation the histories and the journal.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

/// A folder with everything about one soak.
#[derive(Debug)]
pub struct Evidence {
    folder: PathBuf,
    began: Instant,
    log: Mutex<File>,
    quiet: bool,
}

impl Evidence {
    /// Makes the folder if it is not there.
    ///
    /// # Errors
    /// When it cannot be written to.
    pub fn new(folder: &Path, began: Instant, quiet: bool) -> Result<Self> {
        let cannot = || format!("{} cannot be written to", folder.display());
        fs::create_dir_all(folder).with_context(cannot)?;
        let log = File::create(folder.join("events.log")).with_context(cannot)?;
        Ok(Self {
            folder: folder.to_owned(),
            began,
            log: Mutex::new(log),
            quiet,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Says what happens, and when, on standard error and in the folder.
    pub fn event(&self, text: &str) {
        let line = format!("{:>9.3} {text}", self.began.elapsed().as_secs_f64());
        if !self.quiet {
            eprintln!("{line}");
        }
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        // Evidence that cannot be kept does not end the soak.
        let _ = writeln!(log, "{line}");
    }

    /// Writes values, one on each line.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn lines<T: Serialize>(
        &self,
        name: &str,
        values: impl IntoIterator<Item = T>,
    ) -> Result<()> {
        let mut out = BufWriter::new(File::create(self.folder.join(name))?);
        for value in values {
            serde_json::to_writer(&mut out, &value)?;
            out.write_all(b"\n")?;
        }
        Ok(out.flush()?)
    }

    /// Copies a file into the folder.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn copy(&self, from: &Path, name: &str) -> Result<()> {
        fs::copy(from, self.folder.join(name))
            .with_context(|| format!("{} cannot be copied", from.display()))?;
        Ok(())
    }
}
