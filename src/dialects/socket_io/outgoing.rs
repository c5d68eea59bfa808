//! Packets that the server itself sends to one client.

use bytes::{Bytes, BytesMut};

use crate::engine::{EngineSession, EngineTable, TransportState};
use crate::hub::Limits;
use crate::settings::SocketIoSettings;
use crate::shard::state::ShardState;
use crate::wire::engine_io::{EngineType, OpenPacket, binary_message, push_text};
use crate::wire::form::store_packet;
use crate::wire::socket_io::encode::push_disconnect;
use crate::wire::websocket::{Opcode, encode};

/// Most namespaces that one client may be in.
pub(super) const MAX_NAMESPACES: usize = 16;

/// Encodes a packet of Engine.IO as a frame.
fn frame(packet: &str) -> Bytes {
    let mut frame = BytesMut::new();
    store_packet(&mut frame, packet, &[]);
    frame.freeze()
}

/// Sends the packet that opens a session.
pub(super) fn send_open(
    session: &EngineSession,
    table: &EngineTable,
    settings: &SocketIoSettings,
    limits: &Limits,
) {
    let milliseconds = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let mut packet = String::new();
    let open = OpenPacket {
        sid: &table.text(&session.sid, session.slot),
        can_upgrade: session.transport.get() == TransportState::Polling && settings.websocket,
        ping_interval_ms: milliseconds(settings.ping_interval),
        ping_timeout_ms: milliseconds(settings.ping_timeout),
        max_payload: settings.max_payload_bytes,
    };
    open.push(&mut packet);
    session.listener.send(&frame(&packet), limits);
}

/// Sends a packet of Socket.IO, which `push` appends.
pub(super) fn send_packet(session: &EngineSession, limits: &Limits, push: impl FnOnce(&mut String)) {
    let mut packet = String::from(EngineType::Message.digit());
    push(&mut packet);
    session.listener.send(&frame(&packet), limits);
}

/// Disconnects a client whose visitor's session has ended from its namespaces, if the site wants that.
pub(super) fn send_last_packets(session: &EngineSession, state: &ShardState) {
    if state.process.settings.socket_io.disconnects_ended_sessions {
        send_disconnects(session, state);
    }
}

/// Disconnects a client from its namespaces: JavaScript clients do not reconnect then.
pub(super) fn send_disconnects(session: &EngineSession, state: &ShardState) {
    for socket in session.sockets.borrow().iter() {
        let mut packet = String::from(EngineType::Message.digit());
        push_disconnect(&mut packet, socket.namespace());
        session.listener.send_uncounted(frame(&packet), &state.sockets.limits);
    }
}

/// Sends an event, whose packet `push` appends, and its attachments.
pub(super) fn send_event(
    session: &EngineSession,
    limits: &Limits,
    attachments: &[Bytes],
    push: impl FnOnce(&mut String),
) {
    let mut packet = String::from(EngineType::Message.digit());
    push(&mut packet);
    let mut frames = BytesMut::new();
    store_packet(&mut frames, &packet, &[]);
    for attachment in attachments {
        encode(&mut frames, Opcode::Binary, &binary_message(session.version, attachment));
    }
    session.listener.send(&frames.freeze(), limits);
}

/// A frame of text with the packet `2`.
const PING: Bytes = Bytes::from_static(b"\x81\x012");

/// Sends a ping, unless one is in the outbox already.
pub(super) fn send_ping(session: &EngineSession, limits: &Limits) {
    session.listener.answer_heartbeat(PING, limits);
}

/// Answers a ping. Omitted if the outbox is long, since its bytes show that the server lives.
pub(super) fn send_pong(session: &EngineSession, data: &str, limits: &Limits) {
    let mut packet = String::new();
    push_text(&mut packet, EngineType::Pong, data);
    session.listener.pong(&frame(&packet), limits);
}
