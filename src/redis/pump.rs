//! From Redis to the shards: all that is ready becomes one run of frames per channel, encoded once.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;
use fred::prelude::*;
use fred::types::Message;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tracing::warn;

use super::hints::Hints;
use super::interests::Interests;
use crate::counters::Counters;
use crate::hub::{Opcode, Run, encode};
use crate::telemetry::Seldom;
use crate::wire::Channel;

/// Bounds of one batch. They only keep a batch from growing while a flood comes in; the next one follows at once.
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
    /// The control channel, and what came from it.
    control: Option<Channel>,
    pub(super) hints: Hints,
    number: u64,
    runs: Vec<Growing>,
    max_delivery_bytes: usize,
    max_pending_bytes: usize,
    counters: Arc<Counters>,
    too_big: Seldom,
}

#[derive(Debug)]
struct Growing {
    channel: Channel,
    shards: u64,
    frames: BytesMut,
    messages: u32,
}

impl Pump {
    pub(super) fn new(
        control: Option<Channel>,
        max_delivery_bytes: usize,
        max_pending_bytes: usize,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            control,
            hints: Hints::new(counters.clone()),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            lost: 0,
            number: 0,
            runs: Vec::new(),
            max_delivery_bytes,
            max_pending_bytes,
            counters,
            too_big: Seldom::default(),
        }
    }

    /// Waits until there is something to hand on. Returns false when nothing can come any more. Safe to cancel.
    pub(super) async fn ready(&mut self, receiver: &mut Receiver<Message>) -> bool {
        !self.waiting.is_empty() || !self.hints.is_empty() || self.lost > 0 || self.watch(receiver).await
    }

    /// Waits for the next message, and takes in all that are ready then. Returns false when no more can come. Safe to
    /// cancel.
    pub(super) async fn watch(&mut self, receiver: &mut Receiver<Message>) -> bool {
        match receiver.recv().await {
            Ok(message) => self.keep(message),
            Err(RecvError::Lagged(count)) => self.lose(count),
            Err(RecvError::Closed) => return false,
        }
        self.collect(receiver);
        true
    }

    /// Takes in all that is ready. Returns how much waits now.
    pub(super) fn collect(&mut self, receiver: &mut Receiver<Message>) -> usize {
        loop {
            match receiver.try_recv() {
                Ok(message) => self.keep(message),
                // This is told once, to whoever asks next.
                Err(TryRecvError::Lagged(count)) => self.lose(count),
                Err(_) => return self.waiting.len(),
            }
        }
    }

    fn keep(&mut self, message: Message) {
        if self.control.as_ref().is_some_and(|control| *message.channel == *control.as_str()) {
            return self.hints.keep(payload(&message));
        }
        let bytes = payload(&message).len();
        if bytes > self.max_delivery_bytes {
            if let Some(unsaid) = self.too_big.due() {
                let channel = Channel::from_redis(&message.channel);
                warn!(
                    ?channel,
                    bytes,
                    unsaid,
                    "message from redis too big, it is not delivered (messages.max_delivery_bytes)"
                );
            }
            return Counters::count(&self.counters.oversized_deliveries);
        }
        self.waiting_bytes += bytes;
        self.waiting.push_back(message);
        if self.waiting_bytes > self.max_pending_bytes {
            self.lose(0);
        }
    }

    /// Messages are missing behind those that wait. These are let go of, too: the persisted values make up for all.
    fn lose(&mut self, count: u64) {
        self.lost += count + self.waiting.len() as u64;
        self.waiting = VecDeque::new();
        self.waiting_bytes = 0;
    }

    /// Returns how many messages were lost since the last call; they came before all that wait.
    pub(super) fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    fn add(&mut self, message: &Message, interests: &mut Interests) {
        let payload = payload(message);
        // What comes from a subscription that was given up is older than what its next listener reads.
        let interest = interests.get_mut(&message.channel).filter(|interest| interest.asked);
        let Some(interest) = interest.filter(|_| !payload.is_empty()) else { return };
        let text = matches!(message.value, Value::String(_)) || std::str::from_utf8(payload).is_ok();
        let opcode = if text { Opcode::Text } else { Opcode::Binary };
        if interest.batched.0 != self.number {
            let shards = interest.tickets.iter().fold(0, |shards, (shard, _)| shards | 1 << shard);
            interest.batched = (self.number, self.runs.len());
            let channel = Channel::from_redis(&message.channel);
            self.runs.push(Growing { channel, shards, frames: BytesMut::new(), messages: 0 });
        }
        let run = &mut self.runs[interest.batched.1];
        run.messages += 1;
        encode(&mut run.frames, opcode, payload);
    }

    /// Makes a batch of what waits, parted by shard. Returns how many messages it took, too.
    pub(super) fn batch(
        &mut self,
        interests: &mut Interests,
        shards: usize,
    ) -> (usize, Vec<Vec<(Channel, Run)>>) {
        // A new number makes the places in older batches void.
        self.number += 1;
        let (mut messages, mut bytes) = (0, 0);
        while messages < BATCH_MESSAGES && bytes < BATCH_BYTES {
            let Some(message) = self.waiting.pop_front() else { break };
            messages += 1;
            bytes += payload(&message).len();
            self.add(&message, interests);
        }
        self.waiting_bytes -= bytes;
        let mut parted = vec![Vec::new(); shards];
        for run in self.runs.drain(..) {
            let frames = Run::new(run.frames.freeze(), run.messages);
            for (shard, part) in parted.iter_mut().enumerate() {
                if run.shards & 1 << shard != 0 {
                    part.push((run.channel.clone(), frames.clone()));
                }
            }
        }
        (messages, parted)
    }
}

fn payload(message: &Message) -> &[u8] {
    match &message.value {
        Value::String(text) => text.as_bytes(),
        Value::Bytes(bytes) => bytes,
        _ => &[],
    }
}
