//! Wanted against had: which channels the shards want, and which Redis sends. Pure state, no I/O.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::retries::Retries;
use crate::hub::{Directory, Generation};
use crate::redis::SubscriptionChange;
use crate::wire::Channel;

/// Channels of one SUBSCRIBE: Redis answers 10,000 in about 10 ms.
const STEP: usize = 10_000;

/// Which channels the shards want, and which Redis sends.
#[derive(Debug)]
pub(super) struct Subscriptions {
    pub(super) channels: Directory<Channel, BrokerSubscription>,
    pub(super) queued: Vec<Channel>,
    /// Channels of which Redis refused some together: tried in ever smaller parts.
    pub(super) suspects: Vec<Vec<Channel>>,
    suspect_turn: bool,
    /// Channels without listeners, when they lost the last one, and the number of that rest; oldest first.
    idle: VecDeque<(Instant, NonZeroU32, Channel)>,
    rests: NonZeroU32,
    linger: Duration,
    pub(super) retries: Retries,
}

/// One channel.
#[derive(Debug, Default)]
pub(super) struct BrokerSubscription {
    /// The shards that want it, each with the generation of its latest want.
    pub(super) generations: SmallVec<[(usize, Generation); 1]>,
    pub(super) state: State,
    /// Whether Redis has refused it since it was had last, so that messages were missed.
    pub(super) missed: bool,
    /// The number of its rest, if it has no listeners.
    rest: Option<NonZeroU32>,
    /// Where the channel's messages stand in the pump's present batch, if there are any.
    pub(super) place: u16,
}

/// How far the subscription of a channel is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It waits for its SUBSCRIBE.
    #[default]
    Queued,
    /// It stands in a SUBSCRIBE without an answer.
    Asked,
    /// Redis sends it.
    Had,
    /// Redis refuses it; it is tried again.
    Refused,
}

impl BrokerSubscription {
    /// Whether it stands in a SUBSCRIBE: what comes before is from an older one.
    pub(super) fn is_asked(&self) -> bool {
        matches!(self.state, State::Asked | State::Had)
    }

