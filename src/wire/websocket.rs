//! WebSocket frames as a server sends them: final and unmasked (RFC 6455, section 5.2).

use std::ops::Range;

use bytes::{BufMut, BytesMut};

/// Opcodes that this server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// A message in UTF-8.
    Text = 1,
    /// Any other message.
    Binary = 2,
    /// Ends the connection.
    Close = 8,
    /// Requests a pong.
    Ping = 9,
    /// Answers a ping.
    Pong = 10,
}

impl Opcode {
    /// Returns text for what is valid UTF-8, else binary.
    pub fn of(payload: &[u8]) -> Self {
        // Most text is ASCII, which is checked in larger steps than UTF-8.
        if payload.is_ascii() || std::str::from_utf8(payload).is_ok() { Self::Text } else { Self::Binary }
    }
}

/// Appends one final, unmasked frame.
pub fn encode(frames: &mut BytesMut, opcode: Opcode, payload: &[u8]) {
    let header = match payload.len() {
        ..126 => 2,
        126..65_536 => 4,
        _ => 10,
    };
    // Reserve exactly: freezing a full buffer needs no extra allocation.
    frames.reserve(header + payload.len());
    frames.put_u8(0x80 | opcode as u8);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(len @ ..=125), _) => frames.put_u8(len),
        (_, Ok(len)) => {
            frames.put_u8(126);
            frames.put_u16(len);
        }
        _ => {
            frames.put_u8(127);
            frames.put_u64(payload.len() as u64);
        }
    }
    frames.put_slice(payload);
}

/// Iterates over encoded frames. Each item is the range of the whole frame and that of its payload.
#[derive(Debug, Clone)]
pub struct Frames<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Frames<'a> {
    /// Takes whole frames, as [`encode`] writes them.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }
}

impl Iterator for Frames<'_> {
    type Item = (Range<usize>, Range<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.at;
        let header = self.bytes.get(start..)?;
        let (header_len, len) = match *header.get(1)? & 0x7f {
            126 => (4, usize::from(u16::from_be_bytes(header.get(2..4)?.try_into().ok()?))),
            127 => (10, usize::try_from(u64::from_be_bytes(header.get(2..10)?.try_into().ok()?)).ok()?),
            len => (2, usize::from(len)),
        };
        let payload = start + header_len..start + header_len + len;
        self.at = payload.end;
        Some((start..payload.end, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// The iterator returns the payloads that were encoded, at every length of the header.
        #[test]
        fn the_iterator_returns_what_was_encoded(lengths in proptest::collection::vec(
            proptest::sample::select(vec![0usize, 1, 125, 126, 127, 65535, 65536, 70000]), 0..6)) {
            let mut bytes = BytesMut::new();
            let payloads: Vec<Vec<u8>> =
                lengths.iter().zip(b'a'..).map(|(len, byte)| vec![byte; *len]).collect();
            for payload in &payloads {
                encode(&mut bytes, Opcode::Text, payload);
            }
            let found: Vec<_> = Frames::new(&bytes).map(|(_, payload)| bytes[payload].to_vec()).collect();
            proptest::prop_assert_eq!(found, payloads);
        }
    }

    #[test]
    fn utf_8_is_text_and_other_payloads_are_binary() {
        assert_eq!(Opcode::of("é".as_bytes()), Opcode::Text);
        assert_eq!(Opcode::of(b"\xff"), Opcode::Binary);
    }
}
