//! Messages of Node's emitters and of servers with the Redis adapter: what clients get of them.

use std::collections::VecDeque;

use crate::support::client::TestClient;
use crate::support::socket_io::{SocketIoGateway, join, text};
use crate::support::{RedisServer, eventually, unique};

/// A gateway that reads an emitter's channels, and the emitter.
struct EmitterGateway {
    server: SocketIoGateway,
    key: String,
}

impl EmitterGateway {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    async fn start_with(settings: &[(&str, &str)]) -> Self {
        // A key with special characters must be taken literally.
        let key = unique("socket*[io]");
        let own = [("socketio.emitter.enabled", "true"), ("socketio.emitter.key", &key)];
        let settings = [&own[..], settings].concat();
        Self { server: SocketIoGateway::start_with(&settings).await, key }
    }

    #[track_caller]
    fn publish(&self, channel: &str, payload: impl AsRef<[u8]>) {
        let channel = format!("{}{channel}", self.key);
        assert!(RedisServer::shared().publish(&channel, payload) > 0, "{channel} has no subscriber");
    }

    /// Emits an event as emitters with a parser for JSON do.
    #[track_caller]
    fn emit(&self, namespace: &str, options: &str, argument: &str) {
        let packet = format!(r#"{{"type":2,"data":["e",{argument}],"nsp":"{namespace}"}}"#);
        self.publish(&format!("#{namespace}#"), format!(r#"["emitter",{packet},{options}]"#));
    }

    #[track_caller]
    fn request(&self, namespace: &str, request: &str) {
        self.publish(&format!("-request#{namespace}#"), request);
    }
}

async fn expect_all(clients: &mut [&mut TestClient], packet: &str) {
    for client in clients {
        client.expect_text(packet).await;
    }
}

#[tokio::test]
async fn an_emitter_reaches_unions_of_rooms_without_the_excepted_rooms_and_clients() {
    let gateway = EmitterGateway::start().await;
    let server = &gateway.server;
    let (mut both, both_sid) = server.connect("/").await;
    let (mut one, one_sid) = server.connect("/").await;
    let (mut old, old_sid) = server.connect_v3().await;
    for (sid, rooms) in [(&both_sid, r#"["a","b"]"#), (&one_sid, r#"["b"]"#), (&old_sid, "[42]")] {
        let opts = format!(r#"{{"rooms":["{sid}"],"except":[]}}"#);
        gateway.request("/", &format!(r#"{{"type":2,"opts":{opts},"rooms":{rooms}}}"#));
    }
    gateway.request("/", r#"{"type":2,"opts":{"rooms":[]},"rooms":["all"]}"#);
    for options in [r#"{"rooms":["all"],"except":[]}"#, r#"{"rooms":[],"flags":{}}"#, "{}"] {
        gateway.emit("/", options, "1");
        expect_all(&mut [&mut both, &mut one, &mut old], r#"42["e",1]"#).await;
    }
    gateway.emit("/", &format!(r#"{{"rooms":["a","b","none",42,"{one_sid}"]}}"#), "2");
    expect_all(&mut [&mut both, &mut one, &mut old], r#"42["e",2]"#).await;
    for options in [
        r#"{"rooms":["b"],"except":["a"]}"#.to_owned(),
        r#"{"rooms":[],"except":["a","42"]}"#.to_owned(),
        format!(r#"{{"rooms":["all"],"except":["42","{both_sid}"]}}"#),
    ] {
        gateway.emit("/", &options, "3");
        one.expect_text(r#"42["e",3]"#).await;
    }
    gateway.emit("/", r#"{"rooms":["none"],"except":[]}"#, "4");
    gateway.request("/", r#"{"type":3,"opts":{"rooms":["a"],"except":["42"]},"rooms":["b","all"]}"#);
    gateway.emit("/", r#"{"rooms":["b","all"]}"#, "5");
    expect_all(&mut [&mut one, &mut old], r#"42["e",5]"#).await;
    gateway.emit("/", "{}", "6");
    expect_all(&mut [&mut both, &mut one, &mut old], r#"42["e",6]"#).await;
}

#[tokio::test]
async fn each_namespace_gets_its_own_messages_once() {
    let overlapping = ("socketio.namespaces", "/,/chat,/room-*,/room-x*,/room-1");
    let gateway = EmitterGateway::start_with(&[overlapping]).await;
    let mut client = gateway.server.open().await;
    for namespace in ["/", "/chat", "/room-1", "/room-x1"] {
        join(&mut client, namespace).await;
    }
    for (namespace, prefix) in
        [("/chat", "42/chat,"), ("/room-1", "42/room-1,"), ("/room-x1", "42/room-x1,"), ("/", "42")]
    {
        gateway.emit(namespace, "{}", "1");
        client.expect_text(&format!(r#"{prefix}["e",1]"#)).await;
    }
    // The channel of one room, and the msgpack of version 3 without a namespace.
    let msgpack = b"\x93\xa7emitter\x82\xa4type\x02\xa4data\x93\xa1e\xc4\x02\x00\xff\xd6\xff\x00\x00\x00\x00\x82\xa5rooms\x90\xa5flags\x80";
    gateway.publish("#/#room#", msgpack);
    client.expect_text(r#"451-["e",{"_placeholder":true,"num":0},"1970-01-01T00:00:00.000Z"]"#).await;
    client.expect_binary(b"\x00\xff").await;
    // A namespace in the message that is not that of the channel.
    gateway.publish("#/#", r#"["x",{"type":2,"data":["e",2],"nsp":"/chat"},{}]"#);
    gateway.emit("/", "{}", "3");
    client.expect_text(r#"42["e",3]"#).await;
}

#[tokio::test]
async fn servers_can_disconnect_clients_from_a_namespace_or_altogether() {
    let gateway = EmitterGateway::start().await;
    let server = &gateway.server;
    let (mut client, _) = server.connect("/").await;
    join(&mut client, "/chat").await;
    let (mut other, other_sid) = server.connect("/chat").await;
    gateway.request("/", r#"{"type":4,"opts":{"rooms":[],"except":[]},"close":false}"#);
    client.expect_text("41").await;
    gateway.request("/chat", &format!(r#"{{"type":4,"opts":{{"rooms":[],"except":["{other_sid}"]}}}}"#));
    client.expect_text("41/chat,").await;
    client.expect_close(1000).await;
    join(&mut other, "/").await;
    gateway.request("/chat", &format!(r#"{{"type":4,"sid":"{other_sid}","close":true}}"#));
    let mut packets = [text(&mut other).await, text(&mut other).await];
    packets.sort_unstable();
    assert_eq!(packets, ["41", "41/chat,"]);
    other.expect_close(1000).await;
}

#[tokio::test]
async fn servers_of_node_do_not_wait_for_answers_of_the_gateway() {
    let gateway = EmitterGateway::start().await;
    gateway.request("/", r#"{"type":0,"requestId":"r"}"#);
    let channel = format!("{}-request#/#", gateway.key);
    let reply = RedisServer::shared().command(&["PUBSUB", "NUMSUB", &channel]);
    assert!(format!("{reply:?}").contains("Integer(0)"), "{reply:?}");
}

#[tokio::test]
async fn a_volatile_event_is_dropped_for_a_client_that_does_not_read() {
    let gateway = EmitterGateway::start().await;
    let server = &gateway.server;
    let (poller, _) = server.connect_polling().await;
    let (mut reader, _) = server.connect("/").await;
    // A session that polls keeps what waits for its next poll.
    gateway.emit("/", "{}", "1");
    reader.expect_text(r#"42["e",1]"#).await;
    gateway.emit("/", r#"{"flags":{"volatile":true}}"#, "2");
    reader.expect_text(r#"42["e",2]"#).await;
    gateway.emit("/", "{}", "3");
    reader.expect_text(r#"42["e",3]"#).await;
    let mut packets = VecDeque::new();
    while packets.len() < 2 {
        packets.extend(poller.poll().await.split('\u{1e}').map(str::to_owned));
    }
    assert_eq!(packets, [r#"42["e",1]"#, r#"42["e",3]"#]);
    let waiting = poller.poll();
    let last = async {
        gateway.emit("/", r#"{"flags":{"volatile":true}}"#, "4");
        reader.expect_text(r#"42["e",4]"#).await;
    };
    assert_eq!(tokio::join!(waiting, last).0, r#"42["e",4]"#);
}

#[tokio::test]
async fn malformed_messages_of_emitters_are_counted_and_logged_without_their_content() {
    let gateway = EmitterGateway::start().await;
    let (mut client, _) = gateway.server.connect("/").await;
    for message in [&b"\x93\xa6secret"[..], b"[\"secret\"]", b"secret", b"\xdd\xff\xff\xff\xff\xa6secret"] {
        gateway.publish("#/#", message);
    }
    gateway.request("/", r#"{"type":"secret"}"#);
    gateway.emit("/", "{}", "1");
    client.expect_text(r#"42["e",1]"#).await;
    let log = &gateway.server.gateway;
    log.expect_log(&["WARN", "message on a Socket.IO channel is malformed or too large; not delivered"])
        .await;
    assert_eq!(log.count_log(&["secret"]), 0);
}

#[tokio::test]
async fn patterns_are_subscribed_again_after_a_loss_of_redis() {
    let mut redis = RedisServer::start();
    let server = SocketIoGateway::start_on(&redis, &[("socketio.emitter.enabled", "true")]).await;
    let (mut client, _) = server.connect("/").await;
    redis.kill();
    redis.restart();
    server.gateway.wait_for_redis().await;
    let publish = || redis.publish("socket.io#/#", r#"["u",{"type":2,"data":["e",1]},{}]"#);
    eventually("the pattern", || (publish() > 0).then_some(())).await;
    client.expect_text(r#"42["e",1]"#).await;
}
