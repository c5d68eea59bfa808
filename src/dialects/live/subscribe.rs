//! Subscriptions to facilities: each joins its channels in a task, and is applied when they are joined.

use std::rc::Rc;

use bytes::Bytes;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::client::{LiveClient, refuse, send};
use super::facility::LiveFacility;
use super::refusal::RequestRefusal;
use super::verdict::Verdict;
use crate::access::{Credentials, Grant};
use crate::dialects::relay::{EchoTopics, read_joined, shared};
use crate::hub::{Listener, Subscription};
use crate::shard::state::ShardState;
use crate::visitors::watch::PartialHold;
use crate::visitors::{AuthSource, Visitor};
use crate::wire::Handshake;
use crate::wire::live::SubscribedReply;

/// The end of a join.
pub(super) struct JoinReport {
    join: u64,
    outcome: Result<JoinedFacility, RequestRefusal>,
}

/// A facility whose channels are joined; their messages are held.
pub(super) struct JoinedFacility {
    pub(super) grant: Grant,
    pub(super) subscription: Subscription,
    pub(super) persisted: Vec<Option<Bytes>>,
    /// The visitor, and when it was read, if the callback has answered for this facility.
    pub(super) own: Option<(Visitor, Instant)>,
}

/// Subscribes to a facility, in place of an earlier subscription to it.
pub(super) fn subscribe(
    client: &mut LiveClient,
    listener: &Rc<Listener>,
    state: &Rc<ShardState>,
    handshake: Handshake,
    request: Option<i64>,
) {
    if let Some(position) = client.position(&handshake.facility) {
        client.remove(position);
    }
    if client.facilities.len() >= state.process.settings.messages.max_facilities {
        let facility = Some(handshake.facility.as_str());
        return refuse(listener, state, request, facility, RequestRefusal::TooMany);
    }
    client.last_join += 1;
    let mut facility = LiveFacility::new(handshake, request, client.last_join);
    start_join(client, &mut facility, listener, state);
    client.facilities.push(facility);
}

/// Starts to join the channels of a facility, as the visitor that the client is now.
pub(super) fn start_join(
    client: &LiveClient,
    facility: &mut LiveFacility,
    listener: &Rc<Listener>,
    state: &Rc<ShardState>,
) {
    let visitor = client.visitor();
    // A token is valid for all facilities; the callback answers for one.
    let is_token = matches!(visitor.auth_source, AuthSource::Token(_));
    let credentials = client.credentials.clone().filter(|_| !is_token);
    let (join, handshake) = (facility.join, facility.handshake.clone());
    let (reports, state, listener) = (client.reports.clone(), state.clone(), listener.clone());
    let joining = async move {
        let outcome = join_facility(&state, &handshake, visitor, credentials.as_deref()).await;
        reports.borrow_mut().push(JoinReport { join, outcome });
        listener.wake();
    };
    facility.joining = Some(AbortOnDropHandle::new(spawn_local(joining.in_current_span())));
}

async fn join_facility(
    state: &Rc<ShardState>,
    handshake: &Handshake,
    visitor: Visitor,
    credentials: Option<&Credentials>,
) -> Result<JoinedFacility, RequestRefusal> {
    if !state.redis_up.get() {
        return Err(RequestRefusal::Unavailable);
    }
    let (visitor, own) = match credentials {
        Some(credentials) => {
            let since = Instant::now();
            let visitor = state.visitors.identifier.identify(credentials, handshake).await?;
            (visitor.clone(), Some((visitor, since)))
        }
        None => (visitor, None),
    };
    let grant = state.policy.grant(handshake, &visitor.identity, visitor.allowed)?;
    let subscription = state.hub.join(&grant.subscribe);
    let read = read_joined(&subscription, state, &grant.subscribe);
    let persisted = timeout(state.process.settings.server.handshake, read).await;
    let persisted = persisted.map_err(|_| RequestRefusal::Unavailable)??;
    if !state.hub.with(|hub| hub.check_capacity(&persisted)) {
        return Err(RequestRefusal::Unavailable);
    }
    Ok(JoinedFacility { grant, subscription, persisted, own })
}

/// Applies the joins that have ended.
pub(super) fn apply_reports(client: &mut LiveClient, listener: &Rc<Listener>, state: &Rc<ShardState>) {
    let reports = std::mem::take(&mut *client.reports.borrow_mut());
    for JoinReport { join, outcome } in reports {
        // It was given up, or started again for another identity.
        let Some(position) = client.facilities.iter().position(|known| known.join == join) else { continue };
        match outcome {
            Ok(joined) => open_facility(client, position, joined, listener, state),
            Err(refusal) => {
                let facility = client.remove(position);
                refuse(listener, state, facility.request, Some(facility.name()), refusal);
            }
        }
    }
}

/// Tells the client what it may do in a facility, then delivers its values and what was held, and goes live.
pub(super) fn open_facility(
    client: &mut LiveClient,
    position: usize,
    joined: JoinedFacility,
    listener: &Rc<Listener>,
    state: &Rc<ShardState>,
) {
    let JoinedFacility { grant, subscription, persisted, own } = joined;
    let LiveClient { facilities, subscription: base, identity, client_address, id, .. } = client;
    let Some(facility) = facilities.get_mut(position) else { return };
    facility.joining = None;
    facility.is_open = true;
    facility.owes_gap = !matches!(subscription.is_stale(), Ok(false));
    facility.verdict = Verdict::new(&state.process.settings.namespace, &facility.handshake, &grant);
    send(listener, state, &reply(facility).encode());
    facility.request = None;
    base.adopt(subscription).merge(listener, &persisted);
    facility.echo_topics = EchoTopics::new(&grant, base, None);
    facility.rate_limit = state.visitors.rate_limits.limit(identity, *client_address, grant.rate);
    facility.subscribes = grant.subscribe;
    facility.publishes = shared(grant.publish);
    if state.events.are_enabled() {
        let (name, sid) = (&facility.handshake.facility, || id.to_string());
        facility.announced = state.events.connect_facility(name, sid, identity.user.clone());
    }
    facility.own = own.and_then(|(visitor, since)| {
        let share = state.visitors.leases.add(visitor, since, listener, None)?;
        Some(PartialHold::new(share, listener))
    });
}

/// Returns what a client is told about its subscription.
pub(super) fn reply(facility: &LiveFacility) -> SubscribedReply<'_> {
    SubscribedReply {
        facility: facility.name(),
        request: facility.request,
        granted: facility.verdict.granted.clone(),
        refused: facility.verdict.refused.clone(),
        recovered: None,
    }
}
