//! The channels that are wanted, and the state of each in Redis. State only, no I/O.

mod retries;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use self::retries::Retries;
use crate::hub::{Directory, Generation};
use crate::redis::SubscriptionChange;
use crate::redis::error_reply::is_about_the_command;
use crate::sources::Source;
use crate::wire::Channel;

/// Channels of one SUBSCRIBE: Redis answers 10,000 in about 10 ms.
const MAX_CHANNELS: usize = 10_000;

/// The shards that want a channel, each with the generation of its latest request.
pub(super) type Generations = SmallVec<[(usize, Generation); 1]>;

/// The channels that are wanted, by the shards or by the broker itself, and what Redis has confirmed.
#[derive(Debug)]
pub(super) struct Subscriptions {
    channels: Directory<Channel, BrokerSubscription>,
    queued: Vec<Channel>,
    /// Groups of channels that were refused together, halved on each attempt until the refused ones are found.
    suspects: Vec<Vec<Channel>>,
    suspect_turn: bool,
    /// Unwanted channels that are still subscribed, oldest first.
    idle: VecDeque<(Instant, NonZeroU32, Channel)>,
    last_idle: NonZeroU32,
    linger: Duration,
    retries: Retries,
    /// Channels that the broker itself wants. They are few.
    pinned: Vec<Channel>,
}

/// One channel.
#[derive(Debug, Default)]
pub(super) struct BrokerSubscription {
    pub(super) generations: Generations,
    state: State,
    /// What the channel's messages mean.
    source: Source,
    /// The number of its entry in the idle list, if it is unwanted.
    idle: Option<NonZeroU32>,
    /// The index of the channel's run in the batch that is being built.
    pub(super) batch_index: u16,
}

/// A subscription's state. A channel that was refused keeps this in its state until it is confirmed, because messages
/// were missed meanwhile. (A flag of its own would enlarge every subscription.)
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It waits for its SUBSCRIBE.
    #[default]
    Queued,
    /// Its SUBSCRIBE is unanswered.
    Requested,
    /// Redis has confirmed it.
    Confirmed,
    /// Redis refuses it; it will be retried.
    Refused,
    /// As `Queued`, after a refusal.
    RetryQueued,
    /// As `Requested`, after a refusal.
    RetryRequested,
}

/// A channel that Redis has confirmed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Confirmed {
    pub(super) channel: Channel,
    pub(super) source: Source,
    pub(super) generations: Generations,
    /// It was refused before, so messages may have been missed.
    pub(super) was_refused: bool,
}

/// A channel that Redis refuses.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) channel: Channel,
    pub(super) source: Source,
    pub(super) generations: Generations,
    /// It was not refused on the previous attempt.
    pub(super) is_new: bool,
}

impl State {
    fn was_refused(self) -> bool {
        matches!(self, Self::Refused | Self::RetryQueued | Self::RetryRequested)
    }

    fn queued(self) -> Self {
        if self.was_refused() { Self::RetryQueued } else { Self::Queued }
    }

    fn requested(self) -> Self {
        if self.was_refused() { Self::RetryRequested } else { Self::Requested }
    }
}

impl BrokerSubscription {
    /// Returns true if SUBSCRIBE was sent: a message that arrives earlier belongs to an older subscription.
    pub(super) fn is_requested(&self) -> bool {
        matches!(self.state, State::Requested | State::RetryRequested | State::Confirmed)
    }

    fn mark_requested(&mut self) {
        self.state = self.state.requested();
    }

    fn is_confirmed(&self) -> bool {
        self.state == State::Confirmed
    }
}

impl Subscriptions {
    pub(super) fn new(linger: Duration) -> Self {
        Self {
            channels: Directory::default(),
            queued: Vec::new(),
            suspects: Vec::new(),
            suspect_turn: false,
            idle: VecDeque::new(),
            last_idle: NonZeroU32::MIN,
            linger,
            retries: Retries::default(),
            pinned: Vec::new(),
        }
    }

    /// Returns the number, name and source of a channel. The number can change with the next [`Self::next_change`],
    /// refusal or loss.
    pub(super) fn find(&self, channel: &[u8]) -> Option<(u32, &Channel, Source)> {
        let number = self.channels.find(channel)?;
        Some((number, self.channels.name(number), self.channels[number].source))
    }

