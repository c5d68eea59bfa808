//! Writes the events of a shard to Redis, in batches and in order.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::gate::GateWaiter;
use super::outcome::{BatchForm, EventOutcome, outcomes};
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

/// Writes the events of a shard. One batch is in flight at a time: what is repeated then keeps its place.
pub(super) struct EventWriter {
    commands: Rc<CommandClient>,
    destination: EventDestination,
    keep: String,
    /// The index of the oldest item that a list keeps.
    oldest: String,
    /// How long events of clients wait for Redis.
    wait: Duration,
    gate: GateWaiter,
    queue: EventQueue,
    wake: Notify,
    is_writing: Cell<bool>,
    /// Whether Redis permits transactions. Without them an error that passes may change the order.
    has_transactions: Cell<bool>,
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
        gate: GateWaiter,
        counters: Arc<Counters>,
    ) -> Rc<Self> {
        Rc::new(Self {
            commands,
            destination,
            keep: keep.to_string(),
            oldest: format!("-{keep}"),
            wait: redis.publish_wait,
            gate,
            queue: EventQueue::new(redis.max_pending_bytes),
            wake: Notify::new(),
            is_writing: Cell::default(),
            has_transactions: Cell::new(true),
            counters,
            dropped: LogThrottle::default(),
            refused: LogThrottle::default(),
        })
    }

    /// Queues an event. If too many wait, it is dropped and counted, and the result is an error.
    pub(super) fn push(&self, json: String, delivery: EventDelivery) -> Result<(), QueueFull> {
        self.try_push(json, delivery).inspect_err(|QueueFull| self.note_dropped())
    }

    /// Queues the end of a client whose connect was accepted, however many events wait.
    pub(super) fn push_end(&self, json: String) {
        self.queue.push_end(json);
        self.wake.notify_one();
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
                if !self.is_reachable() || !self.gate.arrive() {
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
                let form = self.form(batch.len());
                let replies = self.commands.send(self.encode(&batch, form)).await;
                let has_postponed = self.settle(batch, form, replies);
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

    /// Returns whether there is a connection for the next event.
    fn is_reachable(&self) -> bool {
        match &self.destination {
            EventDestination::Stream(key) | EventDestination::List(key) => {
                self.commands.has(std::iter::once(key.as_bytes()))
            }
            // Any node of a cluster publishes.
            EventDestination::Channel(_) => self.commands.is_up(),
        }
    }

    /// Returns how a batch is written.
    fn form(&self, count: usize) -> BatchForm {
        match &self.destination {
            EventDestination::List(_) => BatchForm::List,
            EventDestination::Stream(_) if count > 1 && self.has_transactions.get() => BatchForm::Transaction,
            _ => BatchForm::Single,
        }
    }

    fn encode(&self, events: &[QueuedEvent], form: BatchForm) -> CommandBatch {
        let mut batch = self.commands.batch();
        let key = self.destination.name().as_bytes();
        if form == BatchForm::Transaction {
            batch.add_at("MULTI", key);
        }
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
        if form == BatchForm::Transaction {
            batch.add_at("EXEC", key);
        }
        batch
    }

    /// Handles the outcomes of a batch. Returns whether some of it has to be written again.
    fn settle(
        &self,
        batch: Vec<QueuedEvent>,
        form: BatchForm,
        replies: Vec<Result<CommandReply, CommandFailure>>,
    ) -> bool {
        match (form, replies.get(usize::from(form == BatchForm::List))) {
            (BatchForm::Transaction, Some(Err(CommandFailure::Refused(error))))
                if ErrorClass::of(error) == ErrorClass::Denied =>
            {
                self.has_transactions.set(false);
            }
            (BatchForm::List, Some(Err(CommandFailure::Refused(error))))
                if ErrorClass::of(error) != ErrorClass::Temporary =>
            {
                self.note_refused(error, "the list of events grows without a bound");
            }
            _ => {}
        }
        let mut again = Vec::new();
        let outcomes = outcomes(form, batch.len(), replies);
        for (event, outcome) in batch.into_iter().zip(outcomes) {
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
