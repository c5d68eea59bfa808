//! Publications of a connection that it has not received back, recognised by their digests.

use std::collections::VecDeque;

/// Publications of one connection that it has not received back, oldest first. One pointer before the first one, and some
/// seconds after the last.
#[derive(Debug, Default)]
#[expect(clippy::box_collection, reason = "an empty VecDeque takes four pointers in each of many listeners")]
pub(super) struct EchoFilter(Option<Box<VecDeque<ExpectedEcho>>>);

#[derive(Debug)]
struct ExpectedEcho {
    topic: u32,
    digest: u64,
    /// The publication's number on its connection.
    number: u32,
    /// The shard's second at which the entry expires; set by the acknowledgement.
    until: u32,
    /// Acknowledged before Redis was lost: the message arrives as a re-read value, or not at all.
    stale: bool,
}

impl EchoFilter {
    /// Seconds for which an acknowledged publication is kept: Redis delivers the message much sooner.
    const KEPT_SECONDS: u32 = 5;

    pub(super) fn is_empty(&self) -> bool {
        self.entries().next().is_none()
    }

    fn entries(&self) -> impl Iterator<Item = &ExpectedEcho> {
        self.0.iter().flat_map(|entries| entries.iter())
    }

    fn entries_mut(&mut self) -> impl Iterator<Item = &mut ExpectedEcho> {
        self.0.iter_mut().flat_map(|entries| entries.iter_mut())
    }

    fn retain(&mut self, keep: impl FnMut(&ExpectedEcho) -> bool) {
        if let Some(entries) = &mut self.0 {
            entries.retain(keep);
        }
    }

    pub(super) fn add(&mut self, topic: u32, digest: u64, number: u32) {
        let entry = ExpectedEcho { topic, digest, number, until: u32::MAX, stale: false };
        self.0.get_or_insert_default().push_back(entry);
    }

    /// Handles the acknowledgement of all publications with numbers below `below`.
    pub(super) fn acknowledge(&mut self, below: u32, now: u32) {
        for entry in self.entries_mut().take_while(|entry| entry.number < below) {
            entry.until = entry.until.min(now + Self::KEPT_SECONDS);
        }
    }

    /// Removes the oldest entry of this live message. Returns whether there was one.
    pub(super) fn take_match(&mut self, topic: u32, digest: u64) -> bool {
        let is_match = |entry: &ExpectedEcho| entry.topic == topic && entry.digest == digest && !entry.stale;
        let Some(entries) = &mut self.0 else { return false };
        let found = entries.iter().position(is_match);
        found.is_some_and(|index| entries.remove(index).is_some())
    }

    /// Returns whether there is an entry of this re-read value. The entry stays, because the message may arrive live, too.
    pub(super) fn contains(&self, topic: u32, digest: u64) -> bool {
        self.entries().any(|entry| entry.topic == topic && entry.digest == digest)
    }

    /// Removes the entries of a topic that was left: another topic may get its number.
    pub(super) fn leave(&mut self, topic: u32) {
        self.retain(|entry| entry.topic != topic);
    }

    /// Removes expired entries. Not called in an outage: no message arrives then, and afterwards publications may arrive as
    /// re-read values.
    pub(super) fn remove_expired(&mut self, now: u32) {
        self.retain(|entry| entry.until > now);
        self.0.take_if(|entries| entries.is_empty());
    }

    /// Marks acknowledged publications as stale: Redis was lost, and their messages may never arrive.
    pub(super) fn on_lost(&mut self) {
        self.entries_mut().for_each(|entry| entry.stale |= entry.until != u32::MAX);
    }

    /// Removes the stale entries of a topic whose value has been re-read.
    pub(super) fn recover(&mut self, topic: u32) {
        self.retain(|entry| !(entry.stale && entry.topic == topic));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_is_matched_once_and_per_channel() {
        let mut filter = EchoFilter::default();
        filter.add(1, 7, 0);
        filter.add(1, 7, 1);
        assert!(!filter.take_match(2, 7));
        assert!(filter.take_match(1, 7));
        assert!(filter.take_match(1, 7));
        assert!(!filter.take_match(1, 7));
    }

    #[test]
    fn an_echo_is_forgotten_some_seconds_after_its_acknowledgement() {
        let mut filter = EchoFilter::default();
        filter.add(1, 7, 0);
        filter.add(1, 8, 1);
        filter.remove_expired(1000);
        filter.acknowledge(1, 1000);
        filter.remove_expired(1004);
        assert!(!filter.is_empty());
        filter.acknowledge(1, 1004);
        filter.remove_expired(1005);
        assert!(!filter.take_match(1, 7), "expired: the second acknowledgement did not prolong it");
        assert!(filter.take_match(1, 8), "not acknowledged, not expired");
    }

    #[test]
    fn after_a_loss_an_acknowledged_publication_matches_only_a_value() {
        let mut filter = EchoFilter::default();
        filter.add(1, 7, 0);
        filter.add(1, 8, 1);
        filter.acknowledge(1, 1000);
        filter.on_lost();
        assert!(filter.contains(1, 7) && !filter.contains(2, 7));
        assert!(!filter.take_match(1, 7), "a live message with this payload is another client's");
        filter.recover(1);
        assert!(!filter.contains(1, 7));
        assert!(filter.contains(1, 8) && filter.take_match(1, 8), "not sent before the loss");
    }
}
