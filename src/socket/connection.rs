//! One connection: what happens to it, and what is done then.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::ReadBuf;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::allowance::Allowance;
use super::reader::{Feed, Incoming, Reader};
use super::{Beats, Close, Share};
use crate::access::{Grant, Policy, Rate};
use crate::counters::Counters;
use crate::hub::{Ending, Form, Limits, Listener, Subscription};
use crate::redis::{Receipts, Store};
use crate::stream::{ReadHalf, Stream};
use crate::wire::{Channel, Handshake};

/// What the connections of a shard share.
pub struct Parts {
    /// Where publications go.
    pub store: Rc<Store>,
    /// The shard's seconds.
    pub clock: Cell<u32>,
    /// What one read of a client's socket brings. Nothing awaits between filling and using it.
    pub buffer: RefCell<Box<[u8]>>,
    /// What visitors may hear and say.
    pub policy: Policy,
    /// Heartbeats and pings.
    pub beats: Beats,
    /// Bounds of the outboxes.
    pub limits: Limits,
    /// Largest message from a client, in bytes.
    pub max_message_bytes: usize,
    /// What a client may have under way to Redis, in bytes.
    pub publish_bytes: usize,
    /// Time after which a publication has reached Redis or never will.
    pub publish_patience: Duration,
    /// Time for channels to be joined and their values to be read.
    pub join_patience: Duration,
    /// Time for a close frame to arrive.
    pub linger: Duration,
    /// What is counted for the whole process.
    pub counters: std::sync::Arc<Counters>,
}

/// One connection, from its 101 to its end.
pub struct Connection {
    pub(super) parts: Rc<Parts>,
    input: ReadHalf,
    pub(super) listener: Rc<Listener>,
    pub(super) subscription: Subscription,
    pub(super) speech: Box<Speech>,
    /// From the first byte that the client sends.
    reader: Option<Box<Reader>>,
    /// From its first publication.
    receipts: Option<Rc<Receipts>>,
}

/// What a connection may say, and what it has said.
pub(super) struct Speech {
    pub(super) asked: Handshake,
    pub(super) channels: Rc<[Channel]>,
    /// Rooms to which it both listens and speaks, if it does not want to hear itself.
    pub(super) echo_rooms: Box<[u32]>,
    /// What is known of its visitor, if that may change.
    pub(super) share: Option<Share>,
    /// Channels that are being joined.
    pub(super) addition: Option<AbortOnDropHandle<()>>,
    /// What may be published, if there is a limit.
    allowance: Option<Box<Allowance>>,
    since: Instant,
    received: u64,
    ignored: u64,
}

/// Everything that can happen to a connection.
enum Event {
    /// So many bytes stand in the shard's buffer.
    Read(usize),
    /// What it may hear and say has to be looked at again.
    Review,
    /// It has to end.
    End(Close),
}

impl Connection {
    /// Opens a connection: the replay goes out, then it is live. With the head of an HTTP answer it is a stream of
    /// events, which listens only.
    pub fn open(
        parts: Rc<Parts>,
        stream: Stream,
        subscription: Subscription,
        asked: Handshake,
        grant: Grant,
        persisted: &[Option<Bytes>],
        head: Option<Bytes>,
    ) -> Self {
        let (input, output) = stream.into_halves();
        let form = if head.is_some() { Form::Events } else { Form::Frames };
        let listener = Rc::new(Listener::new(output, form, parts.clock.get(), parts.beats.patience()));
        if let Some(head) = head {
            listener.greet(head);
        }
        subscription.open(&listener, persisted);
        let echo_rooms = if grant.echo { Box::default() } else { subscription.rooms_of(&grant.publish) };
        let channels: Rc<[Channel]> = grant.publish.into();
        debug!(facility = ?asked.facility, subscribed = persisted.len(), publishes = channels.len(), "connection opened");
        let allowance = (grant.rate != Rate::default()).then(|| Box::new(Allowance::new(grant.rate)));
        let since = Instant::now();
        let speech = Box::new(Speech {
            asked,
            channels,
            echo_rooms,
            share: None,
            addition: None,
            allowance,
            since,
            received: 0,
            ignored: 0,
        });
        Self { parts, input, listener, subscription, speech, reader: None, receipts: None }
    }

    /// Takes what the connection lives by, if what is known of its visitor may change.
    pub fn live_by(&mut self, share: Option<Share>) {
        self.speech.share = share;
    }

    /// Returns what the hub and the leases know of the connection.
    pub fn listener(&self) -> &Rc<Listener> {
        &self.listener
    }

    /// Asks the connection to end as soon as it runs.
    pub fn end(&self, ending: Ending) {
        self.listener.end(ending);
    }

    /// Serves the connection until it ends. `early` is what came together with the handshake.
    pub async fn run(mut self, early: Bytes) {
        let frames = !early.is_empty() && self.listener.form == Form::Frames;
        let mut close = if frames { self.take(&early) } else { None };
        // Even empty, it may keep the whole read buffer of the handshake.
        drop(early);
        let close = loop {
            if let Some(close) = close {
                break close;
            }
            let event = self.next_event().await;
            close = self.handle(event);
        };
        // Boxed: the end needs timers, which an idle connection should not keep room for.
        Box::pin(self.finish(close)).await;
    }