    fn is_had(&self) -> bool {
        self.state == State::Had
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
            rests: NonZeroU32::MIN,
            linger,
            retries: Retries::default(),
        }
    }

    /// Returns the number of a channel, its name and what is known of it. The number is the same until something is told
    /// of channels that are refused, or lost, and until the next step.
    pub(super) fn find(
        &mut self,
        channel: &(impl AsRef<[u8]> + ?Sized),
    ) -> Option<(u32, &Channel, &mut BrokerSubscription)> {
        let number = self.channels.find(channel)?;
        let (name, subscription) = self.channels.entry_mut(number);
        Some((number, name, subscription))
    }

    /// Returns what is known of a channel.
    pub(super) fn get_mut(&mut self, channel: &str) -> Option<&mut BrokerSubscription> {
        self.find(channel).map(|(.., subscription)| subscription)
    }

    /// Takes a shard's want. Returns true if Redis sends the channel already; one that it refused is tried at once.
    pub(super) fn want(&mut self, channel: Channel, shard: usize, generation: Generation) -> bool {
        let number = self.channels.find(channel.as_str()).unwrap_or_else(|| {
            self.queued.push(channel.clone());
            self.channels.insert(channel.clone(), BrokerSubscription::default())
        });
        let subscription = &mut self.channels[number];
        subscription.generations.retain(|&mut (of, _)| of != shard);
        subscription.generations.push((shard, generation));
        subscription.rest = None;
        if subscription.state == State::Refused {
            subscription.state = State::Queued;
            self.queued.push(channel);
            return false;
        }
        subscription.is_had()
    }

    /// Takes a shard's leave. After the last one the channel stays for a while, so that page reloads do not churn.
    pub(super) fn leave(&mut self, channel: &Channel, shard: usize, now: Instant) {
        let Some(number) = self.channels.find(channel.as_str()) else { return };
        let subscription = &mut self.channels[number];
        subscription.generations.retain(|&mut (of, _)| of != shard);
        if subscription.state == State::Refused && subscription.generations.is_empty() {
            self.channels.remove(number);
        } else {
            self.rest(channel, now);
        }
    }

    /// Starts the rest of a channel that nobody wants.
    fn rest(&mut self, channel: &Channel, now: Instant) {
        let rest = self.rests.checked_add(1).unwrap_or(NonZeroU32::MIN);
        if let Some(subscription) = self.get_mut(channel.as_str())
            && subscription.is_had()
            && subscription.generations.is_empty()
        {
            subscription.rest = Some(rest);
            self.rests = rest;
            self.idle.push_back((now, rest, channel.clone()));
        }
    }

    /// Returns when the next step is due because of a channel whose rest is over, or that is tried again.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let leave = self.idle.front().map(|(since, ..)| *since + self.linger);
        [leave, self.retries.postponed, self.retries.due].into_iter().flatten().min()
    }

    /// Tells whether channels wait to be subscribed now.
    pub(super) fn has_queued(&self) -> bool {
        self.is_behind() && self.retries.postponed.is_none()
    }

    /// Tells whether channels wait to be subscribed, now or later. Such as Redis refuses do not count.
    pub(super) fn is_behind(&self) -> bool {
        !self.queued.is_empty() || !self.suspects.is_empty()
    }

    /// Returns what to tell Redis now. Its outcome has to be told by [`Self::subscribed`] or [`Self::refused`], or
    /// all is lost, before the next step.
    pub(super) fn step(&mut self, now: Instant) -> SubscriptionChange {
        let mut step = SubscriptionChange::default();
        while let Some((_, rest, channel)) = self.idle.pop_front_if(|(since, ..)| *since + self.linger <= now)
        {
            let number = self.channels.find(channel.as_str());
            if let Some(number) = number.filter(|number| self.channels[*number].rest == Some(rest)) {
                self.channels.remove(number);
                step.unsubscribe.push(channel);
            }
        }
        if self.channels.is_sparse() {
            self.channels.compact();
            self.queued.shrink_to_fit();
            self.idle.shrink_to_fit();
        }
        if self.retries.due.take_if(|due| *due <= now).is_some() {
            self.retry_refused(now);
        }
        if self.retries.is_postponed(now) {
            return step;
        }
        // In turns: neither waits for the other's end.
        self.suspect_turn = !self.suspect_turn;
        step.subscribe = if self.queued.is_empty() || (self.suspect_turn && !self.suspects.is_empty()) {
            self.suspects.pop().unwrap_or_default()
        } else {
            self.queued.split_off(self.queued.len().saturating_sub(STEP))
        };
        // Nobody may want such any more as were refused before.
        step.subscribe.retain(|channel| match self.channels.find(channel.as_str()) {
            Some(number) => {
                self.channels[number].state = State::Asked;
                true
            }
            None => false,
        });
        step
    }

    /// Takes Redis' acknowledgement. Returns who has to be told, and whether the channel was refused before.
    pub(super) fn subscribed(
        &mut self,
        channels: Vec<Channel>,
        now: Instant,
    ) -> Vec<(usize, Channel, Generation, bool)> {
        self.retries.note_answered();
        let mut told = Vec::with_capacity(channels.len());
        for channel in channels {
            let Some(subscription) = self.get_mut(channel.as_str()) else { continue };
            subscription.state = State::Had;
            let missed = std::mem::take(&mut subscription.missed);
            told.extend(
                subscription
                    .generations
                    .iter()
                    .map(|(shard, generation)| (*shard, channel.clone(), *generation, missed)),
            );
            self.rest(&channel, now);
            if missed {
                self.retries.note_allowed(now);
            }
        }
        told
    }

    /// Notes that the connection was lost: what is wanted is queued again, the rest is forgotten.
    pub(super) fn lost(&mut self) {
        self.channels.retain(|subscription| !subscription.generations.is_empty());
        for subscription in self.channels.values_mut() {
            (subscription.state, subscription.missed) = (State::Queued, false);
        }
        self.queued = self.channels.iter().map(|(channel, _)| channel.clone()).collect();
        self.suspects.clear();
        self.idle.clear();
        self.retries = Retries::default();
    }

    /// Returns the channels that somebody wants and Redis sends, with the shards that want them.
    pub(super) fn live(&self) -> Vec<(Channel, Vec<usize>)> {
        let live = self
            .channels
            .iter()
            .filter(|(_, subscription)| subscription.is_had() && !subscription.generations.is_empty());
        live.map(|(channel, subscription)| {
            (channel.clone(), subscription.generations.iter().map(|(shard, _)| *shard).collect())
        })
        .collect()
    }
}

