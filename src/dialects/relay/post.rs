//! A publication by POST: one message in a request of its own.

use std::rc::Rc;

use bytes::Bytes;
use tokio::time::timeout;

use super::publish::audiences;
use crate::dialects::groups::publish_once;
use crate::dialects::identify::identify;
use crate::http::{HandshakeRequest, Rejection};
use crate::metrics::{Counters, cells};
use crate::redis::{PublishAcks, PublishError};
use crate::shard::state::ShardState;
use crate::wire::Channel;

/// Publishes the message of a request, and waits until Redis has acknowledged it.
///
/// # Errors
///
/// When the visitor may not publish or publishes too fast, or when Redis fails.
pub async fn post(state: &ShardState, request: HandshakeRequest, message: Bytes) -> Result<(), Rejection> {
    cells(|cells| cells.count_received(message.len()));
    let visitor = identify(state, &request).await?.visitor;
    let grant = state.policy.get().grant(&request.handshake, &visitor.identity, visitor.allowed)?;
    if grant.publish.is_empty() {
        return Err(Rejection::PublishDenied);
    }
    if message.is_empty() || state.sockets.keepalive.is_heartbeat(&message) {
        Counters::count(&state.process.counters.ignored_publications);
        return Ok(());
    }
    let address = request.credentials.client_address;
    let rate_limit = state.visitors.rate_limits.limit(&visitor.identity, address, grant.rate);
    if rate_limit.is_some_and(|bucket| !bucket.take(message.len())) {
        return Err(Rejection::TooFast);
    }
    publish_once(state, &request.handshake.facility, &visitor.identity, &message);
    let acks = Rc::<PublishAcks>::default();
    acks.issue(message.len());
    let channels: Rc<[Channel]> = grant.publish.into();
    let history = state.process.settings.history.limits_of(&request.handshake.facility);
    state.store.publish(channels.clone(), message.clone(), history, acks.clone());
    match timeout(state.publish_timeout, acks.settled()).await {
        Ok(Ok(())) => {
            let facility = &request.handshake.facility;
            let audiences = || audiences(state, &channels, facility);
            state.events.posted(facility, visitor.identity.user.as_deref(), audiences, &message);
            Ok(())
        }
        Ok(Err(PublishError::Waited)) => Err(Rejection::NoRedis),
        Ok(Err(PublishError::Lost)) | Err(_) => Err(Rejection::Lost),
    }
}
