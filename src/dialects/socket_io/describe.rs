//! What the admin listener may show of a session.

use std::sync::Arc;

use super::namespaces::{session_identity, socket_identity};
use crate::access::Identity;
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
            user: user(socket_identity(session, socket)),
        })
        .collect();
    let (form, peer) = match session.transport.get() {
        TransportState::WebSocket => {
            ("websocket", session.listener.peer().map_or(ConnectionPeer::Unix, ConnectionPeer::Address))
        }
        TransportState::Polling | TransportState::UpgradeRequested | TransportState::UpgradeProbed => {
            ("polling", ConnectionPeer::None)
        }
    };
    let (delivered, dropped) = session.listener.counts();
    ConnectionInfo {
        id: namespaces.first().and_then(|namespace| namespace.sid.clone()),
        dialect: "socket_io",
        form,
        facility: None,
        user: user(session_identity(session)).or_else(|| namespaces.first()?.user.clone()),
        facilities: None,
        namespaces: Some(namespaces),
        peer,
        age_seconds: (state.engine.now() - session.opened) / 1_000,
        delivered,
        dropped,
        waiting_bytes: session.listener.queued_bytes(),
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

/// Returns the name of a user, or its primary key if the name is not known.
fn user(identity: Identity) -> Option<Arc<str>> {
    identity.user.or(identity.user_id)
}
