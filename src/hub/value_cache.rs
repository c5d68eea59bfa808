//! Values for joining members: encoded once, and shared by all outboxes that hold them.
//!
//! Part of the hub, because it shares what the outboxes of all members hold, for any dialect: which value belongs to a member
//! is decided by the caller.

use std::collections::HashMap;

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::digests::Digester;
use super::outbox_memory::ShardMemory;
use super::run::Run;
use crate::wire::Form;

/// Values from this size on are shared. A copy of a smaller one is cheaper than its lookup.
const SHARED_BYTES: usize = 4096;

/// Entries at which unused ones are evicted.
const MAX_ENTRIES: usize = 64;

/// Encoded values by digest, as long as an outbox holds them.
#[derive(Debug, Default)]
pub(super) struct ValueCache(HashMap<u64, Run, RandomState>);

impl ValueCache {
    /// Returns an encoded value. Equal values share their bytes as long as an outbox holds them.
    pub(super) fn encode(&mut self, value: &Bytes, digest: u64, form: Form) -> Run {
        if value.len() < SHARED_BYTES {
            return Run::of(value);
        }
        if let Some(run) = self.find(value, digest) {
            // Encoded before the clone, so that later clones share the encoding.
            run.in_form(form);
            return run.clone();
        }
        if self.0.len() >= MAX_ENTRIES {
            self.evict_unused();
        }
        let run = Run::of(value);
        run.in_form(form);
        self.0.insert(digest, run.clone());
        run
    }

    /// Returns whether the outboxes have capacity for all bytes of these values. Counts a refusal otherwise.
    pub(super) fn check_capacity(
        &self,
        values: &[Option<Bytes>],
        digester: &Digester,
        memory: &ShardMemory,
    ) -> bool {
        let digest = |value: &[u8]| digester.digest(value);
        let bytes = values.iter().flatten().map(|value| self.cost(value, digest)).sum();
        let has_capacity = memory.has_replay_capacity(bytes);
        if !has_capacity {
            memory.count_refused();
        }
        has_capacity
    }

    /// Returns the bytes that a value would add to memory.
    fn cost(&self, value: &Bytes, digest: impl Fn(&[u8]) -> u64) -> usize {
        let is_cached = value.len() >= SHARED_BYTES && self.find(value, digest(value)).is_some();
        if is_cached { 0 } else { value.len() }
    }

    fn find(&self, value: &Bytes, digest: u64) -> Option<&Run> {
        // Different values may have the same digest.
        self.0.get(&digest).filter(|run| run.payloads().next().is_some_and(|payload| payload == value))
    }

    /// Evicts values that no outbox holds any more.
    pub(super) fn evict_unused(&mut self) {
        self.0.retain(|_, run| !run.make_unique());
        if self.0.is_empty() {
            self.0 = HashMap::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_value_is_encoded_once_as_long_as_an_outbox_holds_it() {
        let mut cache = ValueCache::default();
        let value = |byte| Bytes::from(vec![byte; SHARED_BYTES]);
        let (one, two) = (cache.encode(&value(1), 7, Form::Frames), cache.encode(&value(1), 7, Form::Events));
        assert_eq!(one.bytes.as_ptr(), two.bytes.as_ptr());
        assert_eq!(cache.cost(&value(1), |_| 7), 0);
        let three = cache.encode(&value(1), 7, Form::Events);
        let _named = cache.encode(&value(1), 7, Form::NamedEvents);
        assert_eq!(two.in_form(Form::Events).as_ptr(), three.in_form(Form::Events).as_ptr());
        // The same digest, but another value.
        let other = cache.encode(&value(2), 7, Form::Frames);
        assert!(other.payloads().eq([&value(2)[..]]));
        assert_eq!(cache.cost(&value(1), |_| 7), SHARED_BYTES);
        drop(other);
        cache.evict_unused();
        assert!(cache.0.is_empty());
    }
}
