//! Messages that are held: for a joining member, and for a topic whose value is being re-read.

use std::task::Waker;

use super::outbox::Limits;
use super::run::Run;

/// Why a member cannot join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinError {
    /// Redis was lost.
    Lost,
    /// Redis refused the subscription of a channel.
    Refused,
    /// More bytes arrived meanwhile than may be held.
    Overflow,
}

/// A member's join that is not complete, and the messages that arrived since it began.
#[derive(Debug, Default)]
pub(super) struct PendingJoin {
    /// Each run with the index of its topic among the member's own, in order of arrival.
    runs: Vec<(usize, Run)>,
    bytes: usize,
    /// Topics that are not subscribed yet, or paused.
    pub(super) topics_left: usize,
    /// Messages were lost since the member began to read its values.
    pub(super) stale: bool,
    /// Set once the member cannot join any more.
    pub(super) failure: Option<JoinError>,
    /// The handshake's task.
    pub(super) task: Option<Waker>,
}

impl PendingJoin {
    // Never inlined: it is rare in the loop of a delivery.
    #[inline(never)]
    pub(super) fn hold(&mut self, index: usize, run: &Run, limits: &Limits) {
        // The first run does not count, as in the outbox. A join is short, so the hard bound applies at once.
        let is_over = !self.runs.is_empty() && self.bytes + run.bytes.len() > limits.outbox_hard_bytes;
        if self.failure.is_some() || is_over || limits.memory.is_full() {
            self.runs = Vec::new();
            return self.fail(JoinError::Overflow);
        }
        self.bytes += run.bytes.len();
        self.runs.push((index, run.held_in(limits.memory.hold(&run.bytes))));
    }

    pub(super) fn fail(&mut self, failure: JoinError) {
        self.failure.get_or_insert(failure);
        self.wake();
    }

    pub(super) fn wake(&mut self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    /// Returns whether a value has to be queued: it is not empty, and no held message of its topic equals it.
    pub(super) fn needs(&self, index: usize, value: &[u8]) -> bool {
        let mut runs = self.runs.iter().filter(|(of, _)| *of == index);
        !value.is_empty() && !runs.any(|(_, run)| run.payloads().any(|payload| payload == value))
    }

    /// Returns the held runs, each with the index of its topic.
    pub(super) fn into_runs(self) -> impl Iterator<Item = (usize, Run)> {
        self.runs.into_iter()
    }
}

/// Messages of a paused topic.
#[derive(Debug, Default)]
pub(super) struct PausedRuns {
    pub(super) runs: Vec<Run>,
    pub(super) bytes: usize,
}

impl PausedRuns {
    /// Returns whether a message has this payload.
    pub(super) fn contains(&self, payload: &[u8]) -> bool {
        self.runs.iter().any(|run| run.payloads().any(|held| held == payload))
    }
}
