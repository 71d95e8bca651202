//! Reads a file line by line, in memory bounded whatever the file holds.
//!
//! The file is read twice: once for the hash that goes into command ids, once
//! for its lines. What is appended between the two is not loaded.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;
use xxhash_rust::xxh3::Xxh3;

use super::lines::{CsvShape, Format, Line, Shape};

/// Longest line. Larger than any command a node takes by default, and small
/// enough to have many in memory.
const LINE_LEN_MAX: usize = 4 << 20;
/// Lines read ahead.
const READ_AHEAD: usize = 64;

/// A file, looked through once.
#[derive(Debug, Clone)]
pub(super) struct Surveyed {
    path: PathBuf,
    /// Bytes of it that are loaded.
    len: u64,
    /// Lines that hold something; with the header of a CSV file.
    pub(super) lines: u64,
    /// Of its content.
    pub(super) hash: u128,
}

/// What the file is and how it becomes commands.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    Json,
    Csv { id_column: String, command: String },
}

/// What came out of the file.
#[derive(Debug)]
pub(super) enum Item {
    /// A command; of a JSON line, also its text.
    Line { line: Line, json: Option<String> },
    /// A line that is none.
    Bad {
        nr: u64,
        /// The line; empty if it is too long or not text.
        text: String,
        why: String,
    },
    /// The file cannot be read further.
    Broken { why: String },
}

/// Looks through a file: its hash and its number of lines.
pub(super) fn survey(path: &Path) -> io::Result<Surveyed> {
    let mut file = File::open(path)?;
    let mut hasher = Xxh3::new();
    let mut buffer = vec![0; 1 << 16];
    let (mut len, mut lines, mut blank) = (0, 0, true);
    loop {
        let read = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let bytes = &buffer[..read];
        hasher.update(bytes);
        len += read as u64;
        for byte in bytes {
            match byte {
                b'\n' => {
                    lines += u64::from(!blank);
                    blank = true;
                }
                byte => blank &= byte.is_ascii_whitespace(),
            }
        }
    }
    Ok(Surveyed {
        path: path.to_owned(),
        len,
        lines: lines + u64::from(!blank),
        hash: hasher.digest128(),
    })
}

/// Reads the file in a thread of its own, not further ahead than the channel
/// holds. Ends early when the receiver is dropped.
pub(super) fn read(surveyed: Surveyed, kind: Kind) -> mpsc::Receiver<Item> {
    let (items, receiver) = mpsc::channel(READ_AHEAD);
    tokio::task::spawn_blocking(move || {
        let emit = |item| items.blocking_send(item).is_ok();
        if let Err(error) = read_lines(&surveyed, &kind, emit) {
            let why = format!("{}: {error}", surveyed.path.display());
            let _ = items.blocking_send(Item::Broken { why });
        }
    });
    receiver
}

