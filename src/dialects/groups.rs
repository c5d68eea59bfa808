//! What a connection has to do with Django Channels: the groups that it hears, and its messages for Django.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::access::{GroupGrant, Identity};
use crate::groups::{JoinedHold, PageSender, ShardGroups};
use crate::hub::{Addition, JoinError, Listener, Replay, Subscription};
use crate::shard::state::ShardState;
use crate::wire::{Facility, Topic};

/// Time before joining is tried again after the layer's server was lost or has refused.
const RETRY: Duration = Duration::from_secs(5);

/// What a connection has to do with Django Channels; most have nothing.
pub(super) struct LayerClient {
    groups: Option<ClientGroups>,
    /// Who it is for Django, if Django gets its messages.
    sender: Option<PageSender>,
}

/// The groups that a connection hears.
struct ClientGroups {
    subscription: Subscription,
    grant: GroupGrant,
    /// The facility that messages name; none for plain clients.
    labelled: Option<Facility>,
    /// Follows the groups that Django joins its user to.
    joined: Option<JoinedHold>,
    /// The task that joins more groups.
    addition: Option<AbortOnDropHandle<()>>,
}

/// The groups of a connection before it is open; their messages are held.
pub(super) struct JoiningGroups {
    groups: ClientGroups,
    joined_names: Rc<[Box<str>]>,
    values: Vec<Option<Bytes>>,
}

/// Joins the groups of a grant, and waits until the layer's servers have confirmed them. `None` if there are none. Messages of
/// version 2 are `labelled` with their facility. `replaced` delivers until the new ones are held.
///
/// # Errors
///
/// When a server is lost or refuses, or when too many messages arrive meanwhile.
pub(super) async fn join_groups(
    state: &ShardState,
    grant: &GroupGrant,
    identity: &Identity,
    labelled: Option<&Facility>,
    replaced: &Cell<Option<Box<LayerClient>>>,
) -> Result<Option<JoiningGroups>, JoinError> {
    let Some(groups) = state.groups.as_ref().filter(|_| !grant.is_empty()) else { return Ok(None) };
    let joined = hold(groups, grant, identity.user_id.as_ref());
    if let Some(joined) = &joined {
        joined.read().await;
    }
    let joined_names = joined.as_ref().map(JoinedHold::names).unwrap_or_default();
    let topics = grant.topics(state.policy.get().group_names(), &joined_names, labelled);
    let subscription = groups.hub.join(&topics);
    drop(replaced.take());
    let values = read_joined(&subscription, groups, &topics).await?;
    let (grant, labelled) = (grant.clone(), labelled.cloned());
    let groups = ClientGroups { subscription, grant, labelled, joined, addition: None };
    Ok(Some(JoiningGroups { groups, joined_names, values }))
}

fn hold(groups: &ShardGroups, grant: &GroupGrant, user_id: Option<&Arc<str>>) -> Option<JoinedHold> {
    let id = user_id.filter(|_| grant.has_joined())?;
    Some(groups.joined.hold(id))
}

/// Waits until the servers have confirmed a subscription, and reads the kept messages of its groups. Safe to cancel.
async fn read_joined(
    subscription: &Subscription,
    groups: &ShardGroups,
    topics: &[Topic],
) -> Result<Vec<Option<Bytes>>, JoinError> {
    subscription.joined().await?;
    groups.kept(topics).await.map_err(|_| JoinError::Lost)
}

impl JoiningGroups {
    /// Returns the kept messages.
    pub(super) fn values(&self) -> &[Option<Bytes>] {
        &self.values
    }

    /// Returns whether messages were lost since the groups were joined.
    pub(super) fn has_lost(&self) -> bool {
        !matches!(self.groups.subscription.is_stale(), Ok(false))
    }
}

impl LayerClient {
    /// Sends the kept messages and what was held, and goes live. Returns `None` for a connection that has nothing to do with
    /// Channels.
    pub(super) fn open(
        state: &ShardState,
        joining: Option<JoiningGroups>,
        facility: &Facility,
        identity: &Identity,
        listener: &Rc<Listener>,
    ) -> Option<Box<Self>> {
        let publisher = state.groups.as_ref()?.publisher.as_ref();
        let sender = publisher.and_then(|publisher| publisher.sender(facility, identity));
        let groups = joining.map(|JoiningGroups { groups, joined_names, values }| {
            if groups.labelled.is_some() {
                groups.subscription.open_part(listener, &Replay::new(&values, &[], &[]));
            } else {
                groups.subscription.open(listener, &values);
            }
            if let Some(joined) = &groups.joined {
                joined.attach(listener, &joined_names);
            }
            groups
        });
        (groups.is_some() || sender.is_some()).then(|| Box::new(Self { groups, sender }))
    }

