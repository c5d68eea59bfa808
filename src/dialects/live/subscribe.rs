//! Subscriptions to facilities: each joins its channels in a task, and is applied when they are joined.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::client::{LiveClient, refuse, send};
use super::facility::LiveFacility;
use super::history::{HistoryRead, Resume, audience_in_messages, read_history};
use super::presence::{attend, is_told, take_place};
use super::refusal::RequestRefusal;
use super::verdict::Verdict;
use crate::access::{Credentials, Grant};
use crate::dialects::groups::{JoiningGroups, LayerClient, apply_grant, join_groups};
use crate::dialects::relay::{EchoTopics, read_joined, shared};
use crate::hub::{Addition, Listener, Replay, Subscription};
use crate::shard::state::ShardState;
use crate::visitors::watch::{InFlight, PartialHold};
use crate::visitors::{AuthSource, Visitor};
use crate::wire::live::{SubscribedReply, gap};
use crate::wire::{Channel, EntryId, Facility, Handshake};

/// Time before a facility is joined again after a loss of Redis.
const RETRY: Duration = Duration::from_secs(1);

/// The end of a join.
pub(super) struct JoinReport {
    join: u64,
    outcome: Result<JoinedFacility, RequestRefusal>,
    /// Invalidations are logged until the lease of this facility exists; none without a callback.
    in_flight: Option<InFlight>,
}

/// A facility whose channels are joined; their messages are held.
pub(super) struct JoinedFacility {
    pub(super) grant: Grant,
    /// The channels of version 2 of those that keep a history, which it has joined behind those of the grant.
    pub(super) live: Vec<Channel>,
    pub(super) subscription: Subscription,
    pub(super) persisted: Vec<Option<Bytes>>,
    pub(super) history: HistoryRead,
    /// The groups of Django Channels; none if there are none, or if the facility has kept its own.
    pub(super) groups: Option<JoiningGroups>,
    /// The visitor, and when it was read, if the callback has answered for this facility.
    pub(super) own: Option<(Visitor, Instant)>,
}

/// Subscribes to a facility, in place of an earlier subscription to it.
///
/// # Errors
///
/// When the socket has too many facilities.
pub(super) fn subscribe(
    client: &mut LiveClient,
    listener: &Rc<Listener>,
    state: &Rc<ShardState>,
    (handshake, resume): (Handshake, Option<Resume>),
    request: Option<i64>,
) -> Result<(), RequestRefusal> {
    let replaced = client.position(&handshake.facility).map(|position| client.facilities.remove(position));
    if let Some(earlier) = replaced.as_ref().and_then(|replaced| replaced.request) {
        client.answers.refuse(Some(earlier), None, RequestRefusal::Superseded);
    }
    if client.facilities.len() >= state.process.settings.messages.max_facilities {
        return Err(RequestRefusal::TooMany);
    }
    client.facilities.push(LiveFacility::new(handshake, resume, request));
    let position = client.facilities.len() - 1;
    if let Some(replaced) = replaced.filter(|replaced| replaced.is_open) {
        let facility = &mut client.facilities[position];
        facility.replaces_open = true;
        // One that is about to read on has lost messages.
        let is_whole = replaced.subscription.as_ref().is_some_and(|old| old.last_ids().is_none());
        facility.owes_gap = replaced.owes_gap || !is_whole;
        facility.subscription = replaced.subscription;
        facility.layer = replaced.layer;
        facility.announced = replaced.announced;
    }
    start_join(client, position, listener, state);
    Ok(())
}

