//! Applies a changed visitor to the subscriptions of a connection.

use std::rc::Rc;

use tokio::task::spawn_local;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::client::{LiveClient, refuse, send};
use super::refusal::RequestRefusal;
use super::subscribe::{reply, start_join};
use super::verdict::Verdict;
use crate::access::{Denied, Grant};
use crate::dialects::relay::{EchoTopics, add_channels, shared};
use crate::hub::Listener;
use crate::shard::state::ShardState;
use crate::visitors::Visitor;
use crate::wire::live::user;

/// Computes the grants of all facilities again: channels that are not granted any more are left at once, new ones are
/// joined in the background. Returns whether the client was told of another identity.
pub(super) fn reauthorize(client: &mut LiveClient, listener: &Rc<Listener>, state: &Rc<ShardState>) -> bool {
    let visitor = client.visitor();
    let is_other = visitor.identity != client.identity;
    if is_other {
        client.identity = visitor.identity.clone();
        send(listener, state, &user(client.identity.user.as_deref()));
    }
    let is_doubtful = client.share.as_ref().is_some_and(|share| share.is_doubtful());
    let mut position = 0;
    while position < client.facilities.len() {
        let own = client.facilities[position].own.as_ref();
        let is_doubtful = is_doubtful || own.is_some_and(|own| own.is_doubtful());
        let visitor = own.map_or_else(|| visitor.clone(), |own| own.visitor().clone());
        let handshake = &client.facilities[position].handshake;
        match state.policy.grant(handshake, &visitor.identity, visitor.allowed) {
            // Its outcome would be that of the earlier identity.
            _ if !client.facilities[position].is_open => restart_join(client, position, listener, state),
            Ok(grant) => apply_grant(client, position, grant, &visitor, listener, state),
            // The session is about to end the connection, with a close code that has the reason.
            Err(Denied) if is_doubtful => {
                apply_grant(client, position, Grant::default(), &visitor, listener, state);
            }
            Err(Denied) => {
                let facility = client.remove(position);
                refuse(listener, state, None, Some(facility.name()), RequestRefusal::Denied);
                continue;
            }
        }
        position += 1;
    }
    is_other
}

fn restart_join(client: &mut LiveClient, position: usize, listener: &Rc<Listener>, state: &Rc<ShardState>) {
    client.last_join += 1;
    let mut facility = client.facilities.remove(position);
    facility.join = client.last_join;
    start_join(client, &mut facility, listener, state);
    client.facilities.insert(position, facility);
}

fn apply_grant(
    client: &mut LiveClient,
    position: usize,
    grant: Grant,
    visitor: &Visitor,
    listener: &Rc<Listener>,
    state: &Rc<ShardState>,
) {
    let LiveClient { facilities, subscription, client_address, .. } = client;
    let facility = &mut facilities[position];
    if let Some(announced) = &mut facility.announced {
        announced.set_user(visitor.identity.user.as_ref());
    }
    facility.rate_limit = state.visitors.rate_limits.limit(&visitor.identity, *client_address, grant.rate);
    // Cancelled: the channels that it joins may not be granted any more.
    facility.joining = None;
    let left: Vec<_> =
        facility.subscribes.iter().filter(|channel| !grant.subscribe.contains(channel)).cloned().collect();
    subscription.leave_topics(&left);
    let missing = subscription.missing(&grant.subscribe);
    let addition = (!missing.is_empty()).then(|| subscription.join_more(&missing));
    facility.echo_topics = EchoTopics::new(&grant, subscription, addition.as_ref());
    facility.joining = addition.map(|addition| {
        let adding = add_channels(addition, missing, state.clone(), listener.clone()).in_current_span();
        AbortOnDropHandle::new(spawn_local(adding))
    });
    let verdict = Verdict::new(&state.process.settings.namespace, &facility.handshake, &grant);
    facility.subscribes = grant.subscribe;
    facility.publishes = shared(grant.publish);
    if verdict != facility.verdict {
        facility.verdict = verdict;
        send(listener, state, &reply(facility).encode());
    }
}
