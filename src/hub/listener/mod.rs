//! One connection as the hub sees it: its transport, its outbox and its task's waker.
#![expect(clippy::inline_always, reason = "the write belongs into the loop of a delivery")]

pub(super) mod replay;

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;

use super::digests::Digester;
use super::ending::Ending;
use super::filter::{DigestFilter, send_unfiltered};
use super::liveness::Liveness;
use super::losses::Losses;
use super::outbox::{Excess, Limits, Outbox};
use super::run::Run;
use super::topic::is_of_layer;
use super::transport::Transport;
use crate::stream::Stream;
use crate::wire::{ClientDetails, EntryId, Form};

/// The transport and the bytes that it has not accepted yet. They share one borrow flag, because every write needs both.
#[derive(Debug, Default)]
struct Output {
    transport: Transport,
    outbox: Outbox,
}

/// One connection as the hub sees it. The order of fields is fixed: those that a delivery reads come first, so that they fill one or two cache lines.
#[derive(Default)]
#[repr(C)]
pub struct Listener {
    output: RefCell<Output>,
    delivered: Cell<u64>,
    /// How its messages are framed.
    pub form: Form,
    ending: Cell<Option<Ending>>,
    /// The filter is not empty.
    filters: Cell<bool>,
    /// The connection's grant has to be computed again.
    reauthorize: Cell<bool>,
    /// Redis was lost, and no value of its topics has been re-read since.
    lost: Cell<bool>,
    /// A heartbeat or an answer to one is in the outbox.
    heartbeat_queued: Cell<bool>,
    /// Messages may have been lost, and the task has not taken note.
    pub losses: Losses,
    /// The connection's task has to describe it.
    describe: Cell<bool>,
    dropped: Cell<u32>,
    filter: RefCell<DigestFilter>,
    /// Wakes the connection's task.
    task: Cell<Option<Waker>>,
    /// Times for the shard's tick.
    pub liveness: Liveness,
    /// What the operator wants to know about its client, if that is kept.
    pub details: OnceCell<Box<ClientDetails>>,
}

impl Listener {
    /// Creates the listener of a client's socket. `now` is the shard's second; the client is pinged after `ping_after`
    /// seconds of silence.
    pub fn new(stream: Stream, form: Form, now: u32, ping_after: u32) -> Self {
        Self::with_transport(Transport::Socket(stream), form, now, ping_after)
    }

    /// Creates a listener without a socket. Its messages wait for [`Listener::attach`].
    pub fn parked(form: Form, now: u32, ping_after: u32) -> Self {
        Self::with_transport(Transport::Parked, form, now, ping_after)
    }

    fn with_transport(transport: Transport, form: Form, now: u32, ping_after: u32) -> Self {
        let output = RefCell::new(Output { transport, outbox: Outbox::default() });
        Self { output, form, liveness: Liveness::new(now, ping_after), ..Self::default() }
    }

    /// Delivers a run of a topic, without the messages that the filter excludes.
    #[inline(always)]
    pub(super) fn deliver(&self, topic: u32, run: &Run, limits: &Limits, digester: &Digester) {
        if self.filters.get() {
            return self
                .deliver_filtered(topic, run, digester, |part, all| self.send_part(part, all, limits));
        }
        self.delivered.set(self.delivered.get() + u64::from(run.messages));
        self.send(run.in_form(self.form), limits);
    }

    /// Counts volatile messages as dropped, and returns true, if earlier ones are queued.
    pub(super) fn drop_if_queued(&self, messages: u32) -> bool {
        let is_queued = self.has_queued();
        if is_queued {
            self.dropped.set(self.dropped.get().saturating_add(messages));
        }
        is_queued
    }

    /// Excludes the messages of a topic up to an id: they were read from a history, and may still arrive.
    pub(super) fn set_read_to(&self, topic: u32, id: EntryId) {
        self.filter.borrow_mut().set_read_to(topic, id);
        self.filters.set(true);
    }

