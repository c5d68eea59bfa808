//! What the admin listener may show of a session.

use std::time::{Duration, SystemTime};

use super::namespaces::{session_identity, socket_identity};
use crate::dialects::description::{describe as describe_listener, user};
use crate::engine::{EngineSession, NamespaceSocket, TransportState};
use crate::shard::ask::{ConnectionInfo, ConnectionPeer, NamespaceInfo};
use crate::shard::state::ShardState;

/// Describes a session by its public ids. The secret id in its requests is not shown.
pub fn describe(state: &ShardState, session: &EngineSession) -> ConnectionInfo {
    let namespaces: Vec<_> = session
        .sockets
        .borrow()
        .iter()
        .map(|socket| NamespaceInfo {
            name: socket.namespace().to_owned(),
            sid: shown_sid(state, session, socket),
            user: user(&socket_identity(session, socket)),
        })
        .collect();
    let identity = session_identity(session);
    let info = describe_listener("socket_io", &session.listener, &identity);
    let is_socket = session.transport.get() == TransportState::WebSocket;
    let age = state.engine.now().saturating_sub(session.opened);
    ConnectionInfo {
        id: namespaces.first().and_then(|namespace| namespace.sid.clone()),
        form: if is_socket { info.form } else { "polling" },
        user: info.user.or_else(|| namespaces.first()?.user.clone()),
        namespaces: Some(namespaces),
        peer: if is_socket { info.peer } else { ConnectionPeer::None },
        traffic: info.traffic.filter(|_| is_socket),
        since: SystemTime::now().checked_sub(Duration::from_millis(age)).unwrap_or(SystemTime::UNIX_EPOCH),
        age_seconds: age / 1_000,
        idle_seconds: Some(state.engine.now().saturating_sub(session.last_received.get()) / 1_000),
        received: Some(session.received.get().into()),
        ..info
    }
}

/// Returns the public id of a session: that of its client in the first namespace.
pub(super) fn public_id(state: &ShardState, session: &EngineSession) -> Option<String> {
    session.sockets.borrow().first().and_then(|socket| shown_sid(state, session, socket))
}

/// Returns the id of a client as Django sees it. With `eio3_ids = "same"` it is the secret one, which is not shown.
pub(super) fn shown_sid(
    state: &ShardState,
    session: &EngineSession,
    socket: &NamespaceSocket,
) -> Option<String> {
    (!socket.sid.equals(&session.sid)).then(|| state.engine.public_id(session, socket))
}
