//! The store: databases, clients and subscriptions, and the rules that concern several of them: keyspace events,
//! watched keys, and the limits of memory and output.
//!
//! One thread owns it. It is borrowed for one command or one run of a timer, never across an `.await`.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
};

use bytes::{Bytes, BytesMut};
use slab::Slab;

use super::{
    client::{Client, Transaction},
    clock::Clock,
    keyspace::{DATABASES, Keyspace},
    limits::StoreLimits,
    output_buffer::OutputBuffer,
    pubsub::{PubSub, SubscriptionKind},
    reply::{OUT_OF_MEMORY, Protocol, Reply},
    scripts::ScriptCache,
};

/// Overhead of a subscription, a watched key or a queued command.
pub(crate) const NAME_BYTES: usize = 256;

/// The store. It is not `Debug`, because keys and values are secrets, such as session keys.
pub(crate) struct MemoryStore {
    pub(crate) limits: StoreLimits,
    pub(crate) clock: Clock,
    pub(crate) keyspace: Keyspace,
    pub(crate) pubsub: PubSub,
    pub(crate) clients: Slab<Client>,
    pub(crate) scripts: ScriptCache,
    /// Name of the snapshot file; empty without one. It tells the stores of several projects apart.
    pub(crate) snapshot_name: String,
    watchers: [HashMap<Bytes, HashSet<usize>>; DATABASES],
    /// Number of connections so far, which is the id of the latest client.
    pub(crate) last_id: u64,
    /// Number of requests so far.
    pub(crate) requests: u64,
    /// Bytes of unsent output and incomplete requests of all clients.
    pub(crate) buffered_bytes: usize,
    /// The warning about full memory is logged once.
    memory_warned: bool,
}

impl MemoryStore {
    /// Creates an empty store.
    pub(crate) fn new(limits: StoreLimits) -> Self {
        Self {
            clock: Clock::start(),
            keyspace: Keyspace::new(limits.max_memory_bytes),
            pubsub: PubSub::default(),
            clients: Slab::new(),
            scripts: ScriptCache::default(),
            snapshot_name: String::new(),
            watchers: Default::default(),
            last_id: 0,
            requests: 0,
            buffered_bytes: 0,
            memory_warned: false,
            limits,
        }
    }

    /// Adds a client and returns its slot.
    pub(crate) fn add_client(&mut self, peer: SocketAddr, local: SocketAddr) -> usize {
        self.last_id += 1;
        self.clients.insert(Client::new(self.last_id, peer, local, self.clock.uptime_seconds()))
    }

    /// Removes a client and releases its memory.
    pub(crate) fn remove_client(&mut self, slot: usize) {
        self.clear_client(slot);
        let mut client = self.clients.remove(slot);
        self.buffered_bytes -= client.output.clear() + client.unread_bytes;
    }

    /// Ends the subscriptions, the transaction and the watches of a client.
    pub(crate) fn clear_client(&mut self, slot: usize) {
        for kind in [SubscriptionKind::Channel, SubscriptionKind::Pattern] {
            for name in self.subscriptions_of(slot, kind) {
                self.unsubscribe(slot, kind, &name);
            }
        }
        self.end_transaction(slot);
    }

    /// Takes the transaction of a client; returns it, and whether a watched key has changed.
    pub(crate) fn end_transaction(&mut self, slot: usize) -> (Option<Transaction>, bool) {
        let transaction = self.clients[slot].transaction.take();
        if let Some(transaction) = &transaction {
            self.keyspace.release(transaction.reserved_bytes);
        }
        (transaction, self.unwatch(slot))
    }

    /// Removes the key if it has expired. Call it before each access to a key.
    pub(crate) fn expire_if_due(&mut self, db: usize, key: &[u8]) {
        let now = self.clock.now_ms();
        if self.keyspace.get(db, key).is_some_and(|entry| entry.is_due(now)) {
            self.keyspace.remove(db, key);
            self.key_changed(db, key, "expired");
        }
    }

    /// Removes up to `most` expired keys; returns whether there are more.
    pub(crate) fn expire(&mut self, most: usize) -> bool {
        let now = self.clock.now_ms();
        for _ in 0..most {
            let Some((db, key)) = self.keyspace.first_due(now) else { return false };
            self.keyspace.remove(db, &key);
            self.key_changed(db, &key, "expired");
        }
        true
    }

