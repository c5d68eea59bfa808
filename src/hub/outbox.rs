//! What a socket did not take: whole frames, shared, with an offset into the first; bounded in bytes.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::Form;
use crate::stream::Stream;

/// Bounds of the outboxes, and what happens above them.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes that may wait behind the first run.
    pub outbox_bytes: usize,
    /// Whether the oldest runs are dropped, instead of the connection.
    pub drop_oldest: bool,
}

/// The queue of one connection. Empty, as it is nearly always, it takes one pointer.
#[derive(Debug, Default)]
pub struct Outbox(Option<Box<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    /// Never empty.
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
        self.0.is_none()
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
        if let Some(queue) = &mut self.0 {
            queue.behind += chunk.counted;
            queue.chunks.push_back(chunk);
        } else {
            self.0 = Some(Box::new(Queue { chunks: VecDeque::from([chunk]), written, behind: 0 }));
        }
    }

    /// Tells whether more waits than the limits allow. The first run is free, so that one large message does not
    /// close everybody.
    pub fn is_over(&self, limits: &Limits) -> bool {
        self.0.as_ref().is_some_and(|queue| queue.is_over(limits))
    }

    /// Drops the oldest runs that have not been begun until the rest is within the limits. Returns how many.
    pub fn drop_oldest(&mut self, form: Form, limits: &Limits) -> u32 {
        self.0.as_mut().map_or(0, |queue| queue.drop_oldest(form, limits))
    }

    /// Drops everything behind the frame, or the event, that has been begun.
    pub fn cut(&mut self, form: Form) {
        self.0.take_if(|queue| !queue.cut(form));
    }

    /// Writes as much as the socket takes. Ready when nothing is left.
    ///
    /// # Errors
    ///
    /// The socket's own.
    pub fn poll_write_to(&mut self, stream: &Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(queue) = &mut self.0 {
            let taken = ready!(queue.poll_write_to(stream, cx))?;
            self.advance(taken);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, taken: usize) {
        self.0.take_if(|queue| !queue.advance(taken));
    }
}

impl Queue {
    fn is_over(&self, limits: &Limits) -> bool {
        self.behind > limits.outbox_bytes
    }

    fn drop_oldest(&mut self, form: Form, limits: &Limits) -> u32 {
        let mut dropped = 0;
        let mut at = 1;
        while self.is_over(limits) && at < self.chunks.len() {
            if self.chunks[at].counted == 0 {
                at += 1;
            } else if let Some(chunk) = self.chunks.remove(at) {
                self.behind -= chunk.counted;
                dropped += u32::try_from(form.ends(&chunk.frames).count()).unwrap_or(u32::MAX);
            }
        }
        dropped
    }

    /// Returns whether anything is left.
    fn cut(&mut self, form: Form) -> bool {
        self.chunks.truncate(usize::from(self.written > 0));
        self.behind = 0;
        let Some(first) = self.chunks.front_mut() else { return false };
        let begun = form.ends(&first.frames).find(|end| *end >= self.written);
        first.frames.truncate(begun.unwrap_or(first.frames.len()));
        self.written < first.frames.len()
    }

    fn poll_write_to(&self, stream: &Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slice = IoSlice::new(&chunk.frames);
        }
        slices[0] = IoSlice::new(&self.chunks[0].frames[self.written..]);
        let used = self.chunks.len().min(SLICES);
        stream.poll_send(cx, &slices[..used])
    }

    /// Returns whether anything is left.
    fn advance(&mut self, mut taken: usize) -> bool {
        while let Some(first) = self.chunks.front() {
            let left = first.frames.len() - self.written;
            if taken < left {
                self.written += taken;
                return true;
            }
            taken -= left;
            self.written = 0;
            self.chunks.pop_front();
            self.behind -= self.chunks.front().map_or(0, |next| next.counted);
        }
        false
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
        assert!(outbox.is_empty());
    }

    #[test]
    fn the_oldest_run_that_is_not_begun_is_dropped_first() {
        let mut outbox = Outbox::default();
        outbox.push(run(1), 2);
        outbox.push_uncounted(run(1), 0);
        outbox.push(run(2), 0);
        outbox.push(run(1), 0);
        assert_eq!(outbox.drop_oldest(Form::Frames, &LIMITS), 2);
        let queue = outbox.0.unwrap();
        assert_eq!((queue.chunks.len(), queue.behind), (3, 4));
    }

    #[test]
    fn a_cut_ends_with_the_frame_begun() {
        for (written, left) in [(0, 0), (1, 3), (4, 0), (5, 3), (8, 0)] {
            let mut outbox = Outbox::default();
            outbox.push(run(3), written);
            outbox.push(run(1), 0);
            outbox.cut(Form::Frames);
            let rest = outbox.0.map_or(0, |queue| queue.chunks[0].frames.len() - queue.written);
            assert_eq!(rest, left, "after {written} bytes");
        }
        for (written, left) in [(0, 0), (1, 9), (10, 0), (11, 9)] {
            let mut outbox = Outbox::default();
            outbox.push(Bytes::from_static(b"data: ab\n\ndata: cd\n\n"), written);
            outbox.cut(Form::Events);
            let rest = outbox.0.map_or(0, |queue| queue.chunks[0].frames.len() - queue.written);
            assert_eq!(rest, left, "after {written} bytes of events");
        }
    }
}
