//! From Redis to the shards: all that is ready becomes one run of frames per channel, encoded once.

use std::sync::Arc;

use bytes::BytesMut;
use fred::prelude::*;
use fred::types::Message;
use tokio::sync::broadcast::Receiver;
use tracing::warn;

use super::interests::Interests;
use crate::counters::Counters;
use crate::hub::{Opcode, Run, encode};
use crate::telemetry::Seldom;
use crate::wire::Channel;

/// Bounds of one batch. They only keep a batch from growing while a flood comes in; the next one follows at once.
const BATCH_MESSAGES: usize = 8_192;
const BATCH_BYTES: usize = 1 << 20;

/// Collects messages into runs.
#[derive(Debug)]
pub(super) struct Pump {
    number: u64,
    runs: Vec<Growing>,
    messages: usize,
    bytes: usize,
    max_delivery_bytes: usize,
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
    pub(super) fn new(max_delivery_bytes: usize, counters: Arc<Counters>) -> Self {
        Self {
            number: 0,
            runs: Vec::new(),
            messages: 0,
            bytes: 0,
            max_delivery_bytes,
            counters,
            too_big: Seldom::default(),
        }
    }

    /// Takes a message and all others that are ready, up to the bounds.
    pub(super) fn drain(
        &mut self,
        first: &Message,
        receiver: &mut Receiver<Message>,
        interests: &mut Interests,
    ) {
        // A new number makes the places in older batches void.
        self.number += 1;
        self.add(first, interests);
        while self.messages < BATCH_MESSAGES && self.bytes < BATCH_BYTES {
            // Lag is found by the next `recv`, which gets the error that this one leaves.
            let Ok(message) = receiver.try_recv() else { break };
            self.add(&message, interests);
        }
    }

    fn add(&mut self, message: &Message, interests: &mut Interests) {
        let (opcode, payload) = match &message.value {
            Value::String(text) => (Opcode::Text, text.as_bytes()),
            Value::Bytes(bytes) if std::str::from_utf8(bytes).is_ok() => (Opcode::Text, &bytes[..]),
            Value::Bytes(bytes) => (Opcode::Binary, &bytes[..]),
            _ => return,
        };
        self.messages += 1;
        self.bytes += payload.len();
        if payload.is_empty() {
            return;
        }
        let Some(interest) = interests.get_mut(&message.channel) else { return };
        if payload.len() > self.max_delivery_bytes {
            if let Some(unsaid) = self.too_big.due() {
                let channel = Channel::from_redis(&message.channel);
                warn!(
                    ?channel,
                    bytes = payload.len(),
                    unsaid,
                    "message from redis too big, it is not delivered (messages.max_delivery_bytes)"
                );
            }
            return Counters::count(&self.counters.oversized_deliveries);
        }
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

    /// Returns the average size of the messages of the present batch, in bytes.
    pub(super) fn average_bytes(&self) -> usize {
        self.bytes / self.messages.max(1)
    }

    /// Returns the batch, parted by shard.
    pub(super) fn take(&mut self, shards: usize) -> Vec<Vec<(Channel, Run)>> {
        (self.messages, self.bytes) = (0, 0);
        let mut parted = vec![Vec::new(); shards];
        for run in self.runs.drain(..) {
            let frames = Run::new(run.frames.freeze(), run.messages);
            for (shard, part) in parted.iter_mut().enumerate() {
                if run.shards & 1 << shard != 0 {
                    part.push((run.channel.clone(), frames.clone()));
                }
            }
        }
        parted
    }
}
