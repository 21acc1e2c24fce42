//! Where one stands in what a server writes into a websocket.

use std::io;

use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

use crate::frame::ENGINE_MESSAGE;

/// Follows the frames of a server.
#[derive(Default)]
pub(super) struct Cursor {
    /// The head of a frame that is not whole yet.
    head: Vec<u8>,
    /// Bytes of the frame that are still to come.
    left: u64,
    /// The next byte is the first of a text.
    begins_text: bool,
    messages: u64,
    closed: bool,
}

impl Cursor {
    /// Whether another frame may be put in here.
    pub(super) fn is_between_frames(&self) -> bool {
        self.left == 0 && self.head.is_empty() && !self.closed
    }

    /// How many messages of Engine.IO there were.
    pub(super) fn messages(&self) -> u64 {
        self.messages
    }

    /// These follow.
    pub(super) fn advance(&mut self, mut bytes: &[u8]) {
        while let Some((&first, rest)) = bytes.split_first() {
            if self.left == 0 {
                self.head.push(first);
                self.begin();
                bytes = rest;
                continue;
            }
            if std::mem::take(&mut self.begins_text) && first == ENGINE_MESSAGE {
                self.messages += 1;
            }
            let here = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
            self.left -= here as u64;
            bytes = bytes.get(here..).unwrap_or_default();
        }
    }

    /// Begins a frame, if its head is whole.
    fn begin(&mut self) {
        // What tungstenite wrote it can read.
        let Ok(Some((head, length))) = FrameHeader::parse(&mut io::Cursor::new(&self.head)) else {
            return;
        };
        self.head = Vec::new();
        self.left = length;
        self.begins_text = head.opcode == OpCode::Data(Data::Text);
        self.closed |= head.opcode == OpCode::Control(Control::Close);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text, a ping, an empty text, a long text, a longer one.
    fn stream() -> (Vec<u8>, Vec<usize>) {
        let mut stream = Vec::new();
        let mut ends = vec![0];
        for (opcode, payload) in [
            (OpCode::Data(Data::Text), "4hello".to_owned()),
            (OpCode::Control(Control::Ping), "4".to_owned()),
            (OpCode::Data(Data::Text), String::new()),
            (OpCode::Data(Data::Text), format!("2{}", "4".repeat(300))),
            (OpCode::Data(Data::Text), format!("4{}", "x".repeat(70_000))),
        ] {
            let head = FrameHeader {
                opcode,
                ..FrameHeader::default()
            };
            assert!(head.format(payload.len() as u64, &mut stream).is_ok());
            stream.extend_from_slice(payload.as_bytes());
            ends.push(stream.len());
        }
        (stream, ends)
    }

    #[test]
    fn it_knows_the_ends_of_frames_however_they_are_cut() {
        let (stream, ends) = stream();
        for step in [1, 2, 3, 7, 400, 1 << 20] {
            let mut cursor = Cursor::default();
            let mut at = 0;
            for part in stream.chunks(step) {
                assert_eq!(cursor.is_between_frames(), ends.contains(&at), "{at}");
                cursor.advance(part);
                at += part.len();
            }
            assert!(cursor.is_between_frames());
            assert_eq!(cursor.messages(), 2);
        }
    }

    #[test]
    fn nothing_goes_behind_a_close() {
        let mut cursor = Cursor::default();
        cursor.advance(&[0x88, 0]);
        assert!(!cursor.is_between_frames());
    }
}
