//! One connection: what happens to it, and what is done then.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::client_heartbeats::suspect;
use super::frames::FrameScanner;
use super::reader::{Incoming, InputCursor, Reader};
use super::{Close, Keepalive};
use crate::access::{Grant, Policy};
use crate::hub::{Ending, Limits, Listener, Subscription};
use crate::metrics::Counters;
use crate::redis::{PublishAcks, Store};
use crate::stream::{Discard, Permit, Stream};
use crate::unfinished::UnfinishedMemory;
use crate::visitors::watch::LeaseHold;
use crate::visitors::{TokenBucket, Visitors};
use crate::wire::{Channel, Form, Handshake};

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
    pub keepalive: Keepalive,
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
    pub counters: Arc<Counters>,
    /// What the process holds of unfinished messages.
    pub unfinished: Arc<UnfinishedMemory>,
    /// The visitors of this shard, for their rate limits.
    pub visitors: Rc<Visitors>,
    /// Connections of the whole process.
    pub live: Arc<AtomicUsize>,
    /// Connections of this shard.
    pub own: Cell<usize>,
}

/// A connection's share of the limit, from accept to its end, and of what the connections have in common.
pub struct ConnectionPermit(Rc<Parts>);

/// One connection, from its 101 to its end.
pub struct Connection {
    pub(super) permit: ConnectionPermit,
    pub(super) listener: Rc<Listener>,
    pub(super) subscription: Subscription,
    pub(super) speech: Speech,
    /// As long as something of a frame or a message is left in it.
    reader: Option<Box<Reader>>,
    /// From its first publication.
    acks: Option<Rc<PublishAcks>>,
    /// Why it has to end, if what came together with the handshake says so.
    early: Option<Box<Close>>,
}

