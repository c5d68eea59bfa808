//! Discards the payloads of a client that may not publish: only heartbeats matter, so larger payloads are validated and
//! discarded as they arrive. tungstenite gets the frames without them, and handles the rest of the protocol.

use std::borrow::Cow;

use super::Close;
use super::frames::{LENGTH_16, LENGTH_64, MASKED};

/// Longest message that is kept, in bytes: no heartbeat is longer in practice.
const KEPT_BYTES: u64 = 1024;

/// Bytes of the longest head, with its mask (RFC 6455, section 5.2).
const MAX_HEAD: usize = 14;

/// Replaces a discarded payload. UTF-8 never contains this byte, so no heartbeat is equal to it.
const DISCARDED: u8 = 0xff;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const TEXT: u8 = 1;
const BINARY: u8 = 2;

/// Removes payloads from the frames of one client, however the input is split.
#[derive(Debug)]
pub(super) struct Discarder {
    max_message_bytes: u64,
    head: [u8; MAX_HEAD],
    head_bytes: usize,
    /// Bytes of the current frame's payload that have not arrived.
    rest: u64,
    /// Replaces the current frame if its payload is discarded.
    substitute: Option<Vec<u8>>,
    /// The current message, if it is fragmented or large.
    message: Option<DiscardedMessage>,
}

/// A fragmented or large message.
#[derive(Debug, Default)]
struct DiscardedMessage {
    bytes: u64,
    discarded: bool,
    /// Whether the current frame is its last.
    ends: bool,
    /// Validates a text.
    text: Option<Utf8>,
}

/// Validates a text piece by piece.
#[derive(Debug, Default)]
struct Utf8 {
    /// The beginning of a character whose end has not arrived.
    carry: [u8; 4],
    carried: usize,
}

impl Discarder {
    pub(super) fn new(max_message_bytes: usize) -> Self {
        Self {
            max_message_bytes: max_message_bytes as u64,
            head: [0; MAX_HEAD],
            head_bytes: 0,
            rest: 0,
            substitute: None,
            message: None,
        }
    }

    /// Returns whether a head or a message is incomplete.
    pub(super) fn has_begun(&self) -> bool {
        self.head_bytes > 0 || self.message.is_some()
    }

    /// Returns the input without the discarded payloads, and why the connection has to end after it, if it has to.
    pub(super) fn filter(&mut self, mut input: &[u8]) -> (Cow<'static, [u8]>, Option<Close>) {
        let mut output = Vec::new();
        while !input.is_empty() {
            let result = if self.rest > 0 {
                let count = usize::try_from(self.rest).unwrap_or(usize::MAX).min(input.len());
                let (piece, next) = input.split_at(count);
                input = next;
                self.handle_payload(piece, &mut output)
            } else {
                self.head[self.head_bytes] = input[0];
                self.head_bytes += 1;
                input = &input[1..];
                self.handle_head(&mut output)
            };
            if let Err(close) = result {
                return (output.into(), Some(close));
            }
        }
        (output.into(), None)
    }

    /// Handles a head once it is complete: decides whether the frame's payload is kept.
    fn handle_head(&mut self, output: &mut Vec<u8>) -> Result<(), Close> {
        let Some(length) = self.length() else { return Ok(()) };
        let (first, masked) = (self.head[0], self.head[1] & MASKED != 0);
        let opcode = first & !(FIN | RESERVED);
        self.rest = length;
        self.substitute = None;
        let is_last = first & FIN != 0;
        // Protocol violations and control frames are left to tungstenite.
        let plain = first & RESERVED != 0 || !masked || opcode > BINARY;
        if plain || (opcode > 0 && is_last && length <= KEPT_BYTES && self.message.is_none()) {
            output.extend(&self.head[..self.head_bytes]);
            self.end_frame_if_whole(output, plain);
            return Ok(());
        }
        if opcode > 0 {
            // Within another message it is a violation, whatever it contains.
            let text = (opcode == TEXT && self.message.is_none()).then(Utf8::default);
            self.message = Some(DiscardedMessage { text, ..DiscardedMessage::default() });
        }
        let message = self.message.get_or_insert_default();
        message.ends = is_last;
        message.bytes = message.bytes.saturating_add(length);
        if message.bytes > self.max_message_bytes {
            return Err(Close::TooBig);
        }
        self.check_end()?;
        let Some(message) = &mut self.message else { return Ok(()) };
        // Validated here, so tungstenite gets it as binary.
        let first = if opcode == TEXT { first ^ TEXT ^ BINARY } else { first };
        if message.bytes <= KEPT_BYTES {
            output.push(first);
            output.extend(&self.head[1..self.head_bytes]);
        } else {
            let mask = &self.head[self.head_bytes - 4..self.head_bytes];
            let mut substitute = vec![first, MASKED];
            substitute.extend(mask);
            if !message.discarded {
                message.discarded = true;
                substitute[1] |= 1;
                substitute.push(DISCARDED ^ mask[0]);
            }
            self.substitute = Some(substitute);
        }
        self.end_frame_if_whole(output, false);
        Ok(())
    }

