//! Subscriptions that Redis refuses: they are tried again with back-off, as long as somebody wants them.

use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::subscriptions::{State, Subscriptions};
use crate::hub::Generation;
use crate::redis::error_reply::is_about_the_command;
use crate::wire::Channel;

/// Refused channels that are tried again together, and the pauses between.
const RETRIED: usize = 500;
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Pauses after a SUBSCRIBE that Redis cannot answer at the moment.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// A channel that Redis refuses.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) channel: Channel,
    /// Who wants it.
    pub(super) generations: SmallVec<[(usize, Generation); 1]>,
    /// Whether it was not refused already when it was tried last.
    pub(super) is_new: bool,
}

/// When something is tried again.
#[derive(Debug)]
pub(super) struct Retries {
    /// When SUBSCRIBE is tried again that Redis could not answer, and the pause behind the next such answer.
    pub(super) postponed: Option<Instant>,
    pause: Duration,
    /// When refused channels are tried again, the pause behind the next refusal, and which of them are next.
    pub(super) due: Option<Instant>,
    retry_pause: Duration,
    next: usize,
}

impl Default for Retries {
    fn default() -> Self {
        Self { postponed: None, pause: FIRST_PAUSE, due: None, retry_pause: FIRST_RETRY, next: 0 }
    }
}

impl Retries {
    fn postpone(&mut self, now: Instant) {
        self.postponed = Some(now + self.pause);
        self.pause = (self.pause * 2).min(LAST_PAUSE);
    }

    /// Tells whether SUBSCRIBE has to wait, and ends the pause if it is over.
    pub(super) fn is_postponed(&mut self, now: Instant) -> bool {
        self.postponed = self.postponed.filter(|due| *due > now);
        self.postponed.is_some()
    }

    /// Notes that Redis has answered a SUBSCRIBE.
    pub(super) fn note_answered(&mut self) {
        self.pause = FIRST_PAUSE;
    }

    fn note_refused(&mut self, now: Instant) {
        self.due.get_or_insert(now + self.retry_pause);
    }

    /// Notes that Redis allows a channel that it refused: most likely it allows the others as well.
    pub(super) fn note_allowed(&mut self, now: Instant) {
        self.due = self.due.map(|_| now);
        self.retry_pause = FIRST_RETRY;
    }

    /// Leaves those that are tried now, each in its turn, if there are many.
    fn choose(&mut self, refused: &mut Vec<Channel>, now: Instant) {
        let first = if self.next < refused.len() { self.next } else { 0 };
        refused.rotate_left(first);
        refused.truncate(RETRIED);
        self.next = first + refused.len();
        self.due = Some(now + self.retry_pause);
        self.retry_pause = (self.retry_pause * 2).min(LAST_RETRY);
    }
}

impl Subscriptions {
    /// Has some of the refused channels tried again: each in its turn, if there are many.
    pub(super) fn retry_refused(&mut self, now: Instant) {
        let refused = self.channels.iter().filter(|(_, subscription)| subscription.state == State::Refused);
        let mut refused: Vec<_> = refused.map(|(channel, _)| channel.clone()).collect();
        if refused.is_empty() {
            return;
        }
        self.retries.choose(&mut refused, now);
        for channel in &refused {
            if let Some(subscription) = self.get_mut(channel.as_str()) {
                subscription.state = State::Queued;
            }
        }
        self.suspects.push(refused);
    }

    /// Puts channels off that Redis cannot subscribe at the moment.
    pub(super) fn postpone(&mut self, channels: Vec<Channel>, now: Instant) {
        for channel in &channels {
            if let Some(subscription) = self.get_mut(channel.as_str()) {
                subscription.state = State::Queued;
            }
        }
        self.queued.extend(channels);
        self.retries.postpone(now);
    }

