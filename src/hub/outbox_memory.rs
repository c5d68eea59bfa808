//! The memory of all outboxes of the process: shared bytes count once, for any number of clients.
//!
//! A delivery that the socket accepts whole uses nothing of this.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use foldhash::fast::RandomState;

/// Bytes that an allocation takes in addition: the allocator's overhead, its owner, and its entry in the table.
const ALLOCATION_OVERHEAD: usize = 192;

/// Bytes of one entry of an outbox, in a list that doubles its capacity.
const ENTRY_BYTES: usize = 80;

/// Share of the bound that replayed values may fill, as a fraction: the rest is for live messages.
const REPLAY_SHARE: (usize, usize) = (3, 4);

/// The bytes that all outboxes of the process hold, and their bound.
#[derive(Debug)]
pub struct OutboxMemory {
    max_bytes: usize,
    used: AtomicUsize,
    /// The most since the last call of [`OutboxMemory::take_peak`].
    peak: AtomicUsize,
    /// The highest result of [`OutboxMemory::take_peak`].
    high_water: AtomicUsize,
    /// By address, which is not reused as long as an outbox holds the allocation.
    allocations: Mutex<HashMap<usize, Allocation, RandomState>>,
    /// Clients that were closed and handshakes that were refused because of the bound.
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Allocation {
    holders: u32,
    bytes: usize,
}

/// Bytes in an outbox, counted until they are dropped.
struct CountedBytes {
    bytes: Bytes,
    memory: Arc<OutboxMemory>,
}

impl OutboxMemory {
    /// Sets the bytes that all outboxes together may hold.
    pub fn new(max_bytes: usize) -> Arc<Self> {
        let (used, peak, high_water, allocations, refused) = Default::default();
        Arc::new(Self { max_bytes, used, peak, high_water, allocations, refused })
    }

    /// Returns the bytes that all outboxes hold.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns the most bytes that all outboxes have held since the last call, those of this moment at least.
    pub fn take_peak(&self) -> usize {
        let peak = self.peak.swap(0, Ordering::Relaxed).max(self.used());
        self.high_water.fetch_max(peak, Ordering::Relaxed);
        peak
    }

    /// Returns the most bytes that all outboxes have held, as far as [`OutboxMemory::take_peak`] was called.
    pub fn high_water(&self) -> usize {
        self.high_water.load(Ordering::Relaxed)
    }

    /// Returns the bytes that all outboxes may hold.
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Returns how many clients were closed or refused because of the bound since the last call.
    pub fn take_refused(&self) -> u64 {
        self.refused.swap(0, Ordering::Relaxed)
    }

    fn hold(self: &Arc<Self>, bytes: &Bytes) -> Bytes {
        {
            let mut allocations = self.allocations.lock().unwrap_or_else(PoisonError::into_inner);
            let allocation = allocations.entry(bytes.as_ptr().addr()).or_default();
            allocation.holders += 1;
            let more = (bytes.len() + ALLOCATION_OVERHEAD).saturating_sub(allocation.bytes);
            allocation.bytes += more;
            let used = self.used.fetch_add(more, Ordering::Relaxed) + more;
            self.peak.fetch_max(used, Ordering::Relaxed);
        }
        Bytes::from_owner(CountedBytes { bytes: bytes.clone(), memory: self.clone() })
    }

    fn release(&self, bytes: &Bytes) {
        let mut allocations = self.allocations.lock().unwrap_or_else(PoisonError::into_inner);
        let address = bytes.as_ptr().addr();
        let Some(allocation) = allocations.get_mut(&address) else { return };
        allocation.holders -= 1;
        if allocation.holders == 0 {
            self.used.fetch_sub(allocation.bytes, Ordering::Relaxed);
            allocations.remove(&address);
            if allocations.is_empty() {
                // The table keeps the capacity of its peak otherwise.
                *allocations = HashMap::default();
            }
        }
    }
}

impl AsRef<[u8]> for CountedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for CountedBytes {
    fn drop(&mut self) {
        self.memory.release(&self.bytes);
    }
}

/// A shard's handle of the memory of all outboxes, with a cache that saves most locks.
#[derive(Debug, Clone)]
pub struct ShardMemory(Rc<MemoryCache>);

#[derive(Debug)]
struct MemoryCache {
    memory: Arc<OutboxMemory>,
    /// The bytes that were held last: most often many slow clients hold the same run.
    last: RefCell<Option<Bytes>>,
    /// Address and length of a run, and whether it is one message. Events have no length prefix: a search for the end of
    /// a large one per client would delay all others.
    last_checked: Cell<Option<(usize, usize, bool)>>,
}

impl ShardMemory {
    /// Creates the handle of one shard.
    pub fn new(memory: Arc<OutboxMemory>) -> Self {
        Self(Rc::new(MemoryCache { memory, last: RefCell::default(), last_checked: Cell::default() }))
    }

