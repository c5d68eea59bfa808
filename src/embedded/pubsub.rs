//! The subscribers of channels and patterns. As in Redis, pub/sub is independent of databases.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::glob;

/// Prefix of all channels with keyspace events.
const KEYSPACE_PREFIX: &[u8] = b"__key";

/// Channels and patterns with the slots of their subscribers.
#[derive(Default)]
pub(crate) struct PubSub {
    channels: HashMap<Bytes, HashSet<usize>>,
    patterns: HashMap<Bytes, HashSet<usize>>,
    /// Number of subscribed channels with keyspace events.
    keyspace_channels: usize,
}

/// A channel or a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SubscriptionKind {
    Channel,
    Pattern,
}

impl PubSub {
    /// Returns whether there is no subscription.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.channels.is_empty() && self.patterns.is_empty() && self.keyspace_channels == 0
    }

    /// Returns whether keyspace events may have subscribers. Without them a write need not format channel names.
    pub(crate) fn has_keyspace_subscribers(&self) -> bool {
        self.keyspace_channels > 0 || !self.patterns.is_empty()
    }

    /// Adds a subscriber.
    pub(crate) fn add(&mut self, kind: SubscriptionKind, name: &Bytes, slot: usize) {
        let subscribers = self.table(kind).entry(name.clone()).or_default();
        let is_new = subscribers.is_empty();
        subscribers.insert(slot);
        if is_new && kind == SubscriptionKind::Channel && name.starts_with(KEYSPACE_PREFIX) {
            self.keyspace_channels += 1;
        }
    }

    /// Removes a subscriber.
    pub(crate) fn remove(&mut self, kind: SubscriptionKind, name: &Bytes, slot: usize) {
        let table = self.table(kind);
        if let Some(subscribers) = table.get_mut(name) {
            subscribers.remove(&slot);
            if subscribers.is_empty() {
                table.remove(name);
                if kind == SubscriptionKind::Channel && name.starts_with(KEYSPACE_PREFIX) {
                    self.keyspace_channels -= 1;
                }
            }
        }
    }

    /// Returns the subscribers of a channel, without those of patterns.
    pub(crate) fn subscribers(&self, channel: &[u8]) -> Vec<usize> {
        self.channels.get(channel).into_iter().flatten().copied().collect()
    }

    /// Returns the patterns that match a channel, with their subscribers.
    pub(crate) fn matching(&self, channel: &[u8]) -> Vec<(Bytes, Vec<usize>)> {
        let matching = self.patterns.iter().filter(|(pattern, _)| glob::matches(pattern, channel));
        matching.map(|(pattern, slots)| (pattern.clone(), slots.iter().copied().collect())).collect()
    }

    /// Returns all subscribed channels.
    pub(crate) fn channels(&self) -> impl Iterator<Item = &Bytes> {
        self.channels.keys()
    }

    /// Returns the number of subscribers of a channel, without those of patterns.
    pub(crate) fn count(&self, channel: &[u8]) -> usize {
        self.channels.get(channel).map_or(0, HashSet::len)
    }

    /// Returns the numbers of channels and of patterns.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.channels.len(), self.patterns.len())
    }

    fn table(&mut self, kind: SubscriptionKind) -> &mut HashMap<Bytes, HashSet<usize>> {
        match kind {
            SubscriptionKind::Channel => &mut self.channels,
            SubscriptionKind::Pattern => &mut self.patterns,
        }
    }
}
