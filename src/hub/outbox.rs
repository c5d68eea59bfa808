//! Whole frames that a socket has not accepted yet, shared, with an offset into the first; bounded in bytes and in time.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::outbox_memory::{OutboxMemory, ShardMemory};
use crate::stream::Stream;
use crate::wire::Form;

/// Bounds of the outboxes, and the reaction above them.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Soft bound: bytes that may be queued behind the first run for [`Limits::outbox_seconds`].
    pub outbox_bytes: usize,
    /// Seconds for which the soft bound may be exceeded; with 0, it applies at once.
    pub outbox_seconds: u32,
    /// Hard bound: bytes that may be queued behind the first run at any time.
    pub outbox_hard_bytes: usize,
    /// Drop the oldest runs instead of ending the connection.
    pub drop_oldest: bool,
    /// The memory of all outboxes of the process.
    pub memory: ShardMemory,
}

impl Default for Limits {
    /// Bounds for tests and benchmarks, too high to be reached by accident.
    fn default() -> Self {
        Self {
            outbox_bytes: 1 << 20,
            outbox_seconds: 10,
            outbox_hard_bytes: 1 << 28,
            drop_oldest: false,
            memory: ShardMemory::new(OutboxMemory::new(1 << 30)),
        }
    }
}

/// Which bound a client's outbox exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excess {
    /// A bound of its own: its oldest messages may be dropped instead of the connection.
    Client,
    /// The bound of all outboxes of the process.
    Process,
}

/// Seconds for which a client may exceed its share while the process has little memory left for outboxes.
const PRESSURE_SECONDS: u32 = 2;

/// The queue of one connection. Nearly always empty, and one pointer then.
#[derive(Debug, Default)]
pub struct Outbox(Option<Box<Queue>>);

#[derive(Debug)]
struct Queue {
    /// At least one.
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that have been written.
    written: usize,
    /// Counted bytes of all chunks but the first.
    behind: usize,
    /// Bytes of all chunks.
    total: usize,
    /// The shard's second at which a bound was found exceeded; 0 if none is.
    over_since: u32,
    /// A pong was omitted because the outbox is long.
    omitted_reply: bool,
    memory: ShardMemory,
}

#[derive(Debug)]
struct Chunk {
    frames: Bytes,
    /// 0 for replayed values and control frames, which are bounded elsewhere.
    counted: usize,
}

/// Most slices of one vectored write.
const MAX_SLICES: usize = 32;

