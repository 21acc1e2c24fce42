//! One outgoing event, encoded once however many sockets it goes to.

use std::{
    fmt::Write as _,
    sync::{Arc, OnceLock},
};

use engineioxide::Str;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use socketioxide_core::{Value, packet::Packet, parser::Parse};
use socketioxide_parser_common::CommonParser;

/// Which generation of the protocol a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Generation {
    /// Engine.IO 3: Socket.IO clients 1.x and 2.x.
    Eio3,
    /// Engine.IO 4: Socket.IO clients 3.x and 4.x.
    Eio4,
}

/// A Socket.IO event packet of the namespace `/`, ready to be sent. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Frame(Arc<Encoded>);

#[derive(Debug)]
struct Encoded {
    packet: Str,
    /// The payload alone, for acknowledgements.
    payload: Box<RawValue>,
    /// The packet in ASCII, made when the first old client needs it.
    ascii: OnceLock<Str>,
}

impl Frame {
    /// The event `name` with one argument.
    ///
    /// A payload that can't be JSON is a bug of ours: it is logged and sent as `null`.
    #[must_use]
    pub fn event(name: &'static str, payload: &impl Serialize) -> Self {
        let payload = to_raw_value(payload).unwrap_or_else(|error| {
            tracing::error!(event = name, %error, "a payload can't be encoded");
            RawValue::NULL.to_owned()
        });
        Self(Arc::new(Encoded {
            packet: encode(Packet::event("/", array(&payload, Some(name)))),
            payload,
            ascii: OnceLock::new(),
        }))
    }

    /// How many bytes the packet has in this generation.
    #[must_use]
    pub fn len(&self, generation: Generation) -> usize {
        self.packet(generation).len()
    }

    /// The packet as text, without Engine.IO's own type in front.
    #[must_use]
    pub fn packet(&self, generation: Generation) -> Str {
        match generation {
            Generation::Eio4 => self.0.packet.clone(),
            Generation::Eio3 => self.0.ascii.get_or_init(|| ascii(&self.0.packet)).clone(),
        }
    }

    /// The answer to the acknowledgement `id`, with this event's payload.
    pub(crate) fn ack_packet(&self, id: i64, generation: Generation) -> Str {
        encode_for(
            generation,
            Packet::ack("/", array(&self.0.payload, None), id),
        )
    }
}

/// The array that a packet carries: the event's name, if it has one, and the payload.
fn array(payload: &RawValue, name: Option<&str>) -> Value {
    CommonParser
        .encode_value(payload, name)
        .unwrap_or_else(|error| {
            tracing::error!(%error, "a payload can't be put into a packet");
            Value::Str(Str::from("[]"), None)
        })
}

fn encode(packet: Packet) -> Str {
    match CommonParser.encode(packet) {
        Value::Str(text, _) => text,
        // This parser makes text only.
        Value::Bytes(_) => Str::default(),
    }
}

/// A packet's text for a client of this generation.
pub(crate) fn encode_for(generation: Generation, packet: Packet) -> Str {
    let text = encode(packet);
    match generation {
        Generation::Eio4 => text,
        Generation::Eio3 => ascii(&text),
    }
}

/// Socket.IO 1.x decodes UTF-8 twice on polling and 2.x once, and nothing tells
/// them apart: only ASCII means the same to both. Outside of strings JSON is ASCII.
fn ascii(json: &Str) -> Str {
    if json.is_ascii() {
        return json.clone();
    }
    let mut escaped = String::with_capacity(json.len() * 2);
    for c in json.chars() {
        if c.is_ascii() {
            escaped.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing into a String can't fail.
            let _ = write!(escaped, "\\u{unit:04x}");
        }
    }
    Str::from(escaped)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_plain_json_for_new_clients_and_ascii_for_old_ones() {
        let frame = Frame::event("message_events", &json!({"body": "Привет 😀\n"}));
        assert_eq!(
            frame.packet(Generation::Eio4).as_str(),
            r#"2["message_events",{"body":"Привет 😀\n"}]"#
        );
        assert_eq!(
            frame.packet(Generation::Eio3).as_str(),
            r#"2["message_events",{"body":"\u041f\u0440\u0438\u0432\u0435\u0442 \ud83d\ude00\n"}]"#
        );
        assert_eq!(
            frame.len(Generation::Eio3),
            frame.packet(Generation::Eio3).len()
        );
    }

    #[test]
    fn an_acknowledgement_carries_the_payload_of_the_event() {
        let frame = Frame::event("message_events", &json!({"a": ["ы"]}));
        assert_eq!(
            frame.ack_packet(7, Generation::Eio4).as_str(),
            r#"37[{"a":["ы"]}]"#
        );
        assert_eq!(
            frame.ack_packet(0, Generation::Eio3).as_str(),
            r#"30[{"a":["\u044b"]}]"#
        );
    }
}
