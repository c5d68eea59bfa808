//! Wanted against had: which channels the shards want, and which Redis sends. Pure state, no I/O.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;
use smallvec::SmallVec;
use std::time::Duration;
use tokio::time::Instant;

use crate::hub::Ticket;
use crate::wire::Channel;

/// Channels of one SUBSCRIBE: Redis answers 10,000 in about 10 ms.
const STEP: usize = 10_000;

/// By how much fewer channels there have to be than there is room for, until that room is given back.
const SPARSE: usize = 8;

/// Which channels the shards want, and which Redis sends.
#[derive(Debug)]
pub(super) struct Interests {
    channels: HashMap<Channel, Interest, RandomState>,
    queued: Vec<Channel>,
    /// Channels of which Redis refused some together: tried in ever smaller parts.
    suspects: Vec<Vec<Channel>>,
    suspect_turn: bool,
    /// Channels without listeners, when they lost the last one, and the number of that rest; oldest first.
    idle: VecDeque<(Instant, u32, Channel)>,
    rests: u32,
    linger: Duration,
}

/// One channel.
#[derive(Debug, Default)]
pub(super) struct Interest {
    /// The shards that want it, each with the ticket of its latest want.
    pub(super) tickets: SmallVec<[(usize, Ticket); 1]>,
    had: bool,
    /// Whether it stands in a SUBSCRIBE: what comes before is from an older one.
    pub(super) asked: bool,
    /// The number of its rest, if it has no listeners.
    rest: Option<u32>,
    /// Where the channel's messages stand in the pump's present batch: number of the batch, index.
    pub(super) batched: (u64, usize),
}

/// What to tell Redis next.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) unsubscribe: Vec<Channel>,
    pub(super) subscribe: Vec<Channel>,
}

impl Interests {
    pub(super) fn new(linger: Duration) -> Self {
        let (channels, idle) = (HashMap::default(), VecDeque::new());
        Self {
            channels,
            queued: Vec::new(),
            suspects: Vec::new(),
            suspect_turn: false,
            idle,
            rests: 0,
            linger,
        }
    }

    /// Returns what is known of a channel.
    pub(super) fn get_mut(&mut self, channel: &str) -> Option<&mut Interest> {
        self.channels.get_mut(channel)
    }

    /// Takes a shard's want. Returns true if Redis sends the channel already.
    pub(super) fn want(&mut self, channel: Channel, shard: usize, ticket: Ticket) -> bool {
        let interest = self.channels.entry(channel.clone()).or_insert_with(|| {
            self.queued.push(channel);
            Interest::default()
        });
        interest.tickets.retain(|&mut (of, _)| of != shard);
        interest.tickets.push((shard, ticket));
        interest.rest = None;
        interest.had
    }

    /// Takes a shard's leave. After the last one the channel stays for a while, so that page reloads do not churn.
    pub(super) fn leave(&mut self, channel: &Channel, shard: usize, now: Instant) {
        if let Some(interest) = self.channels.get_mut(channel) {
            interest.tickets.retain(|&mut (of, _)| of != shard);
            self.rest(channel, now);
        }
    }

    /// Starts the rest of a channel that nobody wants.
    fn rest(&mut self, channel: &Channel, now: Instant) {
        if let Some(interest) = self.channels.get_mut(channel)
            && interest.had
            && interest.tickets.is_empty()
        {
            self.rests = self.rests.wrapping_add(1);
            interest.rest = Some(self.rests);
            self.idle.push_back((now, self.rests, channel.clone()));
        }
    }

    /// Returns when the next step is due because of a channel whose rest is over.
    pub(super) fn next_leave(&self) -> Option<Instant> {
        self.idle.front().map(|(since, ..)| *since + self.linger)
    }

    /// Tells whether channels wait to be subscribed.
    pub(super) fn has_queued(&self) -> bool {
        !self.queued.is_empty() || !self.suspects.is_empty()
    }

    /// Returns what to tell Redis now. Its outcome has to be told by [`Self::subscribed`] or [`Self::refused`], or
    /// all is lost, before the next step.
    pub(super) fn step(&mut self, now: Instant) -> Step {
        let mut step = Step::default();
        while let Some((_, rest, channel)) = self.idle.pop_front_if(|(since, ..)| *since + self.linger <= now)
        {
            if self.channels.get(&channel).is_some_and(|interest| interest.rest == Some(rest)) {
                self.channels.remove(&channel);
                step.unsubscribe.push(channel);
            }
        }
        if self.channels.len() < self.channels.capacity() / SPARSE {
            self.channels.shrink_to(2 * self.channels.len());
        }
        // In turns: neither waits for the other's end.
        self.suspect_turn = !self.suspect_turn;
        step.subscribe = if self.queued.is_empty() || (self.suspect_turn && !self.suspects.is_empty()) {
            self.suspects.pop().unwrap_or_default()
        } else {
            self.queued.split_off(self.queued.len().saturating_sub(STEP))
        };
        for channel in &step.subscribe {
            if let Some(interest) = self.channels.get_mut(channel) {
                interest.asked = true;
            }
        }
        step
    }

