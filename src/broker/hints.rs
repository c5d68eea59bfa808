//! Hints of the control channel on their way to the shards: each user once, and not too many.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::time::{Duration, Instant};
use tracing::warn;

use crate::metrics::Counters;
use crate::telemetry::LogThrottle;
use crate::wire::{Control, DoctorQuery, Hint};

/// Hints per second that are passed on: whoever may publish could send any number. Who is missed is looked at anyway,
/// only later.
const HINTS_PER_SECOND: usize = 1_000;

/// Messages per second that are read at all.
const MESSAGES_PER_SECOND: usize = 10_000;

/// How often dropped hints are made up for, by looking at everybody.
const CATCH_UP: Duration = Duration::from_secs(10);

/// Questions per second that are answered.
const QUESTIONS_PER_SECOND: usize = 10;

/// What came in since it was last taken.
#[derive(Debug)]
pub(super) struct Hints {
    users: HashSet<Hint>,
    queries: Vec<DoctorQuery>,
    second: Instant,
    /// How much came in this second.
    hinted: usize,
    asked: usize,
    seen: usize,
    /// Whether some were dropped, and when that was last told.
    dropped: bool,
    told: Option<Instant>,
    counters: Arc<Counters>,
    too_many: LogThrottle,
}

impl Hints {
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Self {
            users: HashSet::new(),
            queries: Vec::new(),
            second: Instant::now(),
            hinted: 0,
            asked: 0,
            seen: 0,
            dropped: false,
            told: None,
            counters,
            too_many: LogThrottle::default(),
        }
    }

    /// Takes a message of the control channel in.
    pub(super) fn keep(&mut self, message: &[u8]) {
        if self.second.elapsed() >= Duration::from_secs(1) {
            (self.second, self.hinted, self.asked, self.seen) = (Instant::now(), 0, 0, 0);
        }
        self.seen += 1;
        if self.seen > MESSAGES_PER_SECOND {
            // Not even read: whoever floods the channel must not cost more than Redis does.
            return self.drop_one();
        }
        match Control::parse(message) {
            Some(Control::Look(hint)) if self.hinted < HINTS_PER_SECOND => {
                self.hinted += usize::from(self.users.insert(hint));
            }
            Some(Control::Ask(query)) if self.asked < QUESTIONS_PER_SECOND => {
                self.asked += 1;
                self.queries.push(query);
            }
            Some(_) => self.drop_one(),
            None => Counters::count(&self.counters.dropped_hints),
        }
    }

    fn drop_one(&mut self) {
        self.dropped = true;
        Counters::count(&self.counters.dropped_hints);
        if let Some(suppressed) = self.too_many.allow() {
            warn!(
                suppressed,
                "too many hints about users, some are dropped; all visitors are looked at again"
            );
        }
    }

    /// Tells whether some were dropped since that was last asked for, but not more often than now and then.
    pub(super) fn take_dropped(&mut self) -> bool {
        let due = self.told.is_none_or(|told| told.elapsed() >= CATCH_UP);
        let dropped = due && std::mem::take(&mut self.dropped);
        if dropped {
            self.told = Some(Instant::now());
        }
        dropped
    }

    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty() && self.queries.is_empty()
    }

    /// Returns what came in.
    pub(super) fn take(&mut self) -> (Arc<[Hint]>, Vec<DoctorQuery>) {
        (self.users.drain().collect(), std::mem::take(&mut self.queries))
    }
}
