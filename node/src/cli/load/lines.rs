//! From one line of a file to one command: pure, and strict. A line that is not
//! understood completely is not sent at all.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

/// A command to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Counted from 1, as editors do.
    pub(super) nr: u64,
    pub(super) entity_id: String,
    pub(super) command_id: String,
    pub(super) payload: Bytes,
}

/// How the lines of a file are to be read.
#[derive(Debug, Clone)]
pub(super) struct Format {
    /// Names the file's content in the command ids of lines that have none.
    pub(super) file_hash: u128,
    pub(super) shape: Shape,
}

/// What a line looks like.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    /// `{"id": …, "command": …, "command_id": …}`
    Json,
    /// Fields that stand under a header.
    Csv(CsvShape),
}

/// How a CSV row becomes a command: one column is the entity's id, the others
/// are the fields of the command.
#[derive(Debug, Clone)]
pub(super) struct CsvShape {
    columns: Vec<String>,
    id_column: usize,
    command: String,
}

/// One line in NDJSON. A field with a wrong name is not ignored: a misspelt
/// `command_id` would cost the guarantee that comes with it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonLine<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    command: &'a RawValue,
    #[serde(borrow, default)]
    command_id: Option<Cow<'a, str>>,
}

impl Format {
    /// Reads one line, without its line break.
    ///
    /// # Errors
    /// Why it is not a command, for a person.
    pub(super) fn parse(&self, nr: u64, text: &str) -> Result<Line, String> {
        let (entity_id, payload, command_id) = match &self.shape {
            Shape::Json => {
                let line: JsonLine<'_> =
                    serde_json::from_str(text).map_err(|error| error.to_string())?;
                let payload = Bytes::copy_from_slice(line.command.get().as_bytes());
                (line.id.into_owned(), payload, line.command_id)
            }
            Shape::Csv(shape) => {
                let (entity_id, payload) = shape.parse(text)?;
                (entity_id, payload, None)
            }
        };
        let command_id = match command_id {
            Some(given) if !given.is_empty() => given.into_owned(),
            _ => format!("{:032x}-{nr}", self.file_hash),
        };
        Ok(Line {
            nr,
            entity_id,
            command_id,
            payload,
        })
    }
}

impl CsvShape {
    /// Reads the header line.
    ///
    /// # Errors
    /// Why rows under it cannot become commands, for a person.
    pub(super) fn new(header: &str, id_column: &str, command: &str) -> Result<Self, String> {
        let columns = fields_of(header)?;
        for (at, column) in columns.iter().enumerate() {
            if columns[..at].contains(column) {
                return Err(format!("the header has column {column:?} twice"));
            }
        }
        let id_column = columns
            .iter()
            .position(|column| column == id_column)
            .ok_or_else(|| {
                let found = columns.join(", ");
                format!("the header has no column {id_column:?}: it has {found}")
            })?;
        Ok(Self {
            columns,
            id_column,
            command: command.to_owned(),
        })
    }

    fn parse(&self, text: &str) -> Result<(String, Bytes), String> {
        let mut fields = fields_of(text)?;
        if fields.len() != self.columns.len() {
            return Err(format!(
                "it has {} fields, and the header {}",
                fields.len(),
                self.columns.len()
            ));
        }
        let mut payload = format!("{{{}:{{", json_text(&self.command));
        let mut separator = "";
        for (at, (column, field)) in self.columns.iter().zip(&fields).enumerate() {
            if at == self.id_column {
                continue;
            }
            payload.push_str(separator);
            payload.push_str(&json_text(column));
            payload.push(':');
            // As it is written, so that no digit of a long number is lost.
            if is_json_number(field) {
                payload.push_str(field);
            } else {
                payload.push_str(&json_text(field));
            }
            separator = ",";
        }
        payload.push_str("}}");
        Ok((fields.swap_remove(self.id_column), payload.into()))
    }
}

