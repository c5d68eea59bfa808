//! Writes the events of a shard to Redis, in batches and in order.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::StartGate;
use super::queue::{EventDelivery, EventQueue, QueueFull, QueuedEvent};
use crate::hub::Ending;
use crate::metrics::Counters;
use crate::redis::error_reply::{ErrorClass, cure};
use crate::redis::{CommandBatch, CommandClient, CommandFailure, CommandReply};
use crate::settings::{EventDestination, RedisSettings};
use crate::telemetry::LogThrottle;

/// Interval between checks for a connection while events wait.
const LOOK: Duration = Duration::from_millis(50);

/// Interval between two looks for events that have waited for too long: each one visits the whole queue.
const GIVE_UP_INTERVAL: Duration = Duration::from_millis(500);

/// Pause after an error that passes, such as full memory.
const RETRY: Duration = Duration::from_millis(500);

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
enum EventOutcome {
    Written,
    /// Redis has refused it for now.
    Postponed,
    /// Redis has refused it, with this error.
    Refused(String),
    /// It may have been written.
    Unknown,
}

/// Writes the events of a shard. One batch is in flight at a time: what is repeated then keeps its place.
pub(super) struct EventWriter {
    commands: Rc<CommandClient>,
    destination: EventDestination,
    keep: String,
    /// The index of the oldest item that a list keeps.
    oldest: String,
    /// How long events of clients wait for Redis.
    wait: Duration,
    gate: StartGate,
    /// Whether this is the first shard, which does not wait for the gate.
    is_first: bool,
    queue: EventQueue,
    wake: Notify,
    is_writing: Cell<bool>,
    counters: Arc<Counters>,
    dropped: LogThrottle,
    refused: LogThrottle,
}

impl EventWriter {
    pub(super) fn new(
        commands: Rc<CommandClient>,
        destination: EventDestination,
        keep: u64,
        redis: &RedisSettings,
        (gate, is_first): (StartGate, bool),
        counters: Arc<Counters>,
    ) -> Rc<Self> {
        Rc::new(Self {
            commands,
            destination,
            keep: keep.to_string(),
            oldest: format!("-{keep}"),
            wait: redis.publish_wait,
            gate,
            is_first,
            queue: EventQueue::new(redis.max_pending_bytes),
            wake: Notify::new(),
            is_writing: Cell::default(),
            counters,
            dropped: LogThrottle::default(),
            refused: LogThrottle::default(),
        })
    }

    /// Queues an event. If too many wait, it is dropped and counted.
    pub(super) fn push(&self, json: String, delivery: EventDelivery) {
        if self.try_push(json, delivery).is_err() {
            self.note_dropped();
        }
    }

    /// Queues an event, unless too many wait.
    pub(super) fn try_push(&self, json: String, delivery: EventDelivery) -> Result<(), QueueFull> {
        self.queue.push(json, delivery)?;
        self.wake.notify_one();
        Ok(())
    }

    /// Waits until nothing is queued or in flight. Cancel-safe.
    pub(super) async fn settled(&self) {
        while !self.queue.is_empty() || self.is_writing.get() {
            sleep(LOOK / 5).await;
        }
    }

    pub(super) fn warn_of_unwritten(&self) {
        let count = self.queue.len();
        if count > 0 {
            Counters::add(&self.counters.dropped_events, count as u64);
            warn!(
                count,
                "Redis could not be reached before the end; Django misses these events about clients. It gets a node event when the gateway starts again"
            );
        }
    }

