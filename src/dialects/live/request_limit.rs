//! The limit of a client's requests that cost Redis or the callback something.

use std::cell::OnceCell;

use crate::access::Rate;
use crate::visitors::TokenBucket;

/// Requests per second that a client may send in the long run.
const PER_SECOND: u32 = 20;

/// Subscriptions, their ends, and tokens. Publications have the limits of their rules.
#[derive(Debug, Default)]
pub(super) struct RequestLimit(OnceCell<Box<TokenBucket>>);

impl RequestLimit {
    /// Takes a request; returns false if too many came before. A page may subscribe to all its facilities twice at once.
    pub(super) fn take(&self, max_facilities: usize) -> bool {
        let burst = u32::try_from(max_facilities).unwrap_or(u32::MAX).saturating_mul(2);
        let burst_seconds = burst / PER_SECOND + 2;
        let rate = Rate { messages_per_second: PER_SECOND, bytes_per_second: 0, burst_seconds };
        self.0.get_or_init(|| Box::new(TokenBucket::new(rate))).take(0)
    }
}