impl Outbox {
    /// Returns whether everything has been written.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the bytes that have not been written.
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |queue| queue.total - queue.written)
    }

    /// Queues whole frames, whose first `written` bytes have been written. They must not be empty. They are a part of
    /// `whole`, which is counted once for all clients that hold it.
    pub fn push(&mut self, frames: &Bytes, whole: &Bytes, written: usize, limits: &Limits) {
        let (counted, frames) = (frames.len(), limits.memory.hold(whole).slice_ref(frames));
        self.append(Chunk { frames, counted }, written, &limits.memory);
    }

    /// Queues a replayed value, whose first `written` bytes have been written. It does not count against the connection's
    /// bounds, only against that of the process.
    pub fn push_replayed(&mut self, frames: &Bytes, written: usize, limits: &Limits) {
        self.append(Chunk { frames: limits.memory.hold(frames), counted: 0 }, written, &limits.memory);
    }

    /// Queues small frames that do not count against the bounds.
    pub fn push_uncounted(&mut self, frames: Bytes, written: usize, memory: &ShardMemory) {
        self.append(Chunk { frames, counted: 0 }, written, memory);
    }

    fn append(&mut self, chunk: Chunk, written: usize, memory: &ShardMemory) {
        memory.add_entry();
        if let Some(queue) = &mut self.0 {
            queue.behind += chunk.counted;
            queue.total += chunk.frames.len();
            queue.chunks.push_back(chunk);
        } else {
            let (total, chunks) = (chunk.frames.len(), VecDeque::from([chunk]));
            let memory = memory.clone();
            self.0 = Some(Box::new(Queue {
                chunks,
                written,
                behind: 0,
                total,
                over_since: 0,
                omitted_reply: false,
                memory,
            }));
        }
    }

    /// Returns whether the soft bound is exceeded, the first run included. The socket is then tried again before more is
    /// queued.
    pub fn is_long(&self, limits: &Limits) -> bool {
        self.bytes() > limits.outbox_bytes
    }

    /// Records that a pong was omitted because the outbox is long.
    pub fn mark_omitted_reply(&mut self) {
        if let Some(queue) = &mut self.0 {
            queue.omitted_reply = true;
        }
    }

    /// Returns the bound that may not be exceeded at any time, if it is exceeded. The first run does not count, so that one
    /// large message does not end all connections of its topic.
    pub fn excess(&self, limits: &Limits) -> Option<Excess> {
        let queue = self.0.as_ref()?;
        if limits.memory.is_full() {
            return Some(Excess::Process);
        }
        let max = if limits.outbox_seconds == 0 { limits.outbox_bytes } else { limits.outbox_hard_bytes };
        (queue.behind > max).then_some(Excess::Client)
    }

    /// Records in the shard's second `now` whether a bound is exceeded. Returns the bound that has been exceeded for too
    /// long.
    ///
    /// As long as the process has enough memory for outboxes, this is the soft bound, for the configured time. With little
    /// left, all bytes count, those of a first run and of replayed values included, and the time is shorter.
    pub fn mark_excess(&mut self, form: Form, now: u32, limits: &Limits) -> Option<Excess> {
        let queue = self.0.as_mut()?;
        queue.omitted_reply &= queue.total > limits.outbox_bytes / 2;
        let allowed = limits.memory.allowed_under_pressure(limits.outbox_bytes);
        let (over, seconds, excess) = match allowed {
            Some(allowed) if queue.total > allowed => (true, PRESSURE_SECONDS, Excess::Process),
            _ => {
                let over = queue.omitted_reply || queue.exceeds(form, limits.outbox_bytes);
                (over, limits.outbox_seconds, Excess::Client)
            }
        };
        if !over {
            queue.over_since = 0;
        } else if queue.over_since == 0 {
            queue.over_since = now;
        } else if now - queue.over_since >= seconds {
            return Some(excess);
        }
        None
    }

    /// Drops the oldest unwritten runs, until the rest is within the soft bound. Returns the number of dropped messages.
    pub fn drop_oldest(&mut self, form: Form, limits: &Limits) -> u32 {
        self.0.as_mut().map_or(0, |queue| queue.drop_oldest(form, limits))
    }

    /// Writes as much as the socket accepts at once.
    ///
    /// # Errors
    ///
    /// The socket's own, `WouldBlock` included.
    pub fn try_write_to(&mut self, stream: &Stream) -> io::Result<()> {
        while let Some(queue) = &self.0 {
            let written = queue.with_slices(|slices| stream.try_send(slices))?;
            self.advance(written);
        }
        Ok(())
    }

    /// Takes whole messages from the front: up to `max` bytes, and at least one message if there is one. The first message
    /// must not have been written in part.
    pub fn take(&mut self, form: Form, max: usize) -> Vec<Bytes> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        let Some(queue) = &self.0 else { return taken };
        let mut start = queue.written;
        for chunk in &queue.chunks {
            let part = chunk.frames.slice(std::mem::take(&mut start)..);
            let left = max.saturating_sub(bytes);
            let end = if part.len() <= left {
                part.len()
            } else {
                let fitting = form.ends(&part).take_while(|end| *end <= left).last();
                let first = || form.ends(&part).next().filter(|_| taken.is_empty());
                fitting.or_else(first).unwrap_or_default()
            };
            bytes += end;
            if end > 0 {
                taken.push(part.slice(..end));
            }
            if end < part.len() {
                break;
            }
        }
        self.advance(bytes);
        taken
    }

    /// Drops everything. Returns whether a frame or an event was written in part, so that nothing valid can follow.
    pub fn discard(&mut self) -> bool {
        self.0.take().is_some_and(|queue| queue.written > 0)
    }

    /// Drops everything behind the frame or event that was written in part.
    pub fn discard_unstarted(&mut self, form: Form) {
        self.0.take_if(|queue| !queue.discard_unstarted(form));
    }

    /// Writes as much as the socket accepts. Ready when nothing is left.
    ///
    /// # Errors
    ///
    /// The socket's own.
    pub fn poll_write_to(&mut self, stream: &Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(queue) = &mut self.0 {
            let written = ready!(queue.poll_write_to(stream, cx))?;
            self.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, written: usize) {
        self.0.take_if(|queue| !queue.advance(written));
    }
}

