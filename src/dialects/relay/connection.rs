//! An open connection: the loop of its task, and its end.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::time::{Instant, timeout};
use tracing::{Instrument, Span, debug};

use super::client::{RelayClient, shared};
use super::describe::describe;
use super::echo::EchoTopics;
use super::publish::{announce_acknowledged, close_for, poll_acks, receive};
use super::reauthorize::reauthorize;
use crate::access::{Grant, Identity, Policy};
use crate::dialects::description::keep_details;
use crate::dialects::groups::{JoiningGroups, LayerClient};
use crate::dialects::reason::reason_of;
use crate::hub::{Listener, Subscription};
use crate::metrics::Counters;
use crate::redis::PublishError;
use crate::shard::state::ConnectionPermit;
use crate::socket::{Close, READS_PER_TURN, ReadMode, SocketConnection, yield_turn};
use crate::stream::Stream;
use crate::visitors::watch::Watch;
use crate::visitors::{TokenBucket, Visitor};
use crate::wire::{ClientDetails, Form, Handshake};

/// An open connection.
pub(super) struct RelayConnection {
    permit: ConnectionPermit,
    socket: SocketConnection,
    client: RelayClient,
    /// Why it has to end before anything more is read, if it has to.
    early: Option<Box<Close>>,
    /// Its span; none unless debug lines are logged.
    span: Option<Box<Span>>,
}

impl RelayConnection {
    /// Creates a connection. With the head of an HTTP answer it is a stream of events, which only listens.
    pub(super) fn new(
        permit: ConnectionPermit,
        stream: Stream,
        head: Option<Bytes>,
        handshake: Handshake,
        subscription: Subscription,
        grant: Grant,
    ) -> Box<Self> {
        let form = match &head {
            None => Form::Frames,
            Some(_) if handshake.flags.event_names() => Form::NamedEvents,
            Some(_) => Form::Events,
        };
        let socket = SocketConnection::new(stream, form, head, &permit.state().sockets);
        debug!(facility = ?handshake.facility, subscribed = grant.subscribe.len(), publishes = grant.publish.len(), "connection opened");
        let echo_topics = EchoTopics::new(&grant, &subscription, None);
        let client = RelayClient {
            handshake,
            subscription,
            channels: shared(grant.publish),
            echo_topics,
            share: None,
            attendance: None,
            addition: None,
            layer: None,
            rate_limit: None,
            limited_as_anonymous: true,
            announced: None,
            acks: None,
            received: 0,
            ignored: 0,
            heartbeats: 0,
        };
        let span = Span::current();
        let span = (!span.is_disabled()).then(|| Box::new(span));
        Box::new(Self { permit, socket, client, early: None, span })
    }

    /// Keeps what the operator wants to know about the client.
    pub(super) fn keep_details(&self, details: Option<Box<ClientDetails>>) {
        keep_details(self.socket.listener(), details);
    }

    /// Sends the persisted values and what was held, and goes live. If messages were lost after the values were read, the
    /// connection ends: the client reconnects rather than misses them.
    pub(super) fn release(&mut self, persisted: &[Option<Bytes>]) {
        if !matches!(self.client.subscription.is_stale(), Ok(false)) {
            self.end(Close::Incomplete);
        }
        self.client.subscription.open(self.socket.listener(), persisted);
    }

    /// Sends the kept messages of Channels groups and what was held, and goes live in them. It ends as after
    /// [`Self::release`] if messages were lost.
    pub(super) fn open_layer(&mut self, groups: Option<JoiningGroups>, identity: &Identity) {
        if groups.as_ref().is_some_and(JoiningGroups::has_lost) {
            self.end(Close::Incomplete);
        }
        let (state, facility) = (self.permit.state(), &self.client.handshake.facility);
        self.client.layer = LayerClient::open(state, groups, facility, identity, self.socket.listener());
    }

    /// Sets the limit of its publications, and whether it is that of an anonymous visitor.
    pub(super) fn limit(&mut self, rate_limit: Option<Arc<TokenBucket>>, is_anonymous: bool) {
        self.client.rate_limit = rate_limit;
        self.client.limited_as_anonymous = is_anonymous;
    }

