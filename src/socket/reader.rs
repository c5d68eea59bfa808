//! Decodes a client's frames with tungstenite, from bytes that have been read already.
//!
//! A reader is created when input arrives, and freed when no part of a frame is left in it, unless the client publishes: a
//! client that only answers pings has none. Its buffer holds the rest of a frame only: tungstenite's default of 128 KiB
//! would be 1.25 GiB for 10,000 clients.

use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error};
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig, WebSocketContext};

use super::Close;
use super::discarder::Discarder;
use super::frames::FrameScanner;
use crate::hub::{Limits, Listener};
use crate::metrics::cells;
use crate::unfinished::{Unfinished, UnfinishedMemory};
use crate::wire::websocket::Opcode;

/// Capacity for an incomplete frame. For a larger one tungstenite reserves the length in its head, which the limit on
/// messages bounds; memory that is never written to is not resident.
const READ_BUFFER_BYTES: usize = 128;

/// Decodes the messages of one client.
#[derive(Debug)]
pub(super) struct Reader {
    /// Checks the heads of all frames.
    pub(super) frames: FrameScanner,
    /// None if the client may publish.
    pub(super) discarder: Option<Box<Discarder>>,
    context: WebSocketContext,
    /// Bytes since the last complete message, without control frames: bounds a message of endless fragments.
    unfinished: usize,
    most_unfinished: usize,
    /// Bytes that belong to no complete message. Too high if a client sends longer heads than necessary or fragments, but
    /// never too low.
    left: usize,
    share: Unfinished,
}

/// A decoded frame or message.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A text or binary message.
    Message(Opcode, Bytes),
    /// A control frame, which tungstenite has handled.
    Control,
    /// A close frame, which has not been answered.
    Close(Option<(u16, String)>),
}

/// Input for tungstenite, and the listener that sends its pongs.
pub(super) struct InputCursor<'a> {
    pub(super) input: &'a [u8],
    pub(super) listener: &'a Listener,
    pub(super) limits: &'a Limits,
}

impl Reader {
    /// Creates a reader. With `discards`, large payloads are not kept.
    pub(super) fn new(max_message_bytes: usize, memory: &Arc<UnfinishedMemory>, discards: bool) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(max_message_bytes))
            .max_frame_size(Some(max_message_bytes));
        // A one-byte fragment takes seven bytes on the wire.
        let most_unfinished = max_message_bytes.saturating_mul(8).saturating_add(1 << 16);
        let context = WebSocketContext::new(Role::Server, Some(config));
        let (frames, share) = (FrameScanner::default(), Unfinished::new(memory));
        let discarder = discards.then(|| Box::new(Discarder::new(max_message_bytes)));
        Self { frames, discarder, context, unfinished: 0, most_unfinished, left: 0, share }
    }

    /// Returns whether it is empty: then a new reader is equivalent.
    pub(super) fn is_idle(&self) -> bool {
        self.left == 0 && !self.is_discarding()
    }

    fn is_discarding(&self) -> bool {
        self.discarder.as_ref().is_some_and(|discarder| discarder.has_begun())
    }

    /// Returns whether a message is incomplete.
    pub(super) fn has_begun(&self) -> bool {
        self.unfinished > 0 || self.is_discarding()
    }

    /// Updates the process's memory of unfinished messages. Returns whether it is within its limit.
    pub(super) fn count_unfinished(&mut self) -> bool {
        self.share.set(self.unfinished)
    }

    /// Returns the next message that the input completes; none when the input is used up.
    pub(super) fn next(&mut self, input: &mut InputCursor<'_>) -> Option<Result<Incoming, Close>> {
        let before = input.input.len();
        let result = self.context.read(input);
        let taken = before - input.input.len();
        self.unfinished += taken;
        self.left += taken;
        Some(match result {
            Ok(Message::Text(text)) => Ok(self.complete(Opcode::Text, text.into())),
            Ok(Message::Binary(payload)) => Ok(self.complete(Opcode::Binary, payload)),
            Ok(Message::Ping(payload) | Message::Pong(payload)) => {
                self.unfinished = self.unfinished.saturating_sub(least_frame_bytes(payload.len()));
                self.left = self.left.saturating_sub(least_frame_bytes(payload.len()));
                Ok(Incoming::Control)
            }
            Ok(Message::Frame(_)) => Ok(Incoming::Control),
            Ok(Message::Close(frame)) => {
                let frame = frame.map(|frame| (frame.code.into(), frame.reason.as_str().to_owned()));
                Ok(Incoming::Close(frame))
            }
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                if self.unfinished <= self.most_unfinished {
                    return None;
                }
                Err(Close::TooBig)
            }
            Err(error) => Err(close_for(&error)),
        })
    }

    fn complete(&mut self, opcode: Opcode, payload: Bytes) -> Incoming {
        self.unfinished = 0;
        // The message may be counted elsewhere from now on, until its attachments have arrived.
        if self.share.is_counted() {
            self.share.set(0);
        }
        self.left = self.left.saturating_sub(least_frame_bytes(payload.len()));
        cells(|cells| cells.count_received(payload.len()));
        Incoming::Message(opcode, payload)
    }
}