    /// Waits for the next event. Safe to cancel.
    ///
    /// A `poll_fn` rather than a `select!`: its futures would take more room than the rest of the connection.
    async fn next_event(&mut self) -> Event {
        poll_fn(|cx| {
            self.listener.watch(cx);
            if let Some(ending) = self.listener.ending() {
                return Poll::Ready(Event::End(ending.into()));
            }
            if self.listener.take_review() {
                return Poll::Ready(Event::Review);
            }
            if let Some(receipts) = &self.receipts {
                receipts.watch(cx);
                self.listener.acknowledge(receipts.acknowledged(), self.parts.clock.get());
                if let Some(failure) = receipts.failure() {
                    return Poll::Ready(Event::End(failure.into()));
                }
            }
            if self.listener.has_waiting() && matches!(self.listener.poll_flush(cx), Poll::Ready(Err(_))) {
                return Poll::Ready(Event::End(Close::Broken));
            }
            // What a client publishes is bounded by not reading on.
            let under_way = self.receipts.as_ref().map_or(0, |receipts| receipts.bytes());
            self.listener.pulse.paused.set(under_way > self.parts.publish_bytes);
            if under_way > self.parts.publish_bytes {
                return Poll::Pending;
            }
            self.poll_read(cx).map(|read| match read {
                Ok(0) => Event::End(Close::Gone),
                Ok(count) => Event::Read(count),
                Err(_) => Event::End(Close::Broken),
            })
        })
        .await
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut buffer = self.parts.buffer.borrow_mut();
        let mut buffer = ReadBuf::new(&mut buffer);
        std::task::ready!(self.input.poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    fn handle(&mut self, event: Event) -> Option<Close> {
        match event {
            // Whatever comes behind the request of a stream is nobody's business.
            Event::Read(_) if self.listener.form == Form::Events => None,
            Event::Read(count) => {
                let parts = self.parts.clone();
                let buffer = parts.buffer.borrow();
                self.take(&buffer[..count])
            }
            Event::Review => self.review(),
            Event::End(close) => Some(close),
        }
    }

    /// Takes bytes from the client. Returns why the connection has to end, if it has to.
    fn take(&mut self, input: &[u8]) -> Option<Close> {
        let parts = self.parts.clone();
        self.listener.pulse.heard.set(parts.clock.get());
        self.listener.pulse.pinged.set(0);
        let listener = self.listener.clone();
        let mut feed = Feed { input, listener: &listener, limits: &parts.limits };
        loop {
            let reader = self.reader.get_or_insert_with(|| Box::new(Reader::new(parts.max_message_bytes)));
            match reader.next(&mut feed)? {
                Ok(Incoming::Message(payload)) => {
                    if let Some(close) = self.publish(payload) {
                        return Some(close);
                    }
                }
                Ok(Incoming::Control) => {}
                Ok(Incoming::Close(frame)) => return Some(Close::ByClient(frame)),
                Err(close) => return Some(close),
            }
        }
    }

    /// Publishes a message to all channels that the client may speak to. Returns why the connection has to end, if it
    /// has to.
    fn publish(&mut self, payload: Bytes) -> Option<Close> {
        let parts = &self.parts;
        let speech = &mut *self.speech;
        speech.received += 1;
        if parts.beats.heartbeat.as_ref() == Some(&payload) {
            self.listener.beat(parts.beats.heartbeat_in(Form::Frames), parts.clock.get());
            return None;
        }
        if payload.is_empty() || speech.channels.is_empty() {
            speech.ignored += 1;
            Counters::count(&parts.counters.ignored_publications);
            return None;
        }
        if speech.allowance.as_mut().is_some_and(|allowance| !allowance.take(payload.len())) {
            return Some(Close::TooFast);
        }
        let receipts = self.receipts.get_or_insert_default();
        let number = receipts.issue(payload.len());
        self.subscription.expect_echo(&self.listener, &speech.echo_rooms, &payload, number);
        parts.store.publish(speech.channels.clone(), payload, receipts.clone());
        None
    }

    /// Ends the connection: leaves the hub, says why, half-closes and lingers, so that the close frame arrives.
    async fn finish(self, mut close: Close) {
        let Self { parts, mut input, listener, subscription, mut speech, receipts, .. } = self;
        drop(subscription);
        (speech.share, speech.addition) = (None, None);
        if let (Close::ByClient(_), Some(receipts)) = (&close, &receipts) {
            // Its close is answered when everything before it is in Redis.
            match timeout(parts.publish_patience, receipts.settled()).await {
                Ok(Ok(())) => {}
                Ok(Err(failure)) => close = failure.into(),
                Err(_) => close = Close::PublicationLost,
            }
        }
        if close == Close::Slow {
            Counters::count(&parts.counters.slow_clients);
            listener.cut();
        }
        log_end(&close, &speech, &listener);
        let Some(frame) = close.in_form(listener.form) else { return };
        listener.send_uncounted(frame);
        if !matches!(timeout(parts.linger, poll_fn(|cx| listener.poll_flush(cx))).await, Ok(Ok(()))) {
            return;
        }
        listener.shutdown();
        // Bytes that nobody reads would turn the end into a reset, which can overtake the close frame.
        let discard = poll_fn(|cx| {
            let mut buffer = parts.buffer.borrow_mut();
            loop {
                let mut buffer = ReadBuf::new(&mut buffer);
                match std::task::ready!(input.poll_read(cx, &mut buffer)) {
                    Ok(()) if !buffer.filled().is_empty() => {}
                    _ => return Poll::Ready(()),
                }
            }
        });
        let _ = timeout(parts.linger, discard).await;
    }
}

fn log_end(close: &Close, speech: &Speech, listener: &Listener) {
    let (delivered, dropped) = listener.counts();
    debug!(
        facility = ?speech.asked.facility,
        close_code = close.code(),
        reason = ?close.reason(),
        elapsed_ms = u64::try_from(speech.since.elapsed().as_millis()).unwrap_or(u64::MAX),
        delivered,
        dropped,
        received = speech.received,
        ignored = speech.ignored,
        "connection ended"
    );
}
