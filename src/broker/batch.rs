//! From Redis to the shards: all that is ready becomes one run of frames per channel, encoded once.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;

use bytes::BytesMut;
use tracing::warn;

use super::hints::Hints;
use super::keyspace::KeyEvents;
use super::subscriptions::Subscriptions;
use crate::hub::Run;
use crate::metrics::Counters;
use crate::redis::{Message, Subscriber, SubscriberEvent};
use crate::telemetry::LogThrottle;
use crate::wire::form::store;
use crate::wire::{Channel, about_keys};

/// Bounds of one batch. They only keep a batch from growing while a flood comes in; the next one follows at once. Places
/// in it have 16 bits.
const BATCH_MESSAGES: usize = 8_192;
const BATCH_BYTES: usize = 1 << 20;

/// Takes messages in, bounded in bytes, and makes runs of them.
#[derive(Debug)]
pub(super) struct Pump {
    /// Messages that were taken in, and their bytes.
    waiting: VecDeque<Message>,
    waiting_bytes: usize,
    /// Messages that were lost since that was last asked for.
    lost: u64,
    /// What came besides messages. Nothing more is read until it is taken: what comes later is of a later time.
    control_event: Option<ControlEvent>,
    /// The control channel, and what came from it.
    control: Option<Channel>,
    pub(super) hints: Hints,
    /// Keys to which something has happened.
    pub(super) key_events: KeyEvents,
    runs: Vec<Growing>,
    max_pending: (usize, usize),
    counters: Arc<Counters>,
    too_big: LogThrottle,
}

/// What Redis says besides messages.
#[derive(Debug)]
pub(super) enum ControlEvent {
    /// The step is over; the fence itself was perhaps refused.
    Fence(Option<String>),
    /// Something was refused.
    Refused(String),
    /// The connection was lost.
    Lost(String),
}

#[derive(Debug)]
struct Growing {
    channel: Channel,
    /// The number of what is known of the channel.
    subscription: u32,
    shards: u64,
    frames: BytesMut,
    messages: u32,
}

impl Pump {
    /// `max_pending` are the messages, and their bytes, that may wait.
    pub(super) fn new(
        control: Option<Channel>,
        max_pending: (usize, usize),
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            control,
            hints: Hints::new(counters.clone()),
            key_events: KeyEvents::default(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            lost: 0,
            control_event: None,
            runs: Vec::new(),
            max_pending,
            counters,
            too_big: LogThrottle::default(),
        }
    }

    /// Waits until there is something to hand on. Safe to cancel.
    pub(super) async fn ready(&mut self, subscriber: &mut Option<Subscriber>) {
        if self.is_quiet() && self.control_event.is_none() {
            self.watch(subscriber).await;
        }
    }

    /// Tells whether nothing waits to be handed on but a control event.
    pub(super) fn is_quiet(&self) -> bool {
        self.waiting.is_empty() && self.hints.is_empty() && self.key_events.is_empty() && self.lost == 0
    }

    /// Waits for what comes next, and takes in all that has come then. Safe to cancel.
    pub(super) async fn watch(&mut self, subscriber: &mut Option<Subscriber>) {
        match subscriber {
            Some(subscriber) if self.control_event.is_none() => match subscriber.fill().await {
                Ok(()) => self.collect(subscriber),
                Err(reason) => self.control_event = Some(ControlEvent::Lost(reason)),
            },
            _ => pending().await,
        }
    }

    /// Takes in all that has come, up to the next control event.
    fn collect(&mut self, subscriber: &mut Subscriber) {
        while self.control_event.is_none() {
            match subscriber.next() {
                Ok(Some(SubscriberEvent::Message(message))) => self.keep(message),
                Ok(Some(SubscriberEvent::Oversize(channel, bytes))) => self.note_too_big(&channel, bytes),
                Ok(Some(SubscriberEvent::Acknowledged)) => {}
                Ok(Some(SubscriberEvent::Fence(refusal))) => {
                    self.control_event = Some(ControlEvent::Fence(refusal));
                }
                Ok(Some(SubscriberEvent::Refused(reason))) => {
                    self.control_event = Some(ControlEvent::Refused(reason));
                }
                Ok(None) => return,
                Err(reason) => self.control_event = Some(ControlEvent::Lost(reason)),
            }
        }
    }

