//! Key events and hints that arrive while handshakes are in flight.
//!
//! A new lease applies those that arrived since its session was read: otherwise an event between the read and the
//! registration of the lease would be lost.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::Leases;
use crate::wire::{Channel, Hint, KeyEvent};

/// Bounds of the log. The session of a handshake that began before a discarded entry is read again.
const CAPACITY: usize = 10_000;
const TIME: Duration = Duration::from_secs(30);

/// A reason to read a session again.
#[derive(Debug, Clone)]
pub(super) enum Invalidation {
    /// An event of the key of this keyspace channel.
    Key(Channel, KeyEvent),
    /// A hint of the Django package about a user or a session.
    Hint(Hint),
    /// Any session may have changed.
    Any,
}

/// The log of invalidations, oldest first, kept while a handshake is in flight.
#[derive(Debug, Default)]
pub(super) struct Invalidations {
    in_flight: usize,
    log: VecDeque<(Instant, Invalidation)>,
    /// Arrival time of the newest discarded entry.
    discarded: Option<Instant>,
}

/// A handshake in flight. While it exists, invalidations are logged.
pub struct InFlight(Rc<Leases>);

impl InFlight {
    pub(super) fn new(leases: &Rc<Leases>) -> Self {
        leases.invalidations.borrow_mut().in_flight += 1;
        Self(leases.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut invalidations = self.0.invalidations.borrow_mut();
        invalidations.in_flight -= 1;
        if invalidations.in_flight == 0 {
            *invalidations = Invalidations::default();
        }
    }
}

impl Invalidations {
    /// Logs an invalidation if a handshake is in flight.
    pub(super) fn record(&mut self, invalidation: Invalidation) {
        if self.in_flight == 0 {
            return;
        }
        let now = Instant::now();
        while let Some((at, _)) = self.log.front()
            && (self.log.len() >= CAPACITY || now - *at > TIME)
        {
            self.discarded = self.log.pop_front().map(|(at, _)| at);
        }
        self.log.push_back((now, invalidation));
    }

    /// Returns the invalidations since `since`, newest first, preceded by `Any` if some have been discarded.
    pub(super) fn since(&self, since: Instant) -> impl Iterator<Item = &Invalidation> {
        let discarded = self.discarded.is_some_and(|at| at >= since).then_some(&Invalidation::Any);
        let log = self.log.iter().rev().take_while(move |(at, _)| *at >= since);
        discarded.into_iter().chain(log.map(|(_, invalidation)| invalidation))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn hints(invalidations: &Invalidations, since: Instant) -> (usize, bool) {
        let all: Vec<_> = invalidations.since(since).collect();
        (all.len(), all.iter().any(|invalidation| matches!(invalidation, Invalidation::Any)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_discarded_entry_counts_as_any_invalidation() {
        let mut invalidations = Invalidations { in_flight: 1, ..Invalidations::default() };
        let hint = || Invalidation::Hint(Hint::User { id: "7".into(), logout: false });
        let begun = Instant::now();
        for _ in 0..CAPACITY {
            invalidations.record(hint());
        }
        assert_eq!(hints(&invalidations, begun), (CAPACITY, false));
        invalidations.record(hint());
        assert_eq!(hints(&invalidations, begun), (CAPACITY + 1, true));
        advance(Duration::from_millis(1)).await;
        assert_eq!(hints(&invalidations, Instant::now()), (0, false), "all of them arrived earlier");
        advance(TIME).await;
        invalidations.record(hint());
        assert_eq!(hints(&invalidations, begun), (2, true));
    }

    #[tokio::test(start_paused = true)]
    async fn without_handshakes_nothing_is_logged() {
        let mut invalidations = Invalidations::default();
        invalidations.record(Invalidation::Any);
        assert_eq!(hints(&invalidations, Instant::now()), (0, false));
    }
}
