//! What carries the bytes of a listener.

use std::io;

use crate::stream::Stream;

/// How bytes reach the client.
#[derive(Debug, Default)]
pub(super) enum Transport {
    /// Bytes are written at once.
    Socket(Stream),
    /// The client has no socket at the moment; bytes are queued in the outbox, within its bounds.
    #[default]
    Parked,
}

impl Transport {
    /// Writes as much as the socket accepts at once. A parked transport accepts nothing.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Socket(stream) => stream.try_write(bytes),
            Self::Parked => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Returns the socket, if there is one.
    pub(super) fn socket(&self) -> Option<&Stream> {
        match self {
            Self::Socket(stream) => Some(stream),
            Self::Parked => None,
        }
    }
}