    /// Returns the same bytes, counted until the last holder drops them.
    pub fn hold(&self, bytes: &Bytes) -> Bytes {
        let mut last = self.0.last.borrow_mut();
        let same = |held: &&Bytes| (held.as_ptr(), held.len()) == (bytes.as_ptr(), bytes.len());
        if let Some(held) = last.as_ref().filter(same) {
            return held.clone();
        }
        let held = self.0.memory.hold(bytes);
        *last = Some(held.clone());
        held
    }

    /// Releases the bytes that were held last, which no outbox may hold any more.
    pub fn release_last(&self) {
        self.0.last.take();
        self.0.last_checked.take();
    }

    /// Returns whether a run is one message. Calls `check` unless the last call was about the same run.
    pub(super) fn is_single(&self, run: &Bytes, check: impl FnOnce() -> bool) -> bool {
        let (address, len) = (run.as_ptr().addr(), run.len());
        match self.0.last_checked.get() {
            Some((at, of, is_single)) if (at, of) == (address, len) => is_single,
            _ => {
                let is_single = check();
                self.0.last_checked.set(Some((address, len, is_single)));
                is_single
            }
        }
    }

    pub(super) fn add_entry(&self) {
        self.0.memory.used.fetch_add(ENTRY_BYTES, Ordering::Relaxed);
    }

    pub(super) fn remove_entries(&self, count: usize) {
        self.0.memory.used.fetch_sub(count * ENTRY_BYTES, Ordering::Relaxed);
    }

    /// Returns whether the bound is exceeded.
    pub(super) fn is_full(&self) -> bool {
        self.0.memory.used() > self.0.memory.max_bytes
    }

    /// Returns whether so many bytes of replayed values may be added.
    pub(super) fn has_replay_capacity(&self, bytes: usize) -> bool {
        let (part, of) = REPLAY_SHARE;
        self.0.memory.used().saturating_add(bytes) <= self.0.memory.max_bytes / of * part
    }

    /// Counts a client that was closed or refused because of the bound.
    pub(super) fn count_refused(&self) {
        self.0.memory.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the bytes that one outbox may hold for long while more than half of the bound is used. They shrink with what
    /// is left, so that the largest outboxes are dropped first.
    pub(super) fn allowed_under_pressure(&self, outbox_bytes: usize) -> Option<usize> {
        let left = self.0.memory.max_bytes.saturating_sub(self.0.memory.used());
        let half = self.0.memory.max_bytes / 2;
        // The cast cannot truncate: the result is less than outbox_bytes.
        (left < half).then(|| (outbox_bytes as u128 * left as u128 / half as u128) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_bytes_count_once_for_all_shards_until_the_last_holder_is_gone() {
        let memory = OutboxMemory::new(1 << 20);
        let shards = [(); 2].map(|()| ShardMemory::new(memory.clone()));
        let run = Bytes::from(vec![0; 10_000]);
        let mut held: Vec<_> = (0..10).map(|number| shards[number % 2].hold(&run)).collect();
        held.push(shards[0].hold(&run.slice(..100)));
        assert_eq!(memory.used(), 10_000 + ALLOCATION_OVERHEAD);
        let other = shards[0].hold(&Bytes::from(vec![0; 1_000]));
        assert_eq!(memory.used(), 11_000 + 2 * ALLOCATION_OVERHEAD);
        drop((held, other));
        shards.iter().for_each(ShardMemory::release_last);
        assert_eq!(memory.used(), 0);
        assert!(memory.allocations.lock().unwrap().is_empty());
    }

    #[test]
    fn a_run_is_checked_once_for_all_clients() {
        let shard = ShardMemory::new(OutboxMemory::new(1 << 20));
        let (run, other) = (Bytes::from(vec![0; 10]), Bytes::from(vec![0; 10]));
        assert!(!shard.is_single(&run, || false) && !shard.is_single(&run, || true));
        assert!(shard.is_single(&other, || true) && shard.is_single(&run, || true));
        shard.release_last();
        assert!(!shard.is_single(&run, || false));
    }

    #[test]
    fn the_share_of_an_outbox_shrinks_with_the_memory_that_is_left() {
        let memory = OutboxMemory::new(1_000_000);
        let shard = ShardMemory::new(memory);
        assert_eq!(shard.allowed_under_pressure(100), None);
        let _half = shard.hold(&Bytes::from(vec![0; 750_000 - ALLOCATION_OVERHEAD]));
        assert_eq!(shard.allowed_under_pressure(100), Some(50));
        assert!(!shard.has_replay_capacity(1) && !shard.is_full());
        let _more = shard.hold(&Bytes::from(vec![0; 300_000]));
        assert_eq!(shard.allowed_under_pressure(100), Some(0));
        assert!(shard.is_full());
    }
}