/// Starts to join the channels of a facility, as the visitor that the client is now. An earlier join ends.
pub(super) fn start_join(
    client: &mut LiveClient,
    position: usize,
    listener: &Rc<Listener>,
    state: &Rc<ShardState>,
) {
    let visitor = client.visitor();
    // A token is valid for all facilities; the callback answers for one.
    let is_token = matches!(visitor.auth_source, AuthSource::Token(_));
    let credentials = client.credentials.clone().filter(|_| !is_token);
    client.last_join += 1;
    let (join, reports) = (client.last_join, client.reports.clone());
    let facility = &mut client.facilities[position];
    facility.join = join;
    // It delivers until the new one holds the messages: none is lost in between.
    let mut replaced = facility.subscription.take();
    // One that reads on has not lost its groups.
    let keeps_groups = facility.is_open && facility.layer.is_some();
    let mut replaced_groups = if keeps_groups { None } else { facility.layer.take() };
    let (handshake, resume) = (facility.handshake.clone(), facility.resume.clone());
    let (state, listener) = (state.clone(), listener.clone());
    let in_flight = credentials.is_some().then(|| state.visitors.leases.begin());
    let joining = async move {
        let outcome = loop {
            let credentials = credentials.as_deref();
            let joining = join_facility(
                &state,
                &handshake,
                visitor.clone(),
                credentials,
                resume.as_ref(),
                &mut replaced,
                (!keeps_groups).then_some(&mut replaced_groups),
            );
            match joining.await {
                // It was subscribed before the loss, and reads on when Redis is back.
                Err(RequestRefusal::Unavailable | RequestRefusal::Unsubscribable)
                    if matches!(resume, Some(Resume::After(_))) =>
                {
                    sleep(RETRY).await;
                }
                outcome => break outcome,
            }
        };
        reports.borrow_mut().push(JoinReport { join, outcome, in_flight });
        listener.wake();
    };
    facility.joining = Some(AbortOnDropHandle::new(spawn_local(joining.in_current_span())));
}

async fn join_facility(
    state: &Rc<ShardState>,
    handshake: &Handshake,
    visitor: Visitor,
    credentials: Option<&Credentials>,
    resume: Option<&Resume>,
    replaced: &mut Option<Subscription>,
    replaced_groups: Option<&mut Option<Box<LayerClient>>>,
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
    let live = live_channels(state, &handshake.facility, &grant.subscribe);
    let subscription = state.hub.join(&[&grant.subscribe[..], &live].concat());
    *replaced = None;
    let read = read_all(state, &subscription, &handshake.facility, &grant, resume);
    let join_timeout = state.process.settings.server.handshake;
    let read = timeout(join_timeout, read).await;
    let (persisted, history) = read.map_err(|_| RequestRefusal::Unavailable)??;
    let groups = match replaced_groups {
        Some(replaced) if !grant.groups.is_empty() => {
            let labelled = Some(&handshake.facility);
            let joining = join_groups(state, &grant.groups, &visitor.identity, labelled, replaced);
            // Boxed: it must not enlarge the joins of other facilities.
            let joined = timeout(join_timeout, Box::pin(joining)).await;
            joined.map_err(|_| RequestRefusal::Unavailable)??
        }
        _ => None,
    };
    if !has_capacity(state, groups.as_ref()) {
        return Err(RequestRefusal::NoMemory);
    }
    Ok(JoinedFacility { grant, live, subscription, persisted, history, groups, own })
}

/// Returns whether the outboxes have capacity for the kept messages of groups.
pub(super) fn has_capacity(state: &ShardState, groups: Option<&JoiningGroups>) -> bool {
    groups.is_none_or(|groups| state.hub.with(|hub| hub.check_capacity(groups.values())))
}

/// Returns the channels of version 2 of a facility's channels; none if it keeps no history.
pub(super) fn live_channels(state: &ShardState, facility: &Facility, channels: &[Channel]) -> Vec<Channel> {
    let settings = &state.process.settings;
    if settings.history.limits_of(facility).is_none() {
        return Vec::new();
    }
    let names = settings.history_names();
    channels.iter().filter_map(|channel| names.live(channel)).collect()
}

