//! A running command: the store, its client and its words, and the operations on keys that several commands share.

use bytes::Bytes;

use super::options::TimeUnit;
use crate::embedded::{
    client::Client,
    integer,
    keyspace::KeyValue,
    message_log::MessageLog,
    reply::{NOT_AN_INTEGER, Reply, WRONG_TYPE},
    store::MemoryStore,
};

/// A command that is being run.
pub(crate) struct CommandCall<'a> {
    pub(crate) store: &'a mut MemoryStore,
    pub(crate) slot: usize,
    /// All words, including the name.
    pub(crate) args: &'a [Bytes],
}

impl CommandCall<'_> {
    /// Returns the client that sent the command.
    pub(super) fn client(&mut self) -> &mut Client {
        &mut self.store.clients[self.slot]
    }

    /// Returns the database that the client has selected.
    pub(super) fn db(&self) -> usize {
        self.store.clients[self.slot].db
    }

    /// Returns the name of a key's type, unless it has expired.
    pub(super) fn type_of(&mut self, key: &[u8]) -> Option<&'static str> {
        let db = self.db();
        self.store.expire_if_due(db, key);
        self.store.keyspace.get(db, key).map(|entry| entry.value.type_name())
    }

    /// Returns whether a key exists.
    pub(super) fn exists(&mut self, key: &[u8]) -> bool {
        self.type_of(key).is_some()
    }

    /// Returns the string of a key, unless it has expired.
    pub(super) fn value(&mut self, key: &[u8]) -> Result<Option<Bytes>, Reply> {
        let db = self.db();
        self.store.expire_if_due(db, key);
        match self.store.keyspace.get(db, key).map(|entry| &entry.value) {
            Some(KeyValue::Text(text)) => Ok(Some(text.clone())),
            Some(KeyValue::Stream(_)) => Err(WRONG_TYPE),
            None => Ok(None),
        }
    }

    /// Returns the stream of a key, unless it has expired.
    pub(super) fn stream(&mut self, key: &[u8]) -> Result<Option<&MessageLog>, Reply> {
        let db = self.db();
        self.store.expire_if_due(db, key);
        match self.store.keyspace.get(db, key).map(|entry| &entry.value) {
            Some(KeyValue::Stream(log)) => Ok(Some(log)),
            Some(KeyValue::Text(_)) => Err(WRONG_TYPE),
            None => Ok(None),
        }
    }

    /// Returns the string of a key as a reply.
    pub(super) fn value_or_nil(&mut self, key: &[u8]) -> Result<Reply, Reply> {
        Ok(self.value(key)?.map_or(Reply::Nil, Reply::Bulk))
    }

    /// Returns when a key expires, in Unix milliseconds.
    pub(super) fn expiry(&self, key: &[u8]) -> Option<i64> {
        self.store.keyspace.get(self.db(), key).and_then(|entry| entry.expires)
    }

    /// Stores a value without an event: the commands differ in the events that follow.
    pub(super) fn put(&mut self, key: &[u8], value: &[u8], expires: Option<i64>) -> Result<(), Reply> {
        let db = self.db();
        self.store.expire_if_due(db, key);
        self.store.keyspace.set(db, key, value, expires).map_err(|_| self.store.out_of_memory())
    }

    /// Publishes the keyspace events of a change.
    pub(super) fn notify(&mut self, key: &[u8], event: &'static str) {
        self.store.key_changed(self.db(), key, event);
    }

    /// Deletes a key; returns whether it existed.
    pub(super) fn delete(&mut self, key: &[u8]) -> bool {
        let db = self.db();
        self.store.expire_if_due(db, key);
        let removed = self.store.keyspace.remove(db, key);
        if removed {
            self.store.key_changed(db, key, "del");
        }
        removed
    }

    /// Adds to a counter, which keeps its expiry.
    pub(super) fn increment(&mut self, key: &[u8], step: i64) -> Result<Reply, Reply> {
        let old = match self.value(key)? {
            Some(value) => integer::parse(&value).ok_or(NOT_AN_INTEGER)?,
            None => 0,
        };
        let sum = old.checked_add(step);
        let sum = sum.ok_or_else(|| Reply::error("ERR increment or decrement would overflow"))?;
        self.put(key, sum.to_string().as_bytes(), self.expiry(key))?;
        self.notify(key, "incrby");
        Ok(Reply::Integer(sum))
    }

    /// Sets when an existing key expires; a time in the past deletes it, as in Redis.
    pub(super) fn expire_at(&mut self, key: &[u8], deadline: i64) {
        if deadline <= self.store.clock.now_ms() {
            self.delete(key);
        } else {
            self.store.keyspace.set_expiry(self.db(), key, Some(deadline));
            self.notify(key, "expire");
        }
    }

    /// Removes the expiry of a key; returns whether it had one.
    pub(super) fn persist(&mut self, key: &[u8]) -> bool {
        let volatile = self.exists(key) && self.expiry(key).is_some();
        if volatile {
            self.store.keyspace.set_expiry(self.db(), key, None);
            self.notify(key, "persist");
        }
        volatile
    }

    /// Returns the time to live of a key: -1 without an expiry, -2 without the key.
    pub(super) fn ttl(&mut self, key: &[u8], unit: TimeUnit) -> i64 {
        if !self.exists(key) {
            return -2;
        }
        let Some(deadline) = self.expiry(key) else { return -1 };
        let left = deadline.saturating_sub(self.store.clock.now_ms()).max(0);
        if unit.seconds { left.saturating_add(500) / 1_000 } else { left }
    }
}
