//! What all outboxes of the process hold: each piece of memory counts once, however many clients wait for it.
//!
//! Nothing here is touched by a delivery that the socket takes whole.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use foldhash::fast::RandomState;

/// What a piece of memory takes besides its bytes: the allocator's part, its owner and its entry below.
const PIECE_BYTES: usize = 192;

/// What one entry of an outbox takes, in a list that doubles its topic.
const ENTRY_BYTES: usize = 80;

/// Part of the bound that replayed values may fill: the rest is for live messages.
const REPLAYED: (usize, usize) = (3, 4);

/// What the outboxes of the whole process hold, and may hold.
#[derive(Debug)]
pub struct OutboxMemory {
    most: usize,
    used: AtomicUsize,
    /// Pieces of memory by address. An address is nobody else's as long as somebody holds the piece.
    pieces: Mutex<HashMap<usize, Piece, RandomState>>,
    /// Clients that were closed, and handshakes that were refused, because the bound was reached.
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Piece {
    holders: u32,
    bytes: usize,
}

/// A piece of memory in an outbox.
struct Held {
    bytes: Bytes,
    memory: Arc<OutboxMemory>,
}

impl OutboxMemory {
    /// Takes the bytes that all outboxes may hold together.
    pub fn new(most: usize) -> Arc<Self> {
        let (used, pieces, refused) = Default::default();
        Arc::new(Self { most, used, pieces, refused })
    }

    /// Returns the bytes that are held.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns how often a client was closed or refused because of the bound since the last call.
    pub fn take_refused(&self) -> u64 {
        self.refused.swap(0, Ordering::Relaxed)
    }

    fn hold(self: &Arc<Self>, bytes: &Bytes) -> Bytes {
        {
            let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
            let piece = pieces.entry(bytes.as_ptr().addr()).or_default();
            piece.holders += 1;
            let more = (bytes.len() + PIECE_BYTES).saturating_sub(piece.bytes);
            piece.bytes += more;
            self.used.fetch_add(more, Ordering::Relaxed);
        }
        Bytes::from_owner(Held { bytes: bytes.clone(), memory: self.clone() })
    }

    fn release(&self, bytes: &Bytes) {
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let address = bytes.as_ptr().addr();
        let Some(piece) = pieces.get_mut(&address) else { return };
        piece.holders -= 1;
        if piece.holders == 0 {
            self.used.fetch_sub(piece.bytes, Ordering::Relaxed);
            pieces.remove(&address);
            if pieces.is_empty() {
                // The table keeps the topic of a peak.
                *pieces = HashMap::default();
            }
        }
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.release(&self.bytes);
    }
}

/// One shard's way to the memory of the process.
#[derive(Debug, Clone)]
pub struct ShardMemory(Rc<Shard>);

#[derive(Debug)]
struct Shard {
    memory: Arc<OutboxMemory>,
    /// What was held last: mostly many clients do not take the same run.
    last: RefCell<Option<Bytes>>,
    /// A run by address and length, and whether it is one message. Events have no length: each client's look for the end
    /// of a large one would hold up all others.
    looked_at: Cell<Option<(usize, usize, bool)>>,
}

impl ShardMemory {
    /// Takes the memory of the process.
    pub fn new(memory: Arc<OutboxMemory>) -> Self {
        Self(Rc::new(Shard { memory, last: RefCell::default(), looked_at: Cell::default() }))
    }

    /// Returns the same bytes, counted for as long as somebody has them.
    pub(super) fn hold(&self, bytes: &Bytes) -> Bytes {
        let mut last = self.0.last.borrow_mut();
        let same = |held: &&Bytes| (held.as_ptr(), held.len()) == (bytes.as_ptr(), bytes.len());
        if let Some(held) = last.as_ref().filter(same) {
            return held.clone();
        }
        let held = self.0.memory.hold(bytes);
        *last = Some(held.clone());
        held
    }

    /// Forgets what was held last, which may be nobody's any more.
    pub fn forget_last(&self) {
        self.0.last.take();
        self.0.looked_at.take();
    }

    /// Tells whether a run is one message, and looks only if the last question was about another run.
    pub(super) fn is_one(&self, run: &Bytes, look: impl FnOnce() -> bool) -> bool {
        let (address, len) = (run.as_ptr().addr(), run.len());
        match self.0.looked_at.get() {
            Some((at, of, is_one)) if (at, of) == (address, len) => is_one,
            _ => {
                let is_one = look();
                self.0.looked_at.set(Some((address, len, is_one)));
                is_one
            }
        }
    }

    pub(super) fn add_entry(&self) {
        self.0.memory.used.fetch_add(ENTRY_BYTES, Ordering::Relaxed);
    }

    pub(super) fn remove_entries(&self, count: usize) {
        self.0.memory.used.fetch_sub(count * ENTRY_BYTES, Ordering::Relaxed);
    }

    /// Tells whether the bound is reached.
    pub(super) fn is_full(&self) -> bool {
        self.0.memory.used() > self.0.memory.most
    }

    /// Tells whether so many bytes of replayed values may be added.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        let (part, of) = REPLAYED;
        self.0.memory.used().saturating_add(bytes) <= self.0.memory.most / of * part
    }

    /// Counts a client that was closed or refused because of the bound.
    pub(super) fn count_refused(&self) {
        self.0.memory.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns what one outbox may hold for long while more than half of the bound is used: the less is left, the less.
    /// So those who hold most go first.
    pub(super) fn allowed_under_pressure(&self, outbox_bytes: usize) -> Option<usize> {
        let left = self.0.memory.most.saturating_sub(self.0.memory.used());
        let half = self.0.memory.most / 2;
        // Less than outbox_bytes.
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
        assert_eq!(memory.used(), 10_000 + PIECE_BYTES);
        let other = shards[0].hold(&Bytes::from(vec![0; 1_000]));
        assert_eq!(memory.used(), 11_000 + 2 * PIECE_BYTES);
        drop((held, other));
        shards.iter().for_each(ShardMemory::forget_last);
        assert_eq!(memory.used(), 0);
        assert!(memory.pieces.lock().unwrap().is_empty());
    }

    #[test]
    fn a_run_is_looked_at_once_for_all_clients() {
        let shard = ShardMemory::new(OutboxMemory::new(1 << 20));
        let (run, other) = (Bytes::from(vec![0; 10]), Bytes::from(vec![0; 10]));
        assert!(!shard.is_one(&run, || false) && !shard.is_one(&run, || true));
        assert!(shard.is_one(&other, || true) && shard.is_one(&run, || true));
        shard.forget_last();
        assert!(!shard.is_one(&run, || false));
    }

    #[test]
    fn the_less_is_left_the_less_may_one_outbox_hold() {
        let memory = OutboxMemory::new(1_000_000);
        let shard = ShardMemory::new(memory);
        assert_eq!(shard.allowed_under_pressure(100), None);
        let _half = shard.hold(&Bytes::from(vec![0; 750_000 - PIECE_BYTES]));
        assert_eq!(shard.allowed_under_pressure(100), Some(50));
        assert!(!shard.has_room(1) && !shard.is_full());
        let _more = shard.hold(&Bytes::from(vec![0; 300_000]));
        assert_eq!(shard.allowed_under_pressure(100), Some(0));
        assert!(shard.is_full());
    }
}
