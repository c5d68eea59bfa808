//! The gate that holds the events of the other shards back until the first shard has written the start of the process.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Lets the first shard write first: the start of the process comes before its clients.
#[derive(Debug, Clone, Default)]
pub struct StartGate(Arc<AtomicBool>);

impl StartGate {
    pub(super) fn open(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_open(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A shard that waits at the gate. It waits for a limited time: the first shard may be the only one that does not reach Redis.
#[derive(Debug)]
pub(super) struct GateWaiter {
    gate: StartGate,
    wait: Duration,
    /// Since when this shard could write, if the gate were open.
    since: Cell<Option<Instant>>,
}

impl GateWaiter {
    /// Waits for at most `wait`; the first shard does not wait.
    pub(super) fn new(gate: StartGate, is_first: bool, wait: Duration) -> Self {
        Self { gate, wait: if is_first { Duration::ZERO } else { wait }, since: Cell::default() }
    }

    /// Records that this shard can write now. Returns whether it may.
    pub(super) fn arrive(&self) -> bool {
        let since = self.since.get().unwrap_or_else(Instant::now);
        self.since.set(Some(since));
        self.gate.is_open() || since.elapsed() >= self.wait
    }

    /// Opens the gate: an event has been written.
    pub(super) fn open(&self) {
        self.gate.open();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn shards_wait_for_the_first_one_and_not_longer_than_for_redis() {
        let (gate, wait) = (StartGate::default(), Duration::from_secs(10));
        let shard = |number| GateWaiter::new(gate.clone(), number == 0, wait);
        let (first, second, third) = (shard(0), shard(1), shard(2));
        assert_eq!([first.arrive(), second.arrive()], [true, false]);
        tokio::time::advance(wait).await;
        // The third has reached Redis only now.
        assert_eq!([second.arrive(), third.arrive()], [true, false]);
        second.open();
        assert!(third.arrive(), "an event has been written");
    }
}
