//! Subscriptions to facilities: each joins its channels in a task, and is applied when they are joined.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::additions::{AddedChannels, add_joined};
use super::client::{LiveClient, refuse, send};
use super::facility::{EarlierParts, LiveFacility};
use super::history::{HistoryRead, ReadPermit};
use super::presence::{attend, is_told, take_place};
use super::reading::{FacilityReading, live_channels};
use super::refusal::RequestRefusal;
use super::resume::Resume;
use super::verdict::Verdict;
use crate::access::{Credentials, Grant, Policy};
use crate::dialects::groups::{JoiningGroups, LayerClient, apply_grant, join_groups};
use crate::dialects::relay::{EchoTopics, shared};
use crate::hub::{Addition, Listener, Replay, Subscription, send_exempt};
use crate::metrics::{ShardCells, cells};
use crate::shard::state::ShardState;
use crate::visitors::watch::{InFlight, PartialHold};
use crate::visitors::{AuthSource, Visitor};
use crate::wire::live::{SubscribedReply, frame_with_id, gap};
use crate::wire::{Channel, EntryId, Handshake};

/// Time before a facility is joined again after a loss of Redis.
const RETRY: Duration = Duration::from_secs(1);

/// The end of a join.
pub(super) struct JoinReport {
    join: u64,
    outcome: JoinEnd,
    /// Invalidations are logged until the lease of this facility exists; none without a callback.
    in_flight: Option<InFlight>,
}

/// What a join has brought.
enum JoinEnd {
    Opened(Box<Result<JoinedFacility, RequestRefusal>>),
    Added(AddedChannels),
}

impl JoinReport {
    /// Reports channels that were joined in addition.
    pub(super) fn added(join: u64, added: AddedChannels) -> Self {
        Self { join, outcome: JoinEnd::Added(added), in_flight: None }
    }
}

/// A facility whose channels are joined; their messages are held.
pub(super) struct JoinedFacility {
    /// What has granted it.
    pub(super) policy: Rc<Policy>,
    pub(super) grant: Grant,
    /// The channels of version 2 of those that keep a history, which it has joined behind those of the grant.
    pub(super) live: Vec<Channel>,
    pub(super) subscription: Subscription,
    pub(super) persisted: Vec<Option<Bytes>>,
    pub(super) history: HistoryRead,
    /// The groups of Django Channels; none if there are none, or if the facility has kept its own.
    pub(super) groups: Option<JoiningGroups>,
    /// Held until the messages are delivered; none if no histories were read.
    pub(super) permit: Option<ReadPermit>,
    /// The visitor, and when it was read, if the callback has answered for this facility.
    pub(super) own: Option<(Visitor, Instant)>,
}

impl JoinedFacility {
    /// Returns whether messages may have been lost since it has joined. One without channels to listen to can lose nothing.
    fn is_lost(&self) -> bool {
        !self.grant.subscribe.is_empty() && !matches!(self.subscription.is_stale(), Ok(false))
    }

