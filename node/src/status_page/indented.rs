//! JSON with line breaks, otherwise as it was written: keys keep their order and
//! numbers their digits, which reading it into values would not.

/// The text with line breaks; `None` when it is no JSON.
pub(super) fn indented(json: &str) -> Option<String> {
    // What follows relies on it.
    serde_json::from_str::<serde::de::IgnoredAny>(json).ok()?;
    let mut text = String::with_capacity(json.len() * 2);
    let mut depth = 0;
    let mut chars = json.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                text.push(c);
                while let Some(c) = chars.next() {
                    text.push(c);
                    match c {
                        '\\' => text.extend(chars.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '{' | '[' => {
                text.push(c);
                while chars.next_if(|c| c.is_whitespace()).is_some() {}
                if let Some(end) = chars.next_if(|c| matches!(c, '}' | ']')) {
                    text.push(end);
                } else {
                    depth += 1;
                    break_line(&mut text, depth);
                }
            }
            '}' | ']' => {
                depth -= 1;
                break_line(&mut text, depth);
                text.push(c);
            }
            ',' => {
                text.push(c);
                break_line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            c if c.is_whitespace() => {}
            c => text.push(c),
        }
    }
    Some(text)
}

fn break_line(text: &mut String, depth: usize) {
    text.push('\n');
    for _ in 0..depth {
        text.push_str("  ");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_line_breaks_is_added() {
        let json = r#"{"z":[1.50,{},[ ],"a,\"}:\\"] , "a":12345678901234567890,"e":{"n":null}}"#;
        let expected = r#"{
  "z": [
    1.50,
    {},
    [],
    "a,\"}:\\"
  ],
  "a": 12345678901234567890,
  "e": {
    "n": null
  }
}"#;
        assert_eq!(indented(json).unwrap(), expected);
        assert_eq!(indented("7").unwrap(), "7");
        assert_eq!(indented("{"), None);
    }
}
