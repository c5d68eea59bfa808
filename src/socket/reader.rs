//! Reading what a client sends: tungstenite's protocol over bytes that have been read already.
//!
//! The context is created at the first byte that a client sends, and reads from the shard's buffer; an idle
//! connection has none. Its own read buffer holds only what is left of a frame: the default of 128 KiB for each of
//! 10,000 clients would be 1.25 GiB.

use std::io::{self, Read, Write};

use bytes::Bytes;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error};
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig, WebSocketContext};

use super::Close;
use crate::hub::{Limits, Listener};

/// Bytes of a frame that is not complete. For a larger frame tungstenite reserves what its head promises, which the
/// limit on messages bounds; memory that is not written to costs nothing.
const READ_BUFFER_BYTES: usize = 128;

/// Reads the messages of one client.
#[derive(Debug)]
pub(super) struct Reader {
    context: WebSocketContext,
    /// Bytes since the last complete message, pings not counted: fragments without end are cut here.
    unfinished: usize,
    most_unfinished: usize,
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
pub(super) struct Feed<'a> {
    pub(super) input: &'a [u8],
    pub(super) listener: &'a Listener,
    pub(super) limits: &'a Limits,
}

impl Reader {
    pub(super) fn new(max_message_bytes: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(max_message_bytes))
            .max_frame_size(Some(max_message_bytes));
        // A one-byte fragment takes seven bytes on the wire.
        let most_unfinished = max_message_bytes.saturating_mul(8).saturating_add(1 << 16);
        Self { context: WebSocketContext::new(Role::Server, Some(config)), unfinished: 0, most_unfinished }
    }

    /// Returns the next message that the fed bytes complete; none when they are used up.
    pub(super) fn next(&mut self, feed: &mut Feed<'_>) -> Option<Result<Incoming, Close>> {
        let before = feed.input.len();
        let result = self.context.read(feed);
        self.unfinished += before - feed.input.len();
        Some(match result {
            Ok(Message::Text(text)) => Ok(self.complete(text.into())),
            Ok(Message::Binary(payload)) => Ok(self.complete(payload)),
            Ok(Message::Ping(payload) | Message::Pong(payload)) => {
                self.unfinished = self.unfinished.saturating_sub(payload.len() + 6);
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
        Incoming::Message(payload)
    }
}

fn close_for(error: &Error) -> Close {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => Close::TooBig,
        Error::Utf8(_) => Close::NotUtf8,
        Error::Io(_) => Close::Broken,
        error => Close::Protocol(error.to_string()),
    }
}

impl Read for Feed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.input.read(buffer)
    }
}

impl Write for Feed<'_> {
    /// Takes whole frames: with a write buffer of 0, tungstenite writes each frame in one piece.
    fn write(&mut self, frame: &[u8]) -> io::Result<usize> {
        self.listener.send(&Bytes::copy_from_slice(frame), self.limits);
        Ok(frame.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