    /// Fails transactions that watch a key, and publishes its keyspace events.
    pub(crate) fn key_changed(&mut self, db: usize, key: &[u8], event: &'static str) {
        self.invalidate_watches(db, key);
        if !self.pubsub.has_keyspace_subscribers() {
            return;
        }
        let by_key = [format!("__keyspace@{db}__:").as_bytes(), key].concat();
        let by_event = format!("__keyevent@{db}__:{event}");
        self.publish(&Bytes::from(by_key), &Bytes::from_static(event.as_bytes()));
        self.publish(&Bytes::from(by_event), &Bytes::copy_from_slice(key));
    }

    /// Removes all keys of a database.
    pub(crate) fn flush(&mut self, db: usize) {
        let watched: Vec<Bytes> = self.watchers[db].keys().cloned().collect();
        for key in watched {
            if self.keyspace.get(db, &key).is_some() {
                self.invalidate_watches(db, &key);
            }
        }
        self.keyspace.clear(db);
    }

    /// Returns the error for full memory, and logs the setting once.
    pub(crate) fn out_of_memory(&mut self) -> Reply {
        if !std::mem::replace(&mut self.memory_warned, true) {
            tracing::warn!(
                setting = "embedded.max_memory_bytes",
                limit_bytes = self.limits.max_memory_bytes,
                "the embedded store is full; writes are refused. Raise the setting or use a real Redis"
            );
        }
        OUT_OF_MEMORY
    }

    /// Counts memory for data other than keys.
    pub(crate) fn reserve(&mut self, bytes: usize) -> Result<(), Reply> {
        self.keyspace.reserve(bytes).map_err(|_| self.out_of_memory())
    }

    /// Makes EXEC fail if a key changes.
    pub(crate) fn watch(&mut self, slot: usize, key: &[u8]) -> Result<(), Reply> {
        let db = self.clients[slot].db;
        if self.watchers[db].get(key).is_some_and(|slots| slots.contains(&slot)) {
            return Ok(());
        }
        self.expire_if_due(db, key);
        self.reserve(NAME_BYTES + key.len())?;
        let key = Bytes::copy_from_slice(key);
        self.watchers[db].entry(key.clone()).or_default().insert(slot);
        self.clients[slot].watched.push((db, key));
        Ok(())
    }

    /// Removes the watches of a client; returns whether a watched key has changed.
    pub(crate) fn unwatch(&mut self, slot: usize) -> bool {
        for (db, key) in std::mem::take(&mut self.clients[slot].watched) {
            // As in Redis, an expired key has changed even if no command has accessed it since.
            self.expire_if_due(db, &key);
            self.keyspace.release(NAME_BYTES + key.len());
            if let Some(slots) = self.watchers[db].get_mut(&key) {
                slots.remove(&slot);
                if slots.is_empty() {
                    self.watchers[db].remove(&key);
                }
            }
        }
        std::mem::take(&mut self.clients[slot].watched_key_changed)
    }

    fn invalidate_watches(&mut self, db: usize, key: &[u8]) {
        for slot in self.watchers[db].get(key).into_iter().flatten() {
            self.clients[*slot].watched_key_changed = true;
        }
    }

    /// Returns the channels or patterns of a client.
    pub(crate) fn subscriptions_of(&self, slot: usize, kind: SubscriptionKind) -> Vec<Bytes> {
        let client = &self.clients[slot];
        let names = if kind == SubscriptionKind::Channel { &client.channels } else { &client.patterns };
        names.iter().cloned().collect()
    }

    /// Adds a subscription.
    pub(crate) fn subscribe(
        &mut self,
        slot: usize,
        kind: SubscriptionKind,
        name: &[u8],
    ) -> Result<(), Reply> {
        let client = &self.clients[slot];
        let names = if kind == SubscriptionKind::Channel { &client.channels } else { &client.patterns };
        if names.contains(name) {
            return Ok(());
        }
        self.reserve(NAME_BYTES + name.len())?;
        let name = Bytes::copy_from_slice(name);
        self.pubsub.add(kind, &name, slot);
        let client = &mut self.clients[slot];
        let names =
            if kind == SubscriptionKind::Channel { &mut client.channels } else { &mut client.patterns };
        names.insert(name);
        Ok(())
    }

    /// Removes a subscription, if it exists.
    pub(crate) fn unsubscribe(&mut self, slot: usize, kind: SubscriptionKind, name: &Bytes) {
        let client = &mut self.clients[slot];
        let names =
            if kind == SubscriptionKind::Channel { &mut client.channels } else { &mut client.patterns };
        if names.remove(name) {
            self.pubsub.remove(kind, name, slot);
            self.keyspace.release(NAME_BYTES + name.len());
        }
    }

