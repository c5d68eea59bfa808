//! What a connection may publish in a time: a bucket for messages and one for bytes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::access::Rate;
use crate::reception::Proof;

/// What is left of a rate.
#[derive(Debug)]
pub(super) struct Allowance {
    rate: Rate,
    messages: f64,
    bytes: f64,
    since: Instant,
}

impl Allowance {
    /// Starts with full buckets.
    pub(super) fn new(rate: Rate) -> Self {
        let (messages, bytes) = Self::full(rate);
        Self { rate, messages, bytes, since: Instant::now() }
    }

    fn full(rate: Rate) -> (f64, f64) {
        let seconds = f64::from(rate.burst_seconds.max(1));
        (f64::from(rate.messages_per_second) * seconds, f64::from(rate.bytes_per_second) * seconds)
    }

    /// Takes a message of that many bytes out of the buckets; false if there is not enough in them.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        let now = Instant::now();
        let elapsed = (now - self.since).as_secs_f64();
        self.since = now;
        let (most_messages, most_bytes) = Self::full(self.rate);
        self.messages =
            most_messages.min(self.messages + elapsed * f64::from(self.rate.messages_per_second)) - 1.0;
        #[expect(clippy::cast_precision_loss, reason = "a message is far shorter than 2^52 bytes")]
        let bytes = bytes as f64;
        self.bytes = most_bytes.min(self.bytes + elapsed * f64::from(self.rate.bytes_per_second)) - bytes;
        (self.rate.messages_per_second == 0 || self.messages >= 0.0)
            && (self.rate.bytes_per_second == 0 || self.bytes >= 0.0)
    }
}

/// Visitors whose publications by single requests are remembered.
const REMEMBERED: usize = 10_000;

/// By what a visitor is known who publishes by single requests.
pub type Publisher = (Proof, Option<IpAddr>);

/// What visitors may publish by single requests, each of which is a connection of its own.
#[derive(Debug, Default)]
pub struct Allowances(RefCell<HashMap<(Publisher, Rate), Allowance>>);

impl Allowances {
    /// Takes a message of that many bytes out of a visitor's buckets; false if there is not enough in them.
    pub fn take(&self, publisher: Publisher, rate: Rate, bytes: usize) -> bool {
        if rate == Rate::default() {
            return true;
        }
        let mut allowances = self.0.borrow_mut();
        if allowances.len() >= REMEMBERED {
            // Whose buckets have had time to fill needs no remembering.
            let now = Instant::now();
            let filled = |rate: Rate| Duration::from_secs(rate.burst_seconds.max(1).into());
            allowances.retain(|(_, rate), allowance| now - allowance.since < filled(*rate));
        }
        if allowances.len() >= REMEMBERED {
            return false;
        }
        allowances.entry((publisher, rate)).or_insert_with(|| Allowance::new(rate)).take(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_then_the_rate() {
        let rate = Rate { messages_per_second: 2, bytes_per_second: 100, burst_seconds: 2 };
        let mut allowance = Allowance::new(rate);
        assert_eq!([0; 5].map(|_| allowance.take(1)), [true, true, true, true, false]);
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(allowance.take(200) && !allowance.take(1));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_everything_passes() {
        let mut allowance = Allowance::new(Rate::default());
        assert!((0..1000).all(|_| allowance.take(1 << 20)));
    }
}
