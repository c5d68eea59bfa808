//! Messages that are held back: for one who joins, and for a channel whose persisted value is read again.

use std::task::Waker;

use super::{Limits, Run};

/// What a joining connection has not been given yet: live messages, from joining until its replay is known.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// The seat (index of the channel among its own) and the run, in order of arrival.
    runs: Vec<(usize, Run)>,
    bytes: usize,
    /// Channels whose subscription Redis has not acknowledged, or whose value is being read again.
    pub(super) awaited: usize,
    /// Whether messages were lost since it began to read.
    pub(super) stale: bool,
    /// Why it cannot join, once that is known.
    pub(super) failure: Option<super::NotJoined>,
    /// The handshake's task.
    pub(super) task: Option<Waker>,
}

impl Held {
    pub(super) fn push(&mut self, seat: usize, run: &Run, limits: &Limits) {
        // As in the outbox, one large message is free. It is short enough a time for the hard bound.
        let too_much = !self.runs.is_empty() && self.bytes + run.bytes.len() > limits.outbox_hard_bytes;
        if self.failure.is_some() || too_much || limits.memory.is_full() {
            self.runs = Vec::new();
            return self.fail(super::NotJoined::Flooded);
        }
        self.bytes += run.bytes.len();
        self.runs.push((seat, Run::new(limits.memory.hold(&run.bytes), run.messages)));
    }

    pub(super) fn fail(&mut self, failure: super::NotJoined) {
        self.failure.get_or_insert(failure);
        self.wake();
    }

    pub(super) fn wake(&mut self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    /// Tells whether a held message of that seat has this payload.
    pub(super) fn has(&self, seat: usize, payload: &[u8]) -> bool {
        let mut runs = self.runs.iter().filter(|(of, _)| *of == seat);
        runs.any(|(_, run)| run.payloads().any(|held| held == payload))
    }

    /// Returns what was held, each run with its seat.
    pub(super) fn into_seated_runs(self) -> impl Iterator<Item = (usize, Run)> {
        self.runs.into_iter()
    }
}

/// Messages of a channel that wait until its persisted value has been read again.
#[derive(Debug, Default)]
pub(super) struct Paused {
    pub(super) runs: Vec<Run>,
    pub(super) bytes: usize,
}
