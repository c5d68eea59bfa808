//! The upgrade from polling to a WebSocket, without a lost or a doubled packet: until the client has tested the WebSocket,
//! polling carries the session, and what waits then goes out on the WebSocket first.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use super::connection::EngineConnection;
use super::receive::receive;
use crate::engine::{EngineSession, TransportState};
use crate::hub::Listener;
use crate::shard::state::{ConnectionPermit, ShardState};
use crate::socket::{Close, ReadMode, SocketConnection};
use crate::stream::Stream;
use crate::wire::Form;
use crate::wire::form::store_packet;
use crate::wire::websocket::Opcode;

/// How far an upgrade is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing has arrived.
    Opened,
    /// The client tests the WebSocket.
    Probed,
    /// The WebSocket carries the session.
    Done,
}

/// A WebSocket that is about to carry a session.
struct Upgrade {
    state: Rc<ShardState>,
    /// The number of this upgrade: a later one of the same session may have begun.
    number: u64,
    session: Rc<EngineSession>,
    socket: SocketConnection,
    stage: Stage,
}

/// Serves a WebSocket that was accepted for a session of this shard. `permit` counts it, in addition to the session.
pub(super) fn adopt(permit: ConnectionPermit, sid: &str, number: u64, stream: Stream, early: &[u8]) {
    let state = permit.state().clone();
    let Some(session) = state.engine.session(sid) else { return };
    if session.transport.get() != TransportState::UpgradeRequested || !is_current(&session, number) {
        return;
    }
    let socket = SocketConnection::new(stream, Form::Packets, None, &state.sockets);
    if let Some(poll) = &mut *session.poll.borrow_mut() {
        poll.probing = Some(socket.listener().clone());
    }
    let mut upgrade = Upgrade { state, number, session, socket, stage: Stage::Opened };
    let mut close = upgrade.receive(early);
    tokio::task::spawn_local(async move {
        let limit = Duration::from_secs(upgrade.state.process.settings.socket_io.upgrade_seconds.into());
        if close.is_none() && upgrade.stage != Stage::Done {
            let probing = timeout(limit, poll_fn(|cx| upgrade.poll_end(cx))).await;
            close = probing.unwrap_or(Some(Close::Late));
        }
        let Upgrade { state, number, session, socket, stage } = upgrade;
        if stage == Stage::Done {
            // The socket's permit is enough now.
            session.poll.take();
            Box::new(EngineConnection::upgraded(permit, socket, session, close)).serve_on().await;
            return;
        }
        // Polling goes on.
        if is_current(&session, number) {
            session.transport.set(TransportState::Polling);
            if let Some(poll) = &mut *session.poll.borrow_mut() {
                poll.probing = None;
            }
        }
        drop(session);
        // The socket counts until it is closed.
        socket.close(&close.unwrap_or(Close::Gone), &state.sockets).await;
        drop(permit);
    });
}

/// Returns whether an upgrade is the latest one of a session that polls.
fn is_current(session: &EngineSession, number: u64) -> bool {
    session.poll.borrow().as_ref().is_some_and(|poll| poll.upgrade == number)
}

impl Upgrade {
    fn mode(&self) -> ReadMode {
        let max_message_bytes = self.state.process.settings.socket_io.max_payload_bytes;
        ReadMode { is_paused: false, discards: false, max_message_bytes }
    }

    fn receive(&mut self, input: &[u8]) -> Option<Close> {
        let mode = self.mode();
        let Self { state, number, session, socket, stage } = self;
        let close = socket.receive(input, &state.sockets, mode, |listener, opcode, message| {
            on_message(state, session, *number, stage, listener, opcode, &message)
        });
        self.take_over();
        close
    }

    /// Waits until the WebSocket carries the session, or has to be closed.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Option<Close>> {
        loop {
            let mode = self.mode();
            let Self { state, number, session, socket, stage } = self;
            socket.listener().watch(cx);
            if let Some(ending) = session.listener.ending() {
                return Poll::Ready(Some(ending.into()));
            }
            let close =
                ready!(socket.poll_messages(cx, &state.sockets, mode, |listener, opcode, message| {
                    on_message(state, session, *number, stage, listener, opcode, &message)
                }));
            self.take_over();
            if close.is_some() || self.stage == Stage::Done {
                return Poll::Ready(close);
            }
        }
    }

    /// Gives the socket to the session's listener, which writes what has waited.
    fn take_over(&mut self) {
        if self.stage == Stage::Done
            && let Some(stream) = self.socket.listener().park()
        {
            self.session.listener.attach(stream);
            self.socket.set_listener(self.session.listener.clone());
        }
    }
}

/// Handles a message of the WebSocket: those behind the upgrade packet are the session's.
fn on_message(
    state: &Rc<ShardState>,
    session: &EngineSession,
    number: u64,
    progress: &mut Stage,
    listener: &Listener,
    opcode: Opcode,
    message: &Bytes,
) -> Option<Close> {
    match (*progress, &message[..]) {
        (Stage::Done, _) => return receive(session, state, opcode, message),
        (Stage::Opened, b"2probe") if opcode == Opcode::Text && is_current(session, number) => {
            let mut pong = BytesMut::new();
            store_packet(&mut pong, "3probe", &[]);
            listener.send(&pong.freeze(), &state.sockets.limits);
            *progress = Stage::Probed;
            session.transport.set(TransportState::UpgradeProbed);
            // The waiting poll is answered, so that the client can upgrade.
            session.listener.wake();
        }
        (Stage::Probed, b"5")
            if opcode == Opcode::Text
                && is_current(session, number)
                && session.listener.ending().is_none() =>
        {
            *progress = Stage::Done;
            session.transport.set(TransportState::WebSocket);
            session.last_received.set(state.engine.now());
            session.listener.wake();
        }
        _ => return Some(Close::Protocol("unexpected packet during the upgrade".to_owned())),
    }
    None
}
