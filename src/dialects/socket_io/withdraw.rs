//! What clients may no longer do after a reload of the settings.

use super::directives::disconnect_from;
use super::namespaces::{admits, serves, socket_identity};
use crate::engine::{EngineSession, NamespaceSocket};
use crate::shard::state::ShardState;

/// Disconnects a client from the namespaces that it could not connect to any more.
pub fn withdraw(session: &EngineSession, state: &ShardState) {
    let sockets = session.sockets.borrow();
    let is_withdrawn = |socket: &&NamespaceSocket| {
        !serves(state, socket.namespace()) || !admits(session, state, &socket_identity(session, socket))
    };
    let withdrawn = sockets.iter().filter(is_withdrawn);
    let withdrawn: Vec<Box<str>> = withdrawn.map(|socket| socket.namespace().into()).collect();
    drop(sockets);
    for namespace in withdrawn {
        disconnect_from(state, session, &namespace);
    }
}