    /// Tells Django about it.
    pub(super) fn announce(&mut self, identity: &Identity) {
        let (permit, events) = (&self.permit, &self.permit.state().events);
        if events.are_enabled() {
            let facility = &self.client.handshake.facility;
            let sid = || permit.public_id();
            self.client.announced = events.connect_facility((facility, "relay"), sid, identity.user.clone());
        }
    }

    /// Adds it to the lease of its visitor, and counts it for presence. The session was read at `since`.
    pub(super) fn hold_lease(&mut self, visitor: Visitor, since: Instant, watch: Option<Watch>) {
        let leases = &self.permit.state().visitors.leases;
        self.client.share = leases.add(visitor, since, self.socket.listener(), watch);
        self.client.attend(&self.permit);
    }

    /// Has it authorized again if this policy, which has granted its channels, is not in force any more.
    pub(super) fn reauthorize_unless(&self, policy: &Rc<Policy>) {
        if !self.permit.state().policy.is_present(policy) {
            self.socket.listener().reauthorize();
        }
    }

    /// Makes the connection end as soon as it is served.
    fn end(&mut self, close: Close) {
        self.early = Some(Box::new(close));
    }

    /// Handles the bytes that arrived with the handshake, and serves the connection until it ends.
    ///
    /// The future holds a few pointers only: tokio puts it between 96 bytes of its own, and rounds the sum up to a multiple
    /// of 128.
    pub(super) fn serve(mut self: Box<Self>, early: &[u8]) -> impl Future<Output = ()> + use<> {
        if let Some(close) = self.receive_early(early) {
            self.end(close);
        }
        async move {
            let close = poll_fn(|cx| self.poll_end(cx)).await;
            // Boxed: the end needs timers, for which an idle connection should not reserve memory.
            Box::pin(self.finish(close)).await;
        }
    }

    fn receive_early(&mut self, early: &[u8]) -> Option<Close> {
        let Self { permit, socket, client, .. } = self;
        let state = permit.state();
        let mode = ReadMode {
            is_paused: false,
            discards: client.channels.is_none(),
            max_message_bytes: state.sockets.max_message_bytes,
        };
        let on_message = |listener: &Listener, _, payload| receive(client, listener, state, payload);
        let close = socket.receive(early, &state.sockets, mode, on_message);
        if !client.publishes() {
            socket.free_idle_reader();
        }
        close
    }

