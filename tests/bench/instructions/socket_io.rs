//! Socket.IO: an event from Redis to its frame, and delivery to rooms on TCP sockets.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use ws4redis::hub::{Limits, LocalMember, LocalTopics, Run, ShardTopics};
use ws4redis::settings::Settings;
use ws4redis::sources::{Instruction, Source, SourceReader};
use ws4redis::wire::form::store_packet;
use ws4redis::wire::socket_io::encode::push_event;
use ws4redis::wire::{Form, Message, Mount, NodeId, Topic};

use super::Case;
use super::messages::open_listeners;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case("socket.io: an event of RedisManager to its frame", prepare_event, 1000),
        Case("socket.io: an event of RedisManager that nobody gets", prepare_event, 1000),
        Case("socket.io: 1 event to 1 of 1000 rooms", prepare_rooms, 1000),
        Case("socket.io: 1 event to 1000 clients", prepare_rooms, 20),
    ]
}

fn prepare_event(name: &str) -> Box<dyn FnMut()> {
    let is_wanted = name.ends_with("frame");
    let settings = Settings::load(None, std::iter::empty(), &["socketio.enabled=true".to_owned()]).unwrap().0;
    let mut reader = SourceReader::new(&settings, Some(NodeId::random()));
    let text = format!(
        r#"socketio{{"method": "emit", "event": "f", "data": ["{}"], "binary": false, "namespace": "/", "room": "user:1", "skip_sid": null, "callback": null, "host_id": "38666c2d7d974330a359880abf4efc84"}}"#,
        "x".repeat(128)
    );
    let (channel, end) = ("socketio".len(), text.len());
    let received = Bytes::from(text);
    let mut frames = BytesMut::with_capacity(4096);
    Box::new(move || {
        frames.clear();
        let message = Message::new(received.clone(), 0..channel, channel..end);
        match reader.read(Source::RedisManager, black_box(message), |_| is_wanted) {
            Some(Instruction::Emit(emit)) => {
                let mut packet = String::from("4");
                push_event(&mut packet, &emit.0.namespace, None, &emit.1);
                store_packet(&mut frames, &packet, emit.1.attachments());
            }
            other => assert!(matches!(other, Some(Instruction::Ignore)) && !is_wanted),
        }
        black_box(&frames);
    })
}

fn prepare_rooms(name: &str) -> Box<dyn FnMut()> {
    let of_each = name.contains(" 1 of ");
    let name_of = |number: usize| Topic::room(Mount::default(), "/", &format!("user:{number}"));
    let opened = open_listeners(1000, Form::Packets);
    let topics = LocalTopics::new(Limits::default(), ShardTopics::default());
    let members: Vec<LocalMember> =
        opened.listeners.iter().map(|listener| topics.join(listener, 0)).collect();
    for (number, member) in members.iter().enumerate() {
        assert!(member.enter(&name_of(if of_each { number } else { 7 }), 1));
    }
    let run = Run::of(&[b'x'; 128]);
    let names: Vec<Topic> = if of_each { (0..1000).map(name_of).collect() } else { vec![name_of(7)] };
    let mut delivered = 0;
    Box::new(move || {
        let _in_runtime = opened.runtime.enter();
        black_box(&members);
        let run = Run::new(run.bytes.clone(), run.messages);
        topics.deliver(black_box(&names[delivered % names.len()]), &run);
        delivered += 1;
    })
}