/// Returns the length of a client's frame with the shortest possible head.
fn least_frame_bytes(payload: usize) -> usize {
    let head = match payload {
        ..126 => 6,
        126..65_536 => 8,
        _ => 14,
    };
    head + payload
}

fn close_for(error: &Error) -> Close {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => Close::TooBig,
        Error::Utf8(_) => Close::NotUtf8,
        Error::Io(_) => Close::Broken,
        error => Close::Protocol(error.to_string()),
    }
}

impl Read for InputCursor<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.input.read(buffer)
    }
}

impl Write for InputCursor<'_> {
    /// Gets whole frames: with a write buffer of 0, tungstenite writes each frame in one piece.
    fn write(&mut self, frame: &[u8]) -> io::Result<usize> {
        self.listener.pong(&Bytes::copy_from_slice(frame), self.limits);
        Ok(frame.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::stream::Stream;
    use crate::wire::Form;

    /// A frame from a client, masked with zeros.
    fn frame(head: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![head];
        match (u8::try_from(payload), u16::try_from(payload)) {
            (Ok(len @ ..=125), _) => frame.push(0x80 | len),
            (_, Ok(len)) => frame.extend([&[0x80 | 0x7e], &len.to_be_bytes()[..]].concat()),
            _ => frame.extend([&[0x80 | 0x7f], &(payload as u64).to_be_bytes()[..]].concat()),
        }
        frame.extend([0; 4]);
        frame.resize(frame.len() + payload, b'x');
        frame
    }

    const TEXT: u8 = 0x81;
    const PING: u8 = 0x89;
    const FIRST: u8 = 0x01;
    const LAST: u8 = 0x80;

    /// Decodes pieces of input; returns the lengths of the messages, and whether a reader was left after each piece.
    fn read(pieces: &[&[u8]]) -> (Vec<usize>, Vec<bool>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let _in_runtime = runtime.enter();
        let (stream, _other) = UnixStream::pair().unwrap();
        let listener = Listener::new(Stream::new(stream.into()).unwrap(), Form::Frames, 0, 0);
        let limits = Limits::default();
        let (mut reader, mut lengths, mut left) = (None, Vec::new(), Vec::new());
        for input in pieces {
            let mut input = InputCursor { input, listener: &listener, limits: &limits };
            let used =
                reader.get_or_insert_with(|| Reader::new(1 << 20, &UnfinishedMemory::new(1 << 30), false));
            while let Some(incoming) = used.next(&mut input) {
                if let Incoming::Message(_, payload) = incoming.unwrap() {
                    lengths.push(payload.len());
                }
            }
            reader.take_if(|reader| reader.is_idle());
            left.push(reader.is_some());
        }
        (lengths, left)
    }

    #[test]
    fn nothing_is_left_after_whole_frames() {
        for len in [0, 1, 125, 126, 127, 65_535, 65_536] {
            assert_eq!(read(&[&frame(TEXT, len)]), (vec![len], vec![false]), "{len}");
        }
        assert_eq!(read(&[&frame(PING, 5), &frame(0x8a, 0)]).1, [false, false]);
    }

    #[test]
    fn a_fragment_is_left_until_its_message_is_whole() {
        let pieces = [&frame(FIRST, 3)[..], &frame(PING, 0), &frame(LAST, 4), &frame(TEXT, 1)];
        let (lengths, left) = read(&pieces);
        assert_eq!(lengths, [7, 1]);
        assert_eq!(left[..2], [true, true]);
    }

    proptest::proptest! {
        /// No message is lost with a freed reader, however the input is split.
        #[test]
        fn freeing_a_reader_loses_nothing(
            messages in proptest::collection::vec((0..4_usize, proptest::sample::select(
                vec![0_usize, 1, 60, 125, 126, 200, 70_000])), 1..8),
            cuts in proptest::collection::vec(0_usize..100_000, 0..12),
        ) {
            let (mut sent, mut expected) = (Vec::new(), Vec::new());
            for (fragments, len) in &messages {
                if *fragments == 0 {
                    sent.extend(frame(TEXT, *len));
                } else {
                    sent.extend(frame(FIRST, *len));
                    (1..*fragments).for_each(|_| sent.extend(frame(0, *len)));
                    sent.extend(frame(PING, *fragments));
                    sent.extend(frame(LAST, *len));
                }
                expected.push(len * (fragments + 1));
            }
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % sent.len()).collect();
            cuts.extend([0, sent.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|pair| &sent[pair[0]..pair[1]]).collect();
            proptest::prop_assert_eq!(read(&pieces).0, expected);
        }
    }
}