/// The fields of one CSV row. A row is one line: a quote that is not closed
/// spoils its own line, and does not swallow the rest of the file.
fn fields_of(text: &str) -> Result<Vec<String>, String> {
    if !text.matches('"').count().is_multiple_of(2) {
        return Err("a quote is not closed on the same line".to_owned());
    }
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .buffer_capacity(text.len() + 1)
        .from_reader(text.as_bytes());
    let mut record = csv::StringRecord::new();
    reader
        .read_record(&mut record)
        .map_err(|error| error.to_string())?;
    Ok(record.iter().map(str::to_owned).collect())
}

/// By the grammar of JSON: `007` and `+1` are texts.
fn is_json_number(field: &str) -> bool {
    field.starts_with(|c: char| c == '-' || c.is_ascii_digit())
        && field.ends_with(|c: char| c.is_ascii_digit())
        && serde_json::from_str::<&RawValue>(field).is_ok()
}

fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn json() -> Format {
        Format {
            file_hash: 0xabc,
            shape: Shape::Json,
        }
    }

    fn csv() -> Format {
        let header = "date,origin,destination,delay_minutes";
        Format {
            file_hash: 0xabc,
            shape: Shape::Csv(CsvShape::new(header, "origin", "depart").unwrap()),
        }
    }

    fn payload(line: &Line) -> &str {
        std::str::from_utf8(&line.payload).unwrap()
    }

    #[test]
    fn a_json_line_keeps_its_command_as_written() {
        let text = r#"{"id":"a","command":{"add": 1.0},"command_id":"x"}"#;
        let line = json().parse(7, text).unwrap();
        assert_eq!((line.nr, line.entity_id.as_str()), (7, "a"));
        assert_eq!(payload(&line), r#"{"add": 1.0}"#);
        assert_eq!(line.command_id, "x");
    }

    #[test]
    fn a_line_without_command_id_gets_one_of_file_and_line() {
        let line = json().parse(7, r#"{"id":"a","command":"get"}"#).unwrap();
        assert_eq!(line.command_id, "00000000000000000000000000000abc-7");
        let other = json().parse(8, r#"{"id":"a","command":"get"}"#).unwrap();
        assert_ne!(line.command_id, other.command_id);
    }

    #[test]
    fn a_json_line_that_is_not_understood_is_refused() {
        for text in [
            "",
            "x",
            "[]",
            r#"{"id":"a"}"#,
            r#"{"command":"get"}"#,
            r#"{"id":5,"command":"get"}"#,
            r#"{"id":"a","command":"get","comand_id":"x"}"#,
            r#"{"id":"a","command":"get"} x"#,
        ] {
            assert!(json().parse(1, text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_other_columns_become_the_fields_of_the_command() {
        let line = csv().parse(2, "2001/01/01 00:47,DTW,LAS,-6").unwrap();
        assert_eq!(line.entity_id, "DTW");
        assert_eq!(
            payload(&line),
            r#"{"depart":{"date":"2001/01/01 00:47","destination":"LAS","delay_minutes":-6}}"#
        );
    }

    #[test]
    fn only_what_is_a_json_number_becomes_one() {
        for (field, expected) in [
            ("66", "66"),
            ("-1.5e3", "-1.5e3"),
            ("123456789012345678901", "123456789012345678901"),
            ("007", r#""007""#),
            ("1 ", r#""1 ""#),
            ("", r#""""#),
            ("NaN", r#""NaN""#),
            ("-", r#""-""#),
            (r#""a ""b"", c""#, r#""a \"b\", c""#),
        ] {
            let line = csv().parse(2, &format!("d,DTW,LAS,{field}")).unwrap();
            let command: serde_json::Value = serde_json::from_slice(&line.payload).unwrap();
            assert!(command["depart"].is_object());
            assert!(
                payload(&line).contains(&format!(":{expected}}}")),
                "{field}: {line:?}"
            );
        }
    }

    #[test]
    fn a_row_that_does_not_fit_the_header_is_refused() {
        for text in ["d,DTW,LAS", "d,DTW,LAS,1,2", "", r#"d,"DTW,LAS,1"#] {
            assert!(csv().parse(2, text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_header_must_have_the_id_column_once() {
        assert!(CsvShape::new("a,b", "c", "x").unwrap_err().contains("a, b"));
        assert!(CsvShape::new("a,a", "a", "x").is_err());
    }
}
