//! Messages of the control channel on their way to the shards: coalesced and rate-limited.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::time::{Duration, Instant};
use tracing::warn;

use crate::metrics::Counters;
use crate::telemetry::LogThrottle;
use crate::wire::{DoctorQuery, Invalidation};

/// Invalidations per second that are passed on, since a publisher could send any number. After a dropped one all
/// sessions are re-read later.
const INVALIDATIONS_PER_SECOND: usize = 1_000;

/// Messages per second that are parsed.
const MESSAGES_PER_SECOND: usize = 10_000;

/// Shortest interval between the re-reads of all sessions that make up for dropped invalidations.
const CATCH_UP_INTERVAL: Duration = Duration::from_secs(10);

/// Queries of the doctor per second that are answered.
const QUERIES_PER_SECOND: usize = 10;

/// What arrived since the last [`Self::take`], and the rates.
#[derive(Debug)]
pub(super) struct ControlInbox {
    invalidations: HashSet<Invalidation>,
    queries: Vec<DoctorQuery>,
    /// Start of the current second; the counts below are those of this second.
    second: Instant,
    messages_seen: usize,
    invalidations_seen: usize,
    queries_seen: usize,
    /// Messages were dropped since the last announcement to the shards.
    dropped: bool,
    announced_at: Option<Instant>,
    counters: Arc<Counters>,
    throttle: LogThrottle,
}

impl ControlInbox {
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Self {
            invalidations: HashSet::new(),
            queries: Vec::new(),
            second: Instant::now(),
            messages_seen: 0,
            invalidations_seen: 0,
            queries_seen: 0,
            dropped: false,
            announced_at: None,
            counters,
            throttle: LogThrottle::default(),
        }
    }

    /// Counts a message. Returns true if it may be parsed: a flood on the channel must not cost more than receiving it.
    pub(super) fn admit(&mut self) -> bool {
        if self.second.elapsed() >= Duration::from_secs(1) {
            (self.second, self.messages_seen) = (Instant::now(), 0);
            (self.invalidations_seen, self.queries_seen) = (0, 0);
        }
        self.messages_seen += 1;
        let admitted = self.messages_seen <= MESSAGES_PER_SECOND;
        if !admitted {
            self.drop_message();
        }
        admitted
    }

    pub(super) fn add_invalidation(&mut self, invalidation: Invalidation) {
        if self.invalidations_seen < INVALIDATIONS_PER_SECOND {
            self.invalidations_seen += usize::from(self.invalidations.insert(invalidation));
        } else {
            self.drop_message();
        }
    }

    pub(super) fn add_query(&mut self, query: DoctorQuery) {
        if self.queries_seen < QUERIES_PER_SECOND {
            self.queries_seen += 1;
            self.queries.push(query);
        } else {
            self.drop_message();
        }
    }

    /// Counts a message that could not be parsed.
    pub(super) fn note_malformed(&self) {
        Counters::count(&self.counters.dropped_control_messages);
    }

    fn drop_message(&mut self) {
        self.dropped = true;
        Counters::count(&self.counters.dropped_control_messages);
        if let Some(suppressed) = self.throttle.allow() {
            warn!(
                suppressed,
                "too many messages on the control channel; some are dropped, all sessions are re-read"
            );
        }
    }

    /// Returns true if messages were dropped and the shards have to re-read all sessions: at most every 10 s.
    pub(super) fn take_dropped(&mut self) -> bool {
        let due = self.is_catch_up_due();
        if due {
            self.dropped = false;
            self.announced_at = Some(Instant::now());
        }
        due
    }

    fn is_catch_up_due(&self) -> bool {
        self.dropped && self.announced_at.is_none_or(|at| at.elapsed() >= CATCH_UP_INTERVAL)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.invalidations.is_empty() && self.queries.is_empty() && !self.is_catch_up_due()
    }

    /// Returns the invalidations and queries that arrived.
    pub(super) fn take(&mut self) -> (Arc<[Invalidation]>, Vec<DoctorQuery>) {
        (self.invalidations.drain().collect(), std::mem::take(&mut self.queries))
    }
}
