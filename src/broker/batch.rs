//! Messages on their way to the shards: queued within bounds, and encoded once as one run per channel.

use std::collections::VecDeque;

use bytes::BytesMut;
use tokio::time::Instant;

use super::subscriptions::Subscriptions;
use crate::hub::Run;
use crate::wire::form::store;
use crate::wire::{Channel, Message};

/// Bounds of one batch, so that it stays small during a flood; the next one follows at once. An index in it has 16 bits.
const BATCH_MESSAGES: usize = 8_192;
const BATCH_BYTES: usize = 1 << 20;

/// Queues messages, and makes batches of them.
#[derive(Debug)]
pub(super) struct Batcher {
    /// Messages, each with the number of its subscription when it arrived, and whether the channel of version 2 has had it.
    queue: VecDeque<(u32, bool, Message)>,
    queued_bytes: usize,
    /// When the oldest message in the queue arrived, at the earliest.
    arrived: Option<Instant>,
    /// Messages that were dropped since the last [`Self::take_dropped`].
    dropped: u64,
    /// The runs of the batch that is being built. Kept, to reuse its memory.
    runs: Vec<RunBuilder>,
    max_messages: usize,
    max_bytes: usize,
}

#[derive(Debug)]
struct RunBuilder {
    channel: Channel,
    subscription: u32,
    /// A bit per shard.
    shards: u64,
    frames: BytesMut,
    messages: u32,
    /// The indices of messages that listeners of version 2 have had.
    twins: Vec<u32>,
}

impl Batcher {
    /// Queues at most so many messages and so many bytes of payload.
    pub(super) fn new(max_messages: usize, max_bytes: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            queued_bytes: 0,
            arrived: None,
            dropped: 0,
            runs: Vec::new(),
            max_messages,
            max_bytes,
        }
    }

    /// Returns true if nothing is queued, and nothing was dropped.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.dropped == 0
    }

    /// Queues a message of this subscription; `is_twin`: listeners of version 2 have had it. If too much is queued, all of it is dropped: the persisted values make up
    /// for it.
    pub(super) fn push(&mut self, subscription: u32, message: Message, is_twin: bool) {
        self.queued_bytes += message.payload().len();
        if self.queue.is_empty() {
            self.arrived = Some(Instant::now());
        }
        self.queue.push_back((subscription, is_twin, message));
        if self.queue.len() > self.max_messages || self.queued_bytes > self.max_bytes {
            self.dropped += self.queue.len() as u64;
            self.queue = VecDeque::new();
            self.queued_bytes = 0;
        }
    }

    /// Returns the number of messages that were dropped since the last call. They are older than the queued ones.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// Returns when the messages of the next batch arrived.
    pub(super) fn arrived(&self) -> Instant {
        self.arrived.unwrap_or_else(Instant::now)
    }

    /// Returns a batch of queued messages, per shard.
    pub(super) fn next_batch(
        &mut self,
        subscriptions: &mut Subscriptions,
        shards: usize,
    ) -> Vec<Vec<(Channel, Run)>> {
        let (mut messages, mut bytes) = (0, 0);
        while messages < BATCH_MESSAGES && bytes < BATCH_BYTES {
            let Some((subscription, is_twin, message)) = self.queue.pop_front() else { break };
            messages += 1;
            bytes += message.payload().len();
            self.add(subscription, &message, is_twin, subscriptions);
        }
        self.queued_bytes -= bytes;
        let mut per_shard = vec![Vec::new(); shards];
        for RunBuilder { channel, shards, frames, messages, twins, .. } in self.runs.drain(..) {
            let frames = Run::new(frames.freeze(), messages).with_twins(twins);
            let mut left = shards;
            while left != 0 {
                let shard = left.trailing_zeros() as usize;
                left &= left - 1;
                if left == 0 {
                    // Most channels have listeners on one shard: the reference counts are touched only for others.
                    per_shard[shard].push((channel, frames));
                    break;
                }
                per_shard[shard].push((channel.clone(), frames.clone()));
            }
        }
        per_shard
    }

    /// Appends a message to the run of its channel.
    fn add(&mut self, number: u32, message: &Message, is_twin: bool, subscriptions: &mut Subscriptions) {
        let Some((number, channel, subscription)) = subscriptions.get(number, message.channel()) else {
            return;
        };
        // A message of a subscription that was given up is older than what the channel's next listener reads.
        if !subscription.is_requested() {
            return;
        }
        let index = usize::from(subscription.batch_index);
        // An index that an earlier batch has left may be out of range, or another channel's.
        let index = if self.runs.get(index).is_some_and(|run| run.subscription == number) {
            index
        } else {
            let index = self.runs.len();
            subscription.batch_index = u16::try_from(index).expect("a batch has fewer messages");
            let shards = subscription.generations.iter().fold(0, |shards, (shard, _)| shards | 1 << shard);
            let (channel, frames) = (channel.clone(), BytesMut::new());
            let (messages, twins) = (0, Vec::new());
            self.runs.push(RunBuilder { channel, subscription: number, shards, frames, messages, twins });
            index
        };
        let run = &mut self.runs[index];
        if is_twin {
            run.twins.push(run.messages);
        }
        run.messages += 1;
        store(&mut run.frames, message.payload());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::hub::Generation;
    use crate::sources::Source;

    fn message(channel: &str) -> Message {
        let bytes = Bytes::from(format!("{channel}hello"));
        Message::new(bytes, 0..channel.len(), channel.len()..channel.len() + 5)
    }

    #[tokio::test]
    async fn a_queued_message_is_delivered_although_its_channel_was_renumbered() {
        let (now, linger) = (Instant::now(), Duration::from_secs(1));
        let mut subscriptions = Subscriptions::new(linger);
        let channels: Vec<_> = (0..1_000).map(|n| Channel::from_redis(&format!("broadcast:{n}"))).collect();
        for channel in &channels {
            subscriptions.subscribe(channel, Source::Relay, 0, Generation::MIN);
        }
        let change = subscriptions.next_change(now);
        subscriptions.confirm(change.subscribe, now);
        let mut batcher = Batcher::new(10, 1_000);
        let last = channels.last().unwrap();
        let before = subscriptions.find(last.as_str().as_bytes()).unwrap().0;
        batcher.push(before, message(last.as_str()), false);
        for channel in &channels[..999] {
            subscriptions.unsubscribe(channel, 0, now);
        }
        assert_eq!(subscriptions.next_change(now + linger).unsubscribe.len(), 999);
        let after = subscriptions.find(last.as_str().as_bytes()).unwrap().0;
        assert_ne!(before, after, "the test needs a channel that was renumbered");
        let batch = batcher.next_batch(&mut subscriptions, 1);
        assert_eq!(batch[0].len(), 1);
        assert_eq!((&batch[0][0].0, batch[0][0].1.messages), (last, 1));
    }
}
