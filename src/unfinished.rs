//! What has come of messages that are not whole, counted for the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of each client that do not count: most messages are shorter, and come whole anyway.
const FREE_BYTES: usize = 4096;

/// The bytes of unfinished messages that the whole process holds, and may hold.
#[derive(Debug)]
pub struct UnfinishedMemory {
    most: usize,
    used: AtomicUsize,
}

/// One client's share of them, given back when it is dropped.
#[derive(Debug)]
pub struct Unfinished {
    memory: Arc<UnfinishedMemory>,
    counted: usize,
}

impl UnfinishedMemory {
    /// Takes the bytes that all clients may hold together.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, used: AtomicUsize::new(0) })
    }
}

impl Unfinished {
    /// Begins with nothing.
    pub fn new(memory: &Arc<UnfinishedMemory>) -> Self {
        Self { memory: memory.clone(), counted: 0 }
    }

    /// Takes how many bytes a client holds now. Returns false if it holds more than before and there is no room for it.
    pub fn set(&mut self, bytes: usize) -> bool {
        let now = bytes.saturating_sub(FREE_BYTES);
        let before = std::mem::replace(&mut self.counted, now);
        if now <= before {
            self.memory.used.fetch_sub(before - now, Ordering::Relaxed);
            return true;
        }
        let used = self.memory.used.fetch_add(now - before, Ordering::Relaxed);
        used.saturating_add(now - before) <= self.memory.most
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
    fn unfinished_bytes_count_for_all_clients_and_are_given_back() {
        let memory = UnfinishedMemory::new(10_000);
        let mut clients = [(); 3].map(|()| Unfinished::new(&memory));
        assert!(clients.iter_mut().all(|client| client.set(FREE_BYTES)));
        assert_eq!(memory.used.load(Ordering::Relaxed), 0);
        assert!(clients[0].set(FREE_BYTES + 6_000));
        assert!(!clients[1].set(FREE_BYTES + 6_000));
        assert!(clients[0].set(0) && clients[2].set(FREE_BYTES + 4_000));
        drop(clients);
        assert_eq!(memory.used.load(Ordering::Relaxed), 0);
    }
}
