//! How the text of a setting becomes a value with a unit.
//!
//! Every function returns what it had expected when the text is something else;
//! `config.rs` adds key, value and source. Numbers without a unit are refused
//! where a unit is meant: `30` could be seconds or milliseconds.

use std::ops::RangeInclusive;
use std::time::Duration;

/// What a text should have been.
pub(super) type Expected = String;

/// A length of time, at least `shortest`.
pub(super) fn duration(text: &str, shortest: Duration) -> Result<Duration, Expected> {
    let parsed = humantime::parse_duration(text).ok();
    // Anything longer than a century is a mistake, and overflows deadlines.
    let longest = Duration::from_secs(100 * 365 * 24 * 3600);
    parsed
        .filter(|duration| (shortest..=longest).contains(duration))
        .ok_or_else(|| {
            format!(
                "a time of at least {} with its unit, such as \"500ms\", \"30s\" or \"2min\"",
                humantime::format_duration(shortest)
            )
        })
}

/// A whole number.
pub(super) fn count<T>(text: &str, range: RangeInclusive<T>) -> Result<T, Expected>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    let parsed = text.parse().ok();
    parsed
        .filter(|number| range.contains(number))
        .ok_or_else(|| format!("a whole number from {} to {}", range.start(), range.end()))
}

/// A number that need not be whole.
pub(super) fn factor(text: &str, range: RangeInclusive<f64>) -> Result<f64, Expected> {
    let parsed = text.parse().ok();
    parsed
        .filter(|number| range.contains(number))
        .ok_or_else(|| format!("a number from {} to {}", range.start(), range.end()))
}

/// A size in bytes.
pub(super) fn byte_size(text: &str, range: RangeInclusive<usize>) -> Result<usize, Expected> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_len = match unit.trim_start() {
        "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let parsed = unit_len.and_then(|unit_len| number.parse::<usize>().ok()?.checked_mul(unit_len));
    parsed.filter(|len| range.contains(len)).ok_or_else(|| {
        format!(
            "a size from {} to {} bytes with its unit (B, KiB, MiB or GiB), such as \"1MiB\"",
            range.start(),
            range.end()
        )
    })
}

/// One of several words.
pub(super) fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, Expected> {
    let found = choices.iter().find(|(word, _)| *word == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<String> = choices
            .iter()
            .map(|(word, _)| format!("{word:?}"))
            .collect();
        format!("one of {}", words.join(", "))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_need_a_unit() {
        let parse = |text| duration(text, Duration::from_millis(1));
        assert_eq!(parse("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse("1min 30s"), Ok(Duration::from_secs(90)));
        for text in ["", "30", "0s", "-1s", "s", "1000years"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes_need_a_unit() {
        let parse = |text| byte_size(text, 1..=1 << 30);
        assert_eq!(parse("1MiB"), Ok(1 << 20));
        assert_eq!(parse("64 KiB"), Ok(64 << 10));
        assert_eq!(parse("1B"), Ok(1));
        for text in [
            "",
            "1",
            "1MB",
            "0B",
            "2GiB",
            "-1B",
            "MiB",
            "99999999999999999999B",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn numbers_stay_in_their_range() {
        assert_eq!(count("7", 1..=10_u32), Ok(7));
        assert_eq!(factor("0.2", 0.0..=1.0), Ok(0.2));
        for text in ["", "0", "11", "1.5", "x"] {
            assert!(count(text, 1..=10_u32).is_err(), "{text:?}");
        }
        for text in ["", "-0.1", "NaN", "inf"] {
            assert!(factor(text, 0.0..=1.0).is_err(), "{text:?}");
        }
    }
}
