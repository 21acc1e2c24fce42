//! Undoes the double UTF-8 of Socket.IO 1.x on polling.
//!
//! Those clients encode each packet, and then the payload of packets again; 2.x
//! encodes once, and both call themselves Engine.IO 3. What was encoded twice
//! arrives as text whose characters are the bytes of UTF-8, all below U+0100.

use std::{
    borrow::Cow,
    sync::atomic::{AtomicBool, Ordering},
};

/// What is known of one client's encoding.
#[derive(Debug, Default)]
pub(crate) struct DoubleUtf8 {
    /// A client that once sent what 1.x can't send encodes once.
    once: AtomicBool,
}

impl DoubleUtf8 {
    /// The text that the client meant by the text that came by polling.
    pub(crate) fn undo<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if text.is_ascii() || self.once.load(Ordering::Relaxed) {
            return Cow::Borrowed(text);
        }
        let bytes: Result<Vec<u8>, _> = text.chars().map(u8::try_from).collect();
        match bytes.ok().and_then(|bytes| String::from_utf8(bytes).ok()) {
            Some(meant) => Cow::Owned(meant),
            None => {
                self.once.store(true, Ordering::Relaxed);
                Cow::Borrowed(text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn twice(text: &str) -> String {
        text.bytes().map(char::from).collect()
    }

    #[test]
    fn text_of_old_clients_is_read_as_meant() {
        let client = DoubleUtf8::default();
        for text in ["Привет", "hello", "é", "😀 ы", "٣"] {
            assert_eq!(client.undo(&twice(text)), text);
        }
    }

    #[test]
    fn a_client_that_encodes_once_is_left_alone_from_then_on() {
        for proof in ["Привет", "caf\u{e9}"] {
            let client = DoubleUtf8::default();
            assert_eq!(client.undo(proof), proof);
            assert_eq!(client.undo("Ã©"), "Ã©");
        }
    }
}
