//! Listeners whose socket is full, and listeners without a socket.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::hub::{Hub, OutboxMemory, ShardMemory};
use crate::wire::{Channel, GroupForm, Topic};

const FRAME: Bytes = Bytes::from_static(b"\x81\x04beat");

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_io().build().unwrap()
}

/// Returns a listener whose socket is full after a part of a frame, and the other end of the socket.
fn with_full_socket(limits: &Limits) -> (Listener, UnixStream) {
    let (stream, other) = UnixStream::pair().unwrap();
    stream.set_nonblocking(true).unwrap();
    other.set_nonblocking(true).unwrap();
    let listener = Listener::new(Stream::new(stream.into()).unwrap(), Form::Frames, 1, 10);
    listener.send(&Run::of(&vec![b'x'; 4 << 20]).bytes, limits);
    assert!(listener.has_queued());
    (listener, other)
}

fn read(other: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = other.read_to_end(&mut bytes);
    bytes
}

#[test]
fn a_heartbeat_that_was_written_in_a_burst_is_followed_by_others() {
    let runtime = runtime();
    let _in_runtime = runtime.enter();
    let limits = Limits { outbox_bytes: 1000, ..Limits::default() };
    let (listener, mut other) = with_full_socket(&limits);
    listener.send_heartbeat(FRAME, 1, &limits);
    let small = Run::of(b"x").bytes;
    while listener.has_queued() {
        read(&mut other);
        listener.send(&small, &limits);
    }
    read(&mut other);
    listener.send_heartbeat(FRAME, 4, &limits);
    assert_eq!(read(&mut other), FRAME);
}

#[test]
fn a_parked_listener_queues_messages_until_it_gets_a_socket() {
    let runtime = runtime();
    let limits = Limits { outbox_bytes: 8, outbox_seconds: 0, ..Limits::default() };
    let digester = Digester::default();
    let parked = || Listener::parked(Form::Frames, 1, 10);
    let (listener, over) = (parked(), parked());
    let runs = [b"a", b"b", b"c"].map(|payload| Run::of(payload));
    for run in &runs {
        listener.deliver(0, run, &limits, &digester);
    }
    assert!(listener.has_queued() && listener.ending().is_none());
    for _ in 0..5 {
        over.deliver(0, &runs[0], &limits, &digester);
    }
    assert_eq!(over.ending(), Some(Ending::Slow), "the bound of the outbox holds without a socket");

    let (stream, mut other) = UnixStream::pair().unwrap();
    stream.set_nonblocking(true).unwrap();
    other.set_nonblocking(true).unwrap();
    runtime.block_on(async {
        let mut flush = std::pin::pin!(std::future::poll_fn(|cx| {
            listener.watch(cx);
            listener.poll_flush(cx)
        }));
        assert!(std::future::poll_fn(|cx| Poll::Ready(flush.as_mut().poll(cx).is_pending())).await);
        listener.attach(Stream::new(stream.into()).unwrap());
        flush.await.unwrap();
    });
    assert_eq!(read(&mut other), b"\x81\x01a\x81\x01b\x81\x01c");
    assert!(listener.park().is_some() && listener.park().is_none());
    listener.deliver(0, &runs[0], &limits, &digester);
    assert!(listener.has_queued() && read(&mut other).is_empty());
}

#[test]
fn the_filter_excludes_messages_in_each_form() {
    let runtime = runtime();
    let _in_runtime = runtime.enter();
    let (limits, digester) = (Limits::default(), Digester::default());
    let run = Run::join([b"a", b"b", b"c", b"b"].map(|payload| Run::of(payload)).into()).unwrap();
    for (form, expected) in [
        (Form::Frames, &b"\x81\x01a\x81\x01c\x81\x01b"[..]),
        (Form::Events, b"data: a\n\ndata: c\n\ndata: b\n\n"),
    ] {
        let (stream, mut other) = UnixStream::pair().unwrap();
        stream.set_nonblocking(true).unwrap();
        other.set_nonblocking(true).unwrap();
        let listener = Listener::new(Stream::new(stream.into()).unwrap(), form, 1, 10);
        listener.exclude(7, digester.digest(b"b"), 0);
        listener.deliver(7, &run, &limits, &digester);
        assert_eq!((read(&mut other), listener.counts()), (expected.to_vec(), (3, 0)), "{form:?}");
    }
}

