//! Acknowledgements that a client owes to Django.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::wire::AskedEvent;

/// Most acknowledgements that one client owes; the oldest are dropped.
const MAX_PENDING: usize = 100;

/// Acknowledgements that a client owes in one namespace.
#[derive(Debug, Default)]
pub struct PendingAcks {
    last_id: u64,
    /// Each with the id of its packet, and the time at which it was sent.
    waiting: VecDeque<(u64, u64, Arc<AskedEvent>)>,
}

impl PendingAcks {
    /// Records an event that is sent now. Returns the ack id of its packet.
    pub fn add(&mut self, asked: &Arc<AskedEvent>, now: u64) -> u64 {
        self.last_id += 1;
        if self.waiting.len() >= MAX_PENDING {
            self.waiting.pop_front();
        }
        self.waiting.push_back((self.last_id, now, asked.clone()));
        self.last_id
    }

    /// Returns the event with this ack id, once, if it was sent at `since` or later.
    pub fn take(&mut self, id: u64, since: u64) -> Option<Arc<AskedEvent>> {
        while self.waiting.front().is_some_and(|(_, sent, _)| *sent < since) {
            self.waiting.pop_front();
        }
        let index = self.waiting.iter().position(|(waiting, ..)| *waiting == id)?;
        self.waiting.remove(index).map(|(.., asked)| asked)
    }
}
