//! The time of the store: Unix milliseconds that never decrease.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// The wall clock at the start plus the monotonic time since: a step of the wall clock must not expire keys.
#[derive(Debug)]
pub(crate) struct Clock {
    started: Instant,
    started_unix_ms: i64,
}

impl Clock {
    /// Reads the wall clock once.
    pub(crate) fn start() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            started: Instant::now(),
            started_unix_ms: i64::try_from(unix.as_millis()).unwrap_or(i64::MAX / 2),
        }
    }

    /// Returns Unix milliseconds.
    pub(crate) fn now_ms(&self) -> i64 {
        let elapsed = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX / 2);
        self.started_unix_ms.saturating_add(elapsed)
    }

    /// Returns whole seconds since the store started.
    pub(crate) fn uptime_seconds(&self) -> u64 {
        self.started.elapsed().as_secs()
    }
}
