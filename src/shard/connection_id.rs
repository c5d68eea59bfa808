//! Numbers of connections: unique in the process, never reused, and no secret.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// The number of a connection: the microsecond of the process at which it was accepted, or the next one that is free.
///
/// An id that is a time costs a connection no memory for its age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

/// Issues the ids of all shards.
#[derive(Debug)]
pub struct ConnectionIds {
    started: Instant,
    started_at: SystemTime,
    last: AtomicU64,
}

impl ConnectionIds {
    /// Returns a new id.
    pub fn issue(&self) -> ConnectionId {
        let now = micros(self.started.elapsed());
        let next = |last: u64| now.max(last + 1);
        // Relaxed: only the uniqueness of the number counts.
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        ConnectionId(next(last.unwrap_or_else(|last| last)))
    }

    /// Returns when an id was issued, by the clock that the system had at the start.
    pub fn issued_at(&self, id: ConnectionId) -> SystemTime {
        self.started_at.checked_add(Duration::from_micros(id.0)).unwrap_or(self.started_at)
    }

    /// Returns the time since an id was issued.
    pub fn age(&self, id: ConnectionId) -> Duration {
        self.started.elapsed().saturating_sub(Duration::from_micros(id.0))
    }
}

impl ConnectionId {
    /// Returns the number itself.
    pub fn number(self) -> u64 {
        self.0
    }
}

impl Default for ConnectionIds {
    fn default() -> Self {
        Self { started: Instant::now(), started_at: SystemTime::now(), last: AtomicU64::new(0) }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_issued_at_the_same_time_differ_and_rise() {
        let ids = ConnectionIds::default();
        let issued: Vec<_> = (0..10_000).map(|_| ids.issue()).collect();
        assert!(issued.is_sorted_by(|a, b| a < b));
        assert!(ids.age(issued[0]) >= ids.age(issued[9_999]));
    }
}