impl Queue {
    /// Returns whether more than `max` counted bytes are queued. The first run counts only if it has several messages.
    fn exceeds(&self, form: Form, max: usize) -> bool {
        let left = self.chunks[0].counted.saturating_sub(self.written);
        self.behind > max || (self.behind + left > max && !self.starts_with_single_message(form))
    }

    /// Returns whether the first run is one message.
    fn starts_with_single_message(&self, form: Form) -> bool {
        let first = &self.chunks[0].frames;
        self.memory.is_single(first, || form.ends(first).next().is_none_or(|end| end == first.len()))
    }

    fn drop_oldest(&mut self, form: Form, limits: &Limits) -> u32 {
        let mut dropped = 0;
        let mut index = 1;
        while self.behind > limits.outbox_bytes && index < self.chunks.len() {
            if self.chunks[index].counted == 0 {
                index += 1;
            } else if let Some(chunk) = self.chunks.remove(index) {
                self.behind -= chunk.counted;
                self.total -= chunk.frames.len();
                self.memory.remove_entries(1);
                dropped += u32::try_from(form.ends(&chunk.frames).count()).unwrap_or(u32::MAX);
            }
        }
        dropped
    }

    /// Drops everything behind the frame or event that was written in part. Returns whether anything is left.
    fn discard_unstarted(&mut self, form: Form) -> bool {
        let before = self.chunks.len();
        self.chunks.truncate(usize::from(self.written > 0));
        self.memory.remove_entries(before - self.chunks.len());
        (self.behind, self.total) = (0, 0);
        let is_single = !self.chunks.is_empty() && self.starts_with_single_message(form);
        let Some(first) = self.chunks.front_mut() else { return false };
        let end = if is_single { None } else { form.ends(&first.frames).find(|end| *end >= self.written) };
        first.frames.truncate(end.unwrap_or(first.frames.len()));
        self.total = first.frames.len();
        self.written < self.total
    }

    fn poll_write_to(&self, stream: &Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.with_slices(|slices| stream.poll_send(cx, slices))
    }

