//! Who listens to which channel and pattern; pub/sub knows no databases.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::glob;

/// How the names of all channels begin that tell of keys.
const OF_KEYS: &[u8] = b"__key";

/// Channels and patterns with the slots of their listeners.
#[derive(Default)]
pub(crate) struct PubSub {
    channels: HashMap<Bytes, HashSet<usize>>,
    patterns: HashMap<Bytes, HashSet<usize>>,
    /// How many of the channels tell of keys.
    of_keys: usize,
}

/// Which of the two tables is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SubscriptionKind {
    Channel,
    Pattern,
}

impl PubSub {
    /// Tells whether nobody listens to anything.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.channels.is_empty() && self.patterns.is_empty() && self.of_keys == 0
    }

    /// Tells whether somebody may listen to what happens to keys: most writes are heard by nobody, and need no names of
    /// channels made for them.
    pub(crate) fn hears_of_keys(&self) -> bool {
        self.of_keys > 0 || !self.patterns.is_empty()
    }

    /// Adds a listener.
    pub(crate) fn join(&mut self, kind: SubscriptionKind, name: &Bytes, slot: usize) {
        let listeners = self.table(kind).entry(name.clone()).or_default();
        let is_new = listeners.is_empty();
        listeners.insert(slot);
        if is_new && kind == SubscriptionKind::Channel && name.starts_with(OF_KEYS) {
            self.of_keys += 1;
        }
    }

    /// Removes a listener.
    pub(crate) fn leave(&mut self, kind: SubscriptionKind, name: &Bytes, slot: usize) {
        let table = self.table(kind);
        if let Some(listeners) = table.get_mut(name) {
            listeners.remove(&slot);
            if listeners.is_empty() {
                table.remove(name);
                if kind == SubscriptionKind::Channel && name.starts_with(OF_KEYS) {
                    self.of_keys -= 1;
                }
            }
        }
    }

    /// Returns the listeners of a channel by its name.
    pub(crate) fn listeners(&self, channel: &[u8]) -> Vec<usize> {
        self.channels.get(channel).into_iter().flatten().copied().collect()
    }

    /// Returns the patterns that match a channel, with their listeners.
    pub(crate) fn matching(&self, channel: &[u8]) -> Vec<(Bytes, Vec<usize>)> {
        let matching = self.patterns.iter().filter(|(pattern, _)| glob::matches(pattern, channel));
        matching.map(|(pattern, slots)| (pattern.clone(), slots.iter().copied().collect())).collect()
    }

    /// Returns all channels that somebody listens to by name.
    pub(crate) fn channels(&self) -> impl Iterator<Item = &Bytes> {
        self.channels.keys()
    }

    /// Returns how many listeners a channel has by its name.
    pub(crate) fn count(&self, channel: &[u8]) -> usize {
        self.channels.get(channel).map_or(0, HashSet::len)
    }

    /// Returns how many different channels and patterns there are.
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
