//! Directives on their way to the shards: in order, bounded, and with consecutive messages to the same clients joined.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::event::RoutedDirective;
use crate::wire::engine_io::EngineType;
use crate::wire::form::store_packet;
use crate::wire::socket_io::EventData;
use crate::wire::socket_io::encode::push_event;
use crate::wire::{ClientName, Directive, EmitTarget, MountSet};

/// Largest run of joined messages, in bytes.
const RUN_BYTES: usize = 1 << 20;

/// Bytes that a directive counts in addition to its packets.
const DIRECTIVE_BYTES: usize = 256;

/// Queues directives.
#[derive(Debug)]
pub(super) struct DirectiveQueue {
    queue: Vec<RoutedDirective>,
    /// The messages of the run that is being built, which is the latest directive.
    run: Option<RunOfEvents>,
    /// The packet that is being encoded. Kept, to reuse its memory.
    packet: String,
    bytes: usize,
    max_bytes: usize,
    /// Directives that were dropped since the last [`Self::take_dropped`].
    dropped: u64,
}

/// Messages to the same clients.
#[derive(Debug)]
struct RunOfEvents {
    mounts: MountSet,
    shards: u64,
    target: EmitTarget,
    bytes: BytesMut,
    messages: u32,
}

impl DirectiveQueue {
    /// Queues at most so many bytes.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { queue: Vec::new(), run: None, packet: String::new(), bytes: 0, max_bytes, dropped: 0 }
    }

    /// Returns true if nothing is queued.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.run.is_none() && self.dropped == 0
    }

    /// Queues an event for shards: behind the previous one in the same run, if that is for the same clients.
    pub(super) fn emit(&mut self, mounts: MountSet, shards: u64, target: EmitTarget, event: &EventData) {
        let is_same = self
            .run
            .as_ref()
            .is_some_and(|run| run.mounts == mounts && run.target == target && run.bytes.len() < RUN_BYTES);
        if !is_same {
            self.finish_run();
        }
        if self.run.is_none() {
            self.bytes += DIRECTIVE_BYTES + target_bytes(&target);
        }
        let new = || RunOfEvents { mounts, shards, target, bytes: BytesMut::new(), messages: 0 };
        let run = self.run.get_or_insert_with(new);
        let before = run.bytes.len();
        self.packet.clear();
        self.packet.push(EngineType::Message.digit());
        push_event(&mut self.packet, &run.target.namespace, None, event);
        store_packet(&mut run.bytes, &self.packet, event.attachments());
        run.messages += 1;
        // A client may have entered the room since the first message.
        run.shards |= shards;
        self.bytes += run.bytes.len() - before;
        self.enforce_bound();
    }

    /// Queues any other directive.
    pub(super) fn push(&mut self, routed: RoutedDirective) {
        self.finish_run();
        self.bytes += bytes_of(&routed.directive);
        self.queue.push(routed);
        self.enforce_bound();
    }

    /// Returns the queued directives.
    pub(super) fn take(&mut self) -> Arc<[RoutedDirective]> {
        self.finish_run();
        self.bytes = 0;
        std::mem::take(&mut self.queue).into()
    }

    /// Returns the number of directives that were dropped since the last call. They are older than the queued ones.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    fn finish_run(&mut self) {
        if let Some(RunOfEvents { mounts, shards, target, bytes, messages }) = self.run.take() {
            let directive = Directive::Emit(target, bytes.freeze(), messages);
            self.queue.push(RoutedDirective { mounts, shards, expected: Vec::new(), directive });
        }
    }

    /// Drops the events if too much is queued: pub/sub has no history to read them from again. Changes of rooms and
    /// disconnects stay, because a client would go on to receive what it must not; but not if they fill most of the queue.
    fn enforce_bound(&mut self) {
        if self.bytes <= self.max_bytes {
            return;
        }
        self.finish_run();
        let before = self.queue.len();
        self.queue.retain(|routed| {
            !matches!(routed.directive, Directive::Emit(..) | Directive::Ask(..) | Directive::Notify(..))
        });
        self.bytes = self.queue.iter().map(|routed| bytes_of(&routed.directive)).sum();
        // The rest makes room for enough events, so that not each of them searches the queue again.
        if self.bytes > self.max_bytes / 2 {
            self.queue.clear();
            self.bytes = 0;
        }
        self.queue.shrink_to_fit();
        self.dropped += (before - self.queue.len()) as u64;
    }
}

/// Returns the packets of an event in the main namespace.
pub(super) fn packets_of(event: &EventData) -> Bytes {
    let mut packet = String::from(EngineType::Message.digit());
    push_event(&mut packet, "/", None, event);
    let mut packets = BytesMut::new();
    store_packet(&mut packets, &packet, event.attachments());
    packets.freeze()
}

