//! One connection as the hub sees it: its transport, its outbox and how to wake its task.

use std::cell::{Cell, RefCell};
use std::io;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;

use super::echo::Echoes;
use super::outbox::{Excess, Limits, Outbox};
use super::{Digester, Run};
use crate::stream::Stream;
use crate::wire::Form;

/// How bytes reach the client.
#[derive(Debug)]
enum Transport {
    /// Written at once.
    Socket(Stream),
    /// The client has no socket at the moment; deliveries wait in the outbox, within its bounds.
    Parked,
}

/// The transport and what it has not taken yet. They share one borrow flag, because every write needs both.
#[derive(Debug)]
struct Output {
    transport: Transport,
    outbox: Outbox,
}

/// One connection as the hub sees it.
///
/// The order of fields is fixed: those that a delivery reads come first, so that they fill one or two cache lines.
#[repr(C)]
pub struct Listener {
    output: RefCell<Output>,
    delivered: Cell<u64>,
    /// In which form it gets messages.
    pub form: Form,
    ending: Cell<Option<Ending>>,
    /// Whether messages must be compared with its own publications.
    compares: Cell<bool>,
    /// Whether what it may hear and say is to be looked at again.
    reauthorize: Cell<bool>,
    /// Whether Redis was lost, and no value has been read again since.
    lost: Cell<bool>,
    /// Whether an answer to a heartbeat waits in the outbox.
    beat_waits: Cell<bool>,
    dropped: Cell<u32>,
    echoes: RefCell<Echoes>,
    /// The connection's task; it sleeps as long as nothing happens to it.
    task: Cell<Option<Waker>>,
    /// What the shard's tick needs to know.
    pub liveness: Liveness,
}

/// Why a connection has to end, seen from the hub and the shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its outbox is over the bound.
    Slow,
    /// The process has no memory for its outbox, and a frame has been begun.
    Torn,
    /// Its socket refused a write.
    Broken,
    /// It has not ended a message in time.
    Late,
    /// It answered no ping.
    Silent,
    /// The server stops or restarts.
    Restart,
    /// Its session has ended.
    SessionEnded,
}

/// Times of a connection in the shard's seconds.
#[derive(Debug, Default)]
pub struct Liveness {
    /// When something was last heard from the client.
    pub heard: Cell<u32>,
    /// When the ping was sent that waits for an answer; 0 means none.
    pub pinged: Cell<u32>,
    /// When the last heartbeat went out.
    pub beat: Cell<u32>,
    /// When the message was begun that is not whole; 0 means none.
    pub begun: Cell<u32>,
    /// Whether nothing is read for now, so that silence means nothing.
    pub paused: Cell<bool>,
    /// Silence after which it is pinged.
    pub patience: u32,
}

