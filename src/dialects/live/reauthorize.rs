//! Applies a changed visitor to the subscriptions of a connection.

use std::rc::Rc;

use tokio::task::spawn_local;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::additions::{Adding, verdict_meanwhile};
use super::client::{LiveClient, refuse, send};
use super::presence::{attend, is_told, take_place};
use super::reading::live_channels;
use super::refusal::RequestRefusal;
use super::subscribe::{echo_topics, reply, start_join};
use crate::access::{Denied, Grant, GroupGrant};
use crate::dialects::groups::apply_grant as apply_group_grant;
use crate::dialects::relay::shared;
use crate::events::DisconnectReason;
use crate::hub::{Ending, Listener};
use crate::shard::state::ShardState;
use crate::visitors::watch::{LeaseEnd, PartialHold};
use crate::visitors::{AuthSource, Visitor};
use crate::wire::Channel;
use crate::wire::live::user;

/// Computes the grants of all facilities again: channels that are not granted any more are left at once, new ones are
/// joined in the background, and the client is told of them then. Returns whether the client was told of another identity.
pub(super) fn reauthorize(client: &mut LiveClient, listener: &Rc<Listener>, state: &Rc<ShardState>) -> bool {
    if apply_ends(client, listener, state) {
        listener.end(Ending::SessionEnded);
        return false;
    }
    let visitor = client.visitor();
    let is_other = visitor.identity != client.identity;
    if is_other {
        client.identity = visitor.identity.clone();
        send(listener, state, &user(client.identity.user.as_deref()));
    }
    let is_doubtful = client.share.as_ref().is_some_and(PartialHold::is_doubtful);
    // The callback may allow something else to the same visitor.
    let has_same_grants = !is_other && client.credentials.is_none();
    let mut position = 0;
    while position < client.facilities.len() {
        let own = client.facilities[position].own.as_ref();
        let is_doubtful = is_doubtful || own.is_some_and(PartialHold::is_doubtful);
        let visitor = own.map_or_else(|| visitor.clone(), |own| own.visitor().clone());
        let facility = &mut client.facilities[position];
        let granted = state.policy.get().grant(&facility.handshake, &visitor.identity, visitor.allowed);
        // Otherwise its join applies them.
        if facility.is_open {
            let groups =
                granted.as_ref().map_or_else(|_| GroupGrant::default(), |grant| grant.groups.clone());
            let (layer, name) = (&mut facility.layer, &facility.handshake.facility);
            apply_group_grant(layer, &groups, name, &visitor.identity, listener, state);
        }
        match granted {
            // Its join has the same outcome, or is authorized again once it is open.
            Ok(grant) if has_same_grants && client.facilities[position].is_joining() => {
                restrict(client, position, Some(grant), state);
            }
            // Its outcome would be that of the earlier identity.
            granted if client.facilities[position].subscription.is_none() => {
                restrict(client, position, granted.ok(), state);
                start_join(client, position, listener, state);
            }
            // Without channels it is not open in the hub.
            Ok(grant) if client.facilities[position].subscribes.is_empty() && !grant.subscribe.is_empty() => {
                start_join(client, position, listener, state);
            }
            Ok(grant) => apply_grant(client, position, grant, &visitor, listener, state),
            // The session is about to end the connection, with a close code that has the reason.
            Err(Denied) if is_doubtful => {
                apply_grant(client, position, Grant::default(), &visitor, listener, state);
            }
            Err(Denied) => {
                let facility = client.leave(position, DisconnectReason::SessionEnded);
                refuse(listener, state, None, Some(facility.name()), RequestRefusal::Denied);
                continue;
            }
        }
        position += 1;
    }
    attend(client, state);
    is_other
}