/// Returns the bytes that a directive counts.
fn bytes_of(directive: &Directive) -> usize {
    let client = |ClientName { namespace, sid }: &ClientName| namespace.len() + sid.len();
    let content = match directive {
        Directive::Emit(target, packets, _) => target_bytes(target) + packets.len(),
        Directive::Ask(target, asked) => {
            let attachments = asked.event.attachments().iter().map(Bytes::len).sum::<usize>();
            target_bytes(target) + asked.event.json().len() + attachments
        }
        Directive::Answer(name, answer) => {
            let attachments = answer.arguments.attachments().iter().map(Bytes::len).sum::<usize>();
            client(name) + answer.arguments.json().len() + attachments
        }
        Directive::Disconnect(name) => client(name),
        Directive::EnterRoom(name, room) | Directive::LeaveRoom(name, room) => client(name) + room.len(),
        Directive::CloseRoom(namespace, room) => namespace.len() + room.len(),
        Directive::EnterRooms(target, rooms) | Directive::LeaveRooms(target, rooms) => {
            target_bytes(target) + names_bytes(rooms)
        }
        Directive::DisconnectAll(target, _) => target_bytes(target),
        Directive::Notify(users, packets) => names_bytes(users) + packets.len(),
        Directive::BeginGathering => 0,
    };
    DIRECTIVE_BYTES + content
}

fn target_bytes(target: &EmitTarget) -> usize {
    let names = target.rooms.iter().flatten().chain(&target.except);
    target.namespace.len() + names_bytes(names)
}

fn names_bytes<'a>(names: impl IntoIterator<Item = &'a Box<str>>) -> usize {
    names.into_iter().map(|name| size_of::<Box<str>>() + name.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Mount;
    use crate::wire::socket_io::MessageLimits;

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
        queue.emit(mounts(), 0b01, target("a"), &event("1"));
        queue.emit(mounts(), 0b11, target("a"), &event("2"));
        let client = ClientName { namespace: "/".into(), sid: "s".into() };
        queue.push(routed(Directive::EnterRoom(client.clone(), "a".into())));
        queue.emit(mounts(), 0b01, target("a"), &event("3"));
        queue.emit(mounts(), 0b10, target("b"), &event("4"));
        let taken = queue.take();
        let run =
            |room: &str, frames: &'static [u8], count| Directive::Emit(target(room), frames.into(), count);
        let expected = [
            (0b11, run("a", b"\x81\x0942[\"e\",1]\x81\x0942[\"e\",2]", 2)),
            (0b01, Directive::EnterRoom(client, "a".into())),
            (0b01, run("a", b"\x81\x0942[\"e\",3]", 1)),
            (0b10, run("b", b"\x81\x0942[\"e\",4]", 1)),
        ];
        let taken: Vec<_> = taken.iter().map(|routed| (routed.shards, routed.directive.clone())).collect();
        assert_eq!(taken, expected);
        assert!(queue.is_empty());
    }

    fn routed(directive: Directive) -> RoutedDirective {
        RoutedDirective { mounts: mounts(), shards: 0b01, expected: Vec::new(), directive }
    }

    #[test]
    fn above_the_bound_events_are_dropped_and_counted_and_changes_of_rooms_stay() {
        let close = |room: &str| Directive::CloseRoom("/".into(), room.into());
        let mut queue = DirectiveQueue::new(2_000);
        queue.push(routed(close("a")));
        queue.emit(mounts(), 0b01, target("a"), &event("1"));
        queue.push(routed(close("b")));
        for _ in 0..5 {
            queue.emit(mounts(), 0b01, target("a"), &event("1"));
            queue.emit(mounts(), 0b01, target("b"), &event("1"));
        }
        let (taken, dropped) = (queue.take(), queue.take_dropped());
        let kept = taken[..2].iter().map(|routed| routed.directive.clone());
        assert!(kept.eq([close("a"), close("b")]));
        assert_eq!(taken.len() as u64 + dropped, 2 + 1 + 10);
        assert!(dropped > 0);
    }

    #[test]
    fn changes_of_rooms_are_bounded_as_well() {
        let mut queue = DirectiveQueue::new(600);
        for _ in 0..3 {
            queue.push(routed(Directive::CloseRoom("/".into(), "a".into())));
        }
        assert_eq!((queue.take().len(), queue.take_dropped()), (0, 3));
    }

    #[test]
    fn the_names_of_a_target_count() {
        let rooms: Vec<_> = (0..10_000).map(|number| format!("{number:0>256}").into()).collect();
        let mut queue = DirectiveQueue::new(5_000_000);
        for (other, dropped) in [("a", 0), ("b", 2)] {
            let rooms = Some([&rooms[..], &[other.into()]].concat());
            queue.emit(mounts(), 0b01, EmitTarget { rooms, ..target("") }, &event("1"));
            assert_eq!(queue.take_dropped(), dropped);
        }
    }
}