impl Transport {
    /// Writes as much as the socket takes at once. A parked transport takes nothing.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Socket(stream) => stream.try_write(bytes),
            Self::Parked => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Listener {
    /// Creates the listener of a client's socket. `now` is the shard's second; the client is pinged after `patience`
    /// seconds of silence.
    pub fn new(stream: Stream, form: Form, now: u32, patience: u32) -> Self {
        Self::with_transport(Transport::Socket(stream), form, now, patience)
    }

    /// Creates a listener without a socket: what is delivered waits until [`Listener::attach`].
    pub fn parked(form: Form, now: u32, patience: u32) -> Self {
        Self::with_transport(Transport::Parked, form, now, patience)
    }

    fn with_transport(transport: Transport, form: Form, now: u32, patience: u32) -> Self {
        let (heard, beat) = (Cell::new(now), Cell::new(now));
        let (pinged, begun, paused) = (Cell::new(0), Cell::new(0), Cell::new(false));
        let liveness = Liveness { heard, pinged, beat, begun, paused, patience };
        Self {
            output: RefCell::new(Output { transport, outbox: Outbox::default() }),
            delivered: Cell::default(),
            form,
            ending: Cell::default(),
            compares: Cell::default(),
            reauthorize: Cell::default(),
            lost: Cell::default(),
            beat_waits: Cell::default(),
            dropped: Cell::default(),
            echoes: RefCell::default(),
            task: Cell::default(),
            liveness,
        }
    }

    /// Delivers a run of a topic: all of it, but the connection's own publications.
    pub(super) fn deliver(&self, topic: u32, run: &Run, limits: &Limits, digester: &Digester) {
        if self.compares.get() {
            return self.deliver_foreign(topic, run, limits, digester);
        }
        self.delivered.set(self.delivered.get() + u64::from(run.messages));
        self.send(run.in_form(self.form), limits);
    }

    fn deliver_foreign(&self, topic: u32, run: &Run, limits: &Limits, digester: &Digester) {
        let mut from = 0;
        for (frame, digest) in run.marks(digester) {
            if self.echoes.borrow_mut().matches(topic, *digest) {
                // Event streams publish nothing, so it is frames here.
                self.send_part(&run.bytes.slice(from..frame.start), &run.bytes, limits);
                from = frame.end;
            } else {
                self.delivered.set(self.delivered.get() + 1);
            }
        }
        self.send_part(&run.bytes.slice(from..), &run.bytes, limits);
        self.compares.set(!self.echoes.borrow().is_empty());
    }

    /// Delivers a value that was read again to a topic, unless it is the connection's own.
    pub(super) fn deliver_value(&self, topic: u32, run: &Run, digest: u64, limits: &Limits) {
        if !self.compares.get() || !self.echoes.borrow().holds(topic, digest) {
            self.delivered.set(self.delivered.get() + 1);
            self.send(run.in_form(self.form), limits);
        }
    }

    /// Sends whole frames: at once if nothing waits before them, else behind the rest.
    pub fn send(&self, frames: &Bytes, limits: &Limits) {
        self.send_part(frames, frames, limits);
    }

    /// Sends whole frames that are a part of a run.
    fn send_part(&self, frames: &Bytes, run: &Bytes, limits: &Limits) {
        if frames.is_empty() || self.ending.get().is_some() {
            return;
        }
        let Output { transport, outbox } = &mut *self.output.borrow_mut();
        if outbox.is_long(limits) && !self.drain_at_once(transport, outbox) {
            return;
        }
        if outbox.is_empty() {
            match transport.try_write(frames) {
                Ok(written) if written == frames.len() => return,
                Ok(written) => outbox.push(frames, run, written, limits),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    outbox.push(frames, run, 0, limits);
                }
                Err(_) => return self.end(Ending::Broken),
            }
            self.wake();
        } else {
            outbox.push(frames, run, 0, limits);
        }
        if let Some(excess) = outbox.excess(limits) {
            self.relieve(outbox, excess, limits);
        }
    }

