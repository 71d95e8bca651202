//! `traceparent`, by which a trace goes from process to process, as the W3C's “Trace
//! Context” has it: in the metadata of gRPC calls and in the frames between nodes.

use std::fmt;

use tonic::metadata::MetadataMap;

/// Where a trace comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceParent {
    pub(crate) trace_id: [u8; 16],
    pub(crate) span_id: [u8; 8],
    /// Whether the one who began the trace wants it recorded.
    pub(crate) sampled: bool,
}

impl TraceParent {
    /// That of a call, if its client sent one that is understood; others are ignored, as
    /// the standard wants it.
    pub(crate) fn of_call(metadata: &MetadataMap) -> Option<Self> {
        Self::parse(metadata.get("traceparent")?.to_str().ok()?)
    }

    /// Understands version 00, and of later ones what they have in common with it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let [version] = hex(parts.next()?)?;
        let trace_id = hex(parts.next()?)?;
        let span_id = hex(parts.next()?)?;
        let [flags] = hex(parts.next()?)?;
        let is_known = match version {
            0 => parts.next().is_none(),
            0xff => false,
            _ => true,
        };
        let is_valid = is_known && trace_id != [0; 16] && span_id != [0; 8];
        is_valid.then_some(Self {
            trace_id,
            span_id,
            sampled: flags & 1 == 1,
        })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trace_id = u128::from_be_bytes(self.trace_id);
        let span_id = u64::from_be_bytes(self.span_id);
        let flags = u8::from(self.sampled);
        write!(f, "00-{trace_id:032x}-{span_id:016x}-{flags:02x}")
    }
}

/// So many bytes in small letters, and nothing else.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    let is_hex = |digit: &u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    if digits.len() != 2 * N || !digits.iter().all(is_hex) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_written_is_read_again() {
        let parent = TraceParent::parse(EXAMPLE).unwrap();
        assert!(parent.sampled);
        assert_eq!(parent.to_string(), EXAMPLE);
        let unsampled = EXAMPLE.replace("-01", "-00");
        let parent = TraceParent::parse(&unsampled).unwrap();
        assert!(!parent.sampled);
        assert_eq!(parent.to_string(), unsampled);
        let later = format!("cc{}-what-comes", &EXAMPLE[2..]);
        assert!(TraceParent::parse(&later).is_some());
    }

    #[test]
    fn what_is_malformed_is_ignored() {
        let long = format!("{EXAMPLE}-more");
        let zero_trace = EXAMPLE.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        let zero_span = EXAMPLE.replace("00f067aa0ba902b7", &"0".repeat(16));
        let newest = EXAMPLE.replacen("00", "ff", 1);
        for text in [
            "",
            "-",
            "00",
            &EXAMPLE[..54],
            &EXAMPLE.to_uppercase(),
            &EXAMPLE.replace('4', "é"),
            &long,
            &zero_trace,
            &zero_span,
            &newest,
        ] {
            assert_eq!(TraceParent::parse(text), None, "{text:?}");
        }
    }
}
