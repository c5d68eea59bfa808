//! Reads what a facility has had: the persisted values of its channels, and their histories.

use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio::time::Instant;

use super::history::{HistoryRead, HistoryReading, ReadPermit, audience_in_messages};
use super::proof::position_ago;
use super::refusal::RequestRefusal;
use super::resume::Resume;
use crate::access::Grant;
use crate::dialects::relay::read_joined;
use crate::hub::{JoinError, Subscription};
use crate::redis::ReadFailed;
use crate::shard::state::ShardState;
use crate::wire::{Channel, EntryId, Facility};

/// Reads for a subscription to a facility.
#[derive(Clone, Copy)]
pub(super) struct FacilityReading<'a> {
    pub(super) state: &'a ShardState,
    pub(super) facility: &'a Facility,
    /// The channels to which it listens.
    pub(super) channels: &'a [Channel],
    pub(super) resume: Option<&'a Resume>,
}

impl<'a> FacilityReading<'a> {
    pub(super) fn new(
        state: &'a ShardState,
        facility: &'a Facility,
        grant: &'a Grant,
        resume: Option<&'a Resume>,
    ) -> Self {
        Self { state, facility, channels: &grant.subscribe, resume }
    }

    /// Returns the histories to read; none if the facility keeps none.
    fn histories(&self) -> Option<HistoryReading<'a>> {
        let Self { state, facility, resume, .. } = *self;
        let limits = state.process.settings.history.limits_of(facility)?;
        Some(HistoryReading { state, facility, limits, resume })
    }

    /// Returns the channels that have a history, each with its position.
    fn with_history(&self) -> (Vec<usize>, Vec<Channel>) {
        let names = self.state.process.settings.history_names();
        let channels = self.channels.iter().enumerate();
        channels
            .filter(|(_, channel)| names.live(channel).is_some())
            .map(|(index, it)| (index, it.clone()))
            .unzip()
    }

    /// Waits for its turn, and reads from where the client of a handshake continues.
    ///
    /// # Errors
    ///
    /// When Redis is lost.
    pub(super) async fn begin(&self) -> Result<(Option<ReadPermit>, Vec<Option<EntryId>>), RequestRefusal> {
        let reads = self.resume.is_some() && self.histories().is_some();
        let permit =
            if reads { Some(ReadPermit::acquire(self.state, self.channels, None).await?) } else { None };
        Ok((permit, self.starts().await?))
    }

    /// Reads from where a client continues in channels that are not joined yet, if it gets no earlier messages of them.
    ///
    /// # Errors
    ///
    /// When Redis is lost.
    pub(super) async fn starts(&self) -> Result<Vec<Option<EntryId>>, RequestRefusal> {
        let Some(histories) = self.histories() else { return Ok(Vec::new()) };
        Ok(histories.starts(&self.with_history().1).await?)
    }

    /// Waits until Redis has acknowledged the channels of a subscription that is about to begin; none if it has no channels with
    /// ids. A message of a channel with a history that comes before the one with ids is acknowledged has no id: a subscription
    /// that held it would get it from the history, too.
    ///
    /// # Errors
    ///
    /// When Redis is lost or refuses a channel.
    pub(super) async fn subscribed(&self, live: &[Channel]) -> Result<Option<Subscription>, JoinError> {
        if live.is_empty() {
            return Ok(None);
        }
        let subscribed = self.state.hub.join(&[self.channels, live].concat());
        subscribed.joined().await?;
        Ok(Some(subscribed))
    }

    /// Waits until Redis has acknowledged a subscription, and reads the persisted values and the histories of its channels.
    ///
    /// # Errors
    ///
    /// When it cannot join, or there is no memory for what was read.
    pub(super) async fn read(
        &self,
        subscription: &Subscription,
        starts: &[Option<EntryId>],
    ) -> Result<(Vec<Option<Bytes>>, HistoryRead), RequestRefusal> {
        let Self { state, resume, .. } = *self;
        let (mut persisted, history) = loop {
            let persisted = read_joined(subscription, state, self.channels).await?;
            let Some(histories) = self.histories() else {
                let is_complete =
                    resume.and_then(|resume| (!matches!(resume, Resume::Last(_))).then_some(false));
                break (persisted, HistoryRead { is_complete, ..HistoryRead::default() });
            };
            let (indices, channels) = self.with_history();
            let values: Vec<_> =
                indices.iter().map(|index| persisted.get(*index).cloned().flatten()).collect();
            let read = histories.read(&channels, &values, starts).await;
            // Messages that were lost while the histories were read may be missing in them.
            if subscription.is_stale()? {
                continue;
            }
            let mut read = read?;
            // What is published to the others is not kept.
            read.is_complete = read.is_complete.map(|is| is && channels.len() == self.channels.len());
            let mut persisted = persisted;
            for (index, _) in indices.into_iter().zip(&read.has_value).filter(|(_, has_value)| **has_value) {
                persisted[index] = None;
            }
            break (persisted, read);
        };
        if matches!(resume, Some(Resume::After(..))) {
            self.leave_out_delivered(&mut persisted);
        }
        if !state.hub.with(|hub| hub.check_capacity(&persisted)) {
            return Err(RequestRefusal::NoMemory);
        }
        Ok((persisted, history))
    }

    /// Leaves out values that were delivered before a loss.
    fn leave_out_delivered(&self, persisted: &mut [Option<Bytes>]) {
        for (channel, value) in self.channels.iter().zip(persisted) {
            let is_delivered =
                |value: &Bytes| self.state.hub.with(|hub| hub.has_delivered(&channel.clone().into(), value));
            *value = value.take().filter(|value| !is_delivered(value));
        }
    }

    /// Returns the position of each audience that has a history and no replayed message, and the position before these where
    /// others are missing, named as in messages. Behind messages that are about to follow, a client that breaks off would
    /// continue too late.
    pub(super) fn ids(&self, history: &HistoryRead) -> Vec<(String, EntryId)> {
        let settings = &self.state.process.settings;
        let channels = self.with_history().1;
        let positions = history.continues.iter().zip(&history.before).enumerate();
        let positions = positions.map(|(index, (continues, before))| {
            let is_replayed = history.messages.iter().any(|(of, _, _)| *of == index);
            if is_replayed { *before } else { *continues }
        });
        let ids = channels.iter().zip(positions).filter_map(|(channel, id)| {
            let audience = settings.namespace.audience_of(channel, self.facility);
            Some((audience_in_messages(audience).to_owned(), id?))
        });
        ids.collect()
    }
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

/// Returns from where a client continues in channels of version 2 that have been joined since a moment.
///
/// # Errors
///
/// When Redis is lost.
pub(super) async fn starts_behind(
    state: &ShardState,
    facility: &Facility,
    channels: &[Channel],
    since: Instant,
) -> Result<Vec<(Channel, EntryId)>, ReadFailed> {
    let settings = &state.process.settings;
    let Some(limits) = settings.history.limits_of(facility) else { return Ok(Vec::new()) };
    let names = settings.history_names();
    let starts = channels.iter().map(async |live| {
        let Some(plain) = names.plain_of_live(live.as_str()) else { return Ok(None) };
        let page = state.store.history_last(&plain, 0).await?;
        // Not behind the last entry: it may have been published since, and arrive only now.
        let start = page.and_then(|page| position_ago(&page, since.elapsed(), limits));
        Ok(start.map(|start| (live.clone(), start)))
    });
    Ok(try_join_all(starts).await?.into_iter().flatten().collect())
}
