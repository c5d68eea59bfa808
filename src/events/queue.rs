//! Events that wait to be written: bounded, and in order.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Weak;
use std::time::Duration;

use tokio::time::Instant;

use crate::hub::Listener;

/// Bytes that each event counts in addition to its text, so that their number is bounded, too.
const OVERHEAD_BYTES: usize = 512;

/// Most events in one pipeline, and the bytes at which it is full.
const BATCH: usize = 512;
const BATCH_BYTES: usize = 1 << 20;

/// How an event gets to Django.
#[derive(Debug, Clone)]
pub(super) enum EventDelivery {
    /// It waits as long as there is space, and is written again if its outcome is unknown: Django keeps tables by it.
    AtLeastOnce,
    /// It waits for a limited time, and is written at most once. The connection that sent it ends if it may be lost.
    AtMostOnce(Weak<Listener>),
}

/// An event that waits.
#[derive(Debug)]
pub(super) struct QueuedEvent {
    pub(super) json: String,
    pub(super) delivery: EventDelivery,
    pub(super) since: Instant,
}

/// Too many events wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueFull;

/// The queue of a shard.
#[derive(Debug)]
pub(super) struct EventQueue {
    events: RefCell<VecDeque<QueuedEvent>>,
    bytes: Cell<usize>,
    max_bytes: usize,
}

impl QueuedEvent {
    fn cost(&self) -> usize {
        self.json.len() + OVERHEAD_BYTES
    }
}

impl EventQueue {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { events: RefCell::default(), bytes: Cell::default(), max_bytes }
    }

    /// Adds the end of a client whose connect was accepted. It always finds space: there is at most one for each open client,
    /// and it is smaller than the client was.
    pub(super) fn push_end(&self, json: String) {
        let event = QueuedEvent { json, delivery: EventDelivery::AtLeastOnce, since: Instant::now() };
        self.bytes.set(self.bytes.get() + event.cost());
        self.events.borrow_mut().push_back(event);
    }

    /// Adds an event. Those of clients have half of the space, so that they never displace the announcement of a client.
    pub(super) fn push(&self, json: String, delivery: EventDelivery) -> Result<(), QueueFull> {
        let event = QueuedEvent { json, delivery, since: Instant::now() };
        let max_bytes = match event.delivery {
            EventDelivery::AtLeastOnce => self.max_bytes,
            EventDelivery::AtMostOnce(_) => self.max_bytes / 2,
        };
        let bytes = self.bytes.get() + event.cost();
        if bytes > max_bytes {
            return Err(QueueFull);
        }
        self.bytes.set(bytes);
        self.events.borrow_mut().push_back(event);
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.borrow().is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.events.borrow().len()
    }

    /// Takes the oldest events, as many as one pipeline holds.
    pub(super) fn take_batch(&self) -> Vec<QueuedEvent> {
        let mut events = self.events.borrow_mut();
        let mut batch = Vec::with_capacity(events.len().min(BATCH));
        let mut bytes = 0;
        while batch.len() < BATCH && bytes < BATCH_BYTES {
            let Some(event) = events.pop_front() else { break };
            bytes += event.cost();
            batch.push(event);
        }
        self.bytes.set(self.bytes.get() - bytes);
        batch
    }

    /// Puts events back in front, in order. They were accepted before and are not refused now.
    pub(super) fn put_back(&self, events: Vec<QueuedEvent>) {
        let mut queue = self.events.borrow_mut();
        for event in events.into_iter().rev() {
            self.bytes.set(self.bytes.get() + event.cost());
            queue.push_front(event);
        }
    }

    /// Takes the events that were to be written at most once and have waited for too long.
    pub(super) fn take_late(&self, wait: Duration) -> Vec<QueuedEvent> {
        let is_late = |event: &QueuedEvent| {
            matches!(event.delivery, EventDelivery::AtMostOnce(_)) && event.since.elapsed() >= wait
        };
        let mut events = self.events.borrow_mut();
        if !events.iter().any(is_late) {
            return Vec::new();
        }
        let (late, kept): (Vec<_>, Vec<_>) = events.drain(..).partition(is_late);
        *events = kept.into();
        self.bytes.set(self.bytes.get() - late.iter().map(QueuedEvent::cost).sum::<usize>());
        late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_most_once() -> EventDelivery {
        EventDelivery::AtMostOnce(Weak::new())
    }

    #[test]
    fn events_of_clients_leave_space_for_announcements() {
        let queue = EventQueue::new(4 * (OVERHEAD_BYTES + 1));
        let json = || "x".to_owned();
        assert_eq!(
            [queue.push(json(), at_most_once()), queue.push(json(), at_most_once())],
            [Ok(()), Ok(())]
        );
        assert_eq!(queue.push(json(), at_most_once()), Err(QueueFull));
        let announcement = || EventDelivery::AtLeastOnce;
        assert_eq!(
            [queue.push(json(), announcement()), queue.push(json(), announcement())],
            [Ok(()), Ok(())]
        );
        assert_eq!(queue.push(json(), announcement()), Err(QueueFull));
        let batch = queue.take_batch();
        assert_eq!((batch.len(), queue.is_empty(), queue.bytes.get()), (4, true, 0));
        queue.put_back(batch);
        assert_eq!((queue.len(), queue.push(json(), announcement())), (4, Err(QueueFull)));
        queue.push_end(json());
        assert_eq!((queue.len(), queue.push(json(), announcement())), (5, Err(QueueFull)));
        assert_eq!((queue.take_batch().len(), queue.bytes.get()), (5, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn only_events_that_are_written_once_are_given_up() {
        let queue = EventQueue::new(1 << 20);
        let wait = Duration::from_secs(5);
        for (json, delivery) in
            [("a", EventDelivery::AtLeastOnce), ("b", at_most_once()), ("c", EventDelivery::AtLeastOnce)]
        {
            queue.push(json.to_owned(), delivery).unwrap();
        }
        assert!(queue.take_late(wait).is_empty());
        tokio::time::advance(wait).await;
        queue.push("d".to_owned(), at_most_once()).unwrap();
        let texts = |events: Vec<QueuedEvent>| events.into_iter().map(|event| event.json).collect::<String>();
        assert_eq!((texts(queue.take_late(wait)), texts(queue.take_batch())), ("b".into(), "acd".into()));
    }
}
