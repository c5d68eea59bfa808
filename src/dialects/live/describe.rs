//! What the admin listener may show of a connection.

use super::client::LiveClient;
use crate::hub::Listener;
use crate::shard::ask::{ConnectionInfo, ConnectionPeer};
use crate::shard::state::ConnectionPermit;

/// Most bytes of the names of facilities that are shown.
const MAX_FACILITIES_BYTES: usize = 4_096;

/// Describes a connection, without its session key and its cookies.
pub(super) fn describe(
    client: &LiveClient,
    listener: &Listener,
    permit: &ConnectionPermit,
) -> ConnectionInfo {
    let user = client.identity.user.as_ref().or(client.identity.user_id.as_ref()).cloned();
    let mut left = MAX_FACILITIES_BYTES;
    let facilities = client.facilities.iter().map(|facility| facility.name().to_owned());
    // The rest is left out: a page of the listing is bounded.
    let facilities = facilities.take_while(|name| {
        let fits = name.len() < left;
        left = left.saturating_sub(name.len() + 1);
        fits
    });
    let (delivered, dropped) = listener.counts();
    ConnectionInfo {
        id: Some(permit.public_id()),
        dialect: "live",
        form: if listener.form.is_stream() { "event-stream" } else { "websocket" },
        facility: None,
        facilities: Some(facilities.collect()),
        namespaces: None,
        user,
        peer: listener.peer().map_or(ConnectionPeer::Unix, ConnectionPeer::Address),
        age_seconds: permit.age().as_secs(),
        delivered,
        dropped,
        waiting_bytes: listener.queued_bytes(),
    }
}
