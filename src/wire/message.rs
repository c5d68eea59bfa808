//! A message as Redis sends it.

use std::ops::Range;

use bytes::Bytes;

/// A published message: its channel and its payload, in the buffer in which they were received.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    bytes: Bytes,
    channel: Range<usize>,
    payload: Range<usize>,
}

impl Message {
    /// Wraps received bytes, with the ranges of the channel's name and of the payload in them.
    pub fn new(bytes: Bytes, channel: Range<usize>, payload: Range<usize>) -> Self {
        Self { bytes, channel, payload }
    }

    /// Returns the channel's name. Not validated as UTF-8; an invalid name matches no subscription.
    pub fn channel(&self) -> &[u8] {
        &self.bytes[self.channel.clone()]
    }

    /// Returns the payload as a part of the buffer in which it was received.
    pub fn shared_payload(&self) -> Bytes {
        self.bytes.slice(self.payload.clone())
    }

    /// Returns the payload.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.payload.clone()]
    }
}
