//! What the admin listener may show of a connection.

use std::collections::BTreeSet;

use super::client::LiveClient;
use crate::dialects::description::{audiences, describe as describe_listener, with_permit};
use crate::hub::Listener;
use crate::shard::ask::ConnectionInfo;
use crate::shard::state::ConnectionPermit;

/// Describes a connection, without its session key and its cookies.
pub(super) fn describe(
    client: &LiveClient,
    listener: &Listener,
    permit: &ConnectionPermit,
) -> ConnectionInfo {
    let namespace = &permit.state().process.settings.namespace;
    let facilities = || client.facilities.iter();
    // Facilities share audiences, so each is copied once.
    let heard: BTreeSet<&str> = facilities()
        .flat_map(|known| audiences(namespace, &known.handshake.facility, &known.subscribes))
        .collect();
    let info = ConnectionInfo {
        facilities: Some(facilities().map(|facility| facility.name().to_owned()).collect()),
        audiences: Some(heard.into_iter().map(str::to_owned).collect()),
        ..describe_listener("live", listener, &client.identity)
    };
    with_permit(info, listener, permit, client.received)
}
