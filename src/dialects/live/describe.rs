//! What the admin listener may show of a connection.

use super::client::LiveClient;
use crate::hub::Listener;
use crate::shard::ask::{ConnectionInfo, ConnectionPeer};
use crate::shard::state::ConnectionPermit;

/// Describes a connection, without its session key and its cookies.
pub(super) fn describe(
    client: &LiveClient,
    listener: &Listener,
    permit: &ConnectionPermit,
) -> ConnectionInfo {
    let user = client.identity.user.as_ref().or(client.identity.user_id.as_ref()).cloned();
    let facility = match &client.facilities[..] {
        [facility] => Some(facility.name().to_owned()),
        _ => None,
    };
    let (delivered, dropped) = listener.counts();
    ConnectionInfo {
        id: Some(permit.public_id()),
        dialect: "live",
        form: if listener.form.is_stream() { "event-stream" } else { "websocket" },
        facility,
        namespaces: None,
        user,
        peer: listener.peer().map_or(ConnectionPeer::Unix, ConnectionPeer::Address),
        age_seconds: permit.age().as_secs(),
        delivered,
        dropped,
        waiting_bytes: listener.queued_bytes(),
    }
}