    #[inline(never)]
    fn deliver_filtered(&self, topic: u32, run: &Run, digester: &Digester, send: impl Fn(&Bytes, &Bytes)) {
        send_unfiltered(&self.filter, (topic, self.form), run, digester, &self.delivered, send);
        self.filters.set(!self.filter.borrow().is_empty());
    }

    /// Delivers a value of a topic, unless the filter excludes it.
    pub(super) fn deliver_value(&self, topic: u32, run: &Run, digest: u64, limits: &Limits) {
        if !self.filters.get() || !self.filter.borrow().excludes_value(topic, digest) {
            self.delivered.set(self.delivered.get() + 1);
            self.send(run.in_form(self.form), limits);
        }
    }

    /// Sends whole frames: at once if the outbox is empty, else behind its bytes.
    pub fn send(&self, frames: &Bytes, limits: &Limits) {
        self.send_part(frames, frames, limits);
    }

    /// Sends whole frames that are a part of a run.
    #[inline(always)]
    fn send_part(&self, frames: &Bytes, run: &Bytes, limits: &Limits) {
        if frames.is_empty() || self.ending.get().is_some() {
            return;
        }
        let output = &mut *self.output.borrow_mut();
        let attempt = if output.outbox.is_empty() {
            match output.transport.try_write(frames) {
                Ok(written) if written == frames.len() => return,
                other => Some(other),
            }
        } else {
            None
        };
        self.send_rest(output, attempt, frames, run, limits);
    }

