//! The sessions of a shard, by their slots.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use slab::Slab;
use tokio::time::Instant;

use super::handshake_records::HandshakeRecords;
use super::{EngineSession, NamespaceSocket, PayloadCache, Sid, SidCipher};
use crate::wire::engine_io::EngineVersion;
use crate::wire::{HandshakeRecord, Mount};

/// The shard's ticks per second: a session has no timer of its own, the tick enforces its deadlines.
pub const TICKS_PER_SECOND: u32 = 4;

/// Most milliseconds that count between two ticks: a process that was suspended must not take its clients for dead.
const MAX_TICK_MS: u64 = 2 * 1_000 / TICKS_PER_SECOND as u64;

/// The sessions of a shard, by their slots.
pub struct EngineTable {
    shard: usize,
    cipher: Arc<SidCipher>,
    sessions: RefCell<Slab<Rc<EngineSession>>>,
    handshakes: HandshakeRecords,
    /// The number of the latest upgrade that a request on this shard has begun.
    upgrades: Cell<u64>,
    /// The ack id that was used last.
    ack_id: Cell<u32>,
    /// The time of the last tick in milliseconds.
    ticked: Cell<u64>,
    ticked_at: Cell<Instant>,
    /// The payload that was encoded last.
    pub payloads: PayloadCache,
}

impl EngineTable {
    /// Creates the empty table of a shard.
    pub fn new(shard: usize, cipher: Arc<SidCipher>) -> Self {
        Self {
            shard,
            cipher,
            sessions: RefCell::default(),
            handshakes: HandshakeRecords::default(),
            upgrades: Cell::default(),
            ack_id: Cell::default(),
            ticked: Cell::new(1),
            ticked_at: Cell::new(Instant::now()),
            payloads: PayloadCache::default(),
        }
    }

    /// Returns the time in milliseconds, which is never 0.
    pub fn now(&self) -> u64 {
        let since = u64::try_from(self.ticked_at.get().elapsed().as_millis()).unwrap_or(MAX_TICK_MS);
        self.ticked.get() + since.min(MAX_TICK_MS)
    }

    /// Returns the time at which so many seconds have passed.
    pub fn after(&self, seconds: u32) -> u64 {
        self.now() + u64::from(seconds) * 1_000
    }

    /// Advances the clock by one tick.
    pub fn advance(&self) {
        self.ticked.set(self.now());
        self.ticked_at.set(Instant::now());
    }

    /// Adds the session that `create` returns for its slot. The record of its handshake is kept as long as the session.
    pub fn insert(
        &self,
        record: Option<HandshakeRecord>,
        create: impl FnOnce(u32) -> EngineSession,
    ) -> Rc<EngineSession> {
        let mut sessions = self.sessions.borrow_mut();
        let entry = sessions.vacant_entry();
        let slot = u32::try_from(entry.key()).unwrap_or(u32::MAX);
        if let Some(record) = record {
            self.handshakes.add(slot, record);
        }
        entry.insert(Rc::new(create(slot))).clone()
    }

    /// Removes a session, which has ended. Its namespaces are left.
    pub fn remove(&self, session: &EngineSession) {
        let mut sessions = self.sessions.borrow_mut();
        let slot = session.slot as usize;
        let is_same = sessions.get(slot).is_some_and(|found| std::ptr::eq(&raw const **found, session));
        if is_same {
            sessions.remove(slot);
            self.handshakes.remove(session.slot);
            if sessions.is_empty() {
                *sessions = Slab::new();
            }
        }
        drop(sessions);
        session.release();
    }

    /// Removes all sessions: the process ends.
    pub fn clear(&self) {
        let sessions = self.sessions.take();
        self.handshakes.clear();
        for (_, session) in &sessions {
            session.announce_end();
            session.sockets.borrow_mut().clear();
        }
    }

    /// Calls `action` for the sessions whose slot is `part` modulo `parts`. It must not add or remove sessions.
    pub fn with_part(&self, part: usize, parts: usize, action: impl FnMut(&Rc<EngineSession>)) {
        let sessions = self.sessions.borrow();
        let slots = (part..sessions.capacity()).step_by(parts);
        slots.filter_map(|slot| sessions.get(slot)).for_each(action);
    }

    /// Returns up to `count` sessions from a slot on, in the order of their slots.
    pub fn sessions_from(&self, first: usize, count: usize) -> Vec<Rc<EngineSession>> {
        let sessions = self.sessions.borrow();
        (first..sessions.capacity()).filter_map(|slot| sessions.get(slot).cloned()).take(count).collect()
    }

