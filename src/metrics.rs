//! What is counted for the whole process: things that should not happen, or rarely do.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of things that should not happen, or rarely do. None is touched by a plain delivery.
#[derive(Debug, Default)]
pub struct Counters {
    /// Messages from clients that may not publish, and empty ones.
    pub ignored_publications: AtomicU64,
    /// Publications whose fate is unknown, or that Redis refused.
    pub lost_publications: AtomicU64,
    /// Publications that waited too long for Redis.
    pub refused_publications: AtomicU64,
    /// Messages that were published but that Redis did not keep.
    pub unkept_publications: AtomicU64,
    /// Messages from Redis above the size limit, live or persisted.
    pub oversized_deliveries: AtomicU64,
    /// Messages from Redis that were lost because the receiver overflowed.
    pub lagged_deliveries: AtomicU64,
    /// Values that Redis refused to give out.
    pub refused_reads: AtomicU64,
    /// Clients that were closed because they read too slowly.
    pub slow_clients: AtomicU64,
    /// Handshakes that were refused, whatever for.
    pub refused_handshakes: AtomicU64,
    /// Texts that look like heartbeats of client libraries and are in no setting.
    pub unknown_heartbeats: AtomicU64,
    /// Messages on the control channel that mean nothing, or came too fast.
    pub dropped_hints: AtomicU64,
    /// Calls to the callback that said nothing.
    pub failed_callbacks: AtomicU64,
    /// Times that Redis was lost.
    pub redis_losses: AtomicU64,
}

impl Counters {
    /// Adds one.
    pub fn count(counter: &AtomicU64) {
        Self::add(counter, 1);
    }

    /// Adds some.
    pub fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts a text that looks like the heartbeat of a client library and is in no setting, and says what to do about
    /// it: at the third one, the thirtieth, the three-hundredth …
    pub fn warn_of_heartbeat(&self, text: &'static str) {
        let count = self.unknown_heartbeats.fetch_add(1, Ordering::Relaxed) + 1;
        let thirds = count / 3;
        if count.is_multiple_of(3) && thirds.checked_ilog10().is_some_and(|zeros| thirds == 10_u64.pow(zeros))
        {
            tracing::warn!(
                text,
                count,
                "clients repeat a text that looks like a library's heartbeat; it is not answered, and goes to everybody and replaces the persisted message where they may publish. Name it in messages.client_heartbeats (in heartbeat, if all clients have it), or switch it off in the client"
            );
        }
    }

    /// Writes one line with all counts that are not 0, as at the end of the process.
    pub fn log(&self) {
        let counts = [
            ("ignored_publications", &self.ignored_publications),
            ("lost_publications", &self.lost_publications),
            ("refused_publications", &self.refused_publications),
            ("unkept_publications", &self.unkept_publications),
            ("oversized_deliveries", &self.oversized_deliveries),
            ("lagged_deliveries", &self.lagged_deliveries),
            ("refused_reads", &self.refused_reads),
            ("slow_clients", &self.slow_clients),
            ("refused_handshakes", &self.refused_handshakes),
            ("unknown_heartbeats", &self.unknown_heartbeats),
            ("dropped_hints", &self.dropped_hints),
            ("failed_callbacks", &self.failed_callbacks),
            ("redis_losses", &self.redis_losses),
        ];
        let counts = counts.map(|(name, counter)| (name, counter.load(Ordering::Relaxed)));
        let counts: Vec<_> = counts.iter().filter(|(_, count)| *count > 0).collect();
        let counts: Vec<_> = counts.iter().map(|(name, count)| format!("{name}={count}")).collect();
        if !counts.is_empty() {
            tracing::info!("counts: {}", counts.join(" "));
        }
    }
}