    /// Returns what came besides messages, and takes in what has come behind it.
    pub(super) fn take_control_event(&mut self, subscriber: &mut Option<Subscriber>) -> Option<ControlEvent> {
        let control_event = self.control_event.take();
        if let (Some(ControlEvent::Fence(_) | ControlEvent::Refused(_)), Some(subscriber)) =
            (&control_event, subscriber)
        {
            self.collect(subscriber);
        }
        control_event
    }

    fn keep(&mut self, message: Message) {
        if self.control.as_ref().is_some_and(|control| message.channel() == control.as_str().as_bytes()) {
            return self.hints.keep(message.payload());
        }
        if let Some(channel) = about_keys(message.channel()) {
            return self.key_events.keep(channel, message.payload());
        }
        self.waiting_bytes += message.payload().len();
        self.waiting.push_back(message);
        let (max_messages, max_bytes) = self.max_pending;
        if self.waiting.len() > max_messages || self.waiting_bytes > max_bytes {
            self.on_lost();
        }
    }

    fn note_too_big(&mut self, channel: &Channel, bytes: usize) {
        if let Some(suppressed) = self.too_big.allow() {
            warn!(
                ?channel,
                bytes,
                suppressed,
                "message from redis too big, it is not delivered (messages.max_delivery_bytes)"
            );
        }
        Counters::count(&self.counters.oversized_deliveries);
    }

    /// Too much waits: it is let go of, and the persisted values make up for it.
    fn on_lost(&mut self) {
        self.lost += self.waiting.len() as u64;
        self.waiting = VecDeque::new();
        self.waiting_bytes = 0;
    }

    /// Returns how many messages were lost since the last call; they came before all that wait.
    pub(super) fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    fn add(&mut self, message: &Message, subscriptions: &mut Subscriptions) {
        let payload = message.payload();
        // What comes from a subscription that was given up is older than what its next listener reads.
        let subscription =
            subscriptions.find(message.channel()).filter(|(.., subscription)| subscription.is_asked());
        let Some((number, channel, subscription)) = subscription.filter(|_| !payload.is_empty()) else {
            return;
        };
        // A place in an older batch is another's by now, or nobody's.
        if self.runs.get(usize::from(subscription.place)).is_none_or(|run| run.subscription != number) {
            let shards = subscription.generations.iter().fold(0, |shards, (shard, _)| shards | 1 << shard);
            subscription.place = u16::try_from(self.runs.len()).expect("a batch has fewer messages");
            let (channel, frames) = (channel.clone(), BytesMut::new());
            self.runs.push(Growing { channel, subscription: number, shards, frames, messages: 0 });
        }
        let run = &mut self.runs[usize::from(subscription.place)];
        run.messages += 1;
        store(&mut run.frames, payload);
    }

    /// Makes a batch of what waits, parted by shard.
    pub(super) fn batch(
        &mut self,
        subscriptions: &mut Subscriptions,
        shards: usize,
    ) -> Vec<Vec<(Channel, Run)>> {
        let (mut messages, mut bytes) = (0, 0);
        while messages < BATCH_MESSAGES && bytes < BATCH_BYTES {
            let Some(message) = self.waiting.pop_front() else { break };
            messages += 1;
            bytes += message.payload().len();
            self.add(&message, subscriptions);
        }
        self.waiting_bytes -= bytes;
        let mut parted = vec![Vec::new(); shards];
        for Growing { channel, shards, frames, messages, .. } in self.runs.drain(..) {
            let frames = Run::new(frames.freeze(), messages);
            let mut left = shards;
            while left != 0 {
                let shard = left.trailing_zeros() as usize;
                left &= left - 1;
                if left == 0 {
                    // Mostly there is one shard: only more of them have to count who has it.
                    parted[shard].push((channel, frames));
                    break;
                }
                parted[shard].push((channel.clone(), frames.clone()));
            }
        }
        parted
    }
}