    /// Waits for a reason to end, for a changed visitor, for acknowledgements of Redis, and for the socket.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Close> {
        let Self { permit, socket, client, early, span } = self;
        let state = permit.state();
        let _entered = span.as_ref().map(|span| span.enter());
        // Before every reason to end: the listing waits for each connection that it has asked.
        if socket.listener().take_description_request() {
            let info = describe(client, socket.listener(), permit);
            let close = state.descriptions.add(client.subscription.position(), info);
            if let Some((code, reason)) = close {
                return Poll::Ready(Close::ByOperator(code, reason));
            }
        }
        if let Some(close) = early.take() {
            return Poll::Ready(*close);
        }
        for _ in 0..READS_PER_TURN {
            let listener = socket.listener();
            listener.watch(cx);
            if let Some(ending) = listener.ending() {
                return Poll::Ready(ending.into());
            }
            if listener.take_reauthorize() {
                if let Some(close) = reauthorize(client, listener, state) {
                    return Poll::Ready(close);
                }
                client.attend(permit);
                continue;
            }
            if let Some(failure) = poll_acks(client, listener, state, cx) {
                return Poll::Ready(close_for(failure));
            }
            let mode = ReadMode {
                // A client's publications in flight are bounded by not reading on.
                is_paused: client.bytes_in_flight() > state.process.settings.messages.publish_bytes,
                discards: client.channels.is_none(),
                max_message_bytes: state.sockets.max_message_bytes,
            };
            let on_message = |listener: &Listener, _, payload| receive(client, listener, state, payload);
            if let Some(close) = ready!(socket.poll_messages(cx, &state.sockets, mode, on_message)) {
                return Poll::Ready(close);
            }
            if !client.publishes() {
                socket.free_idle_reader();
            }
        }
        yield_turn(cx)
    }

    /// Leaves the hub, waits for publications in flight if the client has closed, and sends the close frame.
    ///
    /// The permit is held until the end, so that closing connections count against the limit, too.
    async fn finish(self: Box<Self>, mut close: Close) {
        let Self { permit, socket, client, span, .. } = *self;
        let span = span.map_or_else(Span::none, |span| *span);
        let RelayClient {
            handshake,
            subscription,
            share,
            attendance,
            addition,
            layer,
            announced,
            acks,
            received,
            ignored,
            ..
        } = client;
        let state = permit.state();
        // Its end is told at once, unless messages are to be told before.
        let announced = announced.and_then(|announced| {
            announced.set_reason(reason_of(&close));
            announced.has_unacknowledged().then_some(announced)
        });
        drop((subscription, share, attendance, addition, layer));
        let is_by_client = matches!(close, Close::ByClient(_));
        let settled = async {
            let acks = acks.filter(|_| is_by_client || announced.is_some())?;
            let failure = match timeout(state.publish_timeout, acks.settled()).await {
                Ok(Ok(())) => None,
                Ok(Err(failure)) => Some(failure),
                Err(_) => Some(PublishError::Lost),
            };
            if let Some(mut announced) = announced {
                announce_acknowledged(&mut announced, &acks, state, &handshake.facility);
            }
            failure
        };
        let ended = async {
            // A client that has not closed is not kept waiting for Redis.
            let mut settled = std::pin::pin!(settled);
            if is_by_client && let Some(failure) = settled.as_mut().await {
                close = close_for(failure);
            }
            if close.is_slow() {
                Counters::count(&state.process.counters.slow_clients);
            }
            let (delivered, dropped) = socket.listener().counts();
            debug!(
                facility = ?handshake.facility,
                close_code = close.code(),
                reason = ?close.reason(),
                elapsed_ms = u64::try_from(permit.age().as_millis()).unwrap_or(u64::MAX),
                delivered,
                dropped,
                received,
                ignored,
                "connection ended"
            );
            let closed = socket.close(&close, &state.sockets);
            if is_by_client {
                closed.await;
            } else {
                tokio::join!(closed, settled);
            }
        };
        ended.instrument(span).await;
    }
}

/// The sizes in the table of docs/performance/memory.md.
#[cfg(test)]
pub(crate) fn sizes() -> [(&'static str, usize); 2] {
    /// Returns the size of a function's result.
    fn returned<A, B, R>(_: impl FnOnce(A, B) -> R) -> usize {
        size_of::<R>()
    }
    let future = returned(|connection: Box<RelayConnection>, early: &'static [u8]| connection.serve(early));
    [("serve", future), ("RelayConnection", size_of::<RelayConnection>())]
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;
    use tokio::task::LocalSet;

    use super::*;
    use crate::hub::Hub;
    use crate::shard::state;
    use crate::stream::Permit;

    #[tokio::test]
    async fn a_client_whose_messages_were_lost_while_it_connected_reconnects_and_is_not_called_slow() {
        let test = async {
            let state = state::without_redis();
            let (mut client, server) = UnixStream::pair().unwrap();
            let stream = Stream::new(server.into_std().unwrap().into()).unwrap();
            let permit = Permit::take(&state.process.connections, 1).unwrap();
            let permit = ConnectionPermit::new(&state, permit);
            let handshake = Handshake::parse("/ws/x", Some("subscribe-broadcast"), "/ws/").unwrap();
            let grant = state.policy.get().grant(&handshake, &Visitor::default().identity, None).unwrap();
            let subscription = state.hub.join(&grant.subscribe);
            let mut connection = RelayConnection::new(permit, stream, None, handshake, subscription, grant);
            state.hub.with(Hub::on_lost);
            connection.release(&[None]);
            let serving = tokio::task::spawn_local(connection.serve(&[]));
            let mut received = Vec::new();
            client.read_buf(&mut received).await.unwrap();
            let reason = "messages were lost while connecting";
            assert_eq!(received, [&b"\x88\x25\x03\xf5"[..], reason.as_bytes()].concat());
            drop(client);
            serving.await.unwrap();
            assert_eq!(state.process.counters.slow_clients.load(Ordering::Relaxed), 0);
        };
        LocalSet::new().run_until(test).await;
    }
}
