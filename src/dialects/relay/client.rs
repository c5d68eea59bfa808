//! The relay's state of an open connection.

use std::rc::Rc;
use std::sync::Arc;

use tokio_util::task::AbortOnDropHandle;

use super::echo::EchoTopics;
use crate::dialects::groups::LayerClient;
use crate::events::AnnouncedClient;
use crate::hub::Subscription;
use crate::presence::Attendance;
use crate::redis::PublishAcks;
use crate::shard::state::ConnectionPermit;
use crate::visitors::TokenBucket;
use crate::visitors::watch::LeaseHold;
use crate::wire::{Channel, Handshake};

/// The relay's state of an open connection: flags, channels, lease and publications.
pub(super) struct RelayClient {
    pub(super) handshake: Handshake,
    pub(super) subscription: Subscription,
    /// The channels that it publishes to; none if it may not publish.
    pub(super) channels: Option<Rc<[Channel]>>,
    pub(super) echo_topics: EchoTopics,
    /// Its share in the visitor's lease; none if the visitor cannot change.
    pub(super) share: Option<LeaseHold>,
    /// What it counts as for presence; none if it is not counted.
    pub(super) attendance: Option<Box<Attendance>>,
    /// The task that joins more channels.
    pub(super) addition: Option<AbortOnDropHandle<()>>,
    /// What it has to do with Django Channels; none for most clients.
    pub(super) layer: Option<Box<LayerClient>>,
    /// None if publications are not limited.
    pub(super) rate_limit: Option<Arc<TokenBucket>>,
    /// Whether `rate_limit` was chosen for an anonymous visitor, so that it may be that of its address.
    pub(super) limited_as_anonymous: bool,
    /// None if Django is told nothing about it.
    pub(super) announced: Option<Box<AnnouncedClient>>,
    /// None before the first publication.
    pub(super) acks: Option<Rc<PublishAcks>>,
    pub(super) received: u64,
    pub(super) ignored: u32,
    /// Texts that look like a library's heartbeat and are in no setting, at most 255.
    pub(super) heartbeats: u8,
}

impl RelayClient {
    /// Returns the bytes of publications that Redis has not acknowledged.
    pub(super) fn bytes_in_flight(&self) -> usize {
        self.acks.as_ref().map_or(0, |acks| acks.bytes())
    }

    /// Counts it for presence, as the user that it has now.
    pub(super) fn attend(&mut self, permit: &ConnectionPermit) {
        let presence = &permit.state().process.presence;
        if !presence.is_counted() {
            return;
        }
        let user = self.share.as_ref().and_then(|share| share.visitor().identity.user.clone());
        let facility = self.handshake.facility.as_str();
        presence.update(&mut self.attendance, facility, user.as_ref(), || permit.public_id());
    }

    /// Returns whether it may publish, and has done so.
    pub(super) fn publishes(&self) -> bool {
        self.acks.is_some() && self.channels.is_some()
    }
}

/// Returns a client's channels as its publications share them.
pub(in crate::dialects) fn shared(channels: Vec<Channel>) -> Option<Rc<[Channel]>> {
    (!channels.is_empty()).then(|| channels.into())
}
