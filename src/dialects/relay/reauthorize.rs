//! Applies a changed visitor to an open connection: leaves channels that are not granted any more, joins new ones.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::client::{RelayClient, shared};
use super::echo::EchoTopics;
use super::join::read_joined;
use crate::access::{ClientAddress, Grant};
use crate::dialects::groups::apply_grant;
use crate::hub::{Addition, JoinError, Listener};
use crate::shard::state::ShardState;
use crate::socket::Close;
use crate::visitors::Visitor;
use crate::visitors::watch::LeaseHold;
use crate::wire::Channel;

/// Time before joining is retried after Redis was lost or too many messages arrived.
const RETRY: Duration = Duration::from_secs(1);

/// Time before joining is retried after Redis has refused a channel: its ACL rarely changes.
const REFUSED_RETRY: Duration = Duration::from_mins(1);

/// Computes the grant again and applies it: channels that are not granted any more are left at once, new ones are joined
/// in the background. Returns why the connection has to end, if it has to.
pub(super) fn reauthorize(
    client: &mut RelayClient,
    listener: &Rc<Listener>,
    state: &Rc<ShardState>,
) -> Option<Close> {
    // One without a share is anonymous and stays so, but what it may do can change.
    let visitor = client.share.as_ref().map_or_else(Visitor::default, |share| share.visitor().clone());
    let is_doubtful = client.share.as_ref().is_some_and(LeaseHold::is_doubtful);
    if let Some(announced) = &mut client.announced {
        announced.set_user(visitor.identity.user.as_ref());
    }
    let grant = match state.policy.get().grant(&client.handshake, &visitor.identity, visitor.allowed) {
        Ok(grant) => grant,
        // The session is about to end the connection, with a close code that has the reason.
        Err(_) if is_doubtful => Grant::default(),
        Err(_) => return Some(Close::Denied),
    };
    let is_anonymous = visitor.identity.is_anonymous();
    // A visitor that stays anonymous keeps its bucket, which may be that of its address: the address is not known here.
    let known_rate = client.rate_limit.as_ref().map(|bucket| bucket.rate()).unwrap_or_default();
    if !(is_anonymous && client.limited_as_anonymous && known_rate == grant.rate) {
        client.rate_limit =
            state.visitors.rate_limits.limit(&visitor.identity, ClientAddress::Local, grant.rate);
        client.limited_as_anonymous = is_anonymous;
    }
    let facility = &client.handshake.facility;
    apply_grant(&mut client.layer, &grant.groups, facility, &visitor.identity, listener, state);
    // Cancelled: the channels that it joins may not be granted any more.
    client.addition = None;
    let missing = client.subscription.retain_topics(&grant.subscribe);
    let addition = (!missing.is_empty()).then(|| client.subscription.join_more(&missing));
    client.echo_topics = EchoTopics::new(&grant, &client.subscription, addition.as_ref());
    client.channels = shared(grant.publish);
    client.addition = addition.map(|addition| {
        let adding = add(addition, missing, state.clone(), listener.clone()).in_current_span();
        AbortOnDropHandle::new(tokio::task::spawn_local(adding))
    });
    None
}

/// Adds channels to a connection once they are joined. If they cannot be joined together, each is joined alone, so that
/// one that Redis refuses, or that is flooded, does not keep the others away.
async fn add(addition: Addition, channels: Vec<Channel>, state: Rc<ShardState>, listener: Rc<Listener>) {
    let mut retry = None;
    let mut waiting = vec![(addition, channels)];
    while let Some((addition, channels)) = waiting.pop() {
        let reading = read_joined(addition.joining(), &state, &channels);
        let join_timeout = state.process.settings.server.handshake;
        match timeout(join_timeout, reading).await.unwrap_or(Err(JoinError::Lost)) {
            Ok(persisted) => addition.merge(&listener, &persisted),
            Err(JoinError::Refused | JoinError::Overflow) if channels.len() > 1 => {
                waiting.extend(channels.into_iter().map(|channel| {
                    let channels = vec![channel];
                    (addition.rejoin(&channels), channels)
                }));
            }
            // The broker logs the refusal.
            Err(JoinError::Refused) => retry = retry.or(Some(REFUSED_RETRY)),
            Err(JoinError::Lost | JoinError::Overflow) => retry = Some(RETRY),
        }
    }
    if let Some(retry) = retry {
        sleep(retry).await;
        listener.reauthorize();
    }
}
