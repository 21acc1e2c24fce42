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
use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Data, OpCode},
};

/// What Engine.IO puts in front of a message, <https://socket.io/docs/v4/engine-io-protocol/>.
pub(crate) const ENGINE_MESSAGE: u8 = b'4';

/// Which generation of the protocol a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Generation {
    /// Engine.IO 3: Socket.IO clients 1.x and 2.x.
    Eio3,
    /// Engine.IO 4: Socket.IO clients 3.x and 4.x.
    Eio4,
}

/// A Socket.IO packet of the namespace `/`, ready to be sent. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Frame(Arc<Encoded>);

#[derive(Debug)]
struct Encoded {
    plain: Encoding,
    /// In ASCII, made when the first old client needs it; none when it is so already.
    ascii: OnceLock<Option<Encoding>>,
    /// The payload alone, for acknowledgements.
    payload: Box<RawValue>,
}

/// A packet's two forms.
#[derive(Debug)]
struct Encoding {
    text: Str,
    websocket: Box<[u8]>,
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
        let packet = Packet::event("/", array(&payload, Some(name)));
        Self::with_payload(packet, payload)
    }

    /// Any other packet.
    pub(crate) fn packet(packet: Packet) -> Self {
        Self::with_payload(packet, RawValue::NULL.to_owned())
    }

    /// The answer to the acknowledgement `id`, with this event's payload.
    pub(crate) fn ack(&self, id: i64) -> Self {
        Self::packet(Packet::ack("/", array(&self.0.payload, None), id))
    }

    fn with_payload(packet: Packet, payload: Box<RawValue>) -> Self {
        let text = match CommonParser.encode(packet) {
            Value::Str(text, _) => text,
            // This parser makes text only.
            Value::Bytes(_) => Str::default(),
        };
        Self(Arc::new(Encoded {
            plain: Encoding::of(text),
            ascii: OnceLock::new(),
            payload,
        }))
    }

    /// How many bytes the packet has in this generation.
    #[must_use]
    pub fn len(&self, generation: Generation) -> usize {
        self.encoding(generation).text.len()
    }

    /// The packet as text, without Engine.IO's own type in front.
    #[must_use]
    pub fn text(&self, generation: Generation) -> &Str {
        &self.encoding(generation).text
    }

    /// The packet as a message of Engine.IO in a frame of a websocket, from a server.
    #[must_use]
    pub fn websocket(&self, generation: Generation) -> &[u8] {
        &self.encoding(generation).websocket
    }

    fn encoding(&self, generation: Generation) -> &Encoding {
        let plain = &self.0.plain;
        match generation {
            Generation::Eio4 => plain,
            Generation::Eio3 => (self.0.ascii)
                .get_or_init(|| ascii(&plain.text).map(Encoding::of))
                .as_ref()
                .unwrap_or(plain),
        }
    }
}

impl Encoding {
    fn of(text: Str) -> Self {
        let head = FrameHeader {
            opcode: OpCode::Data(Data::Text),
            ..FrameHeader::default()
        };
        let length = text.len() as u64 + 1;
        let mut websocket = Vec::with_capacity(head.len(length) + text.len() + 1);
        // Writing into a Vec can't fail.
        let _ = head.format(length, &mut websocket);
        websocket.push(ENGINE_MESSAGE);
        websocket.extend_from_slice(text.as_bytes());
        Self {
            text,
            websocket: websocket.into(),
        }
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

/// Socket.IO 1.x decodes UTF-8 twice on polling and 2.x once, and nothing tells
/// them apart: only ASCII means the same to both. Outside of strings JSON is ASCII.
fn ascii(json: &str) -> Option<Str> {
    if json.is_ascii() {
        return None;
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
    Some(Str::from(escaped))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_plain_json_for_new_clients_and_ascii_for_old_ones() {
        let frame = Frame::event("message_events", &json!({"body": "Привет 😀\n"}));
        assert_eq!(
            frame.text(Generation::Eio4).as_str(),
            r#"2["message_events",{"body":"Привет 😀\n"}]"#
        );
        assert_eq!(
            frame.text(Generation::Eio3).as_str(),
            r#"2["message_events",{"body":"\u041f\u0440\u0438\u0432\u0435\u0442 \ud83d\ude00\n"}]"#
        );
        assert_eq!(
            frame.len(Generation::Eio3),
            frame.text(Generation::Eio3).len()
        );
    }

    #[test]
    fn an_acknowledgement_carries_the_payload_of_the_event() {
        let frame = Frame::event("message_events", &json!({"a": ["ы"]}));
        assert_eq!(
            frame.ack(7).text(Generation::Eio4).as_str(),
            r#"37[{"a":["ы"]}]"#
        );
        assert_eq!(
            frame.ack(0).text(Generation::Eio3).as_str(),
            r#"30[{"a":["\u044b"]}]"#
        );
    }

    #[test]
    fn in_a_websocket_a_packet_is_one_frame_of_text() {
        for (length, head) in [
            (2, &[0x81, 3][..]),
            (125, &[0x81, 126, 0, 126]),
            (70_000, &[0x81, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x71]),
        ] {
            let text = Str::from("x".repeat(length));
            let encoding = Encoding::of(text.clone());
            let expected = [head, b"4", text.as_bytes()].concat();
            assert_eq!(*encoding.websocket, *expected);
        }
    }
}