    /// Returns whether a history has what it has lost. Groups of Django Channels have none.
    fn can_read_on(&self) -> bool {
        !self.live.is_empty() && self.groups.is_none()
    }
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
    if client.facilities.len() >= state.settings.get().messages.max_facilities {
        return Err(RequestRefusal::TooMany);
    }
    client.facilities.push(LiveFacility::new(handshake, resume, request));
    let position = client.facilities.len() - 1;
    if let Some(replaced) = replaced {
        client.facilities[position].replace(replaced);
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
    // An earlier join, and what it was to replace, end here: the visitor may have changed.
    facility.owes_gap |= facility.replaces_open && !facility.is_open && facility.subscription.is_none();
    // One that reads on has not lost its groups.
    let keeps_groups = facility.is_open && facility.layer.is_some();
    let layer = if keeps_groups { None } else { facility.layer.take() };
    // It delivers until the new one holds the messages: none is lost in between.
    facility.earlier.set(facility.subscription.take(), layer);
    let earlier = facility.earlier.clone();
    let (handshake, resume) = (facility.handshake.clone(), facility.resume.clone());
    let has_history = state.process.settings.history.limits_of(&handshake.facility).is_some();
    let reads = || client.reads.get_or_insert_with(|| Arc::new(Semaphore::new(1))).clone();
    let own_reads = (resume.is_some() && has_history).then(reads);
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
                (resume.as_ref(), own_reads.clone()),
                &earlier,
                keeps_groups,
            );
            match joining.await {
                // It was subscribed before the loss, and reads on when Redis is back and there is memory. Others do so, too.
                Err(
                    RequestRefusal::Unavailable | RequestRefusal::Unsubscribable | RequestRefusal::NoMemory,
                ) if matches!(resume, Some(Resume::After(..))) => {
                    sleep(RETRY.mul_f64(rand::random_range(1.0..2.0))).await;
                }
                outcome => break outcome,
            }
        };
        earlier.set(None, None);
        let outcome = JoinEnd::Opened(Box::new(outcome));
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
    (resume, reads): (Option<&Resume>, Option<Arc<Semaphore>>),
    earlier: &EarlierParts,
    keeps_groups: bool,
) -> Result<JoinedFacility, RequestRefusal> {
    if !state.redis_up.get() {
        return Err(RequestRefusal::Unavailable);
    }
    let (visitor, own) = match credentials {
        Some(credentials) => {
            let since = Instant::now();
            let visitor = state.visitors.identifier.get().identify(credentials, handshake).await?;
            (visitor.clone(), Some((visitor, since)))
        }
        None => (visitor, None),
    };
    let policy = state.policy.get();
    let grant = policy.grant(handshake, &visitor.identity, visitor.allowed)?;
    let live = live_channels(state, &handshake.facility, &grant.subscribe);
    // Before the channels are joined: their messages are held meanwhile. However many others resume, each has its turn.
    let permit = match reads {
        Some(reads) => Some(ReadPermit::acquire(state, &grant.subscribe, Some(reads)).await?),
        None => None,
    };
    // A layer that hangs must not keep the turn of others. What was read counts as memory of the outboxes all the same.
    let joins_groups = !keeps_groups && !grant.groups.is_empty();
    let reading = FacilityReading::new(state, &handshake.facility, &grant, resume);
    let read = async {
        let starts = reading.starts().await?;
        let subscribed = reading.subscribed(&live).await?;
        let subscription = state.hub.join(&[&grant.subscribe[..], &live].concat());
        drop((subscribed, earlier.subscription.take()));
        let (persisted, history) = reading.read(&subscription, &starts).await?;
        Ok::<_, RequestRefusal>((subscription, persisted, history))
    };
    let join_timeout = state.process.settings.server.handshake;
    let read = timeout(join_timeout, read).await;
    let (subscription, persisted, history) = read.map_err(|_| RequestRefusal::Unavailable)??;
    let permit = permit.filter(|_| !joins_groups);
    let groups = if joins_groups {
        let labelled = Some(&handshake.facility);
        let joining = join_groups(state, &grant.groups, &visitor.identity, labelled, &earlier.layer);
        // Boxed: it must not enlarge the joins of other facilities.
        let joined = timeout(join_timeout, Box::pin(joining)).await;
        joined.map_err(|_| RequestRefusal::Unavailable)??
    } else {
        None
    };
    if !has_capacity(state, groups.as_ref()) {
        return Err(RequestRefusal::NoMemory);
    }
    Ok(JoinedFacility { policy, grant, live, subscription, persisted, history, groups, permit, own })
}

/// Returns whether the outboxes have capacity for the kept messages of groups.
pub(super) fn has_capacity(state: &ShardState, groups: Option<&JoiningGroups>) -> bool {
    groups.is_none_or(|groups| state.hub.with(|hub| hub.check_capacity(groups.values())))
}