/// What a connection may say, and what it has said.
pub(super) struct Speech {
    pub(super) asked: Handshake,
    /// None where it may say nothing.
    pub(super) channels: Option<Rc<[Channel]>>,
    /// Rooms to which it both listens and speaks, if it does not want to hear itself.
    pub(super) echo_topics: Box<[u32]>,
    /// What is known of its visitor, if that may change.
    pub(super) share: Option<LeaseHold>,
    /// Channels that are being joined.
    pub(super) addition: Option<AbortOnDropHandle<()>>,
    /// What may be published, if there is a limit.
    pub(super) rate_limit: Option<Arc<TokenBucket>>,
    since: Instant,
    received: u64,
    ignored: u32,
    /// Texts that look like a library's heartbeat and are in no setting.
    heartbeats: u32,
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
        permit: ConnectionPermit,
        stream: Stream,
        subscription: Subscription,
        asked: Handshake,
        grant: Grant,
        persisted: &[Option<Bytes>],
        head: Option<Bytes>,
    ) -> Box<Self> {
        let parts = &permit.0;
        let form = match &head {
            None => Form::Frames,
            Some(_) if asked.flags.event_names() => Form::NamedEvents,
            Some(_) => Form::Events,
        };
        let listener = Rc::new(Listener::new(stream, form, parts.clock.get(), parts.keepalive.patience()));
        if let Some(head) = head {
            listener.greet(head, &parts.limits);
        }
        subscription.open(&listener, persisted);
        let echo_topics = if grant.echo { Box::default() } else { subscription.topics_of(&grant.publish) };
        debug!(facility = ?asked.facility, subscribed = persisted.len(), publishes = grant.publish.len(), "connection opened");
        let channels = shared(grant.publish);
        let since = Instant::now();
        let speech = Speech {
            asked,
            channels,
            echo_topics,
            share: None,
            addition: None,
            rate_limit: None,
            since,
            received: 0,
            ignored: 0,
            heartbeats: 0,
        };
        let (reader, acks, early) = (None, None, None);
        Box::new(Self { permit, listener, subscription, speech, reader, acks, early })
    }

    /// Takes the bucket of the connection's visitor, if what it publishes is limited.
    pub fn limit_by(&mut self, rate_limit: Option<Arc<TokenBucket>>) {
        self.speech.rate_limit = rate_limit;
    }

    /// Takes what the connection lives by, if what is known of its visitor may change.
    pub fn live_by(&mut self, share: Option<LeaseHold>) {
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

    /// Takes what came together with the handshake, and serves the connection until it ends.
    ///
    /// What is returned is no more than some pointers: tokio puts it between 96 bytes of its own, and rounds the sum up
    /// to multiples of 128.
    pub fn run(mut self: Box<Self>, early: &[u8]) -> impl Future<Output = ()> + use<> {
        if !early.is_empty() && self.listener.form == Form::Frames {
            self.early = self.take(early).map(Box::new);
        }
        async move {
            let close = poll_fn(|cx| self.poll_end(cx)).await;
            // Boxed: the end needs timers, which an idle connection should not keep room for.
            Box::pin(self.finish(close)).await;
        }
    }

    /// Does what there is to do, until the connection has to end.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Close> {
        if let Some(close) = self.early.take() {
            return Poll::Ready(*close);
        }
        loop {
            let event = ready!(self.poll_event(cx));
            if let Some(close) = self.handle(event) {
                return Poll::Ready(close);
            }
        }
    }

    /// Waits for the next event.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        self.listener.watch(cx);
        if let Some(ending) = self.listener.ending() {
            return Poll::Ready(Event::End(ending.into()));
        }
        if self.listener.take_reauthorize() {
            return Poll::Ready(Event::Review);
        }
        if let Some(acks) = &self.acks {
            acks.watch(cx);
            self.listener.acknowledge(acks.acknowledged(), self.permit.clock.get());
            if let Some(failure) = acks.failure() {
                return Poll::Ready(Event::End(failure.into()));
            }
        }
        if self.listener.has_waiting() && matches!(self.listener.poll_flush(cx), Poll::Ready(Err(_))) {
            return Poll::Ready(Event::End(Close::Broken));
        }
        // What a client publishes is bounded by not reading on.
        let under_way = self.acks.as_ref().map_or(0, |acks| acks.bytes());
        self.listener.liveness.paused.set(under_way > self.permit.publish_bytes);
        if under_way > self.permit.publish_bytes {
            return Poll::Pending;
        }
        self.listener.stream.poll_recv(cx, &mut self.permit.buffer.borrow_mut()).map(|read| match read {
            Ok(0) => Event::End(Close::Gone),
            Ok(count) => Event::Read(count),
            Err(_) => Event::End(Close::Broken),
        })
    }

    fn handle(&mut self, event: Event) -> Option<Close> {
        match event {
            // Whatever comes behind the request of a stream is nobody's business.
            Event::Read(_) if self.listener.form.is_stream() => None,
            Event::Read(count) => {
                let parts = self.permit.shared();
                let buffer = parts.buffer.borrow();
                self.take(&buffer[..count])
            }
            Event::Review => self.reauthorize(),
            Event::End(close) => Some(close),
        }
    }

    /// Takes bytes from the client. Returns why the connection has to end, if it has to.
    fn take(&mut self, input: &[u8]) -> Option<Close> {
        let parts = self.permit.shared();
        self.listener.liveness.heard.set(parts.clock.get());
        self.listener.liveness.pinged.set(0);
        let listener = self.listener.clone();
        let mute = self.speech.channels.is_none();
        let new_reader = || Box::new(Reader::new(parts.max_message_bytes, &parts.unfinished, mute));
        let reader = self.reader.get_or_insert_with(new_reader);
        let sound = reader.frames.scan(input);
        let (kept, mut refused) = match &mut reader.discarder {
            Some(discarder) => discarder.filter(&input[..sound]),
            None => (Cow::Borrowed(&input[..sound]), None),
        };
        let mut cursor = InputCursor { input: &kept, listener: &listener, limits: &parts.limits };
        loop {
            let reader = self.reader.get_or_insert_with(new_reader);
            let Some(incoming) = reader.next(&mut cursor) else {
                if refused.is_some() {
                    return refused.take();
                }
                if sound < input.len() {
                    return Some(Close::Protocol("length of a frame is not minimal".to_owned()));
                }
                if !reader.count_unfinished() {
                    return Some(Close::Unfinished);
                }
                let begun = &listener.liveness.begun;
                if !reader.has_begun() {
                    begun.set(0);
                } else if begun.get() == 0 {
                    begun.set(parts.clock.get());
                }
                // It takes more room than the rest of the connection. Only who publishes needs it again soon.
                if self.acks.is_none() || mute {
                    self.reader.take_if(|reader| reader.is_idle());
                }
                return None;
            };
            match incoming {
                Ok(Incoming::Message(payload)) => {
                    listener.liveness.begun.set(0);
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
        let parts = &self.permit;
        let speech = &mut self.speech;
        speech.received += 1;
        if parts.keepalive.heartbeat.as_ref() == Some(&payload) {
            let frame = parts.keepalive.heartbeat_in(Form::Frames);
            self.listener.beat(frame, parts.clock.get(), &parts.limits);
            return None;
        }
        if let Some(answer) = parts.keepalive.of_clients.answer_to(&payload) {
            if !answer.is_empty() {
                self.listener.answer(answer.clone(), &parts.limits);
            }
            return None;
        }
        if let Some(text) = suspect(&payload, speech.received == 1, &mut speech.heartbeats) {
            parts.counters.warn_of_heartbeat(text);
        }
        let Some(channels) = speech.channels.as_ref().filter(|_| !payload.is_empty()) else {
            speech.ignored = speech.ignored.saturating_add(1);
            Counters::count(&parts.counters.ignored_publications);
            return None;
        };
        if speech.rate_limit.as_ref().is_some_and(|rate_limit| !rate_limit.take(payload.len())) {
            return Some(Close::TooFast);
        }
        let acks = self.acks.get_or_insert_default();
        let number = acks.issue(payload.len());
        self.subscription.expect_echo(&self.listener, &speech.echo_topics, &payload, number);
        parts.store.publish(channels.clone(), payload, acks.clone());
        None
    }

    /// Ends the connection: leaves the hub, says why, and lingers, so that the close frame arrives.
    ///
    /// It holds its permit as long as it lingers, so no more connections linger than there may be.
    async fn finish(self: Box<Self>, mut close: Close) {
        let Self { permit: parts, listener, subscription, mut speech, acks, reader, .. } = *self;
        drop(subscription);
        (speech.share, speech.addition) = (None, None);
        let frames = reader.map(|reader| reader.frames).unwrap_or_default();
        if let (Close::ByClient(_), Some(acks)) = (&close, &acks) {
            // Its close is answered when everything before it is in Redis.
            match timeout(parts.publish_patience, acks.settled()).await {
                Ok(Ok(())) => {}
                Ok(Err(failure)) => close = failure.into(),
                Err(_) => close = Close::PublicationLost,
            }
        }
        if matches!(close, Close::Slow | Close::Torn) {
            Counters::count(&parts.counters.slow_clients);
            listener.cut();
        }
        log_end(&close, &speech, &listener);
        drop((speech, acks));
        let Some(frame) = close.in_form(listener.form) else { return };
        listener.send_uncounted(frame, &parts.limits);
        if matches!(timeout(parts.linger, poll_fn(|cx| listener.poll_flush(cx))).await, Ok(Ok(()))) {
            parts.linger_on(&listener, frames).await;
        }
    }
}

impl Parts {
    /// Reads on behind a close frame until the client has closed, too, or the linger is over.
    ///
    /// The FIN comes only behind the client's own close frame: a proxy takes one that comes before it for an end of
    /// both directions, and resets the client that is still sending, which then never sees the code.
    async fn linger_on(&self, listener: &Listener, mut frames: FrameScanner) {
        let end = Instant::now() + self.linger;
        let left = || Discard::for_all(end.saturating_duration_since(Instant::now()));
        if listener.form == Form::Frames && !frames.is_closed() {
            let closes = |input: &[u8]| {
                frames.scan(input);
                frames.is_closed()
            };
            listener.stream.discard(&self.buffer, left(), closes).await;
        }
        listener.stream.shutdown();
        listener.stream.discard(&self.buffer, left(), |_| false).await;
    }
}

/// Returns channels as they are shared with what is under way to Redis.
pub(super) fn shared(channels: Vec<Channel>) -> Option<Rc<[Channel]>> {
    (!channels.is_empty()).then(|| channels.into())
}

impl ConnectionPermit {
    /// Makes a permit of a permit; it is given back when it is dropped.
    pub fn take(parts: &Rc<Parts>, permit: Permit) -> Self {
        permit.hand_on();
        parts.own.set(parts.own.get() + 1);
        Self(parts.clone())
    }

    /// Returns what the connections have in common.
    pub(super) fn shared(&self) -> Rc<Parts> {
        self.0.clone()
    }
}

impl Deref for ConnectionPermit {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::Relaxed);
        self.0.own.set(self.0.own.get() - 1);
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

/// What stands in the table of docs/performance/memory.md.
#[cfg(test)]
pub(crate) fn sizes() -> [(&'static str, usize); 2] {
    /// Returns what the future takes that a function returns.
    fn returned<A, B, R>(_: impl FnOnce(A, B) -> R) -> usize {
        size_of::<R>()
    }
    let future = returned(|connection: Box<Connection>, early: &'static [u8]| connection.run(early));
    [("run", future), ("Connection", size_of::<Connection>())]
}