    /// Queues what an attempt to write has left of frames. Without an attempt there are bytes before them.
    #[inline(never)]
    fn send_rest(
        &self,
        Output { transport, outbox }: &mut Output,
        attempt: Option<io::Result<usize>>,
        frames: &Bytes,
        run: &Bytes,
        limits: &Limits,
    ) {
        if attempt.is_none() && outbox.is_long(limits) && !self.drain_now(transport, outbox) {
            return;
        }
        let is_behind = !outbox.is_empty();
        let written =
            match attempt.unwrap_or_else(|| if is_behind { Ok(0) } else { transport.try_write(frames) }) {
                Ok(written) if written == frames.len() => return,
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_) => return self.end(Ending::Broken),
            };
        outbox.push(frames, run, written, limits);
        if !is_behind {
            self.wake();
        }
        if let Some(excess) = outbox.excess(limits) {
            self.enforce_bound(outbox, excess, limits);
        }
    }

    /// Writes queued bytes: in a burst the connection's task, which would write them, is not scheduled in between. Returns
    /// false if the socket failed.
    #[inline(never)]
    fn drain_now(&self, transport: &Transport, outbox: &mut Outbox) -> bool {
        let Transport::Socket(stream) = transport else { return true };
        let failed =
            outbox.try_write_to(stream).is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock);
        if failed {
            self.end(Ending::Broken);
        }
        if outbox.is_empty() {
            self.heartbeat_queued.set(false);
        }
        !failed
    }

    /// Drops the oldest messages, or ends the connection.
    #[inline(never)]
    fn enforce_bound(&self, outbox: &mut Outbox, excess: Excess, limits: &Limits) {
        // A client of Socket.IO that misses a packet cannot know it; one that is closed connects again.
        if limits.drop_oldest && excess == Excess::Client && !self.form.has_packets() {
            self.dropped.set(self.dropped.get().saturating_add(outbox.drop_oldest(self.form, limits)));
            return self.on_loss(false);
        }
        if excess == Excess::Client {
            return self.end(Ending::Slow);
        }
        limits.memory.count_refused();
        // Even the rest of a partly written frame is dropped, so no close frame can follow it.
        let is_torn = outbox.discard();
        self.end(if is_torn { Ending::Torn } else { Ending::Slow });
    }

    /// Drops the oldest messages or ends the connection if, in the shard's second `now`, its outbox has exceeded a bound for
    /// too long.
    pub fn enforce_time_bound(&self, now: u32, limits: &Limits) {
        // An ending connection keeps a partly written frame, because its close frame follows.
        if self.ending.get().is_some() {
            return;
        }
        let outbox = &mut self.output.borrow_mut().outbox;
        if let Some(excess) = outbox.mark_excess(self.form, now, limits) {
            self.enforce_bound(outbox, excess, limits);
        }
    }

    /// Answers a ping. Omitted if the outbox is long: its bytes show that the server lives, and a client that does not read
    /// could fill memory with pongs otherwise.
    pub fn pong(&self, frame: &Bytes, limits: &Limits) {
        let mut output = self.output.borrow_mut();
        if output.outbox.is_long(limits) {
            output.outbox.mark_omitted_reply();
        } else {
            drop(output);
            self.send(frame, limits);
        }
    }

    /// Sends a frame that does not count against the bounds, because at most one of its kind is queued.
    pub fn send_uncounted(&self, frames: Bytes, limits: &Limits) {
        // The client would read it as the rest of the partly written frame.
        if self.ending.get() == Some(Ending::Torn) {
            return;
        }
        let Output { transport, outbox } = &mut *self.output.borrow_mut();
        let written = if outbox.is_empty() { transport.try_write(&frames) } else { Ok(0) };
        match written {
            Ok(written) if written == frames.len() => return,
            Ok(written) => outbox.push_uncounted(frames, written, &limits.memory),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                outbox.push_uncounted(frames, 0, &limits.memory);
            }
            Err(_) => return self.end(Ending::Broken),
        }
        self.wake();
    }

    /// Queues the head of an HTTP response, without writing yet.
    pub fn queue_head(&self, head: Bytes, limits: &Limits) {
        self.output.borrow_mut().outbox.push_uncounted(head, 0, &limits.memory);
    }

    /// Sends a heartbeat, unless one is in the outbox already.
    pub fn send_heartbeat(&self, frame: Bytes, now: u32, limits: &Limits) {
        self.liveness.last_heartbeat.set(now);
        self.answer_heartbeat(frame, limits);
    }

    /// Answers a heartbeat, unless an answer is in the outbox already: a client that does not read cannot fill it.
    pub fn answer_heartbeat(&self, frame: Bytes, limits: &Limits) {
        if !self.heartbeat_queued.get() {
            self.send_uncounted(frame, limits);
            self.heartbeat_queued.set(!self.output.borrow().outbox.is_empty());
        }
    }

    /// Makes the connection's task end it. The first reason counts.
    pub fn end(&self, ending: Ending) {
        if self.ending.get().is_none() {
            self.ending.set(Some(ending));
        }
        self.wake();
    }

    /// Makes the connection's task compute its grant again.
    pub fn reauthorize(&self) {
        self.reauthorize.set(true);
        self.wake();
    }

    /// Returns whether [`Listener::reauthorize`] was called since the last call.
    pub fn take_reauthorize(&self) -> bool {
        self.reauthorize.take()
    }

    /// Makes the connection's task describe it.
    pub fn request_description(&self) {
        self.describe.set(true);
        self.wake();
    }

    /// Returns whether [`Listener::request_description`] was called since the last call.
    pub fn take_description_request(&self) -> bool {
        self.describe.take()
    }

    /// Returns why the connection has to end, if it has to.
    pub fn ending(&self) -> Option<Ending> {
        self.ending.get()
    }

    /// Sets the task to wake.
    pub fn watch(&self, cx: &Context<'_>) {
        let task = self.task.take().filter(|task| task.will_wake(cx.waker()));
        self.task.set(Some(task.unwrap_or_else(|| cx.waker().clone())));
    }

    /// Wakes the task.
    pub fn wake(&self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    /// Writes queued bytes. Ready when nothing is left.
    ///
    /// # Errors
    ///
    /// The socket's own.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Output { transport, outbox } = &mut *self.output.borrow_mut();
        match transport {
            Transport::Socket(stream) => ready!(outbox.poll_write_to(stream, cx))?,
            // `attach` wakes the task.
            Transport::Parked if !outbox.is_empty() => return Poll::Pending,
            Transport::Parked => {}
        }
        self.heartbeat_queued.set(false);
        Poll::Ready(Ok(()))
    }

    /// Reads from the client. Ready with 0 at the end; pending as long as the listener is parked.
    pub fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match &self.output.borrow().transport {
            Transport::Socket(stream) => stream.poll_recv(cx, buffer),
            Transport::Parked => Poll::Pending,
        }
    }

    /// Closes the direction to the client.
    pub fn shutdown(&self) {
        if let Transport::Socket(stream) = &self.output.borrow().transport {
            stream.shutdown();
        }
    }

    /// Sets the socket, and wakes the task, which writes the queued bytes. Drops the old socket if there is one.
    pub fn attach(&self, stream: Stream) {
        self.output.borrow_mut().transport = Transport::Socket(stream);
        self.wake();
    }

    /// Takes the socket from the listener. Messages are queued from now on.
    pub fn park(&self) -> Option<Stream> {
        match std::mem::replace(&mut self.output.borrow_mut().transport, Transport::Parked) {
            Transport::Socket(stream) => Some(stream),
            Transport::Parked => None,
        }
    }

    /// Takes whole messages that a parked listener has queued: up to `max` bytes, and at least one.
    pub fn take_queued(&self, max: usize) -> Vec<Bytes> {
        let outbox = &mut self.output.borrow_mut().outbox;
        let taken = outbox.take(self.form, max);
        self.heartbeat_queued.set(self.heartbeat_queued.get() && !outbox.is_empty());
        taken
    }

    /// Returns whether bytes are queued.
    pub fn has_queued(&self) -> bool {
        !self.output.borrow().outbox.is_empty()
    }

    /// Drops queued bytes, except for the rest of a partly written frame.
    pub fn discard_queued(&self) {
        self.output.borrow_mut().outbox.discard_unstarted(self.form);
    }

    /// Excludes the next message of a topic with this digest. Tags never decrease.
    pub(super) fn exclude(&self, topic: u32, digest: u64, tag: u32) {
        self.filter.borrow_mut().add(topic, digest, tag);
        self.filters.set(true);
    }

    /// Records that the excluded messages with tags below `below` were sent, and that they arrive before the shard's second
    /// `expiry` or not at all.
    pub fn mark_excluded_sent(&self, below: u32, expiry: u32) {
        if self.filters.get() {
            self.filter.borrow_mut().mark_sent(below, expiry);
        }
    }

    /// Removes expired exclusions.
    pub fn remove_expired(&self, now: u32) {
        if !self.lost.get() {
            let mut filter = self.filter.borrow_mut();
            filter.remove_expired(now);
            self.filters.set(!filter.is_empty());
        }
    }

    /// Removes the exclusions of a topic that was left.
    pub(super) fn leave(&self, topic: u32) {
        self.filter.borrow_mut().leave(topic);
    }

    /// Handles the loss of Redis: excluded messages may never arrive.
    pub(super) fn on_lost(&self) {
        self.lost.set(true);
        self.filter.borrow_mut().on_lost();
    }

    /// Notes a loss of messages, if its client is told of that. `is_layer`: of the groups of a layer.
    pub(super) fn on_loss(&self, is_layer: bool) {
        if self.form.has_objects() {
            self.losses.note(is_layer);
            self.wake();
        }
    }

    /// Handles the end of a topic's pause.
    pub(super) fn on_recovered(&self, topic: u32) {
        if !is_of_layer(topic) {
            self.lost.set(false);
            self.filter.borrow_mut().on_recovered(topic);
        }
        if self.form.has_objects() {
            self.wake();
        }
    }

    /// Returns something about the socket; none without a socket.
    pub fn of_socket<T>(&self, read: impl FnOnce(&Stream) -> Option<T>) -> Option<T> {
        self.output.borrow().transport.socket().and_then(read)
    }

    /// Returns the bytes that the socket has not accepted yet.
    pub fn queued_bytes(&self) -> usize {
        self.output.borrow().outbox.bytes()
    }

    /// Returns the numbers of delivered and of dropped messages.
    pub fn counts(&self) -> (u64, u64) {
        (self.delivered.get(), self.dropped.get().into())
    }
}

#[cfg(test)]
mod tests;
