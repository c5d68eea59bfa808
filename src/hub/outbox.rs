//! What a socket did not take: whole frames, shared, with an offset into the first; bounded in bytes and in time.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::{OutboxMemory, ShardMemory};
use crate::stream::Stream;
use crate::wire::Form;

/// Bounds of the outboxes, and what happens above them.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes that may wait behind the first run for [`Limits::outbox_seconds`].
    pub outbox_bytes: usize,
    /// Seconds for which more may wait; with 0, no more may wait at any time.
    pub outbox_seconds: u32,
    /// Bytes that may wait behind the first run at any time.
    pub outbox_hard_bytes: usize,
    /// Whether the oldest runs are dropped, instead of the connection.
    pub drop_oldest: bool,
    /// What all outboxes of the process may hold.
    pub memory: ShardMemory,
}

impl Default for Limits {
    /// Bounds that nothing in a test or a benchmark reaches unless it wants to.
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

/// What has to happen to a client for which too much waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excess {
    /// Its oldest messages may go instead of the connection.
    Own,
    /// The process has no more memory for outboxes.
    OfProcess,
}

/// Seconds for which a client may hold more than its share while the process has little memory left for outboxes.
const PRESSURE_SECONDS: u32 = 2;

/// The queue of one connection. Empty, as it is nearly always, it takes one pointer.
#[derive(Debug, Default)]
pub struct Outbox(Option<Box<Queue>>);

#[derive(Debug)]
struct Queue {
    /// Never empty.
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that have been written.
    written: usize,
    /// Counted bytes behind the first chunk.
    behind: usize,
    /// All bytes.
    total: usize,
    /// The shard's second at which too much was found to wait; 0 means that it did not.
    over_since: u32,
    /// Whether answers were left out because much waits.
    left_out: bool,
    memory: ShardMemory,
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

    /// Queues whole frames of which `written` bytes are out already. They must not be empty, and are a part of `whole`,
    /// which is kept with them.
    pub fn push(&mut self, frames: &Bytes, whole: &Bytes, written: usize, limits: &Limits) {
        let (counted, frames) = (frames.len(), limits.memory.hold(whole).slice_ref(frames));
        self.append(Chunk { frames, counted }, written, &limits.memory);
    }

    /// Queues a replayed value, which does not count against the bound of the connection.
    pub fn push_replayed(&mut self, frames: &Bytes, limits: &Limits) {
        self.append(Chunk { frames: limits.memory.hold(frames), counted: 0 }, 0, &limits.memory);
    }

