//! One connection: reads frames, writes what waits, and closes.

use std::borrow::Cow;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use super::frames::FrameScanner;
use super::reader::{Incoming, InputCursor, Reader};
use super::{Close, SocketContext};
use crate::hub::Listener;
use crate::stream::{DiscardLimits, Stream, discard};
use crate::wire::Form;
use crate::wire::websocket::Opcode;

/// One connection, from its 101 to its end.
pub struct SocketConnection {
    listener: Rc<Listener>,
    /// Present while part of a frame or a message is left in it.
    reader: Option<Box<Reader>>,
}

/// How a connection is read at the moment.
#[derive(Debug, Clone, Copy)]
pub struct ReadMode {
    /// Nothing is read: the client publishes faster than Redis acknowledges.
    pub is_paused: bool,
    /// Payloads larger than a heartbeat are discarded: the client may not publish.
    pub discards: bool,
    /// Largest message, in bytes.
    pub max_message_bytes: usize,
}

/// Reads of one turn: the second one normally finds that nothing is left.
pub const READS_PER_TURN: usize = 2;

/// Ends the turn of a connection whose client sends without a pause: others have their turn, and the shard looks for
/// other events, before it is polled again.
pub fn yield_turn<T>(cx: &mut Context<'_>) -> Poll<T> {
    // Only tokio's own future wakes its task behind the events of the I/O driver.
    let _ = pin!(yield_now()).poll(cx);
    Poll::Pending
}

impl SocketConnection {
    /// Creates a connection whose messages are written in a form. With the head of an HTTP answer, that is sent first.
    pub fn new(stream: Stream, form: Form, head: Option<Bytes>, context: &SocketContext) -> Self {
        let listener = Listener::new(stream, form, context.clock.get(), context.keepalive.ping_after());
        if let Some(head) = head {
            listener.queue_head(head, &context.limits);
        }
        Self { listener: Rc::new(listener), reader: None }
    }

    /// Continues for another listener, which has the socket now.
    pub fn set_listener(&mut self, listener: Rc<Listener>) {
        self.listener = listener;
    }

    /// Returns the hub's side of the connection.
    pub fn listener(&self) -> &Rc<Listener> {
        &self.listener
    }

    /// Writes what waits, then reads messages and passes them to `on_message`, which returns why the connection has to
    /// end, if it has to. Ready after each read.
    pub fn poll_messages(
        &mut self,
        cx: &mut Context<'_>,
        context: &SocketContext,
        mode: ReadMode,
        on_message: impl FnMut(&Listener, Opcode, Bytes) -> Option<Close>,
    ) -> Poll<Option<Close>> {
        let listener = &self.listener;
        if listener.has_queued() && matches!(listener.poll_flush(cx), Poll::Ready(Err(_))) {
            return Poll::Ready(Some(Close::Broken));
        }
        listener.liveness.reading_paused.set(mode.is_paused);
        if mode.is_paused {
            return Poll::Pending;
        }
        let count = match ready!(listener.poll_recv(cx, &mut context.buffer.borrow_mut())) {
            Ok(0) => return Poll::Ready(Some(Close::Gone)),
            Ok(count) => count,
            Err(_) => return Poll::Ready(Some(Close::Broken)),
        };
        let buffer = context.buffer.borrow();
        Poll::Ready(self.receive(&buffer[..count], context, mode, on_message))
    }

    /// Decodes bytes from the client and passes its messages to `on_message`. Returns why the connection has to end, if it
    /// has to.
    pub fn receive(
        &mut self,
        input: &[u8],
        context: &SocketContext,
        mode: ReadMode,
        mut on_message: impl FnMut(&Listener, Opcode, Bytes) -> Option<Close>,
    ) -> Option<Close> {
        let Self { listener, reader } = self;
        // A stream of events has no input: anything behind its request is ignored.
        if listener.form.is_stream() || input.is_empty() {
            return None;
        }
        let now = context.clock.get();
        listener.liveness.last_received.set(now);
        listener.liveness.pinged_at.set(0);
        let reader = reader.get_or_insert_with(|| {
            Box::new(Reader::new(mode.max_message_bytes, &context.unfinished, mode.discards))
        });
        let sound = reader.frames.scan(input);
        let (kept, refused) = match &mut reader.discarder {
            Some(discarder) => discarder.filter(&input[..sound]),
            None => (Cow::Borrowed(&input[..sound]), None),
        };
        let mut cursor = InputCursor { input: &kept, listener, limits: &context.limits };
        while let Some(incoming) = reader.next(&mut cursor) {
            match incoming {
                Ok(Incoming::Message(opcode, payload)) => {
                    listener.liveness.message_started.set(0);
                    if let Some(close) = on_message(listener, opcode, payload) {
                        return Some(close);
                    }
                }
                Ok(Incoming::Control) => {}
                Ok(Incoming::Close(frame)) => return Some(Close::ByClient(frame)),
                Err(close) => return Some(close),
            }
        }
        if refused.is_some() {
            return refused;
        }
        if sound < input.len() {
            return Some(Close::Protocol("length of a frame is not minimal".to_owned()));
        }
        if !reader.count_unfinished() {
            return Some(Close::Unfinished);
        }
        let begun = &listener.liveness.message_started;
        if !reader.has_begun() {
            begun.set(0);
        } else if begun.get() == 0 {
            begun.set(now);
        }
        None
    }

    /// Frees the reader if nothing is left in it: it takes more memory than the rest of the connection, and only a client
    /// that publishes needs it again soon.
    pub fn free_idle_reader(&mut self) {
        self.reader.take_if(|reader| reader.is_idle());
    }

    /// Sends the reason, and waits until it has arrived or the linger time is over.
    pub async fn close(self, close: &Close, context: &SocketContext) {
        let Self { listener, reader } = self;
        let frames = reader.map(|reader| reader.frames).unwrap_or_default();
        if close.is_slow() {
            listener.discard_queued();
        }
        let Some(frame) = close.in_form(listener.form) else { return };
        listener.send_uncounted(frame, &context.limits);
        let flushed = timeout(context.linger, poll_fn(|cx| listener.poll_flush(cx))).await;
        if matches!(flushed, Ok(Ok(()))) {
            linger(&listener, frames, context).await;
        }
    }
}

/// Reads on after the close frame until the client has closed, too, or the linger time is over.
///
/// The FIN is sent only after the client's own close frame: some proxies take an earlier one for the end of both
/// directions, and reset a client that is still sending, which then never sees the close code.
async fn linger(listener: &Listener, mut frames: FrameScanner, context: &SocketContext) {
    let end = Instant::now() + context.linger;
    let recv = |cx: &mut Context<'_>, buffer: &mut [u8]| listener.poll_recv(cx, buffer);
    let left = || DiscardLimits::total(end.saturating_duration_since(Instant::now()));
    if !listener.form.is_stream() && !frames.is_closed() {
        let closes = |input: &[u8]| {
            frames.scan(input);
            frames.is_closed()
        };
        discard(recv, &context.buffer, left(), closes).await;
    }
    listener.shutdown();
    discard(recv, &context.buffer, left(), |_| false).await;
}