    /// Writes what waits: in a burst the connection's task, which would do so, has not had its turn yet. Returns whether
    /// the socket works.
    fn drain_at_once(&self, transport: &Transport, outbox: &mut Outbox) -> bool {
        let Transport::Socket(stream) = transport else { return true };
        let refused =
            outbox.try_write_to(stream).is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock);
        if refused {
            self.end(Ending::Broken);
        }
        if outbox.is_empty() {
            self.beat_waits.set(false);
        }
        !refused
    }

    /// Drops the oldest messages, or ends the connection.
    fn relieve(&self, outbox: &mut Outbox, excess: Excess, limits: &Limits) {
        if limits.drop_oldest && excess == Excess::Own {
            self.dropped.set(self.dropped.get().saturating_add(outbox.drop_oldest(self.form, limits)));
            return;
        }
        if excess == Excess::Own {
            return self.end(Ending::Slow);
        }
        limits.memory.count_refused();
        // Not even the frame begun may stay for the close frame behind it.
        let torn = outbox.discard();
        self.end(if torn { Ending::Torn } else { Ending::Slow });
    }

    /// Notes in the shard's second `now` how much waits, and ends the connection if it has been too much for too long.
    pub fn check_outbox(&self, now: u32, limits: &Limits) {
        // Who is ending already is told why: the frame begun stays for that.
        if self.ending.get().is_some() {
            return;
        }
        let outbox = &mut self.output.borrow_mut().outbox;
        if let Some(excess) = outbox.mark_excess(self.form, now, limits) {
            self.relieve(outbox, excess, limits);
        }
    }

    /// Answers a client. Where much waits already, the client need not be told that the server lives, and could make it
    /// answer without end.
    pub fn pong(&self, frame: &Bytes, limits: &Limits) {
        let mut output = self.output.borrow_mut();
        if output.outbox.is_long(limits) {
            output.outbox.note_left_out();
        } else {
            drop(output);
            self.send(frame, limits);
        }
    }

    /// Sends a frame of which there is at most one of its kind, and which does not count against the bound.
    pub fn send_uncounted(&self, frames: Bytes, limits: &Limits) {
        // It would be taken for the rest of the frame that was begun.
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

    /// Queues what a client gets before anything else, without writing yet.
    pub fn queue_head(&self, head: Bytes, limits: &Limits) {
        self.output.borrow_mut().outbox.push_uncounted(head, 0, &limits.memory);
    }

    /// Queues what a client gets when it joins, without writing yet.
    pub(super) fn queue(&self, run: &Run, limits: &Limits) {
        self.delivered.set(self.delivered.get() + u64::from(run.messages));
        self.output.borrow_mut().outbox.push_replayed(run.in_form(self.form), limits);
    }

    /// Sends the heartbeat, unless one waits in the outbox already.
    pub fn beat(&self, frame: Bytes, now: u32, limits: &Limits) {
        self.liveness.beat.set(now);
        self.answer(frame, limits);
    }

    /// Answers a heartbeat, unless an answer waits in the outbox already: who does not read is not sent more and more.
    pub fn answer(&self, frame: Bytes, limits: &Limits) {
        if !self.beat_waits.get() {
            self.send_uncounted(frame, limits);
            self.beat_waits.set(!self.output.borrow().outbox.is_empty());
        }
    }

    /// Asks the connection's task to end it. The first reason counts.
    pub fn end(&self, ending: Ending) {
        if self.ending.get().is_none() {
            self.ending.set(Some(ending));
        }
        self.wake();
    }

    /// Asks the connection's task to look again at what it may hear and say.
    pub fn reauthorize(&self) {
        self.reauthorize.set(true);
        self.wake();
    }

    /// Tells whether that was asked for since the last call.
    pub fn take_reauthorize(&self) -> bool {
        self.reauthorize.take()
    }

    /// Returns why the connection has to end, if it has to.
    pub fn ending(&self) -> Option<Ending> {
        self.ending.get()
    }

    /// Remembers the task that is to be woken when something happens.
    pub fn watch(&self, cx: &Context<'_>) {
        let task = self.task.take().filter(|task| task.will_wake(cx.waker()));
        self.task.set(Some(task.unwrap_or_else(|| cx.waker().clone())));
    }

    fn wake(&self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    /// Writes what waits. Ready when nothing is left.
    ///
    /// # Errors
    ///
    /// When the socket refuses.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Output { transport, outbox } = &mut *self.output.borrow_mut();
        match transport {
            Transport::Socket(stream) => ready!(outbox.poll_write_to(stream, cx))?,
            // `attach` wakes the task.
            Transport::Parked if !outbox.is_empty() => return Poll::Pending,
            Transport::Parked => {}
        }
        self.beat_waits.set(false);
        Poll::Ready(Ok(()))
    }

    /// Reads what the client has sent. Ready with 0 at the end; pending as long as the listener is parked.
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

    /// Gives a parked listener a socket, and wakes its task, which drains the outbox into it. The old socket is dropped if
    /// there is one.
    pub fn attach(&self, stream: Stream) {
        self.output.borrow_mut().transport = Transport::Socket(stream);
        self.wake();
    }

    /// Takes the socket from the listener; what is delivered from now on waits in the outbox.
    pub fn park(&self) -> Option<Stream> {
        match std::mem::replace(&mut self.output.borrow_mut().transport, Transport::Parked) {
            Transport::Socket(stream) => Some(stream),
            Transport::Parked => None,
        }
    }

    /// Tells whether something waits to be written.
    pub fn has_waiting(&self) -> bool {
        !self.output.borrow().outbox.is_empty()
    }

    /// Discards what waits, but for the frame that has been begun.
    pub fn cut(&self) {
        self.output.borrow_mut().outbox.cut(self.form);
    }

    /// Remembers a publication, so that it is not delivered to the client that made it.
    pub(super) fn expect_echo(&self, topic: u32, digest: u64, number: u32) {
        self.echoes.borrow_mut().add(topic, digest, number);
        self.compares.set(true);
    }

    /// Takes the acknowledgement of all publications with numbers below `below`.
    pub fn acknowledge(&self, below: u32, now: u32) {
        if self.compares.get() {
            self.echoes.borrow_mut().acknowledge(below, now);
        }
    }

    /// Forgets publications whose time is over.
    pub fn forget_echoes(&self, now: u32) {
        if !self.lost.get() {
            let mut echoes = self.echoes.borrow_mut();
            echoes.forget_old(now);
            self.compares.set(!echoes.is_empty());
        }
    }

    /// Notes that a topic has been left.
    pub(super) fn leave(&self, topic: u32) {
        self.echoes.borrow_mut().leave(topic);
    }

    /// Marks the echoes in flight as stale, because Redis was lost.
    pub(super) fn mark_echoes_stale(&self) {
        self.lost.set(true);
        self.echoes.borrow_mut().on_lost();
    }

    /// Notes that the value of a topic has been read again.
    pub(super) fn recover_echoes(&self, topic: u32) {
        self.lost.set(false);
        self.echoes.borrow_mut().recover(topic);
    }

    /// Returns how many messages were delivered, and how many were dropped.
    pub fn counts(&self) -> (u64, u64) {
        (self.delivered.get(), self.dropped.get().into())
    }
}

#[cfg(test)]
mod tests;
