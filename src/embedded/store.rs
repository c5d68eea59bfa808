//! The whole store: databases, clients, listeners, and the rules that tie them together.
//!
//! One thread owns it; it is borrowed for a command or a timer's turn and never across an `.await`.

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

/// What a subscription, a watched key or a queued argument costs beside its bytes.
pub(crate) const NAME_BYTES: usize = 256;

/// The store. Not `Debug`, like its parts: keys and values are secrets, session keys among them.
pub(crate) struct MemoryStore {
    pub(crate) limits: StoreLimits,
    pub(crate) clock: Clock,
    pub(crate) keyspace: Keyspace,
    pub(crate) pubsub: PubSub,
    pub(crate) clients: Slab<Client>,
    pub(crate) scripts: ScriptCache,
    watchers: [HashMap<Bytes, HashSet<usize>>; DATABASES],
    /// How many clients have come, which numbers them.
    pub(crate) last_id: u64,
    /// How many requests were made.
    pub(crate) requests: u64,
    /// Bytes in all outboxes and unfinished requests.
    pub(crate) in_transit: usize,
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
            watchers: Default::default(),
            last_id: 0,
            requests: 0,
            in_transit: 0,
            memory_warned: false,
            limits,
        }
    }

    /// Adds a client and returns its slot.
    pub(crate) fn enter(&mut self, peer: SocketAddr, local: SocketAddr) -> usize {
        self.last_id += 1;
        self.clients.insert(Client::new(self.last_id, peer, local, self.clock.uptime_seconds()))
    }

    /// Removes a client with all that it holds.
    pub(crate) fn leave(&mut self, slot: usize) {
        self.forget_all(slot);
        let mut client = self.clients.remove(slot);
        self.in_transit -= client.output.clear() + client.unread_bytes;
    }

    /// Ends subscriptions, transaction and watches of a client.
    pub(crate) fn forget_all(&mut self, slot: usize) {
        for kind in [SubscriptionKind::Channel, SubscriptionKind::Pattern] {
            for name in self.subscribed(slot, kind) {
                self.unsubscribe(slot, kind, &name);
            }
        }
        self.end_transaction(slot);
    }

    /// Takes the transaction of a client, with the verdict whether a watched key had changed.
    pub(crate) fn end_transaction(&mut self, slot: usize) -> (Option<Transaction>, bool) {
        let transaction = self.clients[slot].transaction.take();
        if let Some(transaction) = &transaction {
            self.keyspace.release(transaction.held_bytes);
        }
        (transaction, self.unwatch(slot))
    }

    /// Removes the key if its time is over; call before any look at a key.
    pub(crate) fn settle(&mut self, db: usize, key: &[u8]) {
        let now = self.clock.now_ms();
        if self.keyspace.get(db, key).is_some_and(|entry| entry.is_due(now)) {
            self.keyspace.remove(db, key);
            self.changed(db, key, "expired");
        }
    }

    /// Removes up to `most` keys whose time is over; true means that there are more.
    pub(crate) fn expire(&mut self, most: usize) -> bool {
        let now = self.clock.now_ms();
        for _ in 0..most {
            let Some((db, key)) = self.keyspace.first_due(now) else { return false };
            self.keyspace.remove(db, &key);
            self.changed(db, &key, "expired");
        }
        true
    }

    /// Tells watchers and listeners of keyspace events that a key was changed.
    pub(crate) fn changed(&mut self, db: usize, key: &[u8], event: &'static str) {
        self.touch(db, key);
        if !self.pubsub.hears_of_keys() {
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
                self.touch(db, &key);
            }
        }
        self.keyspace.clear(db);
    }

    /// Returns the error for a full memory and names the setting in the log, once.
    pub(crate) fn full(&mut self) -> Reply {
        if !std::mem::replace(&mut self.memory_warned, true) {
            tracing::warn!(
                setting = "embedded.max_memory_bytes",
                limit_bytes = self.limits.max_memory_bytes,
                "the embedded store is full and refuses writes, raise the setting or use a Redis"
            );
        }
        OUT_OF_MEMORY
    }

    /// Counts memory for something other than a key.
    pub(crate) fn reserve(&mut self, bytes: usize) -> Result<(), Reply> {
        self.keyspace.reserve(bytes).map_err(|_| self.full())
    }

    /// Makes EXEC depend on a key.
    pub(crate) fn watch(&mut self, slot: usize, key: &[u8]) -> Result<(), Reply> {
        let db = self.clients[slot].db;
        if self.watchers[db].get(key).is_some_and(|slots| slots.contains(&slot)) {
            return Ok(());
        }
        self.settle(db, key);
        self.reserve(NAME_BYTES + key.len())?;
        let key = Bytes::copy_from_slice(key);
        self.watchers[db].entry(key.clone()).or_default().insert(slot);
        self.clients[slot].watched.push((db, key));
        Ok(())
    }

    /// Forgets the watched keys of a client and tells whether one had changed.
    pub(crate) fn unwatch(&mut self, slot: usize) -> bool {
        for (db, key) in std::mem::take(&mut self.clients[slot].watched) {
            // A key whose time is over has changed, even if nobody looked at it.
            self.settle(db, &key);
            self.keyspace.release(NAME_BYTES + key.len());
            if let Some(slots) = self.watchers[db].get_mut(&key) {
                slots.remove(&slot);
                if slots.is_empty() {
                    self.watchers[db].remove(&key);
                }
            }
        }
        std::mem::take(&mut self.clients[slot].watch_broken)
    }

    fn touch(&mut self, db: usize, key: &[u8]) {
        for slot in self.watchers[db].get(key).into_iter().flatten() {
            self.clients[*slot].watch_broken = true;
        }
    }

    /// Returns what a client listens to.
    pub(crate) fn subscribed(&self, slot: usize, kind: SubscriptionKind) -> Vec<Bytes> {
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
        self.pubsub.join(kind, &name, slot);
        let client = &mut self.clients[slot];
        let names =
            if kind == SubscriptionKind::Channel { &mut client.channels } else { &mut client.patterns };
        names.insert(name);
        Ok(())
    }

    /// Removes a subscription, if it is there.
    pub(crate) fn unsubscribe(&mut self, slot: usize, kind: SubscriptionKind, name: &Bytes) {
        let client = &mut self.clients[slot];
        let names =
            if kind == SubscriptionKind::Channel { &mut client.channels } else { &mut client.patterns };
        if names.remove(name) {
            self.pubsub.leave(kind, name, slot);
            self.keyspace.release(NAME_BYTES + name.len());
        }
    }

    /// Hands a message to all listeners and returns how many there are.
    pub(crate) fn publish(&mut self, channel: &Bytes, payload: &Bytes) -> usize {
        let listeners = self.pubsub.listeners(channel);
        let mut count = listeners.len();
        if count > 0 {
            let body = [Reply::text("message"), Reply::Bulk(channel.clone()), Reply::Bulk(payload.clone())];
            self.deliver(&listeners, &Reply::Push(body.into()));
        }
        for (pattern, listeners) in self.pubsub.matching(channel) {
            count += listeners.len();
            let body = [Reply::text("pmessage"), Reply::Bulk(pattern), Reply::Bulk(channel.clone())];
            let body = body.into_iter().chain([Reply::Bulk(payload.clone())]).collect();
            self.deliver(&listeners, &Reply::Push(body));
        }
        count
    }

    /// Writes a message once for each protocol version in use.
    fn deliver(&mut self, slots: &[usize], message: &Reply) {
        for protocol in [Protocol::Resp2, Protocol::Resp3] {
            let mut frame = BytesMut::new();
            for slot in slots {
                if self.clients[*slot].protocol != protocol {
                    continue;
                }
                if frame.is_empty() && message.write(protocol, &mut frame).is_err() {
                    return;
                }
                if self.has_room(*slot, frame.len()) {
                    self.clients[*slot].output.push(&frame);
                    self.in_transit += frame.len();
                    self.clients[*slot].output.ring();
                }
            }
        }
    }

    /// Queues a reply for its asker, whose own task is running and needs no bell.
    pub(crate) fn answer(&mut self, slot: usize, reply: &Reply) {
        if !self.has_room(slot, reply.max_encoded_len()) {
            return;
        }
        let client = &mut self.clients[slot];
        let before = client.output.pending().len();
        let refused = reply.write(client.protocol, client.output.buffer()).is_err();
        self.in_transit += client.output.pending().len() - before;
        if refused {
            self.cut(slot, "a reply could not be encoded");
        }
    }

    /// Tells whether a client may be sent that much more, and ends its connection if not.
    fn has_room(&mut self, slot: usize, bytes: usize) -> bool {
        let client = &self.clients[slot];
        if client.cut {
            return false;
        }
        let waiting = client.output.pending().len().saturating_add(bytes);
        if waiting > self.limits.max_output_bytes {
            self.cut(slot, "more bytes wait for it than embedded.max_output_bytes");
        } else if self.in_transit.saturating_add(bytes) > self.limits.max_memory_bytes {
            self.cut(slot, "more bytes wait for all clients than embedded.max_memory_bytes");
        }
        !self.clients[slot].cut
    }

    /// Ends a connection at once, without what still waits for it.
    pub(crate) fn cut(&mut self, slot: usize, reason: &'static str) {
        // First of all, because its leaving may expire a watched key, whose event may find other clients too slow.
        self.clients[slot].cut = true;
        self.forget_all(slot);
        let client = &mut self.clients[slot];
        self.in_transit -= client.output.clear();
        client.output.ring();
        tracing::warn!(connection = client.id, reason, "client of the embedded store disconnected");
    }

    /// Returns the output of a client, from which `written` takes.
    pub(crate) fn output(&self, slot: usize) -> &OutputBuffer {
        &self.clients[slot].output
    }

    /// Notes that bytes have left for a client.
    pub(crate) fn written(&mut self, slot: usize, bytes: usize) {
        self.clients[slot].output.written(bytes);
        self.in_transit -= bytes;
    }

    /// Notes how many bytes of an unfinished request a client has sent.
    pub(crate) fn unread(&mut self, slot: usize, bytes: usize) {
        let before = std::mem::replace(&mut self.clients[slot].unread_bytes, bytes);
        self.in_transit = self.in_transit - before + bytes;
        if bytes > before && self.in_transit > self.limits.max_memory_bytes {
            self.cut(slot, "requests of all clients exceed embedded.max_memory_bytes");
        }
    }

    /// Tells whether nothing is left of any client or key.
    #[cfg(test)]
    pub(crate) fn is_clean(&self) -> bool {
        self.in_transit == 0
            && self.keyspace.used_bytes() == 0
            && self.pubsub.is_idle()
            && self.watchers.iter().all(HashMap::is_empty)
    }
}