    /// Takes Redis' refusal of some of these channels. Returns those that are refused; many are parted and tried again,
    /// unless the command itself is refused.
    pub(super) fn refused(&mut self, mut channels: Vec<Channel>, reason: &str, now: Instant) -> Vec<Refused> {
        if channels.len() > 1 && !is_about_the_command(reason) {
            let half = channels.split_off(channels.len() / 2);
            self.suspects.extend([channels, half]);
            return Vec::new();
        }
        let mut refused = Vec::with_capacity(channels.len());
        for channel in channels {
            let Some(number) = self.channels.find(channel.as_str()) else { continue };
            let subscription = &mut self.channels[number];
            let is_new = !std::mem::replace(&mut subscription.missed, true);
            subscription.state = State::Refused;
            let generations = subscription.generations.clone();
            if generations.is_empty() {
                self.channels.remove(number);
                continue;
            }
            self.retries.note_refused(now);
            refused.push(Refused { channel, generations, is_new });
        }
        refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINGER: Duration = Duration::from_secs(2);
    const REFUSED: &str = "NOPERM this user has no permissions to access one of the channels";

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
    async fn a_refusal_is_narrowed_down_to_the_channels_concerned() {
        let (mut subscriptions, now) = (Subscriptions::new(LINGER), Instant::now());
        for name in ["a", "b", "bad", "c"] {
            subscriptions.want(channel(name), 0, generation(1));
        }
        let (mut refused, mut subscribed) = (Vec::new(), Vec::new());
        for _ in 0..10 {
            let step = subscriptions.step(now);
            if step.subscribe.iter().any(|c| c.as_str() == "bad") {
                refused.extend(subscriptions.refused(step.subscribe, REFUSED, now));
            } else {
                subscribed.extend(subscriptions.subscribed(step.subscribe, now));
            }
        }
        let generations = SmallVec::from_elem((0, generation(1)), 1);
        assert_eq!(refused, [Refused { channel: channel("bad"), generations, is_new: true }]);
        assert_eq!(subscribed.len(), 3);
        assert!(!subscriptions.has_queued() && !subscriptions.is_behind());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_channel_is_tried_again_with_back_off_as_long_as_it_is_wanted() {
        let (mut subscriptions, begun) = (Subscriptions::new(LINGER), Instant::now());
        subscriptions.want(channel("bad"), 0, generation(1));
        let (mut now, mut pauses) = (begun, Vec::new());
        for _ in 0..7 {
            let step = subscriptions.step(now);
            assert_eq!(step.subscribe, [channel("bad")]);
            subscriptions.refused(step.subscribe, REFUSED, now);
            let due = subscriptions.next_due().unwrap();
            assert!(subscriptions.step(now).subscribe.is_empty(), "too early");
            pauses.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(pauses, [1, 1, 2, 4, 8, 16, 30]);
        assert_eq!(subscribe(&mut subscriptions, now), [(0, channel("bad"), generation(1), true)]);
        subscriptions.want(channel("worse"), 0, generation(2));
        let step = subscriptions.step(now);
        subscriptions.refused(step.subscribe, REFUSED, now);
        subscriptions.leave(&channel("worse"), 0, now);
        assert!(subscriptions.step(now + LAST_RETRY).subscribe.is_empty(), "nobody wants it any more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_of_the_command_itself_refuses_all_channels_at_once() {
        let (mut subscriptions, now) = (Subscriptions::new(LINGER), Instant::now());
        for number in 0..2000 {
            subscriptions.want(channel(&number.to_string()), 0, generation(1));
        }
        let step = subscriptions.step(now);
        let reason = "NOPERM User default has no permissions to run the 'subscribe' command";
        assert_eq!(subscriptions.refused(step.subscribe, reason, now).len(), 2000);
        assert!(!subscriptions.is_behind());
        // They are tried again in parts, each at once behind the one that is allowed.
        let mut now = subscriptions.next_due().unwrap();
        let mut again = Vec::new();
        for _ in 0..4 {
            again.extend(subscribe(&mut subscriptions, now));
            now = subscriptions.next_due().unwrap_or(now);
        }
        assert_eq!(again.len(), 2000);
        assert!(again.iter().all(|(.., missed)| *missed));
    }

    #[tokio::test(start_paused = true)]
    async fn what_redis_cannot_subscribe_at_the_moment_waits_and_refuses_nobody() {
        let (mut subscriptions, now) = (Subscriptions::new(LINGER), Instant::now());
        subscriptions.want(channel("a"), 0, generation(1));
        let step = subscriptions.step(now);
        subscriptions.postpone(step.subscribe, now);
        assert!(subscriptions.is_behind() && !subscriptions.has_queued());
        assert!(subscriptions.step(now).subscribe.is_empty());
        let due = subscriptions.next_due().unwrap();
        assert_eq!(due, now + FIRST_PAUSE);
        assert_eq!(subscribe(&mut subscriptions, due), [(0, channel("a"), generation(1), false)]);
    }
}
