//! Key events on their way to the shards: coalesced per key, and bounded.

use std::collections::HashMap;

use crate::wire::{Channel, KeyEvent};

/// Keys whose events may wait for the broker.
const MAX_KEYS: usize = 4_096;

/// Events that arrived since the last [`Self::take`].
#[derive(Debug, Default)]
pub(super) struct KeyEvents {
    keys: HashMap<Channel, KeyEvent>,
    /// More keys changed than are kept.
    overflow: bool,
}

impl KeyEvents {
    /// Adds an event of the key whose keyspace channel this is.
    pub(super) fn add(&mut self, channel: &Channel, event: KeyEvent) {
        if let Some(known) = self.keys.get_mut(channel) {
            known.merge(event);
        } else if self.keys.len() >= MAX_KEYS {
            self.overflow = true;
        } else {
            self.keys.insert(channel.clone(), event);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && !self.overflow
    }

    /// Returns the events, and true if others were dropped.
    pub(super) fn take(&mut self) -> (HashMap<Channel, KeyEvent>, bool) {
        (std::mem::take(&mut self.keys), std::mem::take(&mut self.overflow))
    }
}