    /// Queues whole frames that do not count against the bound, and are small.
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
                left_out: false,
                memory,
            }));
        }
    }

    /// Tells whether so much waits that it is worth asking the socket again before more is queued.
    pub fn is_long(&self, limits: &Limits) -> bool {
        self.0.as_ref().is_some_and(|queue| queue.total - queue.written > limits.outbox_bytes)
    }

    /// Notes that an answer was left out because much waits.
    pub fn note_left_out(&mut self) {
        if let Some(queue) = &mut self.0 {
            queue.left_out = true;
        }
    }

    /// Tells whether more waits than may wait at any time. The first run is free, so that one large message does not
    /// close everybody.
    pub fn excess(&self, limits: &Limits) -> Option<Excess> {
        let queue = self.0.as_ref()?;
        if limits.memory.is_full() {
            return Some(Excess::OfProcess);
        }
        let most = if limits.outbox_seconds == 0 { limits.outbox_bytes } else { limits.outbox_hard_bytes };
        (queue.behind > most).then_some(Excess::Own)
    }

    /// Notes in the shard's second `now` whether too much waits, and returns why it has waited for too long.
    ///
    /// As long as the process has memory enough for outboxes, that is more than the soft bound for the time set. With
    /// little left, all that waits counts, also a first run and a replayed value, and there is less time.
    pub fn mark_excess(&mut self, form: Form, now: u32, limits: &Limits) -> Option<Excess> {
        let queue = self.0.as_mut()?;
        queue.left_out &= queue.total > limits.outbox_bytes / 2;
        let allowed = limits.memory.allowed_under_pressure(limits.outbox_bytes);
        let (over, seconds, excess) = match allowed {
            Some(allowed) if queue.total > allowed => (true, PRESSURE_SECONDS, Excess::OfProcess),
            _ => {
                let over = queue.left_out || queue.is_above(form, limits.outbox_bytes);
                (over, limits.outbox_seconds, Excess::Own)
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

    /// Drops the oldest runs that have not been begun until the rest is within the soft bound. Returns how many.
    pub fn drop_oldest(&mut self, form: Form, limits: &Limits) -> u32 {
        self.0.as_mut().map_or(0, |queue| queue.drop_oldest(form, limits))
    }

    /// Writes as much as the socket takes at once.
    ///
    /// # Errors
    ///
    /// The socket's own, also that it takes nothing.
    pub fn try_write_to(&mut self, stream: &Stream) -> io::Result<()> {
        while let Some(queue) = &self.0 {
            let taken = queue.with_slices(|slices| stream.try_send(slices))?;
            self.advance(taken);
        }
        Ok(())
    }

    /// Drops everything. Returns whether a frame, or an event, had been begun, so that nothing sound can follow.
    pub fn discard(&mut self) -> bool {
        self.0.take().is_some_and(|queue| queue.written > 0)
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
    /// Tells whether more counted bytes wait than `most`, a first run of only one message not counted.
    fn is_above(&self, form: Form, most: usize) -> bool {
        let left = self.chunks[0].counted.saturating_sub(self.written);
        self.behind > most || (self.behind + left > most && !self.begins_with_one(form))
    }

    /// Tells whether the first run is one message.
    fn begins_with_one(&self, form: Form) -> bool {
        let first = &self.chunks[0].frames;
        self.memory.is_one(first, || form.ends(first).next().is_none_or(|end| end == first.len()))
    }

    fn drop_oldest(&mut self, form: Form, limits: &Limits) -> u32 {
        let mut dropped = 0;
        let mut at = 1;
        while self.behind > limits.outbox_bytes && at < self.chunks.len() {
            if self.chunks[at].counted == 0 {
                at += 1;
            } else if let Some(chunk) = self.chunks.remove(at) {
                self.behind -= chunk.counted;
                self.total -= chunk.frames.len();
                self.memory.remove_entries(1);
                dropped += u32::try_from(form.ends(&chunk.frames).count()).unwrap_or(u32::MAX);
            }
        }
        dropped
    }

    /// Returns whether anything is left.
    fn cut(&mut self, form: Form) -> bool {
        let before = self.chunks.len();
        self.chunks.truncate(usize::from(self.written > 0));
        self.memory.remove_entries(before - self.chunks.len());
        (self.behind, self.total) = (0, 0);
        let is_one = !self.chunks.is_empty() && self.begins_with_one(form);
        let Some(first) = self.chunks.front_mut() else { return false };
        let begun = if is_one { None } else { form.ends(&first.frames).find(|end| *end >= self.written) };
        first.frames.truncate(begun.unwrap_or(first.frames.len()));
        self.total = first.frames.len();
        self.written < self.total
    }

    fn poll_write_to(&self, stream: &Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.with_slices(|slices| stream.poll_send(cx, slices))
    }

    /// Writes with what can be written at once.
    fn with_slices<T>(&self, write: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
        let mut slices = [IoSlice::new(&[]); SLICES];
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            *slice = IoSlice::new(&chunk.frames);
        }
        slices[0] = IoSlice::new(&self.chunks[0].frames[self.written..]);
        write(&slices[..self.chunks.len().min(SLICES)])
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
        outbox.push_replayed(&run(50), &limits);
        push(&mut outbox, &run(1), 0, &limits);
        assert!(outbox.excess(&limits).is_none());
        push(&mut outbox, &run(3), 0, &limits);
        assert_eq!(outbox.excess(&limits), Some(Excess::Own));
        outbox.advance(400);
        assert!(outbox.excess(&limits).is_none(), "the second run became the first");
        outbox.advance(8 + 200 + 4 + 12);
        assert!(outbox.is_empty());
    }

    #[test]
    fn above_the_soft_bound_there_is_the_time_that_is_set_and_it_begins_anew_when_less_waits() {
        let (mut outbox, limits) = (Outbox::default(), limits());
        (0..4).for_each(|_| push(&mut outbox, &run(1), 0, &limits));
        assert_eq!([7, 8, 9].map(|now| outbox.mark_excess(Form::Frames, now, &limits)), [None; 3]);
        outbox.advance(4);
        assert_eq!(outbox.mark_excess(Form::Frames, 10, &limits), None, "below the bound");
        push(&mut outbox, &run(1), 0, &limits);
        assert_eq!([11, 12, 13].map(|now| outbox.mark_excess(Form::Frames, now, &limits)), [None; 3]);
        assert_eq!(outbox.mark_excess(Form::Frames, 14, &limits), Some(Excess::Own));
        let at_once = Limits { outbox_seconds: 0, ..limits };
        assert_eq!(outbox.excess(&at_once), Some(Excess::Own));
    }

    #[test]
    fn where_the_process_has_little_memory_left_all_that_waits_counts_for_two_seconds() {
        let memory = OutboxMemory::new(4_000);
        let limits = Limits { memory: ShardMemory::new(memory.clone()), ..limits() };
        let mut outbox = Outbox::default();
        outbox.push_replayed(&run(500), &limits);
        assert_eq!(
            [3, 4, 5].map(|now| outbox.mark_excess(Form::Frames, now, &limits)),
            [None, None, Some(Excess::OfProcess)]
        );
        push(&mut outbox, &run(500), 0, &limits);
        assert_eq!(outbox.excess(&limits), Some(Excess::OfProcess));
        drop(outbox);
        limits.memory.forget_last();
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn the_oldest_run_that_is_not_begun_is_dropped_first() {
        let (mut outbox, limits) = (Outbox::default(), limits());
        push(&mut outbox, &run(1), 2, &limits);
        outbox.push_replayed(&run(1), &limits);
        push(&mut outbox, &run(2), 0, &limits);
        push(&mut outbox, &run(1), 0, &limits);
        assert_eq!(outbox.drop_oldest(Form::Frames, &limits), 2);
        let queue = outbox.0.as_ref().unwrap();
        assert_eq!((queue.chunks.len(), queue.behind, queue.total), (3, 4, 12));
    }

    #[test]
    fn a_cut_ends_with_the_frame_begun() {
        for (written, left) in [(0, 0), (1, 3), (4, 0), (5, 3), (8, 0)] {
            let mut outbox = Outbox::default();
            push(&mut outbox, &run(3), written, &limits());
            push(&mut outbox, &run(1), 0, &limits());
            outbox.cut(Form::Frames);
            let rest = outbox.0.as_ref().map_or(0, |queue| queue.chunks[0].frames.len() - queue.written);
            assert_eq!(rest, left, "after {written} bytes");
        }
        for (written, left) in [(0, 0), (1, 9), (10, 0), (11, 9)] {
            let mut outbox = Outbox::default();
            let events = Bytes::from_static(b"data: ab\n\ndata: cd\n\n");
            push(&mut outbox, &events, written, &limits());
            outbox.cut(Form::Events);
            let rest = outbox.0.as_ref().map_or(0, |queue| queue.chunks[0].frames.len() - queue.written);
            assert_eq!(rest, left, "after {written} bytes of events");
        }
    }
}
