//! An open connection over a WebSocket: the loop of its task, and its end.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::time::Instant;
use tracing::{Instrument, Span, debug};

use super::describe::public_id;
use super::namespaces::{connect, reauthorize};
use super::outgoing::{send_disconnects, send_last_packets, send_open};
use super::receive::receive;
use crate::dialects::description::keep_details;
use crate::dialects::reason::reason_of;
use crate::engine::{Deadline, EngineSession, Sid};
use crate::hub::Listener;
use crate::metrics::Counters;
use crate::shard::state::ConnectionPermit;
use crate::socket::{Close, READS_PER_TURN, ReadMode, SocketConnection, yield_turn};
use crate::stream::Stream;
use crate::visitors::Visitor;
use crate::visitors::watch::Watch;
use crate::wire::engine_io::EngineVersion;
use crate::wire::socket_io::{SocketPacket, SocketType};
use crate::wire::websocket::Opcode;
use crate::wire::{ClientDetails, Form, HandshakeRecord, Mount};

/// The CONNECT that clients of protocol 4 do not send.
pub(super) const IMPLIED_CONNECT: SocketPacket<'static> = SocketPacket {
    kind: SocketType::Connect,
    attachments: 0,
    namespace: "/",
    query: None,
    id: None,
    data: "",
};

/// An open connection over a WebSocket.
pub(super) struct EngineConnection {
    permit: ConnectionPermit,
    socket: SocketConnection,
    session: Rc<EngineSession>,
    since: Instant,
    /// Why it has to end, if its first packets demand it.
    early: Option<Box<Close>>,
    /// Its span; none unless debug lines are logged.
    span: Option<Box<Span>>,
}

impl EngineConnection {
    /// Creates a connection and its session.
    pub(super) fn new(
        permit: ConnectionPermit,
        stream: Stream,
        mount: Mount,
        version: EngineVersion,
        record: Option<HandshakeRecord>,
    ) -> Self {
        let form = match version {
            EngineVersion::V3 => Form::PrefixedPackets,
            EngineVersion::V4 => Form::Packets,
        };
        let socket = SocketConnection::new(stream, form, None, &permit.state().sockets);
        let now = permit.state().engine.now();
        let connect_seconds = permit.state().process.settings.socket_io.connect_seconds;
        let deadline = Deadline::Connect(permit.state().engine.after(connect_seconds));
        let listener = socket.listener();
        let session = permit.state().engine.insert(record, |slot| {
            EngineSession::new(Sid::random(), slot, mount, version, listener.clone(), now, deadline)
        });
        debug!(?version, "connection opened");
        let span = Span::current();
        let span = (!span.is_disabled()).then(|| Box::new(span));
        Self { permit, socket, session, since: Instant::now(), early: None, span }
    }

    /// Keeps what the operator wants to know about the client.
    pub(super) fn keep_details(&self, details: Option<Box<ClientDetails>>) {
        keep_details(&self.session.listener, details);
    }

    /// Continues a session that polled, over the socket that its listener has now. With a close, it ends at once.
    pub(super) fn upgraded(
        permit: ConnectionPermit,
        socket: SocketConnection,
        session: Rc<EngineSession>,
        early: Option<Close>,
    ) -> Self {
        debug!("connection upgraded");
        let early = early.map(Box::new);
        Self { permit, socket, session, since: Instant::now(), early, span: None }
    }

    /// Adds it to the lease of its visitor. The session was read at `since`.
    pub(super) fn hold_lease(&self, visitor: Visitor, since: Instant, watch: Option<Watch>) {
        let lease = self.permit.state().visitors.leases.add(visitor, since, self.socket.listener(), watch);
        self.session.lease.replace(lease);
    }

    /// Sends the open packet, handles what arrived with the handshake, and serves the connection until it ends.
    pub(super) fn serve(mut self: Box<Self>, early: &[u8]) -> impl Future<Output = ()> + use<> {
        self.early = self.start(early).map(Box::new);
        self.serve_on()
    }

    /// Serves the connection until it ends.
    pub(super) async fn serve_on(mut self: Box<Self>) {
        let close = poll_fn(|cx| self.poll_end(cx)).await;
        // Boxed: the end needs timers, for which an idle connection should not reserve memory.
        Box::pin(self.finish(close)).await;
    }

    fn start(&mut self, early: &[u8]) -> Option<Close> {
        let Self { permit, socket, session, .. } = self;
        let (state, mode) = (permit.state(), read_mode(permit));
        send_open(session, &state.engine, &state.process.settings.socket_io, &state.sockets.limits);
        if session.version == EngineVersion::V3
            && let Some(close) = connect(session, state, IMPLIED_CONNECT)
        {
            return Some(close);
        }
        let on_message = |_: &Listener, opcode, payload| receive(session, state, opcode, &payload);
        let close = socket.receive(early, &permit.state().sockets, mode, on_message);
        socket.free_idle_reader();
        close
    }

    /// Waits for a reason to end, for a changed visitor, and for the socket.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Close> {
        let Self { permit, socket, session, early, span, .. } = self;
        let _entered = span.as_ref().map(|span| span.enter());
        if let Some(close) = early.take() {
            return Poll::Ready(*close);
        }
        let (state, mode) = (permit.state(), read_mode(permit));
        if socket.listener().take_description_request()
            && let Some((code, reason)) = state.descriptions.close_next()
        {
            return Poll::Ready(Close::ByOperator(code, reason));
        }
        for _ in 0..READS_PER_TURN {
            let listener = socket.listener();
            listener.watch(cx);
            if let Some(ending) = listener.ending() {
                return Poll::Ready(ending.into());
            }
            if listener.take_reauthorize() {
                reauthorize(session, state);
                continue;
            }
            let on_message =
                |_: &Listener, opcode: Opcode, payload| receive(session, state, opcode, &payload);
            if let Some(close) = ready!(socket.poll_messages(cx, &permit.state().sockets, mode, on_message)) {
                return Poll::Ready(close);
            }
            socket.free_idle_reader();
        }
        yield_turn(cx)
    }

    /// Leaves all namespaces, and sends the close frame.
    ///
    /// The permit is held until the end, so that closing connections count against the limit, too.
    async fn finish(self: Box<Self>, close: Close) {
        let Self { permit, socket, session, since, span, .. } = *self;
        let span = span.map_or_else(Span::none, |span| *span);
        match close {
            Close::SessionEnded => send_last_packets(&session, permit.state()),
            Close::ByOperator(..) => send_disconnects(&session, permit.state()),
            _ => {}
        }
        let (delivered, dropped) = socket.listener().counts();
        span.in_scope(|| {
            debug!(
                sid = ?public_id(permit.state(), &session),
                close_code = close.code(),
                reason = ?close.reason(),
                elapsed_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
                delivered,
                dropped,
                "connection ended"
            );
        });
        session.end_reason.set(Some(reason_of(&close)));
        permit.state().engine.remove(&session);
        if close.is_slow() {
            Counters::count(&permit.state().process.counters.slow_clients);
        }
        socket.close(&close, &permit.state().sockets).instrument(span).await;
    }
}

fn read_mode(permit: &ConnectionPermit) -> ReadMode {
    let max_message_bytes = permit.state().process.settings.socket_io.max_payload_bytes;
    ReadMode { is_paused: false, discards: false, max_message_bytes }
}
