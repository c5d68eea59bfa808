//! Key events and hints that arrive while handshakes are in flight. A lease that is registered behind them takes them
//! from here, so that nothing between the read of a session and its registration is missed.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::Leases;
use crate::wire::KeyEvent;
use crate::wire::{Channel, Hint};

/// Most that is remembered, and for how long. A handshake that began before what was forgotten has its session read
/// again, whatever it was.
const CAPACITY: usize = 10_000;
const TIME: Duration = Duration::from_secs(30);

/// A reason to read a session again.
#[derive(Debug, Clone)]
pub(super) enum Invalidation {
    /// Something happened to the key of which this channel tells.
    Key(Channel, KeyEvent),
    /// Django has changed a user, or ended a session.
    Hint(Hint),
    /// Something may have happened to any session.
    Any,
}

/// What arrived, oldest first, as long as a handshake is in flight.
#[derive(Debug, Default)]
pub(super) struct Invalidations {
    in_flight: usize,
    log: VecDeque<(Instant, Invalidation)>,
    /// When the newest of those came that are forgotten.
    forgotten: Option<Instant>,
}

/// A handshake in flight: from before its first read on, what arrives is remembered for it.
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
    /// Remembers what has just arrived, if anybody may need it.
    pub(super) fn note(&mut self, what: Invalidation) {
        if self.in_flight == 0 {
            return;
        }
        let now = Instant::now();
        while let Some((at, _)) = self.log.front()
            && (self.log.len() >= CAPACITY || now - *at > TIME)
        {
            self.forgotten = self.log.pop_front().map(|(at, _)| at);
        }
        self.log.push_back((now, what));
    }

    /// Returns what has arrived since then, newest first; `Any` where that is not known any more.
    pub(super) fn since(&self, since: Instant) -> impl Iterator<Item = &Invalidation> {
        let forgotten = self.forgotten.is_some_and(|at| at >= since).then_some(&Invalidation::Any);
        let log = self.log.iter().rev().take_while(move |(at, _)| *at >= since);
        forgotten.into_iter().chain(log.map(|(_, what)| what))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn hints(invalidations: &Invalidations, since: Instant) -> (usize, bool) {
        let all: Vec<_> = invalidations.since(since).collect();
        (all.len(), all.iter().any(|what| matches!(what, Invalidation::Any)))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_forgotten_counts_as_anything() {
        let mut invalidations = Invalidations { in_flight: 1, ..Invalidations::default() };
        let hint = || Invalidation::Hint(Hint::User { id: "7".into(), logout: false });
        let begun = Instant::now();
        for _ in 0..CAPACITY {
            invalidations.note(hint());
        }
        assert_eq!(hints(&invalidations, begun), (CAPACITY, false));
        invalidations.note(hint());
        assert_eq!(hints(&invalidations, begun), (CAPACITY + 1, true));
        advance(Duration::from_millis(1)).await;
        assert_eq!(hints(&invalidations, Instant::now()), (0, false), "all of it came before");
        advance(TIME).await;
        invalidations.note(hint());
        assert_eq!(hints(&invalidations, begun), (2, true));
    }

    #[tokio::test(start_paused = true)]
    async fn without_handshakes_nothing_is_remembered() {
        let mut invalidations = Invalidations::default();
        invalidations.note(Invalidation::Any);
        assert_eq!(hints(&invalidations, Instant::now()), (0, false));
    }
}
