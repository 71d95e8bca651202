//! What `load` tells while it runs and when it is done.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::value::RawValue;

use super::lines::Line;
use super::window::{Outcome, Settled};
use crate::cli::failure::Failure;
use crate::cli::{Output, write_json};

/// How often progress is printed where no bar can be drawn.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);
/// Rejected lines that are shown one by one; further ones are only counted.
const REJECTIONS_SHOWN: u64 = 20;

/// The figures of a load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Totals {
    /// In, now or by an earlier run.
    pub(super) loaded: u64,
    /// Of those, by an earlier run.
    pub(super) duplicates: u64,
    /// Refused by the entities' rules.
    pub(super) rejected: u64,
    /// Sent without success.
    pub(super) failed: u64,
    /// Not understood, so not sent.
    pub(super) unreadable: u64,
}

impl Totals {
    pub(super) fn lines(&self) -> u64 {
        self.loaded + self.rejected + self.failed + self.unreadable
    }

    /// 1 if anything failed or could not be read, else 3 if anything was
    /// rejected, else 0.
    fn exit_code(&self, complete: bool) -> u8 {
        if !complete || self.failed > 0 || self.unreadable > 0 {
            1
        } else if self.rejected > 0 {
            3
        } else {
            0
        }
    }
}

/// Keeps the figures, shows them, and keeps what did not get in.
pub(super) struct Report {
    totals: Totals,
    lines_expected: u64,
    started: Instant,
    bar: Option<ProgressBar>,
    printed_at: Instant,
    rejects: Option<(PathBuf, BufWriter<File>)>,
}

#[derive(Serialize)]
struct Summary<'a> {
    lines: u64,
    #[serde(flatten)]
    totals: Totals,
    seconds: f64,
    lines_per_second: f64,
    /// Whether the whole file was read.
    complete: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<&'a str>,
}

impl Report {
    pub(super) fn new(lines_expected: u64, reject_file: Option<&Path>) -> Result<Self, Failure> {
        let rejects = match reject_file {
            None => None,
            Some(path) => {
                let file = File::create(path).map_err(|error| cannot_write(path, &error))?;
                Some((path.to_owned(), BufWriter::new(file)))
            }
        };
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(lines_expected);
            let template = "{wide_bar} {pos}/{len} lines, {per_sec}, {msg}, {eta} left";
            // The template is constant; a default bar is as good as an error.
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_message("0 rejected, 0 failed");
            bar
        });
        Ok(Self {
            totals: Totals::default(),
            lines_expected,
            started: Instant::now(),
            bar,
            printed_at: Instant::now(),
            rejects,
        })
    }

    /// A line is finished.
    pub(super) fn settled(&mut self, settled: &Settled) -> Result<(), Failure> {
        let nr = settled.pending.line.nr;
        match &settled.outcome {
            Outcome::Loaded { duplicate } => {
                self.totals.loaded += 1;
                self.totals.duplicates += u64::from(*duplicate);
            }
            Outcome::Rejected(why) => {
                self.totals.rejected += 1;
                if self.totals.rejected <= REJECTIONS_SHOWN {
                    self.say(&format!("line {nr} rejected: {why}"));
                } else if self.totals.rejected == REJECTIONS_SHOWN + 1 {
                    self.say("further rejections are only counted; --reject-file keeps them");
                }
                // It stored nothing, so it may come back under another id.
                let pending = &settled.pending;
                match &pending.json {
                    Some(text) => self.keep(text)?,
                    None => self.keep(&kept_line(&pending.line)?)?,
                }
            }
            Outcome::Failed(why) => {
                self.totals.failed += 1;
                self.say(&format!("line {nr} failed: {why}"));
                self.keep(&kept_line(&settled.pending.line)?)?;
            }
        }
        self.show();
        Ok(())
    }

    /// A line could not be read.
    pub(super) fn unreadable(&mut self, nr: u64, text: &str, why: &str) -> Result<(), Failure> {
        self.totals.unreadable += 1;
        self.say(&format!("line {nr} skipped: {why}"));
        if !text.is_empty() {
            self.keep(text)?;
        }
        self.show();
        Ok(())
    }

    /// Something worth knowing on the way.
    pub(super) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    fn keep(&mut self, line: &str) -> Result<(), Failure> {
        if let Some((path, file)) = &mut self.rejects {
            writeln!(file, "{line}").map_err(|error| cannot_write(path, &error))?;
        }
        Ok(())
    }

    fn show(&mut self) {
        let Totals {
            rejected, failed, ..
        } = self.totals;
        if let Some(bar) = &self.bar {
            bar.set_position(self.totals.lines());
            bar.set_message(format!("{rejected} rejected, {failed} failed"));
        } else if self.printed_at.elapsed() >= PLAIN_INTERVAL {
            self.printed_at = Instant::now();
            let lines = self.totals.lines();
            let rate = rate(lines, self.started.elapsed());
            let left = self.lines_expected.saturating_sub(lines) as f64 / rate.max(1.0);
            eprintln!(
                "{lines} of {} lines, {rate:.0}/s, {rejected} rejected, {failed} failed, {left:.0} s left",
                self.lines_expected
            );
        }
    }

    /// Prints the figures and gives the exit code. `stopped` says why the file was
    /// not read to its end.
    pub(super) fn finish(
        mut self,
        stopped: Option<&str>,
        output: Output,
    ) -> Result<ExitCode, Failure> {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if let Some((path, file)) = &mut self.rejects {
            file.flush().map_err(|error| cannot_write(path, &error))?;
        }
        let took = self.started.elapsed();
        let lines = self.totals.lines();
        let complete = stopped.is_none();
        let mut out = std::io::stdout().lock();
        match output {
            Output::Json => write_json(
                &mut out,
                &Summary {
                    lines,
                    totals: self.totals,
                    seconds: took.as_secs_f64(),
                    lines_per_second: rate(lines, took),
                    complete,
                    stopped,
                },
            )?,
            Output::Text => {
                let Totals {
                    loaded,
                    duplicates,
                    rejected,
                    failed,
                    unreadable,
                } = self.totals;
                writeln!(
                    out,
                    "{lines} lines: {loaded} loaded ({duplicates} were already), {rejected} rejected, {failed} \
                     failed, {unreadable} unreadable; {:.1} s, {:.0}/s",
                    took.as_secs_f64(),
                    rate(lines, took)
                )?;
                if let Some(why) = stopped {
                    writeln!(
                        out,
                        "stopped before the end: {why}; load the same file again to go on"
                    )?;
                }
            }
        }
        Ok(ExitCode::from(self.totals.exit_code(complete)))
    }
}