    /// Takes Redis' acknowledgement. Returns who has to be told.
    pub(super) fn subscribed(
        &mut self,
        channels: Vec<Channel>,
        now: Instant,
    ) -> Vec<(usize, Channel, Ticket)> {
        let mut told = Vec::with_capacity(channels.len());
        for channel in channels {
            let Some(interest) = self.channels.get_mut(&channel) else { continue };
            interest.had = true;
            told.extend(interest.tickets.iter().map(|(shard, ticket)| (*shard, channel.clone(), *ticket)));
            self.rest(&channel, now);
        }
        told
    }

    /// Takes Redis' refusal of some of these channels. Returns who has to be told; many are parted and tried again.
    pub(super) fn refused(&mut self, mut channels: Vec<Channel>) -> Vec<(usize, Channel, Ticket)> {
        if channels.len() > 1 {
            let half = channels.split_off(channels.len() / 2);
            self.suspects.extend([channels, half]);
            return Vec::new();
        }
        let Some(channel) = channels.pop() else { return Vec::new() };
        let tickets = self.channels.remove(&channel).map(|interest| interest.tickets);
        tickets.into_iter().flatten().map(|(shard, ticket)| (shard, channel.clone(), ticket)).collect()
    }

    /// Notes that the connection was lost: what is wanted is queued again, the rest is forgotten.
    pub(super) fn lost(&mut self) {
        self.channels.retain(|_, interest| !interest.tickets.is_empty());
        for interest in self.channels.values_mut() {
            (interest.had, interest.asked) = (false, false);
        }
        self.queued = self.channels.keys().cloned().collect();
        self.suspects.clear();
        self.idle.clear();
    }

    /// Returns the channels that somebody wants and Redis sends, with the shards that want them.
    pub(super) fn live(&self) -> Vec<(Channel, Vec<usize>)> {
        let live = self.channels.iter().filter(|(_, interest)| interest.had && !interest.tickets.is_empty());
        live.map(|(channel, interest)| {
            (channel.clone(), interest.tickets.iter().map(|(shard, _)| *shard).collect())
        })
        .collect()
    }
}

/// What stands in the table of docs/performance/memory.md.
#[cfg(test)]
pub(crate) const SIZES: &[(&str, usize)] = &[("Interest", size_of::<(Channel, Interest)>() + 1)];

#[cfg(test)]
mod tests {
    use super::*;

    const LINGER: Duration = Duration::from_secs(2);

    fn channel(name: &str) -> Channel {
        Channel::from_redis(name)
    }

    fn subscribe(interests: &mut Interests, now: Instant) -> Vec<(usize, Channel, Ticket)> {
        let step = interests.step(now);
        interests.subscribed(step.subscribe, now)
    }

    #[tokio::test(start_paused = true)]
    async fn a_want_counts_until_the_leave_even_while_redis_is_being_told() {
        let (mut interests, now) = (Interests::new(LINGER), Instant::now());
        assert!(!interests.want(channel("a"), 0, 1));
        let step = interests.step(now);
        assert_eq!(step.subscribe, [channel("a")]);
        interests.leave(&channel("a"), 0, now);
        assert!(!interests.want(channel("a"), 1, 7), "not acknowledged yet");
        assert_eq!(interests.subscribed(step.subscribe, now), [(1, channel("a"), 7)]);
        assert!(interests.step(now + LINGER * 2).unsubscribe.is_empty(), "somebody wants it");
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_leaver_is_waited_for_and_a_return_keeps_the_channel() {
        let (mut interests, now) = (Interests::new(LINGER), Instant::now());
        interests.want(channel("a"), 0, 1);
        subscribe(&mut interests, now);
        interests.leave(&channel("a"), 0, now);
        assert!(interests.step(now + LINGER / 2).unsubscribe.is_empty());
        assert!(interests.want(channel("a"), 0, 2), "still had");
        interests.leave(&channel("a"), 0, now + LINGER / 2);
        assert!(interests.step(now + LINGER).unsubscribe.is_empty(), "the second rest counts");
        assert_eq!(interests.step(now + LINGER * 2).unsubscribe, [channel("a")]);
        assert!(!interests.want(channel("a"), 0, 3), "had no more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_narrowed_down_to_the_channels_concerned() {
        let (mut interests, now) = (Interests::new(LINGER), Instant::now());
        for name in ["a", "b", "bad", "c"] {
            interests.want(channel(name), 0, 1);
        }
        let (mut refused, mut subscribed) = (Vec::new(), Vec::new());
        for _ in 0..10 {
            let step = interests.step(now);
            if step.subscribe.iter().any(|c| c.as_str() == "bad") {
                refused.extend(interests.refused(step.subscribe));
            } else {
                subscribed.extend(interests.subscribed(step.subscribe, now));
            }
        }
        assert_eq!(refused, [(0, channel("bad"), 1)]);
        assert_eq!(subscribed.len(), 3);
        assert!(!interests.has_queued());
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_loss_what_is_wanted_is_subscribed_again() {
        let (mut interests, now) = (Interests::new(LINGER), Instant::now());
        interests.want(channel("a"), 0, 1);
        interests.want(channel("b"), 0, 2);
        subscribe(&mut interests, now);
        interests.leave(&channel("b"), 0, now);
        interests.lost();
        assert!(interests.live().is_empty());
        assert_eq!(subscribe(&mut interests, now), [(0, channel("a"), 1)]);
        assert_eq!(interests.live(), [(channel("a"), vec![0])]);
    }
}
