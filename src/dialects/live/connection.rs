//! An open connection: the loop of its task, and its end.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::time::{Instant, timeout};
use tracing::{Instrument, Span, debug};

use super::answers::Answers;
use super::client::{LiveClient, send};
use super::describe::describe;
use super::facility::LiveFacility;
use super::gaps::send_gaps;
use super::presence::attend;
use super::publish::poll_acks;
use super::reauthorize::reauthorize;
use super::receive::receive;
use super::request_limit::RequestLimit;
use super::resume::Resume;
use super::subscribe::{JoinedFacility, apply_reports, open_facility};
use crate::access::{Credentials, Identity};
use crate::dialects::description::keep_details;
use crate::dialects::reason::reason_of;
use crate::dialects::relay::{announce_acknowledged, close_for};
use crate::hub::Listener;
use crate::metrics::Counters;
use crate::redis::PublishError;
use crate::shard::state::{ConnectionPermit, ShardState};
use crate::socket::{Close, READS_PER_TURN, ReadMode, SocketConnection, yield_turn};
use crate::stream::Stream;
use crate::visitors::Visitor;
use crate::visitors::watch::{PartialHold, Watch};
use crate::wire::live::hello;
use crate::wire::{Channel, Form, Handshake};

/// Bytes that may wait for a client before its requests are not read any more.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// An open connection.
pub(super) struct LiveConnection {
    permit: ConnectionPermit,
    socket: SocketConnection,
    client: LiveClient,
    /// Why it has to end before anything more is read, if it has to.
    early: Option<Close>,
    span: Span,
}

impl LiveConnection {
    /// Creates a connection, and greets the client. With the head of an HTTP answer it is a stream of events, which only
    /// listens.
    pub(super) fn new(
        permit: ConnectionPermit,
        stream: Stream,
        head: Option<Bytes>,
        mut credentials: Credentials,
        identity: &Identity,
    ) -> Box<Self> {
        let state = permit.state();
        let form = if head.is_some() { Form::ObjectEvents } else { Form::Objects };
        let socket = SocketConnection::new(stream, form, head, &state.sockets);
        keep_details(socket.listener(), credentials.details.take());
        let subscription = state.hub.join::<Channel>(&[]);
        subscription.open(socket.listener(), &[]);
        let client_address = credentials.client_address;
        let has_callback = state.process.settings.callback.is_some();
        let client = LiveClient {
            id: permit.public_id().into(),
            subscription,
            facilities: Vec::new(),
            last_join: 0,
            reports: Rc::default(),
            reads: None,
            share: None,
            attendance: None,
            identity: identity.clone(),
            credentials: has_callback.then(|| Rc::new(Credentials { token: None, ..credentials })),
            client_address,
            acks: None,
            leaving: Vec::new(),
            request_limit: RequestLimit::default(),
            unanswered: VecDeque::new(),
            received: 0,
            answers: Answers::default(),
            dropped: 0,
            gap_at: None,
        };
        send(socket.listener(), state, &hello(&client.id, identity.user.as_deref()));
        debug!("connection opened");
        Box::new(Self { permit, socket, client, early: None, span: Span::current() })
    }

    /// Opens the subscription of the address, whose channels are joined.
    pub(super) fn open_facility(
        &mut self,
        handshake: Handshake,
        resume: Option<Resume>,
        joined: JoinedFacility,
    ) {
        let state = self.permit.state();
        self.client.facilities.push(LiveFacility::new(handshake, resume, None));
        open_facility(&mut self.client, 0, joined, self.socket.listener(), state);
    }

    /// Adds it to the lease of its visitor. The session was read at `since`.
    pub(super) fn hold_lease(&mut self, visitor: Visitor, since: Instant, watch: Option<Watch>) {
        let listener = self.socket.listener();
        let share = self.permit.state().visitors.leases.add(visitor, since, listener, watch);
        self.client.share = share.map(|share| PartialHold::new(share, listener));
        attend(&mut self.client, self.permit.state());
    }

    /// Handles the bytes that arrived with the handshake, and serves the connection until it ends.
    pub(super) fn serve(mut self: Box<Self>, early: &[u8]) -> impl Future<Output = ()> + use<> {
        self.early = self.receive_early(early);
        async move {
            let close = poll_fn(|cx| self.poll_end(cx)).await;
            // Boxed: the end needs timers, for which an idle connection should not reserve memory.
            Box::pin(self.finish(close)).await;
        }
    }