    /// Handles a part of a payload. A text is validated before any of the part is passed on: the last fragment must not
    /// complete an invalid message.
    fn handle_payload(&mut self, piece: &[u8], output: &mut Vec<u8>) -> Result<(), Close> {
        let control = self.head[0] & 0x0f > BINARY;
        // Position within the mask.
        let passed = usize::try_from(self.length().map_or(0, |length| (length - self.rest) % 4)).unwrap_or(0);
        self.rest -= piece.len() as u64;
        if let Some(text) =
            self.message.as_mut().filter(|_| !control).and_then(|message| message.text.as_mut())
        {
            let mask = &self.head[self.head_bytes - 4..self.head_bytes];
            let mut unmasked = [0; 1024];
            let mut at = passed;
            for part in piece.chunks(unmasked.len()) {
                for (to, from) in unmasked.iter_mut().zip(part) {
                    *to = from ^ mask[at % 4];
                    at += 1;
                }
                if !text.push(&unmasked[..part.len()]) {
                    return Err(Close::NotUtf8);
                }
            }
            self.check_end()?;
        }
        if self.substitute.is_none() {
            output.extend(piece);
        }
        self.end_frame_if_whole(output, control);
        Ok(())
    }

    /// Checks that a text does not end inside a character.
    fn check_end(&self) -> Result<(), Close> {
        let Some(message) = self.message.as_ref().filter(|message| message.ends && self.rest == 0) else {
            return Ok(());
        };
        if message.text.as_ref().is_none_or(|text| text.carried == 0) { Ok(()) } else { Err(Close::NotUtf8) }
    }

    fn end_frame_if_whole(&mut self, output: &mut Vec<u8>, control: bool) {
        if self.rest > 0 {
            return;
        }
        self.head_bytes = 0;
        output.extend(self.substitute.take().unwrap_or_default());
        if !control {
            self.message.take_if(|message| message.ends);
        }
    }

    /// Returns the length of the payload; none while the head is incomplete.
    fn length(&self) -> Option<u64> {
        let head = &self.head[..self.head_bytes];
        let second = *head.get(1)?;
        let mask = if second & MASKED == 0 { 0 } else { 4 };
        let (length, bytes) = match second & !MASKED {
            LENGTH_16 => (u16::from_be_bytes(*head.get(2..)?.first_chunk()?).into(), 4),
            LENGTH_64 => (u64::from_be_bytes(*head.get(2..)?.first_chunk()?), 10),
            length => (length.into(), 2),
        };
        (head.len() == bytes + mask).then_some(length)
    }
}

