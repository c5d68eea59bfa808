//! Messages: encoding, delivery to listeners on TCP sockets, publication to Redis.

use std::hint::black_box;
use std::rc::Rc;

use bytes::BytesMut;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use ws4redis::codec::resp;
use ws4redis::hub::{Hub, Limits, Listener, Run, SubscriptionRequest};
use ws4redis::stream::Stream;
use ws4redis::wire::websocket::{Opcode, encode};
use ws4redis::wire::{Channel, Form, Topic};

use super::Case;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case("frame: 16 bytes", prepare_frame, 1000),
        Case("frame: 128 bytes", prepare_frame, 1000),
        Case("frame: 65536 bytes", prepare_frame, 100),
        Case("deliver: 1 message to 1 of 1000 listeners", prepare_delivery, 1000),
        Case("deliver: 1 message to 1000 listeners", prepare_delivery, 20),
        Case("deliver: 64 messages in a run to 1000 listeners", prepare_delivery, 2),
        Case("publish: SETEX and PUBLISH of 128 bytes, and their replies", prepare_publication, 1000),
    ]
}

fn prepare_frame(name: &str) -> Box<dyn FnMut()> {
    let payload = vec![b'x'; name.split(' ').nth(1).unwrap().parse().unwrap()];
    let mut frames = BytesMut::with_capacity(payload.len() + 16);
    Box::new(move || {
        frames.clear();
        encode(&mut frames, Opcode::Text, black_box(&payload));
        black_box(&frames);
    })
}

/// Listeners whose sockets accept all writes although they are not read.
pub(super) struct OpenListeners {
    pub(super) runtime: Runtime,
    pub(super) listeners: Vec<Rc<Listener>>,
    _clients: Vec<TcpStream>,
}

pub(super) fn open_listeners(count: u32, form: Form) -> OpenListeners {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let runtime = Builder::new_current_thread().enable_io().build().unwrap();
    let (mut listeners, mut clients) = (Vec::new(), Vec::new());
    runtime.block_on(async {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for _ in 0..count {
            clients.push(TcpStream::connect(server.local_addr().unwrap()).await.unwrap());
            let (socket, _) = server.accept().await.unwrap();
            socket.writable().await.unwrap();
            let stream = Stream::new(socket.into_std().unwrap().into()).unwrap();
            listeners.push(Rc::new(Listener::new(stream, form, 0, 60)));
        }
    });
    OpenListeners { runtime, listeners, _clients: clients }
}

/// A hub with open listeners.
struct FilledHub {
    hub: Hub,
    opened: OpenListeners,
}

impl FilledHub {
    fn new(listeners: u32, topic: impl Fn(u32) -> Topic) -> Self {
        let opened = open_listeners(listeners, Form::Frames);
        let mut hub = Hub::new(Limits::default());
        for (number, listener) in (0..).zip(&opened.listeners) {
            let member = hub.join(&[topic(number)]);
            hub.open(member, listener, &[None]);
        }
        for request in hub.take_requests() {
            if let SubscriptionRequest::Subscribe(topic, generation) = request {
                hub.on_subscribed(&topic, generation);
            }
        }
        Self { hub, opened }
    }
}

fn prepare_delivery(name: &str) -> Box<dyn FnMut()> {
    let of_each = name.contains(" 1 of ");
    let name_of = |number: u32| Topic::from(Channel::from_redis(&format!("user:{number}:chat")));
    let mut filled = FilledHub::new(1000, |number| name_of(if of_each { number } else { 7 }));
    let messages: usize = name.split(' ').nth(1).unwrap().parse().unwrap();
    let run = Run::join((0..messages).map(|_| Run::of(&[b'x'; 128])).collect()).unwrap();
    // Cycles through the topics, because the cost of a single one would depend on its random hash.
    let topics: Vec<Topic> = if of_each { (0..1000).map(name_of).collect() } else { vec![name_of(7)] };
    let mut delivered = 0;
    Box::new(move || {
        let _in_runtime = filled.opened.runtime.enter();
        // A delivered run caches its digests, so each delivery needs a new run.
        let run = Run::new(run.bytes.clone(), run.messages);
        filled.hub.deliver(black_box(&topics[delivered % topics.len()]), run);
        delivered += 1;
    })
}

/// Encodes one publication and decodes its replies.
fn prepare_publication(_: &str) -> Box<dyn FnMut()> {
    const REPLIES: &[u8] = b"+OK\r\n:1000\r\n";
    let payload = [b'x'; 128];
    let mut pipeline = BytesMut::with_capacity(4096);
    Box::new(move || {
        pipeline.clear();
        resp::encode(&mut pipeline, "SETEX", &[b"broadcast:chat", b"3600", black_box(&payload)]);
        resp::encode(&mut pipeline, "PUBLISH", &[b"broadcast:chat", black_box(&payload)]);
        black_box(&pipeline);
        let mut next = 0;
        while let Some((token, after)) = resp::token(black_box(REPLIES), next, 1 << 20).unwrap() {
            black_box(token);
            next = after;
        }
    })
}
