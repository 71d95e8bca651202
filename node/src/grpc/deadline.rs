//! How long a caller waits: gRPC's `grpc-timeout`, as instants.

use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use tonic::metadata::MetadataMap;

/// When a caller is answered at the latest, and after which its command is not
/// begun any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deadline(pub(crate) Instant);

impl Deadline {
    /// A little before `timeout` has passed since `now`: an answer that says what
    /// became of the command must reach the caller before it hangs up.
    pub(crate) fn after(timeout: Duration, now: Instant) -> Option<Self> {
        let margin = (timeout / 10).min(Duration::from_millis(20));
        // Too far to be represented means no deadline.
        now.checked_add(timeout - margin).map(Self)
    }

    /// The deadline of a call that arrived at `now`, if its caller set one.
    pub(crate) fn of_call(metadata: &MetadataMap, now: Instant) -> Option<Self> {
        Self::after(timeout_of(metadata.as_ref())?, now)
    }
}

/// How long the caller of a request waits, if it says.
pub(crate) fn timeout_of(headers: &HeaderMap) -> Option<Duration> {
    parse(headers.get("grpc-timeout")?.to_str().ok()?)
}

/// The form of the gRPC protocol: at most 8 digits and a unit. What is not of
/// this form is ignored, as gRPC servers do.
fn parse(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.len() > 8 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        for (text, expected) in [
            ("2H", Some(Duration::from_secs(7200))),
            ("1M", Some(Duration::from_secs(60))),
            ("5S", Some(Duration::from_secs(5))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("1n", Some(Duration::from_nanos(1))),
            ("", None),
            ("S", None),
            ("5", None),
            ("-5S", None),
            ("999999999S", None),
            ("5é", None),
        ] {
            assert_eq!(parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_node_answers_before_the_caller_hangs_up() {
        let now = Instant::now();
        for millis in [1, 100, 10_000] {
            let timeout = Duration::from_millis(millis);
            let deadline = Deadline::after(timeout, now);
            assert!(deadline.is_some_and(|Deadline(at)| at < now + timeout && at > now));
        }
    }
}
