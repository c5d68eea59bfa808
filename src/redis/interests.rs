//! Wanted against had: which channels the shards want, and which Redis sends. Pure state, no I/O.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::hub::{Directory, Ticket};
use crate::wire::Channel;

/// Channels of one SUBSCRIBE: Redis answers 10,000 in about 10 ms.
const STEP: usize = 10_000;

/// Which channels the shards want, and which Redis sends.
#[derive(Debug)]
pub(super) struct Interests {
    channels: Directory<Interest>,
    queued: Vec<Channel>,
    /// Channels of which Redis refused some together: tried in ever smaller parts.
    suspects: Vec<Vec<Channel>>,
    suspect_turn: bool,
    /// Channels without listeners, when they lost the last one, and the number of that rest; oldest first.
    idle: VecDeque<(Instant, NonZeroU32, Channel)>,
    rests: NonZeroU32,
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
    rest: Option<NonZeroU32>,
    /// Where the channel's messages stand in the pump's present batch, if there are any.
    pub(super) place: u16,
}

/// What to tell Redis next.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) unsubscribe: Vec<Channel>,
    pub(super) subscribe: Vec<Channel>,
}

impl Interests {
    pub(super) fn new(linger: Duration) -> Self {
        Self {
            channels: Directory::default(),
            queued: Vec::new(),
            suspects: Vec::new(),
            suspect_turn: false,
            idle: VecDeque::new(),
            rests: NonZeroU32::MIN,
            linger,
        }
    }

    /// Returns the number of a channel, its name and what is known of it. The number is the same until something is told
    /// of channels that are refused, or lost, and until the next step.
    pub(super) fn find(
        &mut self,
        channel: &(impl AsRef<[u8]> + ?Sized),
    ) -> Option<(u32, &Channel, &mut Interest)> {
        let number = self.channels.find(channel)?;
        let (name, interest) = self.channels.entry_mut(number);
        Some((number, name, interest))
    }

    /// Returns what is known of a channel.
    pub(super) fn get_mut(&mut self, channel: &str) -> Option<&mut Interest> {
        self.find(channel).map(|(.., interest)| interest)
    }

    /// Takes a shard's want. Returns true if Redis sends the channel already.
    pub(super) fn want(&mut self, channel: Channel, shard: usize, ticket: Ticket) -> bool {
        let number = self.channels.find(channel.as_str()).unwrap_or_else(|| {
            self.queued.push(channel.clone());
            self.channels.insert(channel, Interest::default())
        });
        let interest = &mut self.channels[number];
        interest.tickets.retain(|&mut (of, _)| of != shard);
        interest.tickets.push((shard, ticket));
        interest.rest = None;
        interest.had
    }

    /// Takes a shard's leave. After the last one the channel stays for a while, so that page reloads do not churn.
    pub(super) fn leave(&mut self, channel: &Channel, shard: usize, now: Instant) {
        if let Some(interest) = self.get_mut(channel.as_str()) {
            interest.tickets.retain(|&mut (of, _)| of != shard);
            self.rest(channel, now);
        }
    }