    fn receive_early(&mut self, early: &[u8]) -> Option<Close> {
        let Self { permit, socket, client, .. } = self;
        let (state, listener) = (permit.state(), socket.listener().clone());
        let on_message =
            |_: &Listener, opcode, payload: Bytes| receive(client, &listener, state, opcode, &payload);
        let close = socket.receive(early, &state.sockets, read_mode(state, false), on_message);
        client.answers.flush(&listener, state);
        socket.free_idle_reader();
        close
    }

    /// Waits for a reason to end, for a changed visitor, for joins, for losses, for acknowledgements of Redis, and for the
    /// socket.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Close> {
        let Self { permit, socket, client, early, span } = self;
        let _entered = span.enter();
        let (state, listener) = (permit.state(), socket.listener().clone());
        // Before every reason to end: the listing waits for each connection that it has asked.
        if listener.take_description_request() {
            let info = describe(client, &listener, permit);
            let close = state.descriptions.add(client.subscription.position(), info);
            if let Some((code, reason)) = close {
                return Poll::Ready(Close::ByOperator(code, reason));
            }
        }
        if let Some(close) = early.take() {
            return Poll::Ready(close);
        }
        for _ in 0..READS_PER_TURN {
            listener.watch(cx);
            if let Some(ending) = listener.ending() {
                return Poll::Ready(ending.into());
            }
            if listener.take_reauthorize() {
                reauthorize(client, &listener, state);
                continue;
            }
            apply_reports(client, &listener, state);
            if let Some(failure) = poll_acks(client, &listener, state, cx) {
                return Poll::Ready(close_for(failure));
            }
            if listener.has_queued() && matches!(listener.poll_flush(cx), Poll::Ready(Err(_))) {
                return Poll::Ready(Close::Broken);
            }
            send_gaps(client, &listener, state);
            let settings = &state.process.settings.messages;
            // A client's publications in flight, and the answers that it does not read, are bounded by not reading on.
            let is_paused = client.bytes_in_flight() > settings.publish_bytes
                || listener.queued_bytes() > settings.outbox_bytes.min(MAX_ANSWER_BYTES);
            let on_message =
                |_: &Listener, opcode, payload: Bytes| receive(client, &listener, state, opcode, &payload);
            let was_queued = listener.has_queued();
            let polled = socket.poll_messages(cx, &state.sockets, read_mode(state, is_paused), on_message);
            client.answers.flush(&listener, state);
            let Poll::Ready(close) = polled else {
                // Written meanwhile: what waits for an empty outbox can go on.
                if was_queued && !listener.has_queued() {
                    continue;
                }
                return Poll::Pending;
            };
            if let Some(close) = close {
                return Poll::Ready(close);
            }
            socket.free_idle_reader();
        }
        yield_turn(cx)
    }

    /// Leaves the hub, waits for publications in flight if the client has closed, and sends the close frame.
    ///
    /// The permit is held until the end, so that closing connections count against the limit, too.
    async fn finish(self: Box<Self>, mut close: Close) {
        let Self { permit, socket, client, span, .. } = *self;
        let state = permit.state();
        let LiveClient {
            subscription, facilities, share, attendance, acks, leaving, reports, received, ..
        } = client;
        // Their ends are told at once, unless messages are to be told before.
        let announced = facilities.into_iter().filter_map(|LiveFacility { announced, handshake, .. }| {
            let announced = announced?;
            announced.set_reason(reason_of(&close));
            announced.has_unacknowledged().then_some((announced, handshake.facility))
        });
        let announced: Vec<_> = announced.chain(leaving).collect();
        drop((subscription, share, attendance, reports));
        let is_by_client = matches!(close, Close::ByClient(_));
        let settled = async {
            let acks = acks.filter(|_| is_by_client || !announced.is_empty())?;
            let failure = match timeout(state.publish_timeout, acks.settled()).await {
                Ok(Ok(())) => None,
                Ok(Err(failure)) => Some(failure),
                Err(_) => Some(PublishError::Lost),
            };
            for (mut announced, facility) in announced {
                announce_acknowledged(&mut announced, &acks, state, &facility);
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
                close_code = close.code(),
                reason = ?close.reason(),
                elapsed_ms = u64::try_from(permit.age().as_millis()).unwrap_or(u64::MAX),
                delivered,
                dropped,
                received,
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

/// Nothing is discarded: each message may be a request.
fn read_mode(state: &ShardState, is_paused: bool) -> ReadMode {
    ReadMode { is_paused, discards: false, max_message_bytes: state.sockets.max_message_bytes }
}
