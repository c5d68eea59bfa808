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

    /// Takes how many bytes a client holds now. Returns false if it holds more than before and there is no room for it:
    /// who can publish nothing may fill half of it, so that there is room for those who can.
    pub fn set(&mut self, bytes: usize, publishes: bool) -> bool {
        let now = bytes.saturating_sub(FREE_BYTES);
        let before = std::mem::replace(&mut self.counted, now);
        if now <= before {
            self.memory.used.fetch_sub(before - now, Ordering::Relaxed);
            return true;
        }
        let used = self.memory.used.fetch_add(now - before, Ordering::Relaxed);
        let most = if publishes { self.memory.most } else { self.memory.most / 2 };
        used.saturating_add(now - before) <= most
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
        assert!(clients.iter_mut().all(|client| client.set(FREE_BYTES, true)));
        assert_eq!(memory.used.load(Ordering::Relaxed), 0);
        assert!(clients[0].set(FREE_BYTES + 6_000, true));
        assert!(!clients[1].set(FREE_BYTES + 6_000, true));
        assert!(clients[0].set(0, true) && clients[2].set(FREE_BYTES + 4_000, true));
        drop(clients);
        assert_eq!(memory.used.load(Ordering::Relaxed), 0);
    }
}
