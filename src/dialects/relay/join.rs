//! Joins channels: subscribes, holds what arrives, and reads their persisted values once Redis has acknowledged.

use std::cell::Cell;

use bytes::Bytes;
use tokio::time::timeout;

use crate::access::GroupGrant;
use crate::dialects::groups::{JoiningGroups, join_groups};
use crate::dialects::identify::{Identified, no_redis, refresh};
use crate::http::Rejection;
use crate::hub::{JoinError, Subscription};
use crate::shard::state::ShardState;
use crate::visitors::Visitor;
use crate::visitors::watch::Watch;
use crate::wire::{Channel, Facility};

/// Channels that are being joined; their messages are held.
pub(in crate::dialects) struct Joining {
    pub(in crate::dialects) subscription: Subscription,
    /// The subscription to the events of the visitor's session, if Redis sends them.
    pub(in crate::dialects) watch: Option<Watch>,
}

/// Values read after Redis had acknowledged the subscriptions.
pub(in crate::dialects) struct ReadValues {
    pub(in crate::dialects) persisted: Vec<Option<Bytes>>,
    /// The groups of Django Channels; none for most clients.
    pub(in crate::dialects) groups: Option<JoiningGroups>,
    /// The visitor, unless another connection of its session was already watching it.
    pub(in crate::dialects) refreshed: Option<Identified>,
}

/// Subscribes to channels, and to the events of the visitor's session.
pub(in crate::dialects) fn join(state: &ShardState, channels: &[Channel], visitor: &Visitor) -> Joining {
    Joining { subscription: state.hub.join(channels), watch: state.visitors.leases.watch(visitor) }
}

impl Joining {
    /// Waits until Redis has acknowledged the subscriptions, joins the groups of the grant, and reads the channels' persisted
    /// values and the visitor. Messages of version 2 are `labelled` with their facility.
    ///
    /// # Errors
    ///
    /// When Redis fails, refuses, or is too slow, or when too many messages arrive meanwhile.
    pub(in crate::dialects) async fn read(
        &self,
        state: &ShardState,
        channels: &[Channel],
        granted: &GroupGrant,
        labelled: Option<&Facility>,
        visitor: &Visitor,
    ) -> Result<ReadValues, Rejection> {
        let persisted = async {
            let persisted = read_joined(&self.subscription, state, channels).await?;
            if granted.is_empty() {
                return Ok((persisted, None));
            }
            // Boxed: it must not enlarge the handshakes of other clients.
            let replaced = Cell::default();
            let joining = join_groups(state, granted, &visitor.identity, labelled, &replaced);
            Ok((persisted, Box::pin(joining).await?))
        };
        let read = async { tokio::try_join!(persisted, refresh(state, self.watch.as_ref(), visitor)) };
        match timeout(state.process.settings.server.handshake, read).await {
            Ok(Ok(((persisted, groups), refreshed))) => Ok(ReadValues { persisted, groups, refreshed }),
            Ok(Err(Rejection::NoRedis)) => Err(no_redis(state, "Redis was lost meanwhile")),
            Ok(Err(rejection)) => Err(rejection),
            Err(_) => Err(no_redis(state, "Redis did not answer within server.handshake_seconds")),
        }
    }
}

/// Waits until Redis has acknowledged a subscription, and reads the persisted values of its channels. Safe to cancel.
///
/// # Errors
///
/// When it cannot join.
pub(in crate::dialects) async fn read_joined(
    subscription: &Subscription,
    state: &ShardState,
    channels: &[Channel],
) -> Result<Vec<Option<Bytes>>, JoinError> {
    loop {
        subscription.joined().await?;
        subscription.begin_reading();
        let persisted = state.store.persisted(channels).await;
        // Messages that were lost while the values were read may be missing in them.
        if !subscription.is_stale()? {
            return persisted.map_err(|_| JoinError::Lost);
        }
    }
}

impl From<JoinError> for Rejection {
    fn from(failure: JoinError) -> Self {
        match failure {
            JoinError::Lost => Self::NoRedis,
            JoinError::Refused => Self::Unsubscribable,
            JoinError::Overflow => Self::Overflow,
        }
    }
}