fn read_lines(
    surveyed: &Surveyed,
    kind: &Kind,
    mut emit: impl FnMut(Item) -> bool,
) -> io::Result<()> {
    let file = File::open(&surveyed.path)?;
    let mut reader = BufReader::with_capacity(1 << 16, file.take(surveyed.len));
    let mut format = match kind {
        Kind::Json => Some(Format {
            file_hash: surveyed.hash,
            shape: Shape::Json,
        }),
        // Known with the header.
        Kind::Csv { .. } => None,
    };
    let mut nr = 0;
    let mut bytes = Vec::new();
    while let Some(len) = next_line(&mut reader, &mut bytes)? {
        nr += 1;
        let text = match line_text(&bytes, len, nr) {
            Ok("") => continue,
            Ok(text) => text,
            Err(why) => {
                let text = String::new();
                if emit(Item::Bad { nr, text, why }) {
                    continue;
                }
                return Ok(());
            }
        };
        let item = match (&format, kind) {
            (None, Kind::Csv { id_column, command }) => {
                match CsvShape::new(text, id_column, command) {
                    Ok(shape) => {
                        format = Some(Format {
                            file_hash: surveyed.hash,
                            shape: Shape::Csv(shape),
                        });
                        continue;
                    }
                    Err(why) => {
                        emit(Item::Broken { why });
                        return Ok(());
                    }
                }
            }
            (Some(format), _) => match format.parse(nr, text) {
                Ok(line) => {
                    let json = matches!(kind, Kind::Json).then(|| text.to_owned());
                    Item::Line { line, json }
                }
                Err(why) => {
                    let text = text.to_owned();
                    Item::Bad { nr, text, why }
                }
            },
            // JSON has its format from the start.
            (None, Kind::Json) => return Ok(()),
        };
        if !emit(item) {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads one line into `bytes`, of which no more than the longest is kept; its
/// length, or `None` at the end.
fn next_line(reader: &mut impl BufRead, bytes: &mut Vec<u8>) -> io::Result<Option<usize>> {
    bytes.clear();
    let mut len = 0;
    loop {
        let available = match reader.fill_buf() {
            Ok(available) => available,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if available.is_empty() {
            return Ok((len > 0).then_some(len));
        }
        let line_break = available.iter().position(|byte| *byte == b'\n');
        let taken = line_break.map_or(available.len(), |at| at + 1);
        let room = LINE_LEN_MAX.saturating_sub(bytes.len());
        bytes.extend_from_slice(&available[..taken.min(room)]);
        len += taken;
        reader.consume(taken);
        if line_break.is_some() {
            return Ok(Some(len));
        }
    }
}

/// The text of a line without line break and byte order mark; empty if blank.
fn line_text(bytes: &[u8], len: usize, nr: u64) -> Result<&str, String> {
    if len > LINE_LEN_MAX {
        return Err(format!(
            "it has {len} bytes, and at most {LINE_LEN_MAX} are read"
        ));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| format!("it is not UTF-8: {error}"))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    let text = match nr {
        1 => text.strip_prefix('\u{feff}').unwrap_or(text),
        _ => text,
    };
    Ok(if text.trim().is_empty() { "" } else { text })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;

    fn items(content: &[u8], kind: &Kind) -> (Surveyed, Vec<String>) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        let surveyed = survey(file.path()).unwrap();
        // Appended after the survey: not loaded.
        file.write_all(b"\nappended").unwrap();
        let mut seen = Vec::new();
        let emit = |item| {
            seen.push(match item {
                Item::Line { line, .. } => format!("{} {}", line.nr, line.entity_id),
                Item::Bad { nr, .. } => format!("{nr} bad"),
                Item::Broken { .. } => "broken".to_owned(),
            });
            true
        };
        read_lines(&surveyed, kind, emit).unwrap();
        (surveyed, seen)
    }

    fn csv() -> Kind {
        Kind::Csv {
            id_column: "id".into(),
            command: "do".into(),
        }
    }

    #[test]
    fn lines_are_counted_as_editors_do_and_blank_ones_skipped() {
        let content = b"\xef\xbb\xbfid,x\r\n\r\na,1\nb\n  \nc,3";
        let (surveyed, seen) = items(content, &csv());
        assert_eq!(seen, ["3 a", "4 bad", "6 c"]);
        assert_eq!(surveyed.lines, 4);
    }

    #[test]
    fn a_line_that_is_no_text_or_too_long_is_bad_and_the_next_is_read() {
        let mut content = b"id,x\n\xff,1\n".to_vec();
        content.resize(content.len() + LINE_LEN_MAX, b'y');
        content.extend_from_slice(b"\nz,1\n");
        assert_eq!(items(&content, &csv()).1, ["2 bad", "3 bad", "4 z"]);
    }

    #[test]
    fn a_header_without_the_column_ends_it() {
        assert_eq!(items(b"name,x\na,1\n", &csv()).1, ["broken"]);
    }

    #[test]
    fn the_hash_is_of_the_content() {
        let (one, _) = items(b"{}\n", &Kind::Json);
        let (same, _) = items(b"{}\n", &Kind::Json);
        let (other, _) = items(b"{} \n", &Kind::Json);
        assert_eq!(one.hash, same.hash);
        assert_ne!(one.hash, other.hash);
    }
}
