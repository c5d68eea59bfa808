//! Support messages apart by digest: a client's own ones, and those that a channel has had.

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

/// Digests of the last payloads of a channel, so that a value read again is known for old. Before the first one it takes
/// one pointer.
#[derive(Debug, Default)]
pub(super) struct Recent(Option<Box<Ring>>);

#[derive(Debug, Default)]
struct Ring {
    digests: [u64; Recent::KEPT],
    next: u8,
    filled: u8,
}

impl Recent {
    /// How many are kept: enough for a few publications between a message and the reading of its value.
    pub(super) const KEPT: usize = 8;

    pub(super) fn note(&mut self, digest: u64) {
        let ring = self.0.get_or_insert_default();
        ring.digests[usize::from(ring.next) % Self::KEPT] = digest;
        ring.next = ring.next.wrapping_add(1);
        ring.filled = ring.filled.saturating_add(1);
    }

    pub(super) fn knows(&self, digest: u64) -> bool {
        let ring = self.0.as_ref();
        ring.is_some_and(|ring| ring.digests[..Self::KEPT.min(ring.filled.into())].contains(&digest))
    }
}

/// Publications of one connection that it has not seen come back, oldest first. Before the first one, and a while after
/// the last, it takes one pointer.
#[derive(Debug, Default)]
#[expect(clippy::box_collection, reason = "an empty VecDeque takes four pointers in each of many listeners")]
pub(super) struct Echoes(Option<Box<VecDeque<Entry>>>);

#[derive(Debug)]
struct Entry {
    topic: u32,
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
        self.entries().next().is_none()
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter().flat_map(|entries| entries.iter())
    }

    fn entries_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.0.iter_mut().flat_map(|entries| entries.iter_mut())
    }

    fn retain(&mut self, keep: impl FnMut(&Entry) -> bool) {
        if let Some(entries) = &mut self.0 {
            entries.retain(keep);
        }
    }

    pub(super) fn add(&mut self, topic: u32, digest: u64, number: u32) {
        let entry = Entry { topic, digest, number, until: u32::MAX, stale: false };
        self.0.get_or_insert_default().push_back(entry);
    }

    /// Takes the acknowledgement of all publications with numbers below `below`.
    pub(super) fn acknowledge(&mut self, below: u32, now: u32) {
        for entry in self.entries_mut().take_while(|entry| entry.number < below) {
            entry.until = entry.until.min(now + Self::KEPT_SECONDS);
        }
    }

    /// Tells whether this live message is one of the connection's own, and forgets it then.
    pub(super) fn matches(&mut self, topic: u32, digest: u64) -> bool {
        let is_it = |entry: &Entry| entry.topic == topic && entry.digest == digest && !entry.stale;
        let Some(entries) = &mut self.0 else { return false };
        let found = entries.iter().position(is_it);
        found.is_some_and(|at| entries.remove(at).is_some())
    }

    /// Tells whether this value, read again, is one of the connection's own. It may come live, too.
    pub(super) fn holds(&self, topic: u32, digest: u64) -> bool {
        self.entries().any(|entry| entry.topic == topic && entry.digest == digest)
    }

    /// Forgets what was published to a topic that has been left: its number may be another's soon.
    pub(super) fn leave(&mut self, topic: u32) {
        self.retain(|entry| entry.topic != topic);
    }

    /// Forgets what should have come by now. Not in an outage: nothing comes then, and afterwards what was published may
    /// be read again.
    pub(super) fn forget_old(&mut self, now: u32) {
        self.retain(|entry| entry.until > now);
        self.0.take_if(|entries| entries.is_empty());
    }

    /// Marks the published entries as stale: Redis was lost, and their messages may never arrive.
    pub(super) fn on_lost(&mut self) {
        self.entries_mut().for_each(|entry| entry.stale |= entry.until != u32::MAX);
    }

    /// Forgets what cannot come any more to a topic whose value has been read again.
    pub(super) fn recover(&mut self, topic: u32) {
        self.retain(|entry| !(entry.stale && entry.topic == topic));
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
        echoes.on_lost();
        assert!(echoes.holds(1, 7) && !echoes.holds(2, 7));
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
