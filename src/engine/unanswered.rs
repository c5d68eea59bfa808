//! Acknowledgements that Django owes to a client.

use std::collections::VecDeque;

/// Most events of one client that wait for an acknowledgement; the oldest are forgotten.
const MAX_PENDING: usize = 100;

/// Events of a client in one namespace that it wants to be acknowledged.
#[derive(Debug, Default)]
pub struct UnansweredEvents(VecDeque<(u64, u64)>);

impl UnansweredEvents {
    /// Records the ack id of an event that arrives now.
    pub fn add(&mut self, id: u64, now: u64) {
        if self.0.len() >= MAX_PENDING {
            self.0.pop_front();
        }
        self.0.push_back((id, now));
    }

    /// Removes an ack id. Returns true once for an event that arrived at `since` or later.
    pub fn take(&mut self, id: u64, since: u64) -> bool {
        while self.0.front().is_some_and(|(_, arrived)| *arrived < since) {
            self.0.pop_front();
        }
        let index = self.0.iter().position(|(waiting, _)| *waiting == id);
        index.is_some_and(|index| self.0.remove(index).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_acknowledged_once_and_in_time() {
        let mut events = UnansweredEvents::default();
        for id in 0..=100 {
            events.add(id, 10);
        }
        assert!(!events.take(0, 0), "the oldest is dropped");
        assert_eq!([events.take(7, 10), events.take(7, 10), events.take(101, 10)], [true, false, false]);
        assert!(!events.take(8, 11), "too late");
    }
}
