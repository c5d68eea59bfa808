//! Acknowledgements that a client owes to Django.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::wire::AckOrigin;

/// Most acknowledgements that one client owes; the oldest are dropped.
const MAX_PENDING: usize = 100;

/// Acknowledgements that a client owes in one namespace.
#[derive(Debug, Default)]
pub struct PendingAcks {
    /// Each with the id of its packet, and the time at which it was sent. The event itself is not kept: a client that does
    /// not answer must not hold its memory.
    waiting: VecDeque<(u64, u64, Arc<AckOrigin>)>,
}

impl PendingAcks {
    /// Records an event that is sent now with an ack id, and forgets those that were sent before `expired`.
    pub fn add(&mut self, id: u64, origin: &Arc<AckOrigin>, now: u64, expired: u64) {
        self.remove_expired(expired);
        if self.waiting.len() >= MAX_PENDING {
            self.waiting.pop_front();
        }
        self.waiting.push_back((id, now, origin.clone()));
    }

    /// Returns the publisher of the event with this ack id, once, unless the event was sent before `expired`.
    pub fn take(&mut self, id: u64, expired: u64) -> Option<Arc<AckOrigin>> {
        self.remove_expired(expired);
        let index = self.waiting.iter().position(|(waiting, ..)| *waiting == id)?;
        self.waiting.remove(index).map(|(.., origin)| origin)
    }

    fn remove_expired(&mut self, expired: u64) {
        while self.waiting.front().is_some_and(|(_, sent, _)| *sent < expired) {
            self.waiting.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Channel;

    #[test]
    fn acknowledgements_are_forgotten_when_they_expire_or_become_too_many() {
        let name = || Box::from("x");
        let (channel, id) = (Channel::from_redis("socketio"), 1);
        let origin =
            AckOrigin { channel, host_id: name(), sid: name(), namespace: name(), id, is_pickled: false };
        let origin = Arc::new(origin);
        let mut acks = PendingAcks::default();
        for now in 0..150 {
            acks.add(now + 1, &origin, now, 0);
        }
        assert_eq!(Arc::strong_count(&origin), 1 + MAX_PENDING);
        assert!(acks.take(50, 0).is_none() && acks.take(51, 0).is_some() && acks.take(51, 0).is_none());
        // A client that never answers keeps nothing either.
        acks.add(151, &origin, 200, 200);
        assert_eq!(Arc::strong_count(&origin), 1 + 1);
        assert!(acks.take(150, 0).is_none() && acks.take(151, 0).is_some());
    }
}
