//! Packets from a client.

use std::rc::Rc;

use bytes::Bytes;

use super::acks::acknowledge;
use super::client_events::receive_event;
use super::namespaces::connect;
use super::outgoing::send_pong;
use crate::engine::{Deadline, EngineSession};
use crate::events::DisconnectReason;
use crate::settings::SocketIoSettings;
use crate::shard::state::ShardState;
use crate::socket::Close;
use crate::unfinished::Unfinished;
use crate::wire::engine_io::{EnginePacket, EngineType, EngineVersion, decode_binary, decode_text};
use crate::wire::socket_io::{AttachmentError, MessageLimits, SocketPacket, SocketType};
use crate::wire::websocket::Opcode;

/// Milliseconds within which a client normally closes after it was disconnected from its last namespace.
pub(super) const GRACE: u64 = 1_000;

/// How much larger than one attachment a message with all of them may be, if it leaves enough memory for other clients.
const TOTAL_PAYLOADS: usize = 4;

/// Handles a message of a WebSocket. Returns why the connection has to end, if it has to.
pub(super) fn receive(
    session: &EngineSession,
    state: &Rc<ShardState>,
    opcode: Opcode,
    message: &Bytes,
) -> Option<Close> {
    session.last_received.set(state.engine.now());
    if opcode == Opcode::Binary {
        return match decode_binary(session.version, message) {
            Ok(attachment) => receive_attachment(session, state, attachment),
            Err(error) => Some(breach(&error)),
        };
    }
    let Ok(text) = std::str::from_utf8(message) else { return Some(Close::NotUtf8) };
    match decode_text(session.version, text) {
        Ok(packet) => receive_engine_packet(session, state, packet),
        Err(error) => Some(breach(&error)),
    }
}

/// Handles a packet of a post. Returns why the session has to end, if it has to.
pub(super) fn receive_engine_packet(
    session: &EngineSession,
    state: &Rc<ShardState>,
    packet: EnginePacket<'_>,
) -> Option<Close> {
    match packet {
        EnginePacket::Text(kind, data) => receive_text(session, state, kind, &data),
        EnginePacket::Attachment(attachment) => receive_attachment(session, state, attachment),
    }
}

fn breach(error: &impl ToString) -> Close {
    Close::Protocol(error.to_string())
}

fn receive_text(
    session: &EngineSession,
    state: &Rc<ShardState>,
    kind: EngineType,
    data: &str,
) -> Option<Close> {
    match (kind, session.version) {
        (EngineType::Message, version) => {
            let settings = &state.process.settings.socket_io;
            let packet = match SocketPacket::decode(version, data, settings.max_attachments) {
                Ok(packet) => packet,
                Err(error) => return Some(breach(&error)),
            };
            let taken = session.collector.borrow_mut().take_packet(packet);
            match taken {
                Ok(Some(packet)) => receive_packet(session, state, packet, &[]),
                Ok(None) => count_unfinished(session, state),
                Err(error) => Some(breach(&error)),
            }
        }
        (EngineType::Close, _) => Some(Close::Disconnected),
        (EngineType::Ping, EngineVersion::V3) => {
            send_pong(session, data, &state.sockets.limits);
            None
        }
        // It was a sign of life, and no more is needed.
        (EngineType::Pong, EngineVersion::V4) => None,
        _ => Some(Close::Protocol("unexpected packet of Engine.IO".to_owned())),
    }
}

fn receive_attachment(session: &EngineSession, state: &Rc<ShardState>, attachment: Bytes) -> Option<Close> {
    let limits = limits(state);
    let taken = session.collector.borrow_mut().take_attachment(attachment, limits);
    match taken {
        Ok(Some(message)) => {
            session.unfinished.take();
            session.collecting_since.set(0);
            receive_packet(session, state, message.packet(), message.attachments())
        }
        Ok(None) => count_unfinished(session, state),
        Err(AttachmentError::TooLarge) => Some(Close::TooBig),
        Err(error) => Some(breach(&error)),
    }
}

fn limits(state: &ShardState) -> MessageLimits {
    let SocketIoSettings { max_payload_bytes, max_attachments, .. } = state.process.settings.socket_io;
    let most = state.sockets.unfinished.most_of_one(max_payload_bytes);
    MessageLimits {
        text_bytes: max_payload_bytes,
        attachments: max_attachments,
        attachment_bytes: max_payload_bytes,
        total_bytes: max_payload_bytes.saturating_mul(TOTAL_PAYLOADS).min(most),
    }
}

/// Counts the bytes that wait for attachments in the memory of the process.
fn count_unfinished(session: &EngineSession, state: &ShardState) -> Option<Close> {
    if session.collecting_since.get() == 0 {
        session.collecting_since.set(state.engine.now());
    }
    let bytes = session.collector.borrow().bytes();
    let mut share = session.unfinished.borrow_mut();
    let share = share.get_or_insert_with(|| Box::new(Unfinished::new(&state.sockets.unfinished)));
    (!share.set(bytes)).then_some(Close::Unfinished)
}

fn receive_packet(
    session: &EngineSession,
    state: &Rc<ShardState>,
    packet: SocketPacket<'_>,
    attachments: &[Bytes],
) -> Option<Close> {
    match packet.kind {
        SocketType::Connect => return connect(session, state, packet),
        SocketType::ConnectError => return Some(Close::Protocol("only servers send errors".to_owned())),
        _ if !session.is_connected(packet.namespace) => {
            return Some(Close::Protocol("packet for a namespace that was not joined".to_owned()));
        }
        _ => {}
    }
    session.received.set(session.received.get().saturating_add(1));
    match packet.kind {
        SocketType::Disconnect => {
            let deadline = match session.version {
                EngineVersion::V3 => Deadline::Grace(state.engine.now() + GRACE),
                EngineVersion::V4 => {
                    Deadline::Connect(state.engine.after(state.process.settings.socket_io.connect_seconds))
                }
            };
            session.leave(packet.namespace, deadline, DisconnectReason::ClientNamespaceDisconnect);
        }
        SocketType::Event | SocketType::BinaryEvent => {
            return receive_event(session, state, packet, attachments);
        }
        _ => acknowledge(session, state, packet, attachments),
    }
    None
}
