//! Counters of the process, for events that are rare or should not happen.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of rare events. A plain delivery touches none of them.
#[derive(Debug, Default)]
pub struct Counters {
    /// Messages from clients that may not publish, and empty ones.
    pub ignored_publications: AtomicU64,
    /// Publications that Redis refused or whose outcome is unknown.
    pub lost_publications: AtomicU64,
    /// Publications that timed out waiting for Redis.
    pub refused_publications: AtomicU64,
    /// Messages that Redis published but did not persist.
    pub unkept_publications: AtomicU64,
    /// Messages from Redis above the size limit, live or persisted.
    pub oversized_deliveries: AtomicU64,
    /// Messages from Redis lost to a receive buffer overflow.
    pub lagged_deliveries: AtomicU64,
    /// Reads that Redis refused.
    pub refused_reads: AtomicU64,
    /// Clients closed for reading too slowly.
    pub slow_clients: AtomicU64,
    /// Refused handshakes.
    pub refused_handshakes: AtomicU64,
    /// Texts that look like a client library's heartbeat and are not in the settings.
    pub unknown_heartbeats: AtomicU64,
    /// Messages on the control channel that were malformed or too frequent.
    pub dropped_control_messages: AtomicU64,
    /// Messages of python-socketio that were malformed, or not encodable.
    pub unreadable_emits: AtomicU64,
    /// Messages of Channels groups that were malformed, or had nothing to deliver.
    pub undelivered_groups: AtomicU64,
    /// Messages of pages that Django Channels did not get.
    pub lost_channel_messages: AtomicU64,
    /// Values `NaN` and infinite in messages of python-socketio, which became null.
    pub replaced_numbers: AtomicU64,
    /// Changes of rooms that follow from visitors' identities, or of too many rooms.
    pub ignored_room_changes: AtomicU64,
    /// Acknowledgements of clients that Django did not get.
    pub unanswered_callbacks: AtomicU64,
    /// Events of Socket.IO clients that are not selected.
    pub ignored_events: AtomicU64,
    /// Events about clients that Django did not get.
    pub dropped_events: AtomicU64,
    /// Calls of the callback without a usable answer.
    pub failed_callbacks: AtomicU64,
    /// Times that Redis was lost.
    pub redis_losses: AtomicU64,
}

impl Counters {
    /// Adds one.
    pub fn count(counter: &AtomicU64) {
        Self::add(counter, 1);
    }

    /// Adds `count`.
    pub fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts a text that looks like a client library's heartbeat, and logs the cure at the 3rd, 30th, 300th …
    pub fn warn_of_heartbeat(&self, text: &'static str) {
        let count = self.unknown_heartbeats.fetch_add(1, Ordering::Relaxed) + 1;
        let thirds = count / 3;
        if count.is_multiple_of(3) && thirds.checked_ilog10().is_some_and(|zeros| thirds == 10_u64.pow(zeros))
        {
            tracing::warn!(
                text,
                count,
                "clients repeat a text that looks like a library's heartbeat; it gets no answer, and where these clients may publish, all subscribers receive it and it replaces the persisted message. Add it to messages.client_heartbeats (set heartbeat, if all clients send it), or switch it off in the client"
            );
        }
    }

    /// Returns the name, the meaning and the value of each counter.
    pub fn values(&self) -> [(&'static str, &'static str, u64); 21] {
        [
            (
                "ignored_publications",
                "Messages from clients that may not publish, and empty ones",
                &self.ignored_publications,
            ),
            (
                "lost_publications",
                "Publications that Redis refused or whose outcome is unknown",
                &self.lost_publications,
            ),
            (
                "refused_publications",
                "Publications that timed out waiting for Redis",
                &self.refused_publications,
            ),
            (
                "unkept_publications",
                "Messages that Redis published but did not persist",
                &self.unkept_publications,
            ),
            (
                "oversized_deliveries",
                "Messages from Redis above the size limit, live or persisted",
                &self.oversized_deliveries,
            ),
            (
                "lagged_deliveries",
                "Messages from Redis lost to a receive buffer overflow",
                &self.lagged_deliveries,
            ),
            ("refused_reads", "Reads that Redis refused", &self.refused_reads),
            ("slow_clients", "Clients closed for reading too slowly", &self.slow_clients),
            ("refused_handshakes", "Refused handshakes", &self.refused_handshakes),
            (
                "unknown_heartbeats",
                "Texts that look like a client library's heartbeat and are not in the settings",
                &self.unknown_heartbeats,
            ),
            (
                "dropped_control_messages",
                "Messages on the control channel that were malformed or too frequent",
                &self.dropped_control_messages,
            ),
            (
                "unreadable_emits",
                "Messages of python-socketio that were malformed, or not encodable",
                &self.unreadable_emits,
            ),
            (
                "undelivered_groups",
                "Messages of Channels groups that were malformed, or had nothing to deliver",
                &self.undelivered_groups,
            ),
            (
                "lost_channel_messages",
                "Messages of pages that Django Channels did not get",
                &self.lost_channel_messages,
            ),
            (
                "replaced_numbers",
                "Values `NaN` and infinite in messages of python-socketio, which became null",
                &self.replaced_numbers,
            ),
            (
                "ignored_room_changes",
                "Changes of rooms that follow from visitors' identities, or of too many rooms",
                &self.ignored_room_changes,
            ),
            (
                "unanswered_callbacks",
                "Acknowledgements of clients that Django did not get",
                &self.unanswered_callbacks,
            ),
            ("ignored_events", "Events of Socket.IO clients that are not selected", &self.ignored_events),
            ("dropped_events", "Events about clients that Django did not get", &self.dropped_events),
            ("failed_callbacks", "Calls of the callback without a usable answer", &self.failed_callbacks),
            ("redis_losses", "Times that Redis was lost", &self.redis_losses),
        ]
        .map(|(name, meaning, counter)| (name, meaning, counter.load(Ordering::Relaxed)))
    }

    /// Logs all counters that are not 0 in one line, at the end of the process.
    pub fn log(&self) {
        let counts: Vec<_> = self.values().into_iter().filter(|(_, _, count)| *count > 0).collect();
        let counts: Vec<_> = counts.iter().map(|(name, _, count)| format!("{name}={count}")).collect();
        if !counts.is_empty() {
            tracing::info!("counts: {}", counts.join(" "));
        }
    }
}