    /// Delivers a message to all subscribers and returns their number.
    pub(crate) fn publish(&mut self, channel: &Bytes, payload: &Bytes) -> usize {
        let subscribers = self.pubsub.subscribers(channel);
        let mut count = subscribers.len();
        if count > 0 {
            let body = [Reply::text("message"), Reply::Bulk(channel.clone()), Reply::Bulk(payload.clone())];
            self.deliver(&subscribers, &Reply::Push(body.into()));
        }
        for (pattern, subscribers) in self.pubsub.matching(channel) {
            count += subscribers.len();
            let body = [Reply::text("pmessage"), Reply::Bulk(pattern), Reply::Bulk(channel.clone())];
            let body = body.into_iter().chain([Reply::Bulk(payload.clone())]).collect();
            self.deliver(&subscribers, &Reply::Push(body));
        }
        count
    }

    /// Delivers a message, which is encoded once for each protocol version in use.
    fn deliver(&mut self, slots: &[usize], message: &Reply) {
        for protocol in [Protocol::Resp2, Protocol::Resp3] {
            let mut frame = BytesMut::new();
            for slot in slots {
                if self.clients[*slot].protocol != protocol {
                    continue;
                }
                if frame.is_empty() {
                    message.write(protocol, &mut frame);
                }
                if self.ensure_room(*slot, frame.len()) {
                    self.clients[*slot].output.push(&frame);
                    self.buffered_bytes += frame.len();
                    self.clients[*slot].output.wake();
                }
            }
        }
    }

    /// Queues a reply for the client whose task is running, which therefore needs no wake-up.
    pub(crate) fn send_reply(&mut self, slot: usize, reply: &Reply) {
        if !self.ensure_room(slot, reply.max_encoded_len()) {
            return;
        }
        let client = &mut self.clients[slot];
        let before = client.output.pending().len();
        reply.write(client.protocol, client.output.buffer_mut());
        self.buffered_bytes += client.output.pending().len() - before;
    }

    /// Returns whether this much output fits the limits; otherwise disconnects the client.
    fn ensure_room(&mut self, slot: usize, bytes: usize) -> bool {
        let client = &self.clients[slot];
        if client.disconnected {
            return false;
        }
        let waiting = client.output.pending().len().saturating_add(bytes);
        if waiting > self.limits.max_output_bytes {
            self.disconnect(slot, "unsent output exceeds embedded.max_output_bytes");
        } else if self.buffered_bytes.saturating_add(bytes) > self.limits.max_memory_bytes {
            self.disconnect(slot, "unsent output of all clients exceeds embedded.max_memory_bytes");
        }
        !self.clients[slot].disconnected
    }

    /// Closes a connection at once and discards its output.
    pub(crate) fn disconnect(&mut self, slot: usize, reason: &'static str) {
        // Set first: removing its watches may expire a key, whose event may disconnect further clients, and this one
        // must not be disconnected twice.
        self.clients[slot].disconnected = true;
        self.clear_client(slot);
        let client = &mut self.clients[slot];
        self.buffered_bytes -= client.output.clear();
        client.output.wake();
        tracing::warn!(connection = client.id, reason, "disconnected a client of the embedded store");
    }

    /// Returns the output of a client. `mark_written` removes the written bytes.
    pub(crate) fn output(&self, slot: usize) -> &OutputBuffer {
        &self.clients[slot].output
    }

    /// Removes written bytes from the output of a client.
    pub(crate) fn mark_written(&mut self, slot: usize, bytes: usize) {
        self.clients[slot].output.advance(bytes);
        self.buffered_bytes -= bytes;
    }

    /// Records the size of the incomplete request of a client.
    pub(crate) fn set_unread(&mut self, slot: usize, bytes: usize) {
        let before = std::mem::replace(&mut self.clients[slot].unread_bytes, bytes);
        self.buffered_bytes = self.buffered_bytes - before + bytes;
        if bytes > before && self.buffered_bytes > self.limits.max_memory_bytes {
            self.disconnect(slot, "incomplete requests of all clients exceed embedded.max_memory_bytes");
        }
    }

    /// Returns whether the store holds nothing of any client or key.
    #[cfg(test)]
    pub(crate) fn is_clean(&self) -> bool {
        self.buffered_bytes == 0
            && self.keyspace.used_bytes() == 0
            && self.pubsub.is_empty()
            && self.watchers.iter().all(HashMap::is_empty)
    }
}
