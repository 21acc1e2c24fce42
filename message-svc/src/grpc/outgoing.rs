//! The rules of a message's form.

use chassis::{call::ActingUser, id::MessageId};
use proto::message::v1 as pb;
use serde_json::value::RawValue;

use crate::{
    entry::{Content, Stamp},
    error::Error,
    log::Outgoing,
};

const MAX_BODY_CHARS: usize = 4_096;
const MAX_STAMP_CHARS: usize = 64;
const MAX_ATTRS_BYTES: usize = 8_192;
const MAX_ATTRS_LEVELS: usize = 64;

/// The message as the log takes it, if its form is right. Characters are Unicode
/// scalar values.
pub(super) fn check(message: pb::OutgoingMessage, owner: &ActingUser) -> Result<Outgoing, Error> {
    check_body(&message.body)?;
    let stamp = match message.stamp {
        None => None,
        Some(pb::outgoing_message::Stamp::StampId(text)) => {
            check_stamp("stamp_id", &text)?;
            Some(Stamp::Given(text))
        }
        Some(pb::outgoing_message::Stamp::EdgeStamp(text)) => {
            check_stamp("edge_stamp", &text)?;
            Some(Stamp::MadeUp(text))
        }
    };
    let attrs = Some(message.attrs_json).filter(|attrs| !attrs.is_empty());
    if let Some(attrs) = &attrs {
        check_attrs(attrs)?;
    }
    let reply_to = match message.reply_to {
        0 => None,
        ..0 => return Err(invalid("reply_to", "must not be negative")),
        // What is beyond every id names no message.
        number => Some(MessageId::new(number).ok_or(Error::ReplyNotFound)?),
    };
    Ok(Outgoing {
        owner: owner.clone(),
        stamp,
        content: Content {
            body: message.body,
            reply_to,
            attrs,
            has_media: message.has_media,
        },
    })
}

fn invalid(field: &'static str, rule: impl Into<String>) -> Error {
    Error::MessageInvalid {
        field,
        rule: rule.into(),
    }
}

fn check_body(body: &str) -> Result<(), Error> {
    if body.chars().count() > MAX_BODY_CHARS {
        return Err(invalid("body", "must have at most 4096 characters"));
    }
    if body.chars().all(char::is_whitespace) {
        return Err(invalid("body", "must not be blank"));
    }
    Ok(())
}

fn check_stamp(field: &'static str, text: &str) -> Result<(), Error> {
    if (1..=MAX_STAMP_CHARS).contains(&text.chars().count()) {
        Ok(())
    } else {
        Err(invalid(field, "must have 1 to 64 characters"))
    }
}

fn check_attrs(attrs: &str) -> Result<(), Error> {
    if attrs.len() > MAX_ATTRS_BYTES {
        return Err(invalid("attrs_json", "must have at most 8192 bytes"));
    }
    // Reading it as raw JSON needs no stack for its levels, however many there are.
    if serde_json::from_str::<&RawValue>(attrs).is_err() {
        return Err(invalid("attrs_json", "must be JSON"));
    }
    let mut levels = 0_usize;
    let mut in_string = false;
    let mut bytes = attrs.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => {
                bytes.next();
            }
            _ if in_string => {}
            b'{' | b'[' => {
                levels += 1;
                if levels > MAX_ATTRS_LEVELS {
                    return Err(invalid("attrs_json", "must have at most 64 levels"));
                }
            }
            b'}' | b']' => levels = levels.saturating_sub(1),
            b' ' | b'\t' | b'\r' | b'\n' => {
                return Err(invalid("attrs_json", "must be compact JSON"));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attrs_fault(attrs: &str) -> Option<String> {
        match check_attrs(attrs) {
            Ok(()) => None,
            Err(error) => Some(error.to_string()),
        }
    }

    #[test]
    fn any_compact_json_is_taken() {
        let deepest = format!("{}{}", "[".repeat(64), "]".repeat(64));
        let longest = format!("\"{}\"", "a".repeat(8_190));
        for attrs in [
            "null",
            "0",
            "123456789012345678901234567890.10e+5",
            r#""a b\" \\ [[{""#,
            r#"{"a":[1,{"b":"c d"}],"a":null}"#,
            "\"\u{1f600}\u{a0}\"",
            &deepest,
            &longest,
        ] {
            assert_eq!(attrs_fault(attrs), None, "{attrs}");
        }
    }

    #[test]
    fn other_attrs_are_refused_for_what_is_wrong() {
        let too_deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
        let too_long = format!("\"{}\"", "a".repeat(8_191));
        let unclosed = "[".repeat(8_192);
        for (attrs, rule) in [
            (" ", "must be JSON"),
            ("nul", "must be JSON"),
            ("{} {}", "must be JSON"),
            ("NaN", "must be JSON"),
            ("01", "must be JSON"),
            ("{\"a\":1,}", "must be JSON"),
            ("\"\n\"", "must be JSON"),
            (unclosed.as_str(), "must be JSON"),
            ("{\"a\": 1}", "must be compact JSON"),
            ("[1]\n", "must be compact JSON"),
            (too_deep.as_str(), "must have at most 64 levels"),
            (too_long.as_str(), "must have at most 8192 bytes"),
        ] {
            assert_eq!(
                attrs_fault(attrs),
                Some(format!("attrs_json: {rule}")),
                "{attrs}"
            );
        }
    }
}