    /// Returns whether it hears groups, or can get some.
    pub(super) fn hears_groups(&self) -> bool {
        self.groups.is_some()
    }

    /// Returns whether the messages of all groups that it has joined are delivered as they arrive.
    pub(super) fn is_live(&self) -> bool {
        self.groups.as_ref().is_none_or(|groups| groups.subscription.is_live())
    }

    /// Queues a message of the connection for Django, if a rule says so.
    pub(super) fn publish(&self, state: &ShardState, message: &[u8]) {
        let publisher = state.groups.as_ref().and_then(|groups| groups.publisher.as_ref());
        if let Some((publisher, sender)) = publisher.zip(self.sender.as_ref()) {
            publisher.publish(sender, message);
        }
    }
}

/// Queues the message of a request for Django, if a rule says so.
pub(super) fn publish_once(state: &ShardState, facility: &Facility, identity: &Identity, message: &[u8]) {
    let publisher = state.groups.as_ref().and_then(|groups| groups.publisher.as_ref());
    if let Some(publisher) = publisher
        && let Some(sender) = publisher.sender(facility, identity)
    {
        publisher.publish(&sender, message);
    }
}

/// Applies a new grant to an open connection: groups that it does not hear any more are left at once, new ones are joined in the
/// background.
pub(super) fn apply_grant(
    own: &mut Option<Box<LayerClient>>,
    grant: &GroupGrant,
    facility: &Facility,
    identity: &Identity,
    listener: &Rc<Listener>,
    state: &Rc<ShardState>,
) {
    let Some(groups) = &state.groups else { return };
    let sender = groups.publisher.as_ref().and_then(|publisher| publisher.sender(facility, identity));
    if grant.is_empty() && sender.is_none() {
        *own = None;
        return;
    }
    let client = own.get_or_insert_with(|| Box::new(LayerClient { groups: None, sender: None }));
    client.sender = sender;
    if grant.is_empty() {
        client.groups = None;
        return;
    }
    let heard = client.groups.get_or_insert_with(|| {
        let subscription = groups.hub.join::<Topic>(&[]);
        subscription.open(listener, &[]);
        let labelled = listener.form.has_objects().then(|| facility.clone());
        ClientGroups { subscription, grant: GroupGrant::default(), labelled, joined: None, addition: None }
    });
    let user_id = identity.user_id.as_ref().filter(|_| grant.has_joined());
    if heard.joined.as_ref().map(JoinedHold::user_id) != user_id {
        heard.joined = hold(groups, grant, user_id);
        if let Some(joined) = &heard.joined {
            joined.attach(listener, &joined.names());
        }
    }
    heard.grant = grant.clone();
    apply_joined(own, listener, state);
}

/// Applies a change of the groups that Django has joined the user of an open connection to.
pub(super) fn apply_joined(
    own: &mut Option<Box<LayerClient>>,
    listener: &Rc<Listener>,
    state: &Rc<ShardState>,
) {
    let Some(heard) = own.as_mut().and_then(|client| client.groups.as_mut()) else { return };
    let joined_names = heard.joined.as_ref().map(JoinedHold::names).unwrap_or_default();
    let topics = heard.grant.topics(state.policy.get().group_names(), &joined_names, heard.labelled.as_ref());
    // Cancelled: the groups that it joins may not be granted any more.
    heard.addition = None;
    let missing = heard.subscription.retain_topics(&topics);
    if !missing.is_empty() {
        let addition = heard.subscription.join_more(&missing);
        let adding = add(addition, missing, state.clone(), listener.clone()).in_current_span();
        heard.addition = Some(AbortOnDropHandle::new(tokio::task::spawn_local(adding)));
    }
}

/// Adds groups to a connection once they are joined. One that cannot be joined with the others is joined alone.
async fn add(addition: Addition, topics: Vec<Topic>, state: Rc<ShardState>, listener: Rc<Listener>) {
    let Some(groups) = &state.groups else { return };
    let mut must_retry = false;
    let mut waiting = vec![(addition, topics)];
    while let Some((addition, topics)) = waiting.pop() {
        let reading = read_joined(addition.joining(), groups, &topics);
        let join_timeout = state.process.settings.server.handshake;
        match timeout(join_timeout, reading).await.unwrap_or(Err(JoinError::Lost)) {
            Ok(values) => addition.merge(&listener, &values),
            Err(_) if topics.len() > 1 => {
                waiting.extend(topics.into_iter().map(|topic| {
                    let topics = vec![topic];
                    (addition.rejoin(&topics), topics)
                }));
            }
            Err(_) => must_retry = true,
        }
    }
    if must_retry {
        sleep(RETRY).await;
        listener.reauthorize();
    }
}
