//! `attrs`: any JSON, kept as it was written but for blanks, so that the digits of
//! its numbers come back as they were sent.

use serde_json::value::RawValue;

/// Most bytes in compact form.
const MAX_BYTES: usize = 8 << 10;
/// Most levels of arrays and objects.
const MAX_DEPTH: usize = 64;

/// The value without blanks outside of its strings.
///
/// # Errors
/// The rule it breaks.
pub(crate) fn compact(value: &RawValue) -> Result<Box<RawValue>, &'static str> {
    let mut compact = String::with_capacity(value.get().len().min(MAX_BYTES));
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut chars = value.get().chars();
    while let Some(c) = chars.next() {
        if compact.len() >= MAX_BYTES && (in_string || !is_blank(c)) {
            return Err("attrs must have at most 8192 bytes in compact form");
        }
        match c {
            '\\' if in_string => {
                let escape = chars.as_str();
                let length =
                    escape_length(escape).ok_or("attrs must not hold half a surrogate pair")?;
                compact.push(c);
                compact.push_str(escape.get(..length).unwrap_or_default());
                chars = escape.get(length..).unwrap_or_default().chars();
                continue;
            }
            '"' => in_string = !in_string,
            '[' | '{' if !in_string => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err("attrs must have at most 64 levels");
                }
            }
            ']' | '}' if !in_string => depth = depth.saturating_sub(1),
            _ if !in_string && is_blank(c) => continue,
            _ => {}
        }
        compact.push(c);
    }
    if compact.len() > MAX_BYTES {
        return Err("attrs must have at most 8192 bytes in compact form");
    }
    RawValue::from_string(compact).map_err(|_| "attrs must be JSON")
}

/// JSON's white space.
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

/// How long the escape is whose backslash was just read; a surrogate pair is one
/// escape, and half of one is none.
fn escape_length(rest: &str) -> Option<usize> {
    if !rest.starts_with('u') {
        return Some(1);
    }
    let unit = |at: usize| u16::from_str_radix(rest.get(at..at + 4)?, 16).ok();
    match unit(1)? {
        0xD800..=0xDBFF => {
            let low = rest
                .get(5..7)
                .filter(|next| *next == "\\u")
                .and_then(|_| unit(7));
            matches!(low, Some(0xDC00..=0xDFFF)).then_some(11)
        }
        0xDC00..=0xDFFF => None,
        _ => Some(5),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn compacted(json: &str) -> Result<String, &'static str> {
        let value = RawValue::from_string(json.to_owned()).unwrap();
        compact(&value).map(|compact| compact.get().to_owned())
    }

    #[test]
    fn only_blanks_outside_of_strings_go() {
        for (json, expected) in [
            ("{ \"a b\" : [ 1 ,\n\t2 ] }", "{\"a b\":[1,2]}"),
            ("\" \\\" [ \\\\\"", "\" \\\" [ \\\\\""),
            (
                "[1.10, 1E5, 12345678901234567890123, -0.0]",
                "[1.10,1E5,12345678901234567890123,-0.0]",
            ),
            ("{\"a\":1,\"a\":2}", "{\"a\":1,\"a\":2}"),
            ("\"ы\\u044b\\ud83d\\ude00\"", "\"ы\\u044b\\ud83d\\ude00\""),
            ("7", "7"),
        ] {
            assert_eq!(compacted(json).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn bytes_are_counted_in_compact_form() {
        let fits = format!("\"{}\"", "x".repeat(8_190));
        assert!(compacted(&fits).is_ok());
        assert!(compacted(&format!("[{}{}]", " ".repeat(20_000), "1")).is_ok());
        for json in [
            format!("\"{}\"", "x".repeat(8_191)),
            format!("\"{}\"", "ы".repeat(4_096)),
            format!("\"{}\\n\"", "x".repeat(8_189)),
        ] {
            assert!(compacted(&json).is_err());
        }
    }

    #[test]
    fn levels_are_counted() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(compacted(&nested(64)).is_ok());
        assert!(compacted(&nested(65)).is_err());
        assert!(compacted(&format!("[{}]", vec!["[]"; 100].join(","))).is_ok());
    }

    #[test]
    fn half_a_surrogate_pair_is_refused() {
        for json in [
            "\"\\ud800\"",
            "\"\\udc00\"",
            "\"\\ud800\\u0041\"",
            "\"\\ud800x\"",
            "{\"\\ud800\":1}",
        ] {
            assert!(compacted(json).is_err(), "{json}");
        }
    }
}