/// What stands in the table of docs/performance/memory.md.
#[cfg(test)]
pub(crate) const SIZES: &[(&str, usize)] =
    &[("BrokerSubscription", size_of::<(Channel, BrokerSubscription)>())];

#[cfg(test)]
mod tests {
    use super::*;

    const LINGER: Duration = Duration::from_secs(2);

    fn channel(name: &str) -> Channel {
        Channel::from_redis(name)
    }

    fn generation(number: u32) -> Generation {
        Generation::new(number).unwrap()
    }

    fn subscribe(subscriptions: &mut Subscriptions, now: Instant) -> Vec<(usize, Channel, Generation, bool)> {
        let step = subscriptions.step(now);
        subscriptions.subscribed(step.subscribe, now)
    }

    #[tokio::test(start_paused = true)]
    async fn a_want_counts_until_the_leave_even_while_redis_is_being_told() {
        let (mut subscriptions, now) = (Subscriptions::new(LINGER), Instant::now());
        assert!(!subscriptions.want(channel("a"), 0, generation(1)));
        let step = subscriptions.step(now);
        assert_eq!(step.subscribe, [channel("a")]);
        subscriptions.leave(&channel("a"), 0, now);
        assert!(!subscriptions.want(channel("a"), 1, generation(7)), "not acknowledged yet");
        assert_eq!(subscriptions.subscribed(step.subscribe, now), [(1, channel("a"), generation(7), false)]);
        assert!(subscriptions.step(now + LINGER * 2).unsubscribe.is_empty(), "somebody wants it");
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_leaver_is_waited_for_and_a_return_keeps_the_channel() {
        let (mut subscriptions, now) = (Subscriptions::new(LINGER), Instant::now());
        subscriptions.want(channel("a"), 0, generation(1));
        subscribe(&mut subscriptions, now);
        subscriptions.leave(&channel("a"), 0, now);
        assert!(subscriptions.step(now + LINGER / 2).unsubscribe.is_empty());
        assert!(subscriptions.want(channel("a"), 0, generation(2)), "still had");
        subscriptions.leave(&channel("a"), 0, now + LINGER / 2);
        assert!(subscriptions.step(now + LINGER).unsubscribe.is_empty(), "the second rest counts");
        assert_eq!(subscriptions.step(now + LINGER * 2).unsubscribe, [channel("a")]);
        assert!(!subscriptions.want(channel("a"), 0, generation(3)), "had no more");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_loss_what_is_wanted_is_subscribed_again() {
        let (mut subscriptions, now) = (Subscriptions::new(LINGER), Instant::now());
        subscriptions.want(channel("a"), 0, generation(1));
        subscriptions.want(channel("b"), 0, generation(2));
        subscribe(&mut subscriptions, now);
        subscriptions.leave(&channel("b"), 0, now);
        subscriptions.lost();
        assert!(subscriptions.live().is_empty());
        assert_eq!(subscribe(&mut subscriptions, now), [(0, channel("a"), generation(1), false)]);
        assert_eq!(subscriptions.live(), [(channel("a"), vec![0])]);
    }
}
