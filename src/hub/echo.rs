//! Telling messages apart by digest: a client's own ones, and those that a channel has had.

use std::collections::VecDeque;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;

/// Makes 64-bit digests of payloads, with a seed of the process that no client knows.
#[derive(Debug, Clone, Default)]
pub struct Digester(RandomState);

impl Digester {
    /// Returns the digest of a payload.
    pub fn digest(&self, payload: &[u8]) -> u64 {
        self.0.hash_one(payload)
    }
}

/// Digests of the last payloads of a channel, so that a value read again is known for old.
#[derive(Debug, Default)]
pub(super) struct Recent {
    digests: [u64; Self::KEPT],
    next: usize,
    filled: usize,
}

impl Recent {
    /// How many are kept: enough for a few publications between a message and the reading of its value.
    pub(super) const KEPT: usize = 8;

    pub(super) fn note(&mut self, digest: u64) {
        self.digests[self.next] = digest;
        self.next = (self.next + 1) % Self::KEPT;
        self.filled = (self.filled + 1).min(Self::KEPT);
    }

    pub(super) fn knows(&self, digest: u64) -> bool {
        self.digests[..self.filled].contains(&digest)
    }
}

/// Publications of one connection that it has not seen come back, oldest first.
#[derive(Debug, Default)]
pub(super) struct Echoes {
    entries: VecDeque<Entry>,
    /// Whether Redis was lost, and no value has been read again since.
    lost: bool,
}

#[derive(Debug)]
struct Entry {
    room: u32,
    digest: u64,
    /// The publication's number on its connection.
    number: u32,
    /// The shard's second at which it is forgotten; set by the acknowledgement.
    until: u32,
    /// Whether it was acknowledged before Redis was lost: it comes as a value that is read again, or not at all.
    stale: bool,
}

impl Echoes {
    /// Seconds for which an acknowledged publication is remembered: Redis delivers long before.
    const KEPT_SECONDS: u32 = 5;

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn add(&mut self, room: u32, digest: u64, number: u32) {
        self.entries.push_back(Entry { room, digest, number, until: u32::MAX, stale: false });
    }

    /// Takes the acknowledgement of all publications with numbers below `below`.
    pub(super) fn acknowledge(&mut self, below: u32, now: u32) {
        for entry in self.entries.iter_mut().take_while(|entry| entry.number < below) {
            entry.until = entry.until.min(now + Self::KEPT_SECONDS);
        }
    }

    /// Tells whether this live message is one of the connection's own, and forgets it then.
    pub(super) fn matches(&mut self, room: u32, digest: u64) -> bool {
        let is_it = |entry: &Entry| entry.room == room && entry.digest == digest && !entry.stale;
        let found = self.entries.iter().position(is_it);
        found.is_some_and(|at| self.entries.remove(at).is_some())
    }

    /// Tells whether this value, read again, is one of the connection's own. It may come live, too.
    pub(super) fn holds(&self, room: u32, digest: u64) -> bool {
        self.entries.iter().any(|entry| entry.room == room && entry.digest == digest)
    }

    /// Forgets what was published to a room that has been left: its number may be another's soon.
    pub(super) fn leave(&mut self, room: u32) {
        self.entries.retain(|entry| entry.room != room);
    }

    pub(super) fn forget_old(&mut self, now: u32) {
        // In an outage nothing comes, and afterwards what was published may be read again.
        if !self.lost {
            self.entries.retain(|entry| entry.until > now);
        }
    }

    /// Notes that Redis was lost.
    pub(super) fn lose(&mut self) {
        self.lost = true;
        self.entries.iter_mut().for_each(|entry| entry.stale |= entry.until != u32::MAX);
    }

    /// Forgets what cannot come any more to a room whose value has been read again.
    pub(super) fn recover(&mut self, room: u32) {
        self.lost = false;
        self.entries.retain(|entry| !(entry.stale && entry.room == room));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_is_matched_once_and_per_channel() {
        let mut echoes = Echoes::default();
        echoes.add(1, 7, 0);
        echoes.add(1, 7, 1);
        assert!(!echoes.matches(2, 7));
        assert!(echoes.matches(1, 7));
        assert!(echoes.matches(1, 7));
        assert!(!echoes.matches(1, 7));
    }

    #[test]
    fn an_echo_is_forgotten_some_seconds_after_its_acknowledgement() {
        let mut echoes = Echoes::default();
        echoes.add(1, 7, 0);
        echoes.add(1, 8, 1);
        echoes.forget_old(1000);
        echoes.acknowledge(1, 1000);
        echoes.forget_old(1004);
        assert!(!echoes.is_empty());
        echoes.acknowledge(1, 1004);
        echoes.forget_old(1005);
        assert!(!echoes.matches(1, 7), "forgotten, and a second acknowledgement did not prolong it");
        assert!(echoes.matches(1, 8), "not acknowledged, not forgotten");
    }

    #[test]
    fn after_a_loss_what_was_acknowledged_before_it_is_known_as_a_value_only() {
        let mut echoes = Echoes::default();
        echoes.add(1, 7, 0);
        echoes.add(1, 8, 1);
        echoes.acknowledge(1, 1000);
        echoes.lose();
        echoes.forget_old(2000);
        assert!(echoes.holds(1, 7) && !echoes.holds(2, 7), "an outage is longer than any memory");
        assert!(!echoes.matches(1, 7), "live it is another's");
        echoes.recover(1);
        assert!(!echoes.holds(1, 7));
        assert!(echoes.holds(1, 8) && echoes.matches(1, 8), "that one has yet to be written");
    }

    #[test]
    fn the_last_payloads_of_a_channel_are_known() {
        let mut recent = Recent::default();
        assert!(!recent.knows(0));
        (1..=9).for_each(|digest| recent.note(digest));
        assert!(!recent.knows(1) && recent.knows(2) && recent.knows(9));
    }
}
