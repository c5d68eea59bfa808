//! The memory of incomplete messages from clients, counted for the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of each client that do not count: most messages are shorter and arrive complete.
const FREE_BYTES: usize = 4096;

/// Most seconds for one message while more than half of the memory is used: clients that hold it without sending must not
/// keep it from others.
const SCARCE_SECONDS: u32 = 5;

/// The bytes of all incomplete messages of the process, and their bound.
#[derive(Debug)]
pub struct UnfinishedMemory {
    max_bytes: usize,
    used: AtomicUsize,
}

/// One client's share, released when it is dropped.
#[derive(Debug)]
pub struct Unfinished {
    memory: Arc<UnfinishedMemory>,
    counted: usize,
}

impl UnfinishedMemory {
    /// Sets the bytes that all clients together may hold.
    pub fn new(max_bytes: usize) -> Arc<Self> {
        Arc::new(Self { max_bytes, used: AtomicUsize::new(0) })
    }

    /// Returns the seconds that one message may take at the moment, which are normally `seconds`.
    pub fn message_seconds(&self, seconds: u32) -> u32 {
        let is_scarce = self.used.load(Ordering::Relaxed) > self.max_bytes / 2;
        if is_scarce { seconds.min(SCARCE_SECONDS) } else { seconds }
    }

    /// Returns the bytes that one client may hold between its messages, which are at least `message_bytes`.
    pub fn most_of_one(&self, message_bytes: usize) -> usize {
        message_bytes.max(self.max_bytes / 16)
    }
}

impl Unfinished {
    /// Creates an empty share.
    pub fn new(memory: &Arc<UnfinishedMemory>) -> Self {
        Self { memory: memory.clone(), counted: 0 }
    }

    /// Returns whether the client holds more than a share that does not count.
    pub fn is_counted(&self) -> bool {
        self.counted > 0
    }

    /// Sets how many bytes the client holds now. Returns false if these are more than before and exceed the bound of all
    /// clients.
    pub fn set(&mut self, bytes: usize) -> bool {
        let now = bytes.saturating_sub(FREE_BYTES);
        let before = std::mem::replace(&mut self.counted, now);
        if now <= before {
            self.memory.used.fetch_sub(before - now, Ordering::Relaxed);
            return true;
        }
        let used = self.memory.used.fetch_add(now - before, Ordering::Relaxed);
        used.saturating_add(now - before) <= self.memory.max_bytes
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_all_clients_count_until_they_are_released() {
        let memory = UnfinishedMemory::new(10_000);
        let mut clients = [(); 3].map(|()| Unfinished::new(&memory));
        assert!(clients.iter_mut().all(|client| client.set(FREE_BYTES)));
        assert_eq!(memory.used.load(Ordering::Relaxed), 0);
        assert!(clients[0].set(FREE_BYTES + 6_000));
        assert!(!clients[1].set(FREE_BYTES + 6_000));
        assert_eq!(memory.message_seconds(60), 5);
        assert!(clients[0].is_counted() && !clients[2].is_counted());
        assert!(clients[0].set(0) && clients[2].set(FREE_BYTES + 4_000));
        assert!(clients[1].set(0));
        assert_eq!((memory.message_seconds(60), memory.most_of_one(1_000)), (60, 1_000));
        assert_eq!(memory.most_of_one(100), 625);
        drop(clients);
        assert_eq!(memory.used.load(Ordering::Relaxed), 0);
    }
}