impl Utf8 {
    /// Validates the next piece. Returns false if the text is not UTF-8.
    fn push(&mut self, mut piece: &[u8]) -> bool {
        while let (1.., Some((byte, next))) = (self.carried, piece.split_first()) {
            self.carry[self.carried] = *byte;
            self.carried += 1;
            piece = next;
            match std::str::from_utf8(&self.carry[..self.carried]) {
                Ok(_) => self.carried = 0,
                Err(error) if error.error_len().is_some() => return false,
                // Incomplete: four bytes are always a complete character or invalid.
                Err(_) => {}
            }
        }
        let Err(error) = std::str::from_utf8(piece) else { return true };
        let rest = &piece[error.valid_up_to()..];
        if error.error_len().is_some() {
            return false;
        }
        self.carry[..rest.len()].copy_from_slice(rest);
        self.carried = rest.len();
        true
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    use super::*;
    use crate::hub::{Limits, Listener};
    use crate::socket::reader::{Incoming, InputCursor, Reader};
    use crate::stream::Stream;
    use crate::unfinished::UnfinishedMemory;
    use crate::wire::Form;

    const MOST: usize = 100_000;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x11, 0xa2, 0x33, 0x44];
        let length = payload.len() as u64;
        let mut frame = vec![first];
        match length {
            0..126 => frame.push(MASKED | length.to_be_bytes()[7]),
            126..65_536 => frame.extend([&[MASKED | LENGTH_16], &length.to_be_bytes()[6..]].concat()),
            _ => frame.extend([&[MASKED | LENGTH_64], &length.to_be_bytes()[..]].concat()),
        }
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    /// Decodes pieces; returns the messages, short ones with their bytes, the close code, and the number of bytes kept.
    fn read(pieces: &[&[u8]], discards: bool) -> (Vec<String>, Option<u16>, usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let _in_runtime = runtime.enter();
        let (stream, _other) = UnixStream::pair().unwrap();
        let listener = Listener::new(Stream::new(stream.into()).unwrap(), Form::Frames, 0, 0);
        let limits = Limits::default();
        let mut reader = Reader::new(MOST, &UnfinishedMemory::new(1 << 30), discards);
        let (mut seen, mut passed_on) = (Vec::new(), 0);
        for piece in pieces {
            let (kept, refused) = match &mut reader.discarder {
                Some(discarder) => discarder.filter(piece),
                None => (Cow::Borrowed(*piece), None),
            };
            passed_on += kept.len();
            let mut input = InputCursor { input: &kept, listener: &listener, limits: &limits };
            while let Some(incoming) = reader.next(&mut input) {
                match incoming {
                    Ok(Incoming::Message(_, bytes)) => {
                        let long = bytes.len() as u64 > KEPT_BYTES || bytes.contains(&DISCARDED);
                        seen.push(if long { "long".to_owned() } else { format!("{bytes:?}") });
                    }
                    Ok(Incoming::Control) => seen.push("control".to_owned()),
                    Ok(Incoming::Close(_)) => return (seen, Some(1000), passed_on),
                    Err(close) => return (seen, close.code(), passed_on),
                }
            }
            if let Some(close) = refused {
                return (seen, close.code(), passed_on);
            }
        }
        (seen, None, passed_on)
    }

    #[test]
    fn a_large_payload_is_not_passed_on_and_a_heartbeat_is() {
        let large = frame(FIN | TEXT, &vec![b'x'; 90_000]);
        let sent = [&large[..], &frame(FIN | TEXT, b"--heartbeat--")].concat();
        let (seen, code, passed_on) = read(&sent.chunks(4096).collect::<Vec<_>>(), true);
        assert_eq!(seen, ["long".to_owned(), format!("{:?}", bytes::Bytes::from_static(b"--heartbeat--"))]);
        assert_eq!(code, None);
        assert!(passed_on < 100, "{passed_on} bytes were passed on");
    }

    #[test]
    fn many_small_fragments_pass_nothing_on_either() {
        let mut sent = frame(TEXT, &[b'x'; 1000]);
        (0..20_000).for_each(|_| sent.extend(frame(0, b"y")));
        let (_, code, passed_on) = read(&[&sent], true);
        assert_eq!(code, None);
        // Heads only, which tungstenite does not keep.
        assert!(passed_on < 1100 + 20_000 * 7, "{passed_on}");
        let half = vec![0; 60_000];
        assert_eq!(read(&[&frame(BINARY, &half), &frame(FIN, &half)], true).1, Some(1009));
    }

    proptest! {
        /// Messages and close codes are the same whether or not payloads are discarded.
        #[test]
        fn the_protocol_is_the_same_where_payloads_are_discarded(
            frames in proptest::collection::vec((
                proptest::sample::select(vec![0_u8, 0, 0, 1, 1, 2, 9, 10, 3]), any::<bool>(),
                proptest::sample::select(vec![0_usize, 1, 2, 125, 126, 1_024, 1_025, 70_000]),
                proptest::sample::select(vec!["x", "\u{e9}", "\u{1f600}"]), 0..20_u8,
            ), 1..8),
            cuts in proptest::collection::vec(0_usize..200_000, 0..8),
        ) {
            let mut sent = Vec::new();
            for (opcode, fin, length, text, odd) in frames {
                let control = opcode > BINARY;
                let length = if control { length.min(125) } else { length };
                let mut payload: Vec<u8> = text.bytes().cycle().take(length).collect();
                if odd == 0 && length > 0 {
                    payload[length / 2] = 0xc0;
                }
                sent.extend(frame(if fin || control { FIN | opcode } else { opcode }, &payload));
            }
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % sent.len()).collect();
            cuts.extend([0, sent.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|pair| &sent[pair[0]..pair[1]]).collect();
            let (kept, discarded) = (read(&pieces, false), read(&pieces, true));
            prop_assert_eq!((kept.0, kept.1), (discarded.0, discarded.1));
        }
    }
}
