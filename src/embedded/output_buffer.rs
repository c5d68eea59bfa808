//! The bytes that wait for one client, and the bell that wakes its task.

use std::rc::Rc;

use bytes::{Buf, BytesMut};
use tokio::sync::Notify;

/// Above this capacity an empty buffer is given back.
const KEEP_BYTES: usize = 16 * 1024;

/// Replies and messages not yet written; the bound is watched by `MemoryStore`, which also knows the sum over all clients.
#[derive(Default)]
pub(crate) struct OutputBuffer {
    pending: BytesMut,
    bell: Rc<Notify>,
}

impl OutputBuffer {
    /// Returns what the client's task waits for.
    pub(crate) fn bell(&self) -> Rc<Notify> {
        Rc::clone(&self.bell)
    }

    /// Wakes the client's task.
    pub(crate) fn ring(&self) {
        self.bell.notify_one();
    }

    /// Appends whole frames.
    pub(crate) fn push(&mut self, frames: &[u8]) {
        self.pending.extend_from_slice(frames);
    }

    /// Returns the buffer to which frames are appended.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.pending
    }

    /// Returns what to write next.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.pending
    }

    /// Forgets what has been written.
    pub(crate) fn written(&mut self, bytes: usize) {
        self.pending.advance(bytes);
        if self.pending.is_empty() && self.pending.capacity() > KEEP_BYTES {
            self.pending = BytesMut::new();
        }
    }

    /// Forgets everything and returns how much it was.
    pub(crate) fn clear(&mut self) -> usize {
        std::mem::take(&mut self.pending).len()
    }
}