    /// Starts the rest of a channel that nobody wants.
    fn rest(&mut self, channel: &Channel, now: Instant) {
        let rest = self.rests.checked_add(1).unwrap_or(NonZeroU32::MIN);
        if let Some(interest) = self.get_mut(channel.as_str())
            && interest.had
            && interest.tickets.is_empty()
        {
            interest.rest = Some(rest);
            self.rests = rest;
            self.idle.push_back((now, rest, channel.clone()));
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
        // In turns: neither waits for the other's end.
        self.suspect_turn = !self.suspect_turn;
        step.subscribe = if self.queued.is_empty() || (self.suspect_turn && !self.suspects.is_empty()) {
            self.suspects.pop().unwrap_or_default()
        } else {
            self.queued.split_off(self.queued.len().saturating_sub(STEP))
        };
        for channel in &step.subscribe {
            if let Some(interest) = self.get_mut(channel.as_str()) {
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
            let Some(interest) = self.get_mut(channel.as_str()) else { continue };
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
        let Some(number) = self.channels.find(channel.as_str()) else { return Vec::new() };
        let (channel, interest) = self.channels.remove(number);
        interest.tickets.into_iter().map(|(shard, ticket)| (shard, channel.clone(), ticket)).collect()
    }

    /// Notes that the connection was lost: what is wanted is queued again, the rest is forgotten.
    pub(super) fn lost(&mut self) {
        self.channels.retain(|interest| !interest.tickets.is_empty());
        for interest in self.channels.values_mut() {
            (interest.had, interest.asked) = (false, false);
        }
        self.queued = self.channels.iter().map(|(channel, _)| channel.clone()).collect();
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
pub(crate) const SIZES: &[(&str, usize)] = &[("Interest", size_of::<(Channel, Interest)>())];

#[cfg(test)]
mod tests {
    use super::*;

    const LINGER: Duration = Duration::from_secs(2);

    fn channel(name: &str) -> Channel {
        Channel::from_redis(name)
    }

    fn ticket(number: u32) -> Ticket {
        Ticket::new(number).unwrap()
    }

    fn subscribe(interests: &mut Interests, now: Instant) -> Vec<(usize, Channel, Ticket)> {
        let step = interests.step(now);
        interests.subscribed(step.subscribe, now)
    }

    #[tokio::test(start_paused = true)]
    async fn a_want_counts_until_the_leave_even_while_redis_is_being_told() {
        let (mut interests, now) = (Interests::new(LINGER), Instant::now());
        assert!(!interests.want(channel("a"), 0, ticket(1)));
        let step = interests.step(now);
        assert_eq!(step.subscribe, [channel("a")]);
        interests.leave(&channel("a"), 0, now);
        assert!(!interests.want(channel("a"), 1, ticket(7)), "not acknowledged yet");
        assert_eq!(interests.subscribed(step.subscribe, now), [(1, channel("a"), ticket(7))]);
        assert!(interests.step(now + LINGER * 2).unsubscribe.is_empty(), "somebody wants it");
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_leaver_is_waited_for_and_a_return_keeps_the_channel() {
        let (mut interests, now) = (Interests::new(LINGER), Instant::now());
        interests.want(channel("a"), 0, ticket(1));
        subscribe(&mut interests, now);
        interests.leave(&channel("a"), 0, now);
        assert!(interests.step(now + LINGER / 2).unsubscribe.is_empty());
        assert!(interests.want(channel("a"), 0, ticket(2)), "still had");
        interests.leave(&channel("a"), 0, now + LINGER / 2);
        assert!(interests.step(now + LINGER).unsubscribe.is_empty(), "the second rest counts");
        assert_eq!(interests.step(now + LINGER * 2).unsubscribe, [channel("a")]);
        assert!(!interests.want(channel("a"), 0, ticket(3)), "had no more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_narrowed_down_to_the_channels_concerned() {
        let (mut interests, now) = (Interests::new(LINGER), Instant::now());
        for name in ["a", "b", "bad", "c"] {
            interests.want(channel(name), 0, ticket(1));
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
        assert_eq!(refused, [(0, channel("bad"), ticket(1))]);
        assert_eq!(subscribed.len(), 3);
        assert!(!interests.has_queued());
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_loss_what_is_wanted_is_subscribed_again() {
        let (mut interests, now) = (Interests::new(LINGER), Instant::now());
        interests.want(channel("a"), 0, ticket(1));
        interests.want(channel("b"), 0, ticket(2));
        subscribe(&mut interests, now);
        interests.leave(&channel("b"), 0, now);
        interests.lost();
        assert!(interests.live().is_empty());
        assert_eq!(subscribe(&mut interests, now), [(0, channel("a"), ticket(1))]);
        assert_eq!(interests.live(), [(channel("a"), vec![0])]);
    }
}