/// Applies the joins that have ended.
pub(super) fn apply_reports(client: &mut LiveClient, listener: &Rc<Listener>, state: &Rc<ShardState>) {
    let reports = std::mem::take(&mut *client.reports.borrow_mut());
    for JoinReport { join, outcome, in_flight } in reports {
        // It was given up, or started again for another identity.
        let Some(position) = client.facilities.iter().position(|known| known.join == join) else { continue };
        // One that reads on waits for Redis.
        let waits =
            |client: &LiveClient| matches!(client.facilities[position].resume, Some(Resume::After(..)));
        let outcome = match outcome {
            JoinEnd::Opened(outcome) => *outcome,
            JoinEnd::Added(added) => {
                add_joined(client, position, added, listener, state);
                continue;
            }
        };
        match outcome {
            // Lost before it was applied: nothing has been said yet, so it is joined again where the history has what was lost.
            Ok(joined)
                if joined.is_lost() && joined.can_read_on() && (waits(client) || state.redis_up.get()) =>
            {
                drop(joined);
                start_join(client, position, listener, state);
            }
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
    let is_lost = joined.is_lost();
    let JoinedFacility { policy, grant, live, subscription, persisted, mut history, groups, permit, own } =
        joined;
    if !state.policy.is_present(&policy) {
        listener.reauthorize();
    }
    let LiveClient { facilities, identity, client_address, id, gap_at, .. } = client;
    let Some(facility) = facilities.get_mut(position) else { return };
    let is_after_loss = matches!(facility.resume.take(), Some(Resume::After(..)));
    if groups.is_some() && (facility.owes_gap || !facility.replaces_open) {
        // Channels keeps no messages: what groups were sent before is lost.
        history.is_complete = history.is_complete.map(|_| false);
    }
    facility.joining = None;
    facility.is_open = true;
    // A history that was read to the end has what was lost between two subscriptions.
    facility.owes_gap &= is_after_loss || history.is_complete != Some(true);
    let has_lost_groups = groups.as_ref().is_some_and(JoiningGroups::has_lost);
    facility.owes_gap |= history.is_complete == Some(false) || is_lost || has_lost_groups;
    let has_presence = is_told(state, facility, &grant);
    let verdict = Verdict::new(&state.process.settings.namespace, &facility.handshake, &grant, has_presence);
    let ids = FacilityReading::new(state, &facility.handshake.facility, &grant, None).ids(&history);
    // From a position that its history does not have any more, each resume would be another gap.
    let is_moved = is_after_loss && history.is_complete == Some(false) && !ids.is_empty();
    if !is_after_loss || is_moved || verdict != facility.verdict {
        facility.verdict = verdict;
        // A client that is cut off before the gap knows of it.
        let recovered = history.is_complete.filter(|_| !is_after_loss || is_moved);
        send_subscribed(listener, state, &SubscribedReply { ids, recovered, ..reply(facility) });
        facility.request = None;
    }
    // Before the messages: a client that is cut off behind some of them continues there, and would never be told.
    let is_layer_live = !has_lost_groups && facility.layer.as_ref().is_none_or(|layer| layer.is_live());
    if facility.owes_gap && is_layer_live && matches!(subscription.is_stale(), Ok(false)) {
        facility.owes_gap = false;
        *gap_at = Some(Instant::now());
        cells(|cells| ShardCells::add(&cells.gaps, 1));
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
    drop(permit);
    let read_to = live.iter().cloned().zip(history.continues);
    facility.read_to = read_to.filter_map(|(channel, id)| Some((channel, id?))).collect();
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
    facility.resume = Some(Resume::After(after, Instant::now()));
    start_join(client, position, listener, state);
}

/// Tells a client about its subscription. The position of a stream is the id of that event, so that an `EventSource` that is
/// cut off before the first message resumes, too.
pub(super) fn send_subscribed(listener: &Listener, state: &ShardState, reply: &SubscribedReply<'_>) {
    if listener.form.is_stream() && !reply.ids.is_empty() {
        let frame = frame_with_id(&reply.encode(), &reply.position());
        return send_exempt(listener, &frame, &state.sockets.limits);
    }
    send(listener, state, &reply.encode());
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