fn rate(lines: u64, took: Duration) -> f64 {
    lines as f64 / took.as_secs_f64().max(0.001)
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    Failure::local(format!("cannot write {}: {error}", path.display()))
}

/// A line in JSON with its command id, so that loading what was kept cannot
/// repeat what was done after all.
fn kept_line(line: &Line) -> Result<String, Failure> {
    #[derive(Serialize)]
    struct Kept<'a> {
        id: &'a str,
        command: &'a RawValue,
        command_id: &'a str,
    }
    let command = serde_json::from_slice(&line.payload);
    let kept = command.and_then(|command| {
        serde_json::to_string(&Kept {
            id: &line.entity_id,
            command,
            command_id: &line.command_id,
        })
    });
    kept.map_err(Failure::local)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cli::load::lines::{Format, Shape};

    #[test]
    fn the_exit_code_says_the_worst() {
        let totals = |rejected, failed, unreadable| Totals {
            loaded: 1,
            rejected,
            failed,
            unreadable,
            ..Totals::default()
        };
        assert_eq!(totals(0, 0, 0).exit_code(true), 0);
        assert_eq!(totals(1, 0, 0).exit_code(true), 3);
        assert_eq!(totals(1, 1, 0).exit_code(true), 1);
        assert_eq!(totals(1, 0, 1).exit_code(true), 1);
        assert_eq!(totals(0, 0, 0).exit_code(false), 1);
    }

    #[test]
    fn kept_lines_can_be_loaded_again_as_the_same_commands() {
        let format = |file_hash| Format {
            file_hash,
            shape: Shape::Json,
        };
        let line = format(7)
            .parse(5, r#"{"id":"a\"b","command":{"add": 1}}"#)
            .unwrap();
        let kept = kept_line(&line).unwrap();
        // Another file, another place, the same command.
        let again = format(8).parse(1, &kept).unwrap();
        assert_eq!(again, Line { nr: 1, ..line });
    }
}
