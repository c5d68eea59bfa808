//! The clients of yunity-sockets, as its list shows them.

use crate::engine::EngineSession;
use crate::shard::ask::{YunityClient, YunityClients};
use crate::shard::state::ShardState;

/// Lists the clients among up to `limit` sessions, from a slot on. A session that stays open keeps its slot, so it is listed
/// once.
pub fn yunity_clients(state: &ShardState, from: usize, limit: usize) -> YunityClients {
    let mounts = state.process.settings.socket_io.mounts_with(|mount| mount.yunity);
    let mut sessions = state.engine.sessions_from(from, limit + 1);
    let next = sessions.get(limit).map(|session| session.slot as usize);
    sessions.truncate(limit);
    let listed = sessions.iter().filter(|session| mounts.contains(session.mount));
    YunityClients { clients: listed.filter_map(|session| describe(state, session)).collect(), next }
}

/// Describes a session; `None` before it has joined the namespace of these clients, as in the original.
fn describe(state: &ShardState, session: &EngineSession) -> Option<YunityClient> {
    let sockets = session.sockets.borrow();
    let socket = sockets.iter().find(|socket| socket.namespace() == "/")?;
    let named = socket.sender.as_ref().and_then(|sender| sender.session.as_ref());
    Some(YunityClient {
        // With `eio3_ids = "same"` the public id is the secret one.
        id: (!socket.sid.equals(&session.sid)).then(|| state.engine.public_id(session, socket)),
        has_session: named.is_some(),
        user: named.and_then(|named| named.key().user.borrow().clone()),
        handshake: state.engine.handshake(session),
    })
}