#[test]
fn nothing_follows_a_frame_that_was_dropped_in_part() {
    let runtime = runtime();
    let _in_runtime = runtime.enter();
    for ended_before in [false, true] {
        let memory = OutboxMemory::new(6 << 20);
        let limits = Limits { memory: ShardMemory::new(memory), ..Limits::default() };
        let (listener, mut other) = with_full_socket(&limits);
        if ended_before {
            listener.end(Ending::Restart);
        }
        (2..6).for_each(|now| listener.enforce_time_bound(now, &limits));
        let written = read(&mut other).len();
        let is_torn = listener.ending() == Some(Ending::Torn);
        assert!(is_torn != ended_before && listener.has_queued() == ended_before);
        listener.send_heartbeat(FRAME, 6, &limits);
        listener.send_uncounted(FRAME, &limits);
        assert_eq!(read(&mut other), b"", "{written} bytes of a frame were written before");
    }
}

#[test]
fn packets_are_never_dropped() {
    let limits = Limits { outbox_bytes: 8, outbox_seconds: 0, drop_oldest: true, ..Limits::default() };
    for (form, ending) in [(Form::Frames, None), (Form::Packets, Some(Ending::Slow))] {
        let listener = Listener::parked(form, 1, 10);
        for _ in 0..5 {
            listener.send(&FRAME, &limits);
        }
        assert_eq!((listener.ending(), listener.counts().1 > 0), (ending, ending.is_none()));
    }
}

#[test]
fn a_parked_listener_hands_over_whole_messages_up_to_a_bound() {
    let (listener, limits) = (Listener::parked(Form::Packets, 1, 10), Limits::default());
    let take = |max| listener.take_queued(max).iter().map(Bytes::len).collect::<Vec<_>>();
    assert!(take(10).is_empty());
    for count in [3, 1, 2] {
        // Four bytes each.
        let run = Run::join((0..count).map(|_| Run::of(b"ab")).collect()).unwrap();
        listener.send(&run.bytes, &limits);
    }
    assert_eq!(take(1), [4], "a message is handed over, whatever its length");
    assert_eq!(take(15), [8, 4]);
    assert_eq!(listener.queued_bytes(), 8);
    assert_eq!(take(8), [8]);
    assert!(!listener.has_queued());
}

#[test]
fn a_hub_of_groups_leaves_alone_what_a_listener_excludes_of_channels() {
    let channel = Topic::from(Channel::from_redis("broadcast:x"));
    let group = Topic::group(GroupForm::new(0), "g");
    let (mut channels, mut groups) = (Hub::new(Limits::default()), Hub::of_layer(Limits::default()));
    let listener = Rc::new(Listener::parked(Form::Frames, 1, 60));
    let own = channels.join(std::slice::from_ref(&channel));
    let heard = groups.join(std::slice::from_ref(&group));
    channels.open(own, &listener, &[]);
    groups.open(heard, &listener, &[]);
    let ids = channels.topic_ids(own, std::slice::from_ref(&channel));
    let publish = |hub: &Hub, number| {
        hub.exclude(&listener, &ids, b"own", number);
        listener.mark_excluded_sent(number + 1, 100);
    };

    publish(&channels, 0);
    groups.on_lost();
    channels.deliver(&channel, Run::of(b"own"));
    assert!(!listener.has_queued(), "the loss is that of the groups");

    publish(&channels, 1);
    channels.on_lost();
    groups.recover(&group, None);
    listener.remove_expired(1_000);
    channels.recover(&channel, Some(&Bytes::from_static(b"own")));
    assert!(!listener.has_queued(), "nothing expires in an outage of the channels");

    publish(&channels, 2);
    listener.set_read_to(ids[0], EntryId { ms: 5, seq: 0 });
    groups.deliver(&group, Run::of(b"a"));
    assert_eq!(listener.take_queued(100).concat(), b"\x81\x01a");
    groups.retain_topics(heard, |_| false);
    channels.deliver(&channel, Run::of(b"5-0 read"));
    channels.deliver(&channel, Run::of(b"own"));
    assert!(!listener.has_queued(), "a group that was left had the same number");
}
