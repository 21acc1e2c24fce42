//! Polling payloads: several packets in one HTTP body.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use engineioxide::Str;
use http_body::{Body, Frame};

use crate::{frame::Generation, socket::inbound::Room};

/// Between two packets of Engine.IO 4.
const SEPARATOR: u8 = 0x1e;
/// After so many packets other tasks get their turn.
const PACKETS_PER_TURN: usize = 64;

/// A body that comes packet by packet, no faster than they are handled. Engine.IO's decoder
/// looks at all it was given for each packet: 2 MiB of tiny ones in one piece block a thread
/// for the better part of a minute (debug build).
#[derive(Debug)]
pub(super) struct Packets {
    rest: Rest,
    turn: usize,
    room: Option<Room>,
}

#[derive(Debug)]
enum Rest {
    Whole(Bytes),
    Eio4(Bytes),
    Eio3(Str),
}

impl Packets {
    /// A body in one piece.
    pub(super) fn whole(body: Bytes) -> Self {
        Self::new(Rest::Whole(body))
    }

    /// A text payload; `None` when it is no text.
    pub(super) fn split(generation: Generation, body: Bytes) -> Option<Self> {
        Some(Self::new(match generation {
            Generation::Eio4 => Rest::Eio4(body),
            Generation::Eio3 => Rest::Eio3(String::from_utf8(body.into()).ok()?.into()),
        }))
    }

    fn new(rest: Rest) -> Self {
        Self {
            rest,
            turn: 0,
            room: None,
        }
    }

    /// Each packet waits for that.
    pub(super) fn each_after(self, room: Room) -> Self {
        Self {
            room: Some(room),
            ..self
        }
    }

    fn next(&mut self) -> Option<io::Result<Bytes>> {
        match &mut self.rest {
            Rest::Whole(body) => Some(Ok(std::mem::take(body))).filter(|_| self.turn == 1),
            Rest::Eio4(rest) if rest.is_empty() => None,
            Rest::Eio4(rest) => {
                let end = rest.iter().position(|byte| *byte == SEPARATOR);
                Some(Ok(rest.split_to(end.map_or(rest.len(), |at| at + 1))))
            }
            Rest::Eio3(rest) if rest.is_empty() => None,
            Rest::Eio3(rest) => {
                let Some(packet) = first_eio3(rest) else {
                    return Some(Err(io::ErrorKind::InvalidData.into()));
                };
                let end = packet.header + packet.bytes;
                let first = rest.slice(..end);
                *rest = rest.slice(end..);
                Some(Ok(first.into()))
            }
        }
    }
}

impl Body for Packets {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(room) = &mut self.room {
            ready!(room.poll(cx));
        }
        self.turn += 1;
        if self.turn.is_multiple_of(PACKETS_PER_TURN) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.next().map(|packet| packet.map(Frame::data)))
    }
}

/// How many messages (not heartbeats and the like) a payload of ours holds.
pub(super) fn messages(generation: Generation, payload: &[u8]) -> usize {
    match generation {
        Generation::Eio4 => payload
            .split(|byte| *byte == SEPARATOR)
            .filter(|packet| packet.first() == Some(&b'4'))
            .count(),
        Generation::Eio3 => {
            let mut rest = std::str::from_utf8(payload).unwrap_or_default();
            let mut count = 0;
            while let Some(packet) = first_eio3(rest) {
                let after = rest.get(packet.header..).unwrap_or_default();
                count += usize::from(after.starts_with('4'));
                rest = after.get(packet.bytes..).unwrap_or_default();
            }
            count
        }
    }
}

#[derive(Debug, PartialEq)]
struct Eio3Packet {
    /// Bytes of its length and the colon.
    header: usize,
    /// Bytes of itself.
    bytes: usize,
}

/// The first of `<length>:<packet>` again and again; a length counts UTF-16 units.
fn first_eio3(payload: &str) -> Option<Eio3Packet> {
    let (length, after) = payload.split_once(':')?;
    let mut units: usize = length.parse().ok().filter(|units| *units > 0)?;
    let mut bytes = 0;
    let mut chars = after.chars();
    while units > 0 {
        let c = chars.next()?;
        units = units.checked_sub(c.len_utf16())?;
        bytes += c.len_utf8();
    }
    Some(Eio3Packet {
        header: length.len() + 1,
        bytes,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use http_body_util::BodyExt;

    use super::*;

    fn split(generation: Generation, body: &'static [u8]) -> Option<Vec<io::Result<Bytes>>> {
        let mut packets = Packets::split(generation, Bytes::from_static(body))?;
        let mut all = Vec::new();
        while let Some(packet) = packets.next() {
            let failed = packet.is_err();
            all.push(packet);
            if failed {
                break;
            }
        }
        Some(all)
    }

    #[test]
    fn lengths_of_engine_io_3_count_utf16_units() {
        let packets = split(Generation::Eio3, "3:4😀1:2".as_bytes()).unwrap();
        let packets: Vec<_> = packets.into_iter().map(Result::unwrap).collect();
        assert_eq!(packets, ["3:4😀", "1:2"]);
    }

    #[test]
    fn what_is_no_payload_of_engine_io_3_is_refused() {
        for body in [
            "4",
            "x:4",
            "0:",
            "-1:4",
            "5:4",
            "2:4😀",
            "1:41:",
            "99999999999999999999:4",
        ] {
            let packets = split(Generation::Eio3, body.as_bytes()).unwrap();
            assert!(packets.last().unwrap().is_err(), "{body}");
        }
        assert!(split(Generation::Eio3, b"1:\xff").is_none());
        assert!(split(Generation::Eio3, b"").unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_body_of_many_packets_is_handed_over_whole_and_in_order() {
        let body = Bytes::from("4a\u{1e}".repeat(1_000));
        let packets = Packets::split(Generation::Eio4, body.clone()).unwrap();
        assert_eq!(packets.collect().await.unwrap().to_bytes(), body);
        let packets = Packets::whole(body.clone());
        assert_eq!(packets.collect().await.unwrap().to_bytes(), body);
    }

    #[test]
    fn only_messages_are_counted() {
        let count = |generation, payload: &str| messages(generation, payload.as_bytes());
        assert_eq!(count(Generation::Eio4, "42[1]\u{1e}2\u{1e}42[2]"), 2);
        assert_eq!(count(Generation::Eio4, "6"), 0);
        assert_eq!(count(Generation::Eio4, ""), 0);
        assert_eq!(count(Generation::Eio3, "5:42[1]1:35:42[2]"), 2);
    }
}
