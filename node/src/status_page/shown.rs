//! Numbers, times and links as people read them.

use std::time::{Duration, SystemTime};

/// With a separator between thousands.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Whole when it is large, with a decimal when it is small.
pub(super) fn rate(per_second: f64) -> String {
    if per_second < 0.05 {
        "0".to_owned()
    } else if per_second < 10.0 {
        format!("{per_second:.1}")
    } else {
        count(per_second.round() as u64)
    }
}

/// With the unit that fits; a dash for none.
pub(super) fn time(duration: Option<Duration>) -> String {
    let Some(duration) = duration else {
        return "–".to_owned();
    };
    let micros = duration.as_secs_f64() * 1e6;
    match micros {
        0.0..1_000.0 => format!("{micros:.0} µs"),
        1_000.0..10_000.0 => format!("{:.1} ms", micros / 1e3),
        10_000.0..1_000_000.0 => format!("{:.0} ms", micros / 1e3),
        _ => format!("{:.1} s", micros / 1e6),
    }
}

/// The two largest units.
pub(super) fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// For `datetime`, to the millisecond, UTC.
pub(super) fn machine_time(at: SystemTime) -> String {
    if at > SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799) {
        // After the year 9999, which only a broken clock says.
        return "9999-12-31T23:59:59Z".to_owned();
    }
    let at = at.max(SystemTime::UNIX_EPOCH);
    humantime::format_rfc3339_millis(at).to_string()
}

/// Date and time to the second, UTC.
pub(super) fn date_and_time(at: SystemTime) -> String {
    machine_time(at)[..19].replace('T', " ")
}

/// The time of day, UTC.
pub(super) fn time_of_day(at: SystemTime) -> String {
    machine_time(at)[11..19].to_owned()
}

/// Numbers in order as ranges: `0–2, 5`.
pub(super) fn ranges(numbers: impl IntoIterator<Item = u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let texts = ranges.into_iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first}–{last}"),
    });
    texts.collect::<Vec<_>>().join(", ")
}

/// A value in a link, so that it stays one value whatever it contains.
pub(super) fn in_link(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_people_write_them() {
        assert_eq!(count(7), "7");
        assert_eq!(count(1_234), "1,234");
        assert_eq!(count(59_683_000), "59,683,000");
        assert_eq!(rate(0.0), "0");
        assert_eq!(rate(3.46), "3.5");
        assert_eq!(rate(12_345.6), "12,346");
        assert_eq!(ranges([0, 1, 2, 5, 7, 8]), "0–2, 5, 7, 8");
        assert_eq!(ranges([]), "");
    }

    #[test]
    fn times_have_the_unit_that_fits() {
        let micros = |micros| time(Some(Duration::from_micros(micros)));
        assert_eq!(time(None), "–");
        assert_eq!(micros(450), "450 µs");
        assert_eq!(micros(3_700), "3.7 ms");
        assert_eq!(micros(42_000), "42 ms");
        assert_eq!(micros(2_500_000), "2.5 s");
        assert_eq!(age(Duration::from_secs(59)), "59 s");
        assert_eq!(age(Duration::from_secs(3_700)), "1 h 1 min");
        assert_eq!(age(Duration::from_secs(200_000)), "2 d 7 h");
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(86_399_500);
        assert_eq!(date_and_time(at), "1970-01-01 23:59:59");
        assert_eq!(time_of_day(at), "23:59:59");
        assert_eq!(
            machine_time(at + Duration::from_secs(1 << 40)),
            "9999-12-31T23:59:59Z"
        );
    }

    #[test]
    fn a_value_in_a_link_stays_one_value() {
        assert_eq!(in_link("a-b_c.d~1"), "a-b_c.d~1");
        assert_eq!(
            in_link("São <&=?#%+ >"),
            "S%C3%A3o%20%3C%26%3D%3F%23%25%2B%20%3E"
        );
    }
}
