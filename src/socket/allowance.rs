//! What a connection may publish in a time: a bucket for messages and one for bytes.

use tokio::time::Instant;

use crate::access::Rate;

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

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