/// Waits until Redis has acknowledged a subscription, and reads the persisted values and the histories of its channels.
///
/// # Errors
///
/// When it cannot join, or there is no memory for what was read.
pub(super) async fn read_all(
    state: &ShardState,
    subscription: &Subscription,
    facility: &Facility,
    grant: &Grant,
    resume: Option<&Resume>,
) -> Result<(Vec<Option<Bytes>>, HistoryRead), RequestRefusal> {
    let settings = &state.process.settings;
    let (mut persisted, history) = loop {
        let persisted = read_joined(subscription, state, &grant.subscribe).await?;
        let Some(limits) = settings.history.limits_of(facility) else {
            let is_complete = resume.and_then(|resume| (!matches!(resume, Resume::Last(_))).then_some(false));
            break (persisted, HistoryRead { is_complete, ..HistoryRead::default() });
        };
        let names = settings.history_names();
        let with_history = grant.subscribe.iter().filter(|channel| names.live(channel).is_some());
        let with_history: Vec<_> = with_history.cloned().collect();
        let history = read_history(state, facility, &with_history, resume, limits).await;
        // Messages that were lost while the histories were read may be missing in them.
        if !subscription.is_stale()? {
            break (persisted, history.map_err(|_| RequestRefusal::Unavailable)?);
        }
    };
    if resume.is_some() && settings.history.limits_of(facility).is_some() {
        // The values are among the messages of the histories.
        persisted.fill(None);
    }
    let messages = history.messages.iter().map(|(_, _, message)| Some(message.clone()));
    let all: Vec<_> = persisted.iter().cloned().chain(messages).collect();
    if !state.hub.with(|hub| hub.check_capacity(&all)) {
        return Err(RequestRefusal::NoMemory);
    }
    Ok((persisted, history))
}

/// Applies the joins that have ended.
pub(super) fn apply_reports(client: &mut LiveClient, listener: &Rc<Listener>, state: &Rc<ShardState>) {
    let reports = std::mem::take(&mut *client.reports.borrow_mut());
    for JoinReport { join, outcome, in_flight } in reports {
        // It was given up, or started again for another identity.
        let Some(position) = client.facilities.iter().position(|known| known.join == join) else { continue };
        match outcome {
            Ok(joined) => open_facility(client, position, joined, listener, state),
            Err(refusal) => {
                let facility = client.leave(position, refusal.reason());
                refuse(listener, state, facility.request, Some(facility.name()), refusal);
            }
        }
        drop(in_flight);
    }
}

/// Tells the client what it may do in a facility, then delivers what was read and what was held, and goes live.
pub(super) fn open_facility(
    client: &mut LiveClient,
    position: usize,
    joined: JoinedFacility,
    listener: &Rc<Listener>,
    state: &Rc<ShardState>,
) {
    let JoinedFacility { grant, live, subscription, persisted, mut history, groups, own } = joined;
    let LiveClient { facilities, identity, client_address, id, gap_at, .. } = client;
    let Some(facility) = facilities.get_mut(position) else { return };
    let is_after_loss = matches!(facility.resume.take(), Some(Resume::After(_)));
    if groups.is_some() && (facility.owes_gap || !facility.replaces_open) {
        // Channels keeps no messages: what groups were sent before is lost.
        history.is_complete = history.is_complete.map(|_| false);
    }
    facility.joining = None;
    facility.is_open = true;
    // A history that was read to the end has what was lost between two subscriptions.
    facility.owes_gap &= is_after_loss || history.is_complete != Some(true);
    facility.owes_gap |= history.is_complete == Some(false) || !matches!(subscription.is_stale(), Ok(false));
    let has_lost_groups = groups.as_ref().is_some_and(JoiningGroups::has_lost);
    facility.owes_gap |= has_lost_groups;
    let has_presence = is_told(state, facility, &grant);
    let verdict = Verdict::new(&state.process.settings.namespace, &facility.handshake, &grant, has_presence);
    if !is_after_loss || verdict != facility.verdict {
        facility.verdict = verdict;
        let recovered = history.is_complete.filter(|_| !is_after_loss);
        // Behind messages that are about to follow, a client that breaks off would continue too late.
        let ids =
            if history.messages.is_empty() { ids_of(state, facility, &grant, &history) } else { Vec::new() };
        send(listener, state, &SubscribedReply { ids, recovered, ..reply(facility) }.encode());
        facility.request = None;
    }
    // Before the messages: a client that is cut off behind some of them continues there, and would never be told.
    let is_layer_live = !has_lost_groups && facility.layer.as_ref().is_none_or(|layer| layer.is_live());
    if facility.owes_gap && is_layer_live && matches!(subscription.is_stale(), Ok(false)) {
        facility.owes_gap = false;
        *gap_at = Some(Instant::now());
        send(listener, state, &gap(facility.name()));
    }
    let first_live = grant.subscribe.len();
    let messages = history.messages.iter();
    let messages: Vec<_> = messages
        .map(|(position, id, message)| {
            (first_live + position, [id.to_string().as_bytes(), b" ", message].concat().into())
        })
        .collect();
    let read_to: Vec<_> = std::iter::repeat_n(None, first_live).chain(history.read_to).collect();
    let replay = Replay::new(&persisted, &messages, &read_to);
    // Without topics it would count as a connection; it gets nothing anyway.
    if !grant.subscribe.is_empty() {
        subscription.open_part(listener, &replay);
    }
    let ids = history.last.into_iter().map(Option::unwrap_or_default);
    facility.read_to = live.iter().cloned().zip(ids).collect();
    facility.echo_topics = echo_topics(state, facility, &grant, &subscription, None);
    // The callback may have answered differently for the address.
    let identity = own.as_ref().map_or(&*identity, |(visitor, _)| &visitor.identity);
    let name = &facility.handshake.facility;
    if facility.layer.is_some() {
        apply_grant(&mut facility.layer, &grant.groups, name, identity, listener, state);
    } else {
        facility.layer = LayerClient::open(state, groups, name, identity, listener);
    }
    facility.rate_limit = state.visitors.rate_limits.limit(identity, *client_address, grant.rate);
    facility.subscribes = [grant.subscribe, live].concat();
    facility.publishes = shared(grant.publish);
    facility.subscription = Some(subscription);
    if let Some(announced) = &mut facility.announced {
        announced.set_user(identity.user.as_ref());
    } else if state.events.are_enabled() {
        let (name, sid) = (&facility.handshake.facility, || id.to_string());
        facility.announced = state.events.connect_facility((name, "live"), sid, identity.user.clone());
    }
    facility.own = own.and_then(|(visitor, since)| {
        let share = state.visitors.leases.add(visitor, since, listener, None)?;
        Some(PartialHold::new(share, listener))
    });
    take_place(facility, has_presence, listener, state);
    attend(client, state);
}