    /// Returns the number of sessions.
    pub fn session_count(&self) -> usize {
        self.sessions.borrow().len()
    }

    /// Returns the record of a session's handshake, if it is kept.
    pub fn handshake(&self, session: &EngineSession) -> Option<HandshakeRecord> {
        self.handshakes.get(session.slot)
    }

    /// Returns the number of a new upgrade. No other shard returns it.
    pub fn next_upgrade(&self) -> u64 {
        self.upgrades.set(self.upgrades.get() + 1);
        self.upgrades.get() << 16 | self.shard as u64
    }

    /// Returns a new ack id, from 1 to the largest integer that all client libraries read.
    pub fn next_ack_id(&self) -> u64 {
        self.ack_id.set(self.ack_id.get() % i32::MAX.unsigned_abs() + 1);
        self.ack_id.get().into()
    }

    /// Returns an id as clients and Django see it.
    pub fn text(&self, sid: &Sid, slot: u32) -> String {
        self.cipher.encode(sid, self.shard, slot)
    }

    /// Returns the public id of a socket, as Django sees it.
    pub fn public_id(&self, session: &EngineSession, socket: &NamespaceSocket) -> String {
        let id = self.text(&socket.sid, session.slot);
        // Old servers, whose ids these are, had the namespace in the id.
        let is_same = socket.sid.equals(&session.sid) && socket.namespace() != "/";
        if is_same { format!("{}#{id}", socket.namespace()) } else { id }
    }

    /// Returns whether a poll waits for its answer.
    pub fn has_waiting_polls(&self) -> bool {
        let is_waiting =
            |session: &EngineSession| session.poll.borrow().as_ref().is_some_and(|poll| poll.is_waiting);
        self.sessions.borrow().iter().any(|(_, session)| is_waiting(session))
    }

    /// Returns the shard of a session, by its secret id.
    pub fn shard_of(&self, text: &str) -> Option<usize> {
        self.cipher.shard_of(text)
    }

    /// Returns the session at a slot.
    pub fn at(&self, slot: u32) -> Option<Rc<EngineSession>> {
        self.sessions.borrow().get(slot as usize).cloned()
    }

    /// Returns the session of this shard with a secret id.
    pub fn session(&self, text: &str) -> Option<Rc<EngineSession>> {
        let (sid, _, slot) = self.cipher.decode(text)?;
        let session = self.sessions.borrow().get(slot as usize)?.clone();
        session.sid.equals(&sid).then_some(session)
    }

    /// Calls `action` with the session of a socket and the socket's index, if the public id is that of a socket of this
    /// shard in this namespace of this mount.
    ///
    /// Clients of protocol 3 take the secret id of their session for their own, alone or behind `<namespace>#`, so both are
    /// aliases.
    pub fn find<T>(
        &self,
        text: &str,
        mount: Mount,
        namespace: &str,
        action: impl FnOnce(&Rc<EngineSession>, usize) -> T,
    ) -> Option<T> {
        let bare =
            text.split_once('#').map_or(text, |(prefix, bare)| if prefix == namespace { bare } else { "" });
        let (sid, shard, slot) = self.cipher.decode(bare)?;
        if shard != self.shard {
            return None;
        }
        let session =
            self.sessions.borrow().get(slot as usize).filter(|session| session.mount == mount)?.clone();
        let is_alias = session.version == EngineVersion::V3 && session.sid.equals(&sid);
        let index =
            session.sockets.borrow().iter().position(|socket| {
                socket.namespace() == namespace && (is_alias || socket.sid.equals(&sid))
            })?;
        Some(action(&session, index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ack_ids_start_again_before_they_exceed_31_bits() {
        let table = EngineTable::new(0, Arc::new(SidCipher::random().unwrap()));
        assert_eq!([table.next_ack_id(), table.next_ack_id()], [1, 2]);
        table.ack_id.set(i32::MAX.unsigned_abs() - 1);
        assert_eq!([table.next_ack_id(), table.next_ack_id()], [2_147_483_647, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_does_not_wrap_after_49_days() {
        let table = EngineTable::new(0, Arc::new(SidCipher::random().unwrap()));
        table.ticked.set(u32::MAX.into());
        let deadline = table.after(20);
        tokio::time::advance(std::time::Duration::from_millis(100)).await;
        table.advance();
        assert_eq!((table.now(), deadline), ((1 << 32) + 99, (1 << 32) + 19_999));
    }
}
