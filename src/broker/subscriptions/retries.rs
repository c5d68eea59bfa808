//! The back-off of refused subscriptions. State only, no I/O.

use std::time::Duration;

use tokio::time::Instant;

use crate::wire::Channel;

/// Refused channels that are retried together.
const MAX_RETRIED: usize = 500;

/// Pauses between retries of refused channels.
const FIRST_RETRY: Duration = Duration::from_secs(1);
pub(super) const LAST_RETRY: Duration = Duration::from_secs(30);

/// Pauses after a SUBSCRIBE that Redis cannot answer at the moment.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// When SUBSCRIBE may be sent again, and when refused channels are retried.
#[derive(Debug)]
pub(super) struct Retries {
    /// End of the pause after a SUBSCRIBE that Redis could not answer.
    postponed: Option<Instant>,
    next_pause: Duration,
    /// When refused channels are retried.
    due: Option<Instant>,
    next_retry: Duration,
    /// The index of the refused channel that is retried next.
    next: usize,
}

impl Default for Retries {
    fn default() -> Self {
        Self { postponed: None, next_pause: FIRST_PAUSE, due: None, next_retry: FIRST_RETRY, next: 0 }
    }
}

impl Retries {
    pub(super) fn postponed_until(&self) -> Option<Instant> {
        self.postponed
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Starts a pause because Redis cannot answer SUBSCRIBE at the moment.
    pub(super) fn postpone(&mut self, now: Instant) {
        self.postponed = Some(now + self.next_pause);
        self.next_pause = (self.next_pause * 2).min(LAST_PAUSE);
    }

    /// Ends the pause if it is over. Returns true if it is not.
    pub(super) fn end_postponement(&mut self, now: Instant) -> bool {
        self.postponed = self.postponed.filter(|until| *until > now);
        self.postponed.is_some()
    }

    /// Returns true, once, when refused channels are due.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        self.due.take_if(|due| *due <= now).is_some()
    }

    /// Notes that Redis has answered a SUBSCRIBE.
    pub(super) fn on_answer(&mut self) {
        self.next_pause = FIRST_PAUSE;
    }

    /// Notes that Redis refuses a channel.
    pub(super) fn on_refusal(&mut self, now: Instant) {
        self.due.get_or_insert(now + self.next_retry);
    }

    /// Notes that Redis allows a channel that it refused: most likely it allows the others as well.
    pub(super) fn on_allowed(&mut self, now: Instant) {
        self.due = self.due.map(|_| now);
        self.next_retry = FIRST_RETRY;
    }

    /// Reduces the refused channels to those that are retried now: in turn, if there are many.
    pub(super) fn select(&mut self, refused: &mut Vec<Channel>, now: Instant) {
        let first = if self.next < refused.len() { self.next } else { 0 };
        refused.rotate_left(first);
        refused.truncate(MAX_RETRIED);
        self.next = first + refused.len();
        self.due = Some(now + self.next_retry);
        self.next_retry = (self.next_retry * 2).min(LAST_RETRY);
    }
}
