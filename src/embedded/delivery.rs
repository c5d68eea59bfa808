//! What leaves the store: subscriptions and their messages, replies, and the bounds on what waits for a client.

use bytes::{Bytes, BytesMut};

use super::{
    output_buffer::OutputBuffer,
    pubsub::SubscriptionKind,
    reply::{Protocol, Reply},
    store::{MemoryStore, NAME_BYTES},
};

impl MemoryStore {
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
}
