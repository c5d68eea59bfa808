//! Channels that a changed visitor is granted in an open facility: the client is told of them once they are joined.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};

use super::client::LiveClient;
use super::facility::LiveFacility;
use super::history::audience_in_messages;
use super::reading::starts_behind;
use super::subscribe::{JoinReport, reply, send_subscribed};
use super::verdict::Verdict;
use crate::access::Grant;
use crate::dialects::relay::read_joined;
use crate::hub::{Addition, JoinError, Listener};
use crate::shard::state::ShardState;
use crate::wire::live::SubscribedReply;
use crate::wire::{Channel, EntryId, Facility};

/// Time before joining is tried again after Redis was lost or too many messages arrived.
const RETRY: Duration = Duration::from_secs(1);

/// Time before joining is tried again after Redis has refused a channel: its ACL rarely changes.
const REFUSED_RETRY: Duration = Duration::from_mins(1);

/// Channels that were joined, and are not a part of the subscription yet.
pub(super) struct AddedChannels {
    addition: Addition,
    channels: Vec<Channel>,
    persisted: Vec<Option<Bytes>>,
    /// From where each channel of version 2 continues.
    starts: Vec<(Channel, EntryId)>,
}

/// The task that adds channels to a subscription.
pub(super) struct Adding {
    pub(super) facility: Facility,
    pub(super) join: u64,
    pub(super) reports: Rc<RefCell<Vec<JoinReport>>>,
    pub(super) state: Rc<ShardState>,
    pub(super) listener: Rc<Listener>,
}

impl Adding {
    /// Waits until channels are joined, and reports them. If they cannot be joined together, each is joined alone, so that
    /// one that Redis refuses, or that is flooded, does not keep the others away.
    pub(super) async fn run(self, addition: Addition, channels: Vec<Channel>) {
        let mut retry = None;
        let mut waiting = vec![(addition, channels)];
        while let Some((addition, channels)) = waiting.pop() {
            let reading = self.read(&addition, &channels);
            let within = self.state.process.settings.server.handshake;
            match timeout(within, reading).await.unwrap_or(Err(JoinError::Lost)) {
                Ok((begun, persisted, starts)) => {
                    let addition = begun.unwrap_or(addition);
                    let added = AddedChannels { addition, channels, persisted, starts };
                    self.reports.borrow_mut().push(JoinReport::added(self.join, added));
                    self.listener.wake();
                }
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
            self.listener.reauthorize();
        }
    }

    async fn read(
        &self,
        addition: &Addition,
        channels: &[Channel],
    ) -> Result<(Option<Addition>, Vec<Option<Bytes>>, Vec<(Channel, EntryId)>), JoinError> {
        let since = Instant::now();
        let limits = self.state.process.settings.history.limits_of(&self.facility);
        // With a history it begins only now: as `FacilityReading::subscribed`.
        let begun = match limits {
            Some(_) => {
                addition.joining().joined().await?;
                Some(addition.rejoin(channels))
            }
            None => None,
        };
        let joining = begun.as_ref().unwrap_or(addition).joining();
        let persisted = read_joined(joining, &self.state, channels).await?;
        let starts = starts_behind(&self.state, &self.facility, channels, since).await;
        Ok((begun, persisted, starts.map_err(|_| JoinError::Lost)?))
    }
}

/// Tells the client of channels that were joined, then delivers their values and what was held, and goes live in them.
pub(super) fn add_joined(
    client: &mut LiveClient,
    position: usize,
    added: AddedChannels,
    listener: &Rc<Listener>,
    state: &Rc<ShardState>,
) {
    let Some(facility) = client.facilities.get_mut(position) else { return };
    let AddedChannels { addition, channels, persisted, starts } = added;
    let publish = facility.publishes.as_ref().map(|channels| channels.to_vec()).unwrap_or_default();
    let granted = Grant { subscribe: facility.subscribes.clone(), publish, ..Grant::default() };
    let verdict = verdict_meanwhile(state, facility, &granted, facility.verdict.has_presence(), &channels);
    let (settings, name) = (&state.process.settings, &facility.handshake.facility);
    let names = settings.history_names();
    let ids = starts.iter().filter_map(|(live, id)| {
        let plain = names.plain_of_live(live.as_str())?;
        let audience = settings.namespace.audience_of(&plain, name);
        Some((audience_in_messages(audience).to_owned(), *id))
    });
    let ids: Vec<_> = ids.collect();
    facility.read_to.retain(|(known, _)| !starts.iter().any(|(live, _)| live == known));
    facility.read_to.extend(starts);
    if verdict != facility.verdict || !ids.is_empty() {
        facility.verdict = verdict;
        send_subscribed(listener, state, &SubscribedReply { ids, ..reply(facility) });
    }
    // Where no memory was left for what arrived meanwhile, it was dropped.
    facility.owes_gap |= !matches!(addition.joining().is_stale(), Ok(false));
    addition.merge(listener, &persisted);
}

/// Returns the verdict about a facility as far as it has joined its channels, and more of them: what it has been told stays,
/// unless it is not granted any more.
pub(super) fn verdict_meanwhile(
    state: &ShardState,
    facility: &LiveFacility,
    grant: &Grant,
    has_presence: bool,
    more: &[Channel],
) -> Verdict {
    let settings = &state.process.settings;
    let names = settings.history_names();
    let missing = facility.subscription.as_ref().map(|subscription| subscription.missing(&grant.subscribe));
    let missing = missing.unwrap_or_default();
    let is_joined = |channel: &&Channel| !missing.contains(channel) || more.contains(channel);
    let is_plain = |channel: &&Channel| names.plain_of_live(channel.as_str()).is_none();
    let verdict = |subscribe: Vec<Channel>| {
        let grant = Grant { subscribe, publish: grant.publish.clone(), ..Grant::default() };
        Verdict::new(&settings.namespace, &facility.handshake, &grant, has_presence)
    };
    let whole = verdict(grant.subscribe.iter().filter(is_plain).cloned().collect());
    let joined = verdict(grant.subscribe.iter().filter(is_plain).filter(is_joined).cloned().collect());
    let told = &facility.verdict.granted;
    whole.restrict(|flag| joined.granted.contains(flag) || told.contains(flag))
}
