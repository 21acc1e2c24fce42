//! The client's side of a websocket, as far as a load needs it: whole text frames, one
//! after the other out of whatever was read, without a copy of those that came whole.

/// The longest frame that a server may send.
const MAX_FRAME: usize = 1 << 20;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

/// Frames of one connection.
#[derive(Default)]
pub(crate) struct Frames {
    /// The beginning of one that has not come whole.
    begun: Vec<u8>,
}

impl Frames {
    /// Hands each frame over that is whole with what was read now.
    pub(crate) fn read(
        &mut self,
        read: &[u8],
        mut take: impl FnMut(Opcode, &[u8]) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut begun = std::mem::take(&mut self.begun);
        let mut rest = if begun.is_empty() {
            read
        } else {
            begun.extend_from_slice(read);
            &begun
        };
        while let Some((opcode, frame, behind)) = split(rest)? {
            take(opcode, frame)?;
            rest = behind;
        }
        if !rest.is_empty() {
            self.begun = rest.to_vec();
        }
        Ok(())
    }
}

type Split<'a> = Option<(Opcode, &'a [u8], &'a [u8])>;

/// The first frame and what is behind it, if it is whole.
fn split(bytes: &[u8]) -> Result<Split<'_>, String> {
    let [first, second, rest @ ..] = bytes else {
        return Ok(None);
    };
    if second & 0x80 != 0 {
        return Err("a server's frame is masked".to_owned());
    }
    let opcode = match first {
        0x81 => Opcode::Text,
        0x82 => Opcode::Binary,
        0x88 => Opcode::Close,
        0x89 => Opcode::Ping,
        0x8a => Opcode::Pong,
        other => return Err(format!("a frame that begins with {other:#x}")),
    };
    let (length, rest) = match second {
        126 => match rest.split_first_chunk::<2>() {
            Some((length, rest)) => (usize::from(u16::from_be_bytes(*length)), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk::<8>() {
            Some((length, rest)) => {
                let length = u64::from_be_bytes(*length);
                (usize::try_from(length).unwrap_or(usize::MAX), rest)
            }
            None => return Ok(None),
        },
        short => (usize::from(*short), rest),
    };
    if length > MAX_FRAME {
        return Err(format!("a frame of {length} bytes"));
    }
    Ok(rest
        .split_at_checked(length)
        .map(|(frame, behind)| (opcode, frame, behind)))
}

/// Appends a client's frame. Its mask is zero: it hides nothing, and costs a server as much
/// as any other.
pub(crate) fn write(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    out.push(match opcode {
        Opcode::Text => 0x81,
        Opcode::Binary => 0x82,
        Opcode::Close => 0x88,
        Opcode::Ping => 0x89,
        Opcode::Pong => 0x8a,
    });
    match payload.len() {
        length @ ..126 => out.push(0x80 | length as u8),
        length @ ..65_536 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
}

/// The request that opens a websocket, with the example key of RFC 6455.
pub(crate) fn request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: load\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// How long the server's answer to that is, once it is whole.
pub(crate) fn opened(read: &[u8]) -> Result<Option<usize>, String> {
    match read.windows(4).position(|four| four == b"\r\n\r\n") {
        Some(_) if !read.starts_with(b"HTTP/1.1 101") => {
            let text = String::from_utf8_lossy(read);
            let first = text.lines().next().unwrap_or_default();
            Err(format!("no websocket: {first}"))
        }
        Some(end) => Ok(Some(end + 4)),
        None if read.len() > 16 << 10 => Err("no end of the handshake".to_owned()),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_whatever_pieces_they_come_in() {
        let mut stream = vec![0x81, 2, b'a', b'b', 0x89, 0, 0x81, 126, 1, 0];
        stream.extend([b'x'; 256]);
        stream.extend([0x8a, 1, b'z']);
        for piece in 1..stream.len() {
            let (mut frames, mut found) = (Frames::default(), Vec::new());
            for read in stream.chunks(piece) {
                frames
                    .read(read, |opcode, frame| {
                        found.push((opcode, frame.len()));
                        Ok(())
                    })
                    .unwrap();
            }
            let expected = [
                (Opcode::Text, 2),
                (Opcode::Ping, 0),
                (Opcode::Text, 256),
                (Opcode::Pong, 1),
            ];
            assert_eq!(found, expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_frame_that_cannot_be_is_an_error() {
        for wrong in [
            &[0x81, 0x81][..],
            &[0x01, 0],
            &[0x81, 127, 1, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert!(
                Frames::default().read(wrong, |_, _| Ok(())).is_err(),
                "{wrong:x?}"
            );
        }
    }
}