    /// Returns the number that a channel has now, and its subscription. `number` is what [`Self::find`] returned when its
    /// message arrived: mostly still the same, and comparing names is cheaper than hashing one again. After a peak the
    /// channels are renumbered, also while messages wait.
    pub(super) fn get(
        &mut self,
        number: u32,
        name: &[u8],
    ) -> Option<(u32, &Channel, &mut BrokerSubscription)> {
        let known = self.channels.get_mut(number);
        let is_same = known.is_some_and(|(channel, _)| channel.as_str().as_bytes() == name);
        let number = if is_same { number } else { self.channels.find(name)? };
        let (channel, subscription) = self.channels.get_mut(number)?;
        Some((number, channel, subscription))
    }

    fn get_mut(&mut self, channel: &Channel) -> Option<&mut BrokerSubscription> {
        let number = self.channels.find(channel.as_str())?;
        Some(&mut self.channels[number])
    }

    /// Returns the shards that want a channel.
    pub(super) fn shards_of(&self, channel: &Channel) -> impl Iterator<Item = usize> {
        let number = self.channels.find(channel.as_str());
        let generations = number.map(|number| &self.channels[number].generations);
        generations.into_iter().flatten().map(|(shard, _)| *shard)
    }

    /// Notes that a shard wants a channel. Returns true if it is confirmed already; a refused one is retried at once.
    pub(super) fn subscribe(
        &mut self,
        channel: &Channel,
        source: Source,
        shard: usize,
        generation: Generation,
    ) -> bool {
        let number = self.insert(channel, source);
        let subscription = &mut self.channels[number];
        subscription.generations.retain(|&mut (of, _)| of != shard);
        subscription.generations.push((shard, generation));
        if subscription.state == State::Refused {
            subscription.state = State::RetryQueued;
            self.queued.push(channel.clone());
        }
        subscription.is_confirmed()
    }

    /// Notes that a shard no longer wants a channel. Without listeners it stays subscribed for a while, so that a page
    /// reload causes no UNSUBSCRIBE.
    pub(super) fn unsubscribe(&mut self, channel: &Channel, shard: usize, now: Instant) {
        if let Some(subscription) = self.get_mut(channel) {
            subscription.generations.retain(|&mut (of, _)| of != shard);
            self.release(channel, now);
        }
    }

    /// Keeps a channel subscribed for the broker itself. A refused one keeps its back-off.
    pub(super) fn pin(&mut self, channel: &Channel, source: Source) {
        if !self.pinned.contains(channel) {
            self.pinned.push(channel.clone());
        }
        self.insert(channel, source);
    }

    /// Ends [`Self::pin`].
    pub(super) fn unpin(&mut self, channel: &Channel, now: Instant) {
        self.pinned.retain(|pinned| pinned != channel);
        self.release(channel, now);
    }

    /// Returns the number of a channel, which is queued for SUBSCRIBE if it is new.
    fn insert(&mut self, channel: &Channel, source: Source) -> u32 {
        let number = self.channels.find(channel.as_str()).unwrap_or_else(|| {
            self.queued.push(channel.clone());
            self.channels.insert(channel.clone(), BrokerSubscription { source, ..Default::default() })
        });
        self.channels[number].idle = None;
        number
    }

    fn is_wanted(&self, number: u32) -> bool {
        !self.channels[number].generations.is_empty() || self.pinned.contains(self.channels.name(number))
    }

    /// Marks a channel as idle if it is confirmed and unwanted; a refused one is removed.
    fn release(&mut self, channel: &Channel, now: Instant) {
        let Some(number) = self.channels.find(channel.as_str()) else { return };
        if self.is_wanted(number) {
            return;
        }
        match self.channels[number].state {
            State::Refused => drop(self.channels.remove(number)),
            State::Confirmed => {
                self.last_idle = self.last_idle.checked_add(1).unwrap_or(NonZeroU32::MIN);
                self.channels[number].idle = Some(self.last_idle);
                self.idle.push_back((now, self.last_idle, channel.clone()));
            }
            // It is released when Redis answers.
            State::Queued | State::Requested | State::RetryQueued | State::RetryRequested => {}
        }
    }

