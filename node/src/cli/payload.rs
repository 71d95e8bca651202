//! How encoded replies, states and events are shown.

use serde_json::value::RawValue;

/// JSON as it came; other encodings as a JSON text of hexadecimal digits.
pub(super) fn shown(content_type: &str, bytes: &[u8]) -> Box<RawValue> {
    if bytes.is_empty() {
        return RawValue::NULL.to_owned();
    }
    let json = (content_type == "application/json")
        .then(|| String::from_utf8(bytes.to_vec()).ok())
        .flatten()
        .and_then(|text| RawValue::from_string(text).ok());
    json.unwrap_or_else(|| {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        // Digits need no escaping.
        RawValue::from_string(format!("\"{digits}\"")).unwrap_or_else(|_| RawValue::NULL.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_comes_out_as_it_is_and_the_rest_as_hexadecimal() {
        assert_eq!(
            shown("application/json", br#"{"a": 1.0}"#).get(),
            r#"{"a": 1.0}"#
        );
        assert_eq!(shown("application/json", b"").get(), "null");
        assert_eq!(shown("application/json", b"{").get(), r#""7b""#);
        assert_eq!(
            shown("application/x-protobuf", &[1, 255]).get(),
            r#""01ff""#
        );
    }
}
