//! The output queued for one client, and the wake-up of its task.

use std::rc::Rc;

use bytes::{Buf, BytesMut};
use tokio::sync::Notify;

/// Above this capacity an empty buffer is freed: one large reply must not keep its memory until the client disconnects.
const KEEP_BYTES: usize = 16 * 1024;

/// Replies and messages that are not yet written. `MemoryStore` bounds them, because it knows the sum over all clients.
#[derive(Default)]
pub(crate) struct OutputBuffer {
    pending: BytesMut,
    wakeup: Rc<Notify>,
}

impl OutputBuffer {
    /// Returns the notification on which the client's task waits.
    pub(crate) fn wakeup(&self) -> Rc<Notify> {
        Rc::clone(&self.wakeup)
    }

    /// Wakes the client's task.
    pub(crate) fn wake(&self) {
        self.wakeup.notify_one();
    }

    /// Appends whole frames.
    pub(crate) fn push(&mut self, frames: &[u8]) {
        self.pending.extend_from_slice(frames);
    }

    /// Returns the buffer to which frames are appended.
    pub(crate) fn buffer_mut(&mut self) -> &mut BytesMut {
        &mut self.pending
    }

    /// Returns the bytes to write next.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.pending
    }

    /// Removes bytes that have been written.
    pub(crate) fn advance(&mut self, bytes: usize) {
        self.pending.advance(bytes);
        if self.pending.is_empty() && self.pending.capacity() > KEEP_BYTES {
            self.pending = BytesMut::new();
        }
    }

    /// Discards all pending bytes and returns their number.
    pub(crate) fn clear(&mut self) -> usize {
        std::mem::take(&mut self.pending).len()
    }
}