    /// Calls `write` with the slices of one vectored write.
    fn with_slices<T>(&self, write: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slice = IoSlice::new(&chunk.frames);
        }
        slices[0] = IoSlice::new(&self.chunks[0].frames[self.written..]);
        write(&slices[..self.chunks.len().min(MAX_SLICES)])
    }

    /// Removes written bytes from the front. Returns whether anything is left.
    fn advance(&mut self, mut written: usize) -> bool {
        while let Some(first) = self.chunks.front() {
            let left = first.frames.len() - self.written;
            if written < left {
                self.written += written;
                return true;
            }
            written -= left;
            self.written = 0;
            if let Some(chunk) = self.chunks.pop_front() {
                self.total -= chunk.frames.len();
                self.memory.remove_entries(1);
            }
            self.behind -= self.chunks.front().map_or(0, |next| next.counted);
        }
        false
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.memory.remove_entries(self.chunks.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Run;

    fn limits() -> Limits {
        Limits { outbox_bytes: 10, outbox_seconds: 3, outbox_hard_bytes: 20, ..Limits::default() }
    }

    /// Frames of `count` two-byte messages: four bytes each.
    fn run(count: usize) -> Bytes {
        Run::join((0..count).map(|_| Run::of(b"ab")).collect()).unwrap().bytes
    }

    fn push(outbox: &mut Outbox, run: &Bytes, written: usize, limits: &Limits) {
        outbox.push(run, run, written, limits);
    }

    #[test]
    fn the_bounds_count_from_the_second_run_on() {
        let (mut outbox, limits) = (Outbox::default(), limits());
        push(&mut outbox, &run(100), 0, &limits);
        assert!(outbox.is_long(&limits) && outbox.excess(&limits).is_none());
        push(&mut outbox, &run(2), 0, &limits);
        outbox.push_replayed(&run(50), 0, &limits);
        push(&mut outbox, &run(1), 0, &limits);
        assert!(outbox.excess(&limits).is_none());
        push(&mut outbox, &run(3), 0, &limits);
        assert_eq!(outbox.excess(&limits), Some(Excess::Client));
        outbox.advance(400);
        assert!(outbox.excess(&limits).is_none(), "the second run became the first");
        outbox.advance(8 + 200 + 4 + 12);
        assert!(outbox.is_empty());
    }

    #[test]
    fn the_soft_bound_may_be_exceeded_for_the_configured_time_which_restarts_below_it() {
        let (mut outbox, limits) = (Outbox::default(), limits());
        (0..4).for_each(|_| push(&mut outbox, &run(1), 0, &limits));
        assert_eq!([7, 8, 9].map(|now| outbox.mark_excess(Form::Frames, now, &limits)), [None; 3]);
        outbox.advance(4);
        assert_eq!(outbox.mark_excess(Form::Frames, 10, &limits), None, "below the bound");
        push(&mut outbox, &run(1), 0, &limits);
        assert_eq!([11, 12, 13].map(|now| outbox.mark_excess(Form::Frames, now, &limits)), [None; 3]);
        assert_eq!(outbox.mark_excess(Form::Frames, 14, &limits), Some(Excess::Client));
        let at_once = Limits { outbox_seconds: 0, ..limits };
        assert_eq!(outbox.excess(&at_once), Some(Excess::Client));
    }

    #[test]
    fn under_memory_pressure_all_queued_bytes_count_and_the_time_is_two_seconds() {
        let memory = OutboxMemory::new(4_000);
        let limits = Limits { memory: ShardMemory::new(memory.clone()), ..limits() };
        let mut outbox = Outbox::default();
        outbox.push_replayed(&run(500), 0, &limits);
        assert_eq!(
            [3, 4, 5].map(|now| outbox.mark_excess(Form::Frames, now, &limits)),
            [None, None, Some(Excess::Process)]
        );
        push(&mut outbox, &run(500), 0, &limits);
        assert_eq!(outbox.excess(&limits), Some(Excess::Process));
        drop(outbox);
        limits.memory.release_last();
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn the_oldest_run_that_is_not_partly_written_is_dropped_first() {
        let (mut outbox, limits) = (Outbox::default(), limits());
        push(&mut outbox, &run(1), 2, &limits);
        outbox.push_replayed(&run(1), 0, &limits);
        push(&mut outbox, &run(2), 0, &limits);
        push(&mut outbox, &run(1), 0, &limits);
        assert_eq!(outbox.drop_oldest(Form::Frames, &limits), 2);
        let queue = outbox.0.as_ref().unwrap();
        assert_eq!((queue.chunks.len(), queue.behind, queue.total), (3, 4, 12));
    }

    #[test]
    fn a_discard_keeps_the_frame_that_is_partly_written() {
        for (written, left) in [(0, 0), (1, 3), (4, 0), (5, 3), (8, 0)] {
            let mut outbox = Outbox::default();
            push(&mut outbox, &run(3), written, &limits());
            push(&mut outbox, &run(1), 0, &limits());
            outbox.discard_unstarted(Form::Frames);
            let rest = outbox.0.as_ref().map_or(0, |queue| queue.chunks[0].frames.len() - queue.written);
            assert_eq!(rest, left, "after {written} bytes");
        }
        for (written, left) in [(0, 0), (1, 9), (10, 0), (11, 9)] {
            let mut outbox = Outbox::default();
            let events = Bytes::from_static(b"data: ab\n\ndata: cd\n\n");
            push(&mut outbox, &events, written, &limits());
            outbox.discard_unstarted(Form::Events);
            let rest = outbox.0.as_ref().map_or(0, |queue| queue.chunks[0].frames.len() - queue.written);
            assert_eq!(rest, left, "after {written} bytes of events");
        }
    }
}
