//! Key events and invalidations that arrive while handshakes are in flight.
//!
//! A new lease applies those that arrived since its session was read: otherwise an event between the read and the
//! registration of the lease would be lost.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::Leases;
use crate::wire::{Channel, Invalidation, KeyEvent};

/// Bounds of the log. The session of a handshake that began before a discarded entry is read again.
const CAPACITY: usize = 10_000;
const TIME: Duration = Duration::from_secs(30);

/// A reason to read a session again.
#[derive(Debug, Clone)]
pub(super) enum LoggedEvent {
    /// An event of the key of this keyspace channel.
    Key(Channel, KeyEvent),
    /// An invalidation of the Django package about a user or a session.
    Invalidation(Invalidation),
    /// Any session may have changed.
    Any,
}

/// The logged events, oldest first, kept while a handshake is in flight.
#[derive(Debug, Default)]
pub(super) struct EventLog {
    in_flight: usize,
    log: VecDeque<(Instant, LoggedEvent)>,
    /// Arrival time of the newest discarded entry.
    discarded: Option<Instant>,
}

/// A handshake in flight. While it exists, events are logged.
pub struct InFlight(Rc<Leases>);

impl InFlight {
    pub(super) fn new(leases: &Rc<Leases>) -> Self {
        leases.event_log.borrow_mut().in_flight += 1;
        Self(leases.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut event_log = self.0.event_log.borrow_mut();
        event_log.in_flight -= 1;
        if event_log.in_flight == 0 {
            *event_log = EventLog::default();
        }
    }
}

impl EventLog {
    /// Logs an event if a handshake is in flight.
    pub(super) fn record(&mut self, event: LoggedEvent) {
        if self.in_flight == 0 {
            return;
        }
        let now = Instant::now();
        while let Some((at, _)) = self.log.front()
            && (self.log.len() >= CAPACITY || now - *at > TIME)
        {
            self.discarded = self.log.pop_front().map(|(at, _)| at);
        }
        self.log.push_back((now, event));
    }

    /// Returns the events since `since`, newest first, preceded by `Any` if some have been discarded.
    pub(super) fn since(&self, since: Instant) -> impl Iterator<Item = &LoggedEvent> {
        let discarded = self.discarded.is_some_and(|at| at >= since).then_some(&LoggedEvent::Any);
        let log = self.log.iter().rev().take_while(move |(at, _)| *at >= since);
        discarded.into_iter().chain(log.map(|(_, event)| event))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn count(event_log: &EventLog, since: Instant) -> (usize, bool) {
        let all: Vec<_> = event_log.since(since).collect();
        (all.len(), all.iter().any(|event| matches!(event, LoggedEvent::Any)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_discarded_entry_counts_as_any_invalidation() {
        let mut event_log = EventLog { in_flight: 1, ..EventLog::default() };
        let invalidation = || LoggedEvent::Invalidation(Invalidation::User { id: "7".into(), logout: false });
        let begun = Instant::now();
        for _ in 0..CAPACITY {
            event_log.record(invalidation());
        }
        assert_eq!(count(&event_log, begun), (CAPACITY, false));
        event_log.record(invalidation());
        assert_eq!(count(&event_log, begun), (CAPACITY + 1, true));
        advance(Duration::from_millis(1)).await;
        assert_eq!(count(&event_log, Instant::now()), (0, false), "all of them arrived earlier");
        advance(TIME).await;
        event_log.record(invalidation());
        assert_eq!(count(&event_log, begun), (2, true));
    }

    #[tokio::test(start_paused = true)]
    async fn without_handshakes_nothing_is_logged() {
        let mut event_log = EventLog::default();
        event_log.record(LoggedEvent::Any);
        assert_eq!(count(&event_log, Instant::now()), (0, false));
    }
}