    /// Writes queued events. Waits for events and for Redis. Never returns.
    pub(super) async fn run(self: Rc<Self>) {
        let mut looked_at = Instant::now();
        loop {
            self.wake.notified().await;
            while !self.queue.is_empty() {
                if !self.is_ready() {
                    if looked_at.elapsed() >= GIVE_UP_INTERVAL {
                        looked_at = Instant::now();
                        self.give_up_late();
                    }
                    sleep(LOOK).await;
                    continue;
                }
                // What other tasks queue in this turn goes into the same pipeline.
                yield_now().await;
                let batch = self.queue.take_batch();
                self.is_writing.set(true);
                let replies = self.commands.send(self.encode(&batch)).await;
                let has_postponed = self.settle(batch, replies);
                if !has_postponed {
                    self.gate.open();
                }
                self.is_writing.set(false);
                if has_postponed {
                    self.give_up_late();
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Returns whether the next event can be written.
    fn is_ready(&self) -> bool {
        let is_reachable = match &self.destination {
            EventDestination::Stream(key) | EventDestination::List(key) => {
                self.commands.has(std::iter::once(key.as_bytes()))
            }
            // Any node of a cluster publishes.
            EventDestination::Channel(_) => self.commands.is_up(),
        };
        is_reachable && (self.is_first || self.gate.is_open())
    }

    fn encode(&self, events: &[QueuedEvent]) -> CommandBatch {
        let mut batch = self.commands.batch();
        match &self.destination {
            EventDestination::Stream(key) => {
                let [key, keep] = [key.as_bytes(), self.keep.as_bytes()];
                for event in events {
                    batch.add("XADD", &[key, b"MAXLEN", b"~", keep, b"*", b"data", event.json.as_bytes()]);
                }
            }
            EventDestination::List(key) => {
                let items = events.iter().map(|event| event.json.as_bytes());
                batch.add("RPUSH", &std::iter::once(key.as_bytes()).chain(items).collect::<Vec<_>>());
                batch.add("LTRIM", &[key.as_bytes(), self.oldest.as_bytes(), b"-1"]);
            }
            EventDestination::Channel(name) => {
                for event in events {
                    batch.add("PUBLISH", &[name.as_bytes(), event.json.as_bytes()]);
                }
            }
        }
        batch
    }

    /// Handles the outcomes of a batch. Returns whether some of it has to be written again.
    fn settle(&self, batch: Vec<QueuedEvent>, replies: Vec<Result<CommandReply, CommandFailure>>) -> bool {
        let mut outcomes = replies.into_iter().map(Some).chain(std::iter::repeat(None)).map(outcome);
        let is_list = matches!(self.destination, EventDestination::List(_));
        // A list has one reply for all events, and one for its length.
        let common = if is_list { outcomes.next() } else { None };
        if is_list && let Some(EventOutcome::Refused(error)) = outcomes.next() {
            self.note_refused(&error, "the list of events grows without a bound");
        }
        let mut again = Vec::new();
        for event in batch {
            let outcome = common.clone().or_else(|| outcomes.next()).unwrap_or(EventOutcome::Unknown);
            match (outcome, &event.delivery) {
                (EventOutcome::Written, _) => {}
                (EventOutcome::Postponed, _) | (EventOutcome::Unknown, EventDelivery::AtLeastOnce) => {
                    again.push(event);
                }
                (EventOutcome::Unknown, EventDelivery::AtMostOnce(sender)) => {
                    if let Some(sender) = sender.upgrade() {
                        sender.end(Ending::Overloaded);
                    }
                    self.note_dropped();
                }
                (EventOutcome::Refused(error), _) => {
                    Counters::count(&self.counters.dropped_events);
                    self.note_refused(&error, "Django does not get an event about a client");
                }
            }
        }
        let has_postponed = !again.is_empty();
        self.queue.put_back(again);
        has_postponed
    }

    /// Drops the events of clients that have waited for too long, and ends their connections.
    fn give_up_late(&self) {
        for event in self.queue.take_late(self.wait) {
            if let EventDelivery::AtMostOnce(sender) = &event.delivery
                && let Some(sender) = sender.upgrade()
            {
                sender.end(Ending::Overloaded);
            }
            self.note_dropped();
        }
    }

    fn note_dropped(&self) {
        Counters::count(&self.counters.dropped_events);
        if let Some(suppressed) = self.dropped.allow() {
            warn!(
                suppressed,
                key = self.destination.name(),
                "Redis does not take events about clients fast enough; Django misses some. Restore Redis; redis.publish_wait_seconds and redis.max_pending_bytes are the bounds"
            );
        }
    }

    fn note_refused(&self, error: &str, consequence: &str) {
        if let Some(suppressed) = self.refused.allow() {
            warn!(
                %error,
                suppressed,
                key = self.destination.name(),
                "Redis refuses a command for events.to; {consequence}{}",
                cure(error)
            );
        }
    }
}

/// Returns what a reply means; none is a lost connection.
fn outcome(reply: Option<Result<CommandReply, CommandFailure>>) -> EventOutcome {
    match reply {
        Some(Ok(_)) => EventOutcome::Written,
        Some(Err(CommandFailure::Refused(error))) if ErrorClass::of(&error) == ErrorClass::Temporary => {
            EventOutcome::Postponed
        }
        Some(Err(CommandFailure::Refused(error))) => EventOutcome::Refused(error),
        Some(Err(CommandFailure::Lost)) | None => EventOutcome::Unknown,
    }
}
