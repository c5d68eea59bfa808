//! What the admin listener may show of a connection.

use super::client::RelayClient;
use crate::hub::Listener;
use crate::shard::ask::{ConnectionInfo, ConnectionPeer};
use crate::shard::state::ConnectionPermit;

/// Longest facility that is shown, in bytes: a page of the listing is bounded.
const MAX_FACILITY_BYTES: usize = 1_024;

/// Describes a connection, without its session key and its cookies.
pub(super) fn describe(
    client: &RelayClient,
    listener: &Listener,
    permit: &ConnectionPermit,
) -> ConnectionInfo {
    let facility = client.handshake.facility.as_str();
    let user = client.share.as_ref().and_then(|share| {
        let visitor = share.visitor();
        visitor.identity.user.as_ref().or(visitor.identity.user_id.as_ref()).cloned()
    });
    let (delivered, dropped) = listener.counts();
    ConnectionInfo {
        id: Some(permit.public_id()),
        dialect: "relay",
        form: if listener.form.is_stream() { "event-stream" } else { "websocket" },
        facility: Some(facility[..facility.floor_char_boundary(MAX_FACILITY_BYTES)].to_owned()),
        facilities: None,
        namespaces: None,
        user,
        peer: listener.peer().map_or(ConnectionPeer::Unix, ConnectionPeer::Address),
        age_seconds: permit.age().as_secs(),
        delivered,
        dropped,
        waiting_bytes: listener.queued_bytes(),
    }
}
