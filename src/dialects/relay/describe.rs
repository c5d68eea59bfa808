//! What the admin listener may show of a connection.

use super::client::RelayClient;
use crate::dialects::description::{audiences, describe as describe_listener, with_permit};
use crate::hub::Listener;
use crate::shard::ask::ConnectionInfo;
use crate::shard::state::ConnectionPermit;
use crate::wire::{Channel, Topic};

/// Describes a connection, without its session key and its cookies.
pub(super) fn describe(
    client: &RelayClient,
    listener: &Listener,
    permit: &ConnectionPermit,
) -> ConnectionInfo {
    let facility = &client.handshake.facility;
    let identity = client.share.as_ref().map(|share| share.visitor().identity.clone()).unwrap_or_default();
    let channels: Vec<Channel> = client.subscription.topics().iter().filter_map(Topic::channel).collect();
    let namespace = &permit.state().process.settings.namespace;
    let info = ConnectionInfo {
        facility: Some(facility.as_str().to_owned()),
        audiences: Some(audiences(namespace, facility, &channels).map(str::to_owned).collect()),
        ..describe_listener("relay", listener, &identity)
    };
    with_permit(info, listener, permit, client.received)
}