    /// Returns when the next change is due: an UNSUBSCRIBE, or a retry.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let unsubscribe = self.idle.front().map(|(since, ..)| *since + self.linger);
        [unsubscribe, self.retries.postponed_until(), self.retries.due()].into_iter().flatten().min()
    }

    /// Returns true if channels wait for a SUBSCRIBE that can be sent now.
    pub(super) fn has_queued(&self) -> bool {
        self.is_behind() && self.retries.postponed_until().is_none()
    }

    /// Returns true if channels wait for a SUBSCRIBE, now or later. Refused channels do not count.
    pub(super) fn is_behind(&self) -> bool {
        !self.queued.is_empty() || !self.suspects.is_empty()
    }

    /// Returns the next change to send, and marks its channels as requested. Before the next call, the outcome is
    /// reported by [`Self::confirm`], [`Self::refuse`], [`Self::postpone`] or [`Self::reset`].
    pub(super) fn next_change(&mut self, now: Instant) -> SubscriptionChange {
        let unsubscribe = self.take_unwanted(now);
        if self.channels.is_sparse() {
            self.channels.compact();
            self.queued.shrink_to_fit();
            self.idle.shrink_to_fit();
        }
        if self.retries.take_due(now) {
            self.retry_refused(now);
        }
        if self.retries.end_postponement(now) {
            return SubscriptionChange { unsubscribe, ..Default::default() };
        }
        // Alternate, so that neither list starves the other.
        self.suspect_turn = !self.suspect_turn;
        let mut subscribe = if self.queued.is_empty() || (self.suspect_turn && !self.suspects.is_empty()) {
            self.suspects.pop().unwrap_or_default()
        } else {
            self.queued.split_off(self.queued.len().saturating_sub(MAX_CHANNELS))
        };
        let mut patterns = Vec::new();
        // A refused channel may have been removed since it was queued for a retry.
        subscribe.retain(|channel| match self.channels.find(channel.as_str()) {
            Some(number) if self.channels[number].source.is_pattern() => {
                patterns.push(channel.clone());
                false
            }
            Some(number) => {
                self.channels[number].mark_requested();
                true
            }
            None => false,
        });
        let by_pattern = subscribe.is_empty() && !patterns.is_empty();
        if by_pattern {
            subscribe = patterns;
            for channel in &subscribe {
                if let Some(subscription) = self.get_mut(channel) {
                    subscription.mark_requested();
                }
            }
        } else if !patterns.is_empty() {
            // A change has one command to subscribe, so that an error can be assigned to its names.
            self.suspects.push(patterns);
        }
        SubscriptionChange { unsubscribe, subscribe, by_pattern }
    }

    /// Removes the channels that have been idle for long enough, and returns them.
    fn take_unwanted(&mut self, now: Instant) -> Vec<Channel> {
        let mut unwanted = Vec::new();
        while let Some((_, idle, channel)) = self.idle.pop_front_if(|(since, ..)| *since + self.linger <= now)
        {
            let number = self.channels.find(channel.as_str());
            if let Some(number) = number.filter(|number| self.channels[*number].idle == Some(idle)) {
                self.channels.remove(number);
                unwanted.push(channel);
            }
        }
        unwanted
    }

    /// Takes Redis' confirmation of these channels.
    pub(super) fn confirm(&mut self, channels: Vec<Channel>, now: Instant) -> Vec<Confirmed> {
        self.retries.on_answer();
        let mut confirmed = Vec::with_capacity(channels.len());
        for channel in channels {
            let Some(subscription) = self.get_mut(&channel) else { continue };
            let was_refused = subscription.state.was_refused();
            subscription.state = State::Confirmed;
            let (source, generations) = (subscription.source, subscription.generations.clone());
            self.release(&channel, now);
            if was_refused {
                self.retries.on_allowed(now);
            }
            confirmed.push(Confirmed { channel, source, generations, was_refused });
        }
        confirmed
    }

    /// Takes Redis' refusal of a SUBSCRIBE. One error answers for all of its channels, so they are halved and retried
    /// until the refused ones are found, unless the command itself is refused. Returns the refused channels.
    pub(super) fn refuse(&mut self, mut channels: Vec<Channel>, reason: &str, now: Instant) -> Vec<Refused> {
        if channels.len() > 1 && !is_about_the_command(reason) {
            let half = channels.split_off(channels.len() / 2);
            self.suspects.extend([channels, half]);
            return Vec::new();
        }
        let mut refused = Vec::with_capacity(channels.len());
        for channel in channels {
            let Some(number) = self.channels.find(channel.as_str()) else { continue };
            if !self.is_wanted(number) {
                self.channels.remove(number);
                continue;
            }
            let subscription = &mut self.channels[number];
            let is_new = !subscription.state.was_refused();
            subscription.state = State::Refused;
            let (source, generations) = (subscription.source, subscription.generations.clone());
            self.retries.on_refusal(now);
            refused.push(Refused { channel, source, generations, is_new });
        }
        refused
    }

    /// Queues channels again that Redis cannot subscribe at the moment.
    pub(super) fn postpone(&mut self, channels: Vec<Channel>, now: Instant) {
        for channel in &channels {
            if let Some(subscription) = self.get_mut(channel) {
                subscription.state = subscription.state.queued();
            }
        }
        self.queued.extend(channels);
        self.retries.postpone(now);
    }

    /// Queues some of the refused channels again.
    fn retry_refused(&mut self, now: Instant) {
        let refused = self.channels.iter().filter(|(_, subscription)| subscription.state == State::Refused);
        let mut refused: Vec<_> = refused.map(|(channel, _)| channel.clone()).collect();
        if refused.is_empty() {
            return;
        }
        self.retries.select(&mut refused, now);
        for channel in &refused {
            if let Some(subscription) = self.get_mut(channel) {
                subscription.state = State::RetryQueued;
            }
        }
        self.suspects.push(refused);
    }

    /// Notes that the connection was lost: wanted channels are queued again, the others are removed. A pinned keyspace
    /// channel, which was refused, is unpinned.
    pub(super) fn reset(&mut self) {
        let is_own = |subscription: &BrokerSubscription| subscription.source.is_own();
        self.channels.retain(|subscription| !subscription.generations.is_empty() || is_own(subscription));
        for subscription in self.channels.values_mut() {
            subscription.state = State::Queued;
        }
        self.queued = self.channels.iter().map(|(channel, _)| channel.clone()).collect();
        let channels = &self.channels;
        let find = |channel: &Channel| channels.find(channel.as_str());
        self.pinned.retain(|channel| find(channel).is_some_and(|number| is_own(&channels[number])));
        self.suspects.clear();
        self.idle.clear();
        self.retries = Retries::default();
    }

    /// Returns a channel that Redis refuses and whose messages are for clients of Socket.IO, if there is one.
    pub(super) fn refused_emits(&self) -> Option<Channel> {
        let is_refused = |channel: &&Channel| {
            let subscription = self.channels.find(channel.as_str()).map(|number| &self.channels[number]);
            subscription.is_some_and(|it| it.source.is_socket_io() && it.state.was_refused())
        };
        self.pinned.iter().find(is_refused).cloned()
    }

    /// Returns the confirmed channels of a source, with the shards that want them.
    pub(super) fn confirmed(&self, source: Source) -> Vec<(Channel, Vec<usize>)> {
        let confirmed = self.channels.iter().filter(|(_, subscription)| {
            subscription.is_confirmed()
                && subscription.source == source
                && !subscription.generations.is_empty()
        });
        confirmed
            .map(|(channel, subscription)| (channel.clone(), shards(&subscription.generations)))
            .collect()
    }
}

/// Returns the shards of these generations.
pub(super) fn shards(generations: &Generations) -> Vec<usize> {
    generations.iter().map(|(shard, _)| *shard).collect()
}

/// Sizes in the table of docs/performance/memory.md.
#[cfg(test)]
pub(crate) const SIZES: &[(&str, usize)] =
    &[("BrokerSubscription", size_of::<(Channel, BrokerSubscription)>())];
