//! Digests of payloads, and those of a topic's last messages.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;

/// Computes 64-bit digests of payloads. The seed is random, so that no client can choose payloads with equal digests.
#[derive(Debug, Clone, Default)]
pub struct Digester(RandomState);

impl Digester {
    /// Returns the digest of a payload.
    pub fn digest(&self, payload: &[u8]) -> u64 {
        self.0.hash_one(payload)
    }
}

/// Digests of a topic's last messages, so that a re-read value that was already delivered is not delivered again, whatever
/// the dialect of its members. One pointer before the first message.
#[derive(Debug, Default)]
pub(super) struct RecentDigests(Option<Box<DigestRing>>);

#[derive(Debug, Default)]
struct DigestRing {
    digests: [u64; RecentDigests::CAPACITY],
    next: u8,
    filled: u8,
}

impl RecentDigests {
    /// A value may be re-read a few publications after the message that wrote it.
    pub(super) const CAPACITY: usize = 8;

    pub(super) fn push(&mut self, digest: u64) {
        let ring = self.0.get_or_insert_default();
        ring.digests[usize::from(ring.next) % Self::CAPACITY] = digest;
        ring.next = ring.next.wrapping_add(1);
        ring.filled = ring.filled.saturating_add(1);
    }

    pub(super) fn contains(&self, digest: u64) -> bool {
        let filled = |ring: &DigestRing| Self::CAPACITY.min(ring.filled.into());
        self.0.as_ref().is_some_and(|ring| ring.digests[..filled(ring)].contains(&digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_payloads_of_a_channel_are_known() {
        let mut recent = RecentDigests::default();
        assert!(!recent.contains(0));
        (1..=9).for_each(|digest| recent.push(digest));
        assert!(!recent.contains(1) && recent.contains(2) && recent.contains(9));
    }
}
