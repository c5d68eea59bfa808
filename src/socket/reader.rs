//! Reading what a client sends: tungstenite's protocol over bytes that have been read already.
//!
//! The context is created when a client sends something, and reads from the shard's buffer. Where a client does not publish
//! it goes when nothing of a frame is left in it: who only answers pings has none. Its own read buffer holds only what is
//! left of a frame: the default of 128 KiB for each of 10,000 clients would be 1.25 GiB.

use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error};
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig, WebSocketContext};

use super::Close;
use super::discarder::Discarder;
use super::frames::FrameScanner;
use crate::hub::{Limits, Listener};
use crate::unfinished::{Unfinished, UnfinishedMemory};

/// Bytes of a frame that is not complete. For a larger frame tungstenite reserves what its head promises, which the
/// limit on messages bounds; memory that is not written to costs nothing.
const READ_BUFFER_BYTES: usize = 128;

/// Reads the messages of one client.
#[derive(Debug)]
pub(super) struct Reader {
    /// Where the frames are in what has come.
    pub(super) frames: FrameScanner,
    /// Where nothing may be published.
    pub(super) discarder: Option<Box<Discarder>>,
    context: WebSocketContext,
    /// Bytes since the last complete message, pings not counted: fragments without end are cut here.
    unfinished: usize,
    most_unfinished: usize,
    /// Bytes that no complete message accounts for. It may be too much, where a client uses longer heads than it has to
    /// or cuts messages up, but never too little.
    left: usize,
    share: Unfinished,
}

/// What a client sent.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A text or binary message.
    Message(Bytes),
    /// A control frame, which needs no action.
    Control,
    /// A close frame, which waits for its answer.
    Close(Option<(u16, String)>),
}

/// Bytes that were read, and where tungstenite's own frames (pongs) go.
pub(super) struct InputCursor<'a> {
    pub(super) input: &'a [u8],
    pub(super) listener: &'a Listener,
    pub(super) limits: &'a Limits,
}

impl Reader {
    /// Begins to read. A client that is `mute` may publish nothing: its payloads are not kept.
    pub(super) fn new(max_message_bytes: usize, memory: &Arc<UnfinishedMemory>, mute: bool) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(max_message_bytes))
            .max_frame_size(Some(max_message_bytes));
        // A one-byte fragment takes seven bytes on the wire.
        let most_unfinished = max_message_bytes.saturating_mul(8).saturating_add(1 << 16);
        let context = WebSocketContext::new(Role::Server, Some(config));
        let (frames, share) = (FrameScanner::default(), Unfinished::new(memory));
        let discarder = mute.then(|| Box::new(Discarder::new(max_message_bytes)));
        Self { frames, discarder, context, unfinished: 0, most_unfinished, left: 0, share }
    }

    /// Tells whether nothing is left in it, so that a new one would do as well.
    pub(super) fn is_idle(&self) -> bool {
        self.left == 0 && !self.is_discarding()
    }

    fn is_discarding(&self) -> bool {
        self.discarder.as_ref().is_some_and(|discarder| discarder.has_begun())
    }

    /// Returns whether a message has been begun and not ended.
    pub(super) fn has_begun(&self) -> bool {
        self.unfinished > 0 || self.is_discarding()
    }

    /// Counts what is unfinished for the process. Returns whether there is room for it.
    pub(super) fn count_unfinished(&mut self) -> bool {
        self.share.set(self.unfinished)
    }

    /// Returns the next message that the fed bytes complete; none when they are used up.
    pub(super) fn next(&mut self, input: &mut InputCursor<'_>) -> Option<Result<Incoming, Close>> {
        let before = input.input.len();
        let result = self.context.read(input);
        let taken = before - input.input.len();
        self.unfinished += taken;
        self.left += taken;
        Some(match result {
            Ok(Message::Text(text)) => Ok(self.complete(text.into())),
            Ok(Message::Binary(payload)) => Ok(self.complete(payload)),
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

    fn complete(&mut self, payload: Bytes) -> Incoming {
        self.unfinished = 0;
        self.left = self.left.saturating_sub(least_frame_bytes(payload.len()));
        Incoming::Message(payload)
    }
}

/// Returns the length of a frame from a client, whose head is as short as can be.
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
    /// Takes whole frames: with a write buffer of 0, tungstenite writes each frame in one piece.
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

    /// Reads pieces of what a client sends; returns the readers' messages, and whether one was left after each piece.
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
                if let Incoming::Message(payload) = incoming.unwrap() {
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
        /// However a client cuts up what it sends, no message suffers from readers that were let go.
        #[test]
        fn a_reader_that_goes_takes_nothing_with_it(
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
