//! What a socket did not take: whole frames, shared, with an offset into the first; bounded in bytes.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::Bytes;

use super::Form;
use crate::stream::WriteHalf;

/// Bounds of the outboxes, and what happens above them.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes that may wait behind the first run.
    pub outbox_bytes: usize,
    /// Whether the oldest runs are dropped, instead of the connection.
    pub drop_oldest: bool,
}

/// The queue of one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that have been written.
    written: usize,
    /// Counted bytes behind the first chunk.
    behind: usize,
}

#[derive(Debug)]
struct Chunk {
    frames: Bytes,
    /// Replayed and control frames do not count: they are bounded elsewhere.
    counted: usize,
}

/// Most slices of one vectored write.
const SLICES: usize = 32;

impl Outbox {
    /// Tells whether everything has been written.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Queues whole frames of which `written` bytes are out already. They must not be empty.
    pub fn push(&mut self, frames: Bytes, written: usize) {
        let counted = frames.len();
        self.append(Chunk { frames, counted }, written);
    }

    /// Queues whole frames that do not count against the bound.
    pub fn push_uncounted(&mut self, frames: Bytes, written: usize) {
        self.append(Chunk { frames, counted: 0 }, written);
    }

    fn append(&mut self, chunk: Chunk, written: usize) {
        if self.chunks.is_empty() {
            self.written = written;
        } else {
            self.behind += chunk.counted;
        }
        self.chunks.push_back(chunk);
    }

    /// Tells whether more waits than the limits allow. The first run is free, so that one large message does not
    /// close everybody.
    pub fn is_over(&self, limits: &Limits) -> bool {
        self.behind > limits.outbox_bytes
    }

    /// Drops the oldest runs that have not been begun until the rest is within the limits. Returns how many.
    pub fn drop_oldest(&mut self, form: Form, limits: &Limits) -> u64 {
        let mut dropped = 0;
        let mut at = 1;
        while self.is_over(limits) && at < self.chunks.len() {
            if self.chunks[at].counted == 0 {
                at += 1;
            } else if let Some(chunk) = self.chunks.remove(at) {
                self.behind -= chunk.counted;
                dropped += form.ends(&chunk.frames).count() as u64;
            }
        }
        dropped
    }

    /// Drops everything behind the frame, or the event, that has been begun.
    pub fn cut(&mut self, form: Form) {
        self.chunks.truncate(usize::from(self.written > 0));
        self.behind = 0;
        let Some(first) = self.chunks.front_mut() else { return };
        let begun = form.ends(&first.frames).find(|end| *end >= self.written);
        first.frames.truncate(begun.unwrap_or(first.frames.len()));
        if self.written >= first.frames.len() {
            self.chunks.clear();
        }
    }

    /// Writes until the socket takes no more.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when something is left, else the socket's own error.
    pub fn write_to(&mut self, socket: &WriteHalf) -> io::Result<()> {
        while !self.chunks.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
                *slice = IoSlice::new(&chunk.frames);
            }
            slices[0] = IoSlice::new(&self.chunks[0].frames[self.written..]);
            let used = self.chunks.len().min(SLICES);
            let taken = socket.try_write_vectored(&slices[..used])?;
            self.advance(taken);
        }
        // An empty outbox of an idle connection keeps no memory.
        self.chunks = VecDeque::new();
        Ok(())
    }

    fn advance(&mut self, mut taken: usize) {
        while let Some(first) = self.chunks.front() {
            let left = first.frames.len() - self.written;
            if taken < left {
                self.written += taken;
                return;
            }
            taken -= left;
            self.written = 0;
            self.chunks.pop_front();
            self.behind -= self.chunks.front().map_or(0, |next| next.counted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Run;

    const LIMITS: Limits = Limits { outbox_bytes: 10, drop_oldest: true };

    /// Frames of `count` two-byte messages: four bytes each.
    fn run(count: usize) -> Bytes {
        Run::join((0..count).map(|_| Run::of(b"ab")).collect()).unwrap().bytes
    }

    #[test]
    fn the_bound_counts_from_the_second_run_on() {
        let mut outbox = Outbox::default();
        outbox.push(run(100), 0);
        assert!(!outbox.is_over(&LIMITS));
        outbox.push(run(2), 0);
        outbox.push_uncounted(run(50), 0);
        assert!(!outbox.is_over(&LIMITS));
        outbox.push(run(1), 0);
        assert!(outbox.is_over(&LIMITS));
        outbox.advance(400);
        assert!(!outbox.is_over(&LIMITS), "the second run became the first");
        outbox.advance(8 + 200 + 4);
        assert!(outbox.is_empty() && outbox.behind == 0);
    }

    #[test]
    fn the_oldest_run_that_is_not_begun_is_dropped_first() {
        let mut outbox = Outbox::default();
        outbox.push(run(1), 2);
        outbox.push_uncounted(run(1), 0);
        outbox.push(run(2), 0);
        outbox.push(run(1), 0);
        assert_eq!(outbox.drop_oldest(Form::Frames, &LIMITS), 2);
        assert_eq!(outbox.chunks.len(), 3);
        assert_eq!(outbox.behind, 4);
    }

    #[test]
    fn a_cut_ends_with_the_frame_begun() {
        for (written, left) in [(0, 0), (1, 3), (4, 0), (5, 3), (8, 0)] {
            let mut outbox = Outbox::default();
            outbox.push(run(3), written);
            outbox.push(run(1), 0);
            outbox.cut(Form::Frames);
            let rest = outbox.chunks.front().map_or(0, |chunk| chunk.frames.len() - outbox.written);
            assert_eq!(rest, left, "after {written} bytes");
        }
        for (written, left) in [(0, 0), (1, 9), (10, 0), (11, 9)] {
            let mut outbox = Outbox::default();
            outbox.push(Bytes::from_static(b"data: ab\n\ndata: cd\n\n"), written);
            outbox.cut(Form::Events);
            let rest = outbox.chunks.front().map_or(0, |chunk| chunk.frames.len() - outbox.written);
            assert_eq!(rest, left, "after {written} bytes of events");
        }
    }
}
