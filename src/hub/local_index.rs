//! Which shards may have members in a local topic: a summary that the broker reads before it encodes a message.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use foldhash::fast::RandomState;

use super::directory::hash;
use crate::wire::Topic;

/// Counters of each shard. With many more topics than these, most messages go to all shards.
const BUCKETS: u64 = 1 << 15;

/// Which shards may have members in a local topic.
///
/// Each shard counts its topics by their hash. So the index may name a shard without members, and never misses one. Only
/// the first and the last member of a topic cost something.
#[derive(Debug, Default)]
pub struct LocalIndex {
    /// The counters of each shard, from its first topic on.
    shards: Box<[OnceLock<Box<[AtomicU32]>>]>,
    seed: RandomState,
}

/// A shard's part of the index. The default counts nothing.
#[derive(Debug, Clone, Default)]
pub struct ShardTopics {
    index: Arc<LocalIndex>,
    shard: usize,
}

/// A topic that counts as one of a shard before the shard has been told to create it, until this is dropped.
#[derive(Debug)]
pub struct ExpectedTopic {
    index: Arc<LocalIndex>,
    shard: usize,
    bucket: usize,
}

impl LocalIndex {
    /// Creates the index of this many shards, at most 64.
    pub fn new(shards: usize) -> Arc<Self> {
        Arc::new(Self {
            shards: (0..shards).map(|_| OnceLock::new()).collect(),
            seed: RandomState::default(),
        })
    }

    /// Returns the part of a shard.
    pub fn part(self: &Arc<Self>, shard: usize) -> ShardTopics {
        ShardTopics { index: self.clone(), shard }
    }

    /// Returns the number of shards.
    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// Returns the shards that may have members in a topic, a bit each.
    pub fn shards(&self, topic: &Topic) -> u64 {
        let bucket = self.bucket(topic);
        let has_topic = |counts: &OnceLock<Box<[AtomicU32]>>| {
            counts.get().is_some_and(|counts| counts[bucket].load(Ordering::Acquire) != 0)
        };
        (0..)
            .zip(&self.shards)
            .fold(0, |shards, (shard, counts)| shards | u64::from(has_topic(counts)) << shard)
    }

    /// Counts a topic for a shard from now on: messages that follow must not miss the member that is about to enter.
    pub fn expect(self: &Arc<Self>, shard: usize, topic: &Topic) -> ExpectedTopic {
        let expected = ExpectedTopic { index: self.clone(), shard, bucket: self.bucket(topic) };
        self.add(shard, expected.bucket, 1);
        expected
    }

    fn bucket(&self, topic: &Topic) -> usize {
        usize::try_from(hash(&self.seed, topic.as_ref().as_bytes()) % BUCKETS).unwrap_or_default()
    }

    fn add(&self, shard: usize, bucket: usize, change: i32) {
        if let Some(counts) = self.shards.get(shard) {
            let counts = counts.get_or_init(|| (0..BUCKETS).map(|_| AtomicU32::new(0)).collect());
            counts[bucket].fetch_add(change.cast_unsigned(), Ordering::AcqRel);
        }
    }
}

impl ShardTopics {
    /// Counts a topic that has its first member.
    pub(super) fn add(&self, topic: &Topic) {
        self.index.add(self.shard, self.index.bucket(topic), 1);
    }

    /// Discounts a topic that has lost its last member.
    pub(super) fn remove(&self, topic: &Topic) {
        self.index.add(self.shard, self.index.bucket(topic), -1);
    }
}

impl Drop for ExpectedTopic {
    fn drop(&mut self) {
        self.index.add(self.shard, self.bucket, -1);
    }
}