/// Returns the topics in which own messages arrive, those with ids included.
pub(super) fn echo_topics(
    state: &ShardState,
    facility: &LiveFacility,
    grant: &Grant,
    subscription: &Subscription,
    addition: Option<&Addition>,
) -> EchoTopics {
    let live = live_channels(state, &facility.handshake.facility, &grant.publish);
    let publish = [&grant.publish[..], &live].concat();
    let own = Grant { publish, echo: grant.echo, ..Grant::default() };
    EchoTopics::new(&own, subscription, addition)
}

/// Reads on after a loss: leaves the channels, and joins them again behind the last message of each.
pub(super) fn read_on(
    client: &mut LiveClient,
    position: usize,
    ids: Vec<(Channel, Option<EntryId>)>,
    listener: &Rc<Listener>,
    state: &Rc<ShardState>,
) {
    let names = state.process.settings.history_names();
    let facility = &mut client.facilities[position];
    let mut after = Vec::new();
    for (live, last) in ids {
        let Some(plain) = names.plain_of_live(live.as_str()) else { continue };
        let read = facility.read_to.iter().find(|(known, _)| *known == live).map(|(_, id)| *id);
        match last.max(read) {
            Some(id) => after.push((plain, id)),
            // Joined later, without its history, and no message has come since.
            None => facility.owes_gap = true,
        }
    }
    facility.resume = Some(Resume::After(after));
    start_join(client, position, listener, state);
}

/// Returns what a client is told about its subscription.
pub(super) fn reply(facility: &LiveFacility) -> SubscribedReply<'_> {
    SubscribedReply {
        facility: facility.name(),
        request: facility.request,
        granted: facility.verdict.granted.clone(),
        refused: facility.verdict.refused.clone(),
        ids: Vec::new(),
        recovered: None,
    }
}

/// Returns the last id of each audience that has a history, named as in messages.
fn ids_of(
    state: &ShardState,
    facility: &LiveFacility,
    grant: &Grant,
    history: &HistoryRead,
) -> Vec<(String, EntryId)> {
    let (settings, facility) = (&state.process.settings, &facility.handshake.facility);
    let names = settings.history_names();
    let channels = grant.subscribe.iter().filter(|channel| names.live(channel).is_some());
    let ids = channels.zip(&history.last).map(|(channel, last)| {
        let audience = settings.namespace.audience_of(channel, facility);
        (audience_in_messages(audience).to_owned(), last.unwrap_or_default())
    });
    ids.collect()
}
