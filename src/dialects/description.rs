//! What the admin listener may show of a connection, whatever its dialect.

use std::sync::Arc;

use crate::access::{Identity, session_hash};
use crate::hub::Listener;
use crate::shard::ask::{ConnectionInfo, ConnectionPeer};
use crate::shard::state::ConnectionPermit;
use crate::stream::Stream;
use crate::wire::{Channel, ClientDetails, Facility, Namespace};

/// Digits of the hash of a session that are shown: as many as the invalidations of the Django package have.
const SESSION_DIGITS: usize = 16;

/// Describes a connection by its listener and the identity of its visitor, without its session key and its cookies.
pub(super) fn describe(dialect: &'static str, listener: &Listener, identity: &Identity) -> ConnectionInfo {
    let (delivered, dropped) = listener.counts();
    let details = listener.details.get();
    ConnectionInfo {
        user: user(identity),
        groups: identity.groups.iter().map(ToString::to_string).collect(),
        session: identity.session.as_ref().map(|key| {
            let mut hash = session_hash(key);
            hash.truncate(SESSION_DIGITS);
            hash
        }),
        peer: listener.of_socket(Stream::peer).map_or(ConnectionPeer::Unix, ConnectionPeer::Address),
        address: details.and_then(|details| details.address),
        user_agent: details.and_then(|details| details.user_agent.as_deref()).map(str::to_owned),
        traffic: listener.of_socket(Stream::traffic),
        delivered,
        dropped,
        waiting_bytes: listener.queued_bytes(),
        ..ConnectionInfo::new(dialect, if listener.form.is_stream() { "event-stream" } else { "websocket" })
    }
}

/// Keeps what the operator wants to know about a client, if that is on.
pub(super) fn keep_details(listener: &Listener, details: Option<Box<ClientDetails>>) {
    if let Some(details) = details {
        // A listener is one client's, and gets them once.
        let _ = listener.details.set(details);
    }
}

/// Adds what only a plain connection and one of version 2 have.
pub(super) fn with_permit(
    info: ConnectionInfo,
    listener: &Listener,
    permit: &ConnectionPermit,
    received: u64,
) -> ConnectionInfo {
    let now = permit.state().sockets.clock.get();
    let is_stream = listener.form.is_stream();
    ConnectionInfo {
        id: Some(permit.public_id()),
        since: permit.since(),
        age_seconds: permit.age().as_secs(),
        idle_seconds: (!is_stream).then(|| now.saturating_sub(listener.liveness.last_received.get()).into()),
        received: Some(received),
        ..info
    }
}

/// Returns the audiences of channels in a facility, each once. The keys of sessions are left out.
pub(super) fn audiences<'a>(
    namespace: &'a Namespace,
    facility: &'a Facility,
    channels: impl IntoIterator<Item = &'a Channel>,
) -> impl Iterator<Item = &'a str> {
    channels.into_iter().map(|channel| namespace.audience_of(channel, facility))
}

/// Returns the name of a user, or its primary key if the name is not known.
pub(super) fn user(identity: &Identity) -> Option<Arc<str>> {
    identity.user.as_ref().or(identity.user_id.as_ref()).cloned()
}
