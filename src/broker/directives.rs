//! Directives on their way to the shards: in order, bounded, and with consecutive messages to the same clients joined.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::wire::form::store_packet;
use crate::wire::socket_io::EventData;
use crate::wire::socket_io::encode::push_event;
use crate::wire::{Directive, EmitTarget, MountSet};

/// Largest run of joined messages, in bytes.
const RUN_BYTES: usize = 1 << 20;

/// Bytes that a directive counts in addition to its packets.
const DIRECTIVE_BYTES: usize = 256;

/// Queues directives.
#[derive(Debug)]
pub(super) struct DirectiveQueue {
    queue: Vec<(MountSet, Directive)>,
    /// The messages of the run that is being built, which is the latest directive.
    run: Option<(MountSet, EmitTarget, BytesMut, u32)>,
    bytes: usize,
    max_bytes: usize,
    /// Directives that were dropped since the last [`Self::take_dropped`].
    dropped: u64,
}

impl DirectiveQueue {
    /// Queues at most so many bytes.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { queue: Vec::new(), run: None, bytes: 0, max_bytes, dropped: 0 }
    }

    /// Returns true if nothing is queued.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.run.is_none() && self.dropped == 0
    }

    /// Queues an event: behind the previous one in the same run, if that is for the same clients.
    pub(super) fn emit(&mut self, mounts: MountSet, target: EmitTarget, event: &EventData) {
        let is_same = self.run.as_ref().is_some_and(|(last_mounts, last, bytes, _)| {
            *last_mounts == mounts && *last == target && bytes.len() < RUN_BYTES
        });
        if !is_same {
            self.finish_run();
        }
        let (_, target, bytes, messages) =
            self.run.get_or_insert_with(|| (mounts, target, BytesMut::new(), 0));
        let before = bytes.len();
        let mut packet = String::from("4");
        push_event(&mut packet, &target.namespace, None, event);
        store_packet(bytes, &packet, event.attachments());
        *messages += 1;
        self.bytes += bytes.len() - before;
        self.enforce_bound();
    }

    /// Queues any other directive.
    pub(super) fn push(&mut self, mounts: MountSet, directive: Directive) {
        self.finish_run();
        self.bytes += DIRECTIVE_BYTES;
        if let Directive::Ask(_, asked) = &directive {
            self.bytes += asked.event.json().len();
            self.bytes += asked.event.attachments().iter().map(Bytes::len).sum::<usize>();
        }
        if let Directive::EnterRooms(_, rooms) | Directive::LeaveRooms(_, rooms) = &directive {
            self.bytes += rooms.iter().map(|room| size_of::<Box<str>>() + room.len()).sum::<usize>();
        }
        self.queue.push((mounts, directive));
        self.enforce_bound();
    }

    /// Returns the queued directives.
    pub(super) fn take(&mut self) -> Arc<[(MountSet, Directive)]> {
        self.finish_run();
        self.bytes = 0;
        std::mem::take(&mut self.queue).into()
    }

    /// Returns the number of directives that were dropped since the last call. They are older than the queued ones.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    fn finish_run(&mut self) {
        if let Some((mounts, target, bytes, messages)) = self.run.take() {
            self.bytes += DIRECTIVE_BYTES;
            self.queue.push((mounts, Directive::Emit(target, bytes.freeze(), messages)));
        }
    }

    /// Drops all of it if too much is queued: pub/sub has no history to read it from again.
    fn enforce_bound(&mut self) {
        if self.bytes > self.max_bytes {
            self.finish_run();
            self.dropped += self.queue.len() as u64;
            self.queue = Vec::new();
            self.bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::socket_io::MessageLimits;
    use crate::wire::{ClientName, Mount};

    fn event(text: &str) -> EventData {
        let limits = MessageLimits { text_bytes: 100, attachments: 1, attachment_bytes: 1, total_bytes: 100 };
        EventData::from_json(Some("\"e\""), [text], Vec::new(), false, limits).unwrap()
    }

    fn mounts() -> MountSet {
        Mount::new(1).into_iter().collect()
    }

    fn target(room: &str) -> EmitTarget {
        EmitTarget { namespace: "/".into(), rooms: Some(vec![room.into()]), ..EmitTarget::default() }
    }

    #[test]
    fn consecutive_messages_to_the_same_clients_are_one_run() {
        let mut queue = DirectiveQueue::new(1_000_000);
        queue.emit(mounts(), target("a"), &event("1"));
        queue.emit(mounts(), target("a"), &event("2"));
        let client = ClientName { namespace: "/".into(), sid: "s".into() };
        queue.push(mounts(), Directive::EnterRoom(client.clone(), "a".into()));
        queue.emit(mounts(), target("a"), &event("3"));
        queue.emit(mounts(), target("b"), &event("4"));
        let taken = queue.take();
        let run =
            |room: &str, frames: &'static [u8], count| Directive::Emit(target(room), frames.into(), count);
        let expected = [
            run("a", b"\x81\x0942[\"e\",1]\x81\x0942[\"e\",2]", 2),
            Directive::EnterRoom(client, "a".into()),
            run("a", b"\x81\x0942[\"e\",3]", 1),
            run("b", b"\x81\x0942[\"e\",4]", 1),
        ];
        assert_eq!(&taken[..], expected.map(|directive| (mounts(), directive)));
        assert!(queue.is_empty());
    }

    #[test]
    fn above_the_bound_everything_is_dropped_and_counted() {
        let mut queue = DirectiveQueue::new(600);
        for _ in 0..3 {
            queue.push(mounts(), Directive::CloseRoom("/".into(), "a".into()));
        }
        assert_eq!((queue.take().len(), queue.take_dropped()), (0, 3));
    }
}