/// Applies the ends of leases: one that the callback has given for a facility ends that facility alone. Returns whether the
/// connection has to end.
fn apply_ends(client: &mut LiveClient, listener: &Rc<Listener>, state: &Rc<ShardState>) -> bool {
    let mut position = 0;
    while let Some(facility) = client.facilities.get_mut(position) {
        match facility.own.as_ref().and_then(PartialHold::ended) {
            Some(LeaseEnd::Refused) => {
                let facility = client.leave(position, DisconnectReason::SessionEnded);
                refuse(listener, state, None, Some(facility.name()), RequestRefusal::Denied);
                continue;
            }
            // The callback may allow it to another visitor.
            Some(LeaseEnd::Gone | LeaseEnd::Unanswered) => {
                (facility.own, facility.subscription, facility.owes_gap) = (None, None, true);
                (facility.layer, facility.publishes, facility.place) = (None, None, None);
                start_join(client, position, listener, state);
            }
            None => {}
        }
        position += 1;
    }
    match client.share.as_ref().and_then(PartialHold::ended) {
        // The answer was about the facility of the address. The others have their own.
        Some(LeaseEnd::Refused) => client.facilities.is_empty(),
        end => end.is_some(),
    }
}

/// Takes away at once what a facility is not granted any more, which reads on after a loss, maybe not before Redis is back.
fn restrict(client: &mut LiveClient, position: usize, grant: Option<Grant>, state: &ShardState) {
    let LiveClient { facilities, credentials, client_address, identity, share, .. } = client;
    let facility = &mut facilities[position];
    if !facility.is_open {
        return;
    }
    // The callback has answered for another facility only.
    let is_token =
        share.as_ref().is_some_and(|share| matches!(share.visitor().auth_source, AuthSource::Token(_)));
    let is_known = facility.own.is_some() || credentials.is_none() || is_token;
    let grant = grant.filter(|_| is_known).unwrap_or_default();
    if !is_told(state, facility, &grant) {
        facility.place = None;
    }
    facility.rate_limit = state.visitors.rate_limits.limit(identity, *client_address, grant.rate);
    facility.publishes = shared(grant.publish);
}

fn apply_grant(
    client: &mut LiveClient,
    position: usize,
    grant: Grant,
    visitor: &Visitor,
    listener: &Rc<Listener>,
    state: &Rc<ShardState>,
) {
    let LiveClient { facilities, client_address, last_join, reports, .. } = client;
    let facility = &mut facilities[position];
    let Some(subscription) = facility.subscription.take() else { return };
    if let Some(announced) = &mut facility.announced {
        announced.set_user(visitor.identity.user.as_ref());
    }
    facility.rate_limit = state.visitors.rate_limits.limit(&visitor.identity, *client_address, grant.rate);
    // Cancelled: the channels that it joins may not be granted any more.
    facility.joining = None;
    let live = live_channels(state, &facility.handshake.facility, &grant.subscribe);
    let channels = [&grant.subscribe[..], &live].concat();
    let missing = subscription.retain_topics(&channels);
    let addition = (!missing.is_empty()).then(|| subscription.join_more(&missing));
    facility.echo_topics = echo_topics(state, facility, &grant, &subscription, addition.as_ref());
    facility.subscription =
        Some(if channels.is_empty() { state.hub.join::<Channel>(&[]) } else { subscription });
    facility.joining = addition.map(|addition| {
        *last_join += 1;
        facility.join = *last_join;
        let adding = Adding {
            facility: facility.handshake.facility.clone(),
            join: facility.join,
            reports: reports.clone(),
            state: state.clone(),
            listener: listener.clone(),
        };
        AbortOnDropHandle::new(spawn_local(adding.run(addition, missing).in_current_span()))
    });
    let has_presence = is_told(state, facility, &grant);
    let verdict = verdict_meanwhile(state, facility, &grant, has_presence, &[]);
    facility.subscribes = channels;
    facility.publishes = shared(grant.publish);
    if verdict != facility.verdict {
        facility.verdict = verdict;
        send(listener, state, &reply(facility).encode());
    }
    take_place(facility, has_presence, listener, state);
}
