//! The bridge for yunity-sockets: what was observed of the original (fixtures/socketio/yunity-behaviour.json), over Redis.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::client::TestClient;
use crate::support::gateway::binary;
use crate::support::socket_io::{join, open, text};
use crate::support::{DEADLINE, RedisServer, TestGateway, unique};

const PATH: &str = "/socket?EIO=3&transport=websocket";

/// A gateway with the bridge, and a client that hears a user of its own: what it gets was delivered after what came before.
pub struct Bridge<'a> {
    gateway: TestGateway,
    redis: &'a RedisServer,
    channel: String,
    keys: String,
    fence: TestClient,
    messages: u32,
}

impl<'a> Bridge<'a> {
    pub async fn start(redis: &'a RedisServer, settings: &[(&str, &str)]) -> Self {
        let (channel, keys) = (unique("notifications"), unique("session-store"));
        let mut builder = TestGateway::builder()
            .redis(redis)
            .set("server.shards", "1")
            .set("socketio.yunity.enabled", "true")
            .set("socketio.yunity.channel", &channel)
            .set("socketio.yunity.session_keys", &format!("{keys}-{{session}}"));
        for (key, value) in settings {
            builder = builder.set(key, value);
        }
        let gateway = builder.start().await;
        let mut fence = client(&gateway).await;
        redis.command(&["SET", &format!("{keys}-fence"), "fence"]);
        authenticate(&mut fence, &json!({"sessionId": "fence"})).await;
        let mut bridge = Self { gateway, redis, channel, keys, fence, messages: 0 };
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            bridge.publish(&json!({"users": ["fence"], "payload": "ready"}));
            if ping(&mut bridge.fence).await.is_empty() {
                assert!(Instant::now() < deadline, "the fence hears nothing");
                sleep(Duration::from_millis(20)).await;
            } else {
                break;
            }
        }
        bridge
    }

    async fn with_events() -> Self {
        Self::start_with_events(RedisServer::with_all_events()).await
    }

    /// Starts it on a Redis that publishes all keyspace events.
    pub async fn start_with_events(redis: &'a RedisServer) -> Self {
        let bridge = Self::start(redis, &[("socketio.yunity.recheck_seconds", "1000")]).await;
        bridge.gateway.expect_log(&["keyspace events", "writes: true"]).await;
        bridge
    }

    fn key(&self, id: &str) -> String {
        format!("{}-{id}", self.keys)
    }

    pub fn set(&self, id: &str, user: &str) {
        self.redis.command(&["SET", &self.key(id), user]);
    }

    fn publish(&self, message: &Value) {
        self.publish_text(&message.to_string());
    }

    fn publish_text(&self, message: &str) {
        assert!(self.redis.publish(&self.channel, message) > 0, "no subscriber");
    }

    /// Waits until everything that was published is delivered. Returns what the client got of it.
    async fn received(&mut self, client: &mut TestClient) -> Vec<Value> {
        self.messages += 1;
        let last = json!({"payload": format!("fence {}", self.messages)});
        self.publish(&json!({"users": ["fence"], "payload": last["payload"]}));
        while event(&text(&mut self.fence).await).is_none_or(|arguments| arguments != last) {}
        ping(client).await.iter().filter_map(|packet| event(packet)).collect()
    }

    /// Returns whether a client hears the notifications of a user.
    async fn hears(&mut self, client: &mut TestClient, user: &Value) -> bool {
        self.publish(&json!({"users": [user], "payload": "probe"}));
        self.received(client).await.contains(&json!({"payload": "probe"}))
    }

    /// Waits until a client hears a user, although Redis may be away meanwhile.
    pub async fn expect_hears_at_last(&self, client: &mut TestClient, user: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let message = json!({"users": [user], "payload": "probe"}).to_string();
        loop {
            self.redis.publish(&self.channel, &message);
            if ping(client).await.iter().any(|packet| packet.contains("probe")) {
                return;
            }
            assert!(Instant::now() < deadline, "{user}: the change was missed");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until a client hears a user, or does not any longer.
    async fn expect_hears(&mut self, client: &mut TestClient, user: &str, expected: bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.hears(client, &json!(user)).await != expected {
            assert!(Instant::now() < deadline, "{user}: expected {expected}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn authenticated(&mut self, id: &str, user: &str) -> TestClient {
        let mut client = client(&self.gateway).await;
        authenticate(&mut client, &json!({"sessionId": id})).await;
        self.expect_hears(&mut client, user, true).await;
        client
    }
}

async fn client(gateway: &TestGateway) -> TestClient {
    let (mut client, _) = open(gateway.request(PATH)).await;
    client.expect_text("40").await;
    client
}

async fn authenticate(client: &mut TestClient, argument: &Value) {
    client.send_text(&format!("42{}", json!(["authenticate", argument]))).await;
}

/// Returns the packets that arrive before the answer to a ping of Engine.IO.
async fn ping(client: &mut TestClient) -> Vec<String> {
    client.send_text("2fence").await;
    let mut packets = Vec::new();
    loop {
        match text(client).await {
            packet if packet == "3fence" => return packets,
            packet => packets.push(packet),
        }
    }
}

/// Returns the argument of the event `message`.
fn event(packet: &str) -> Option<Value> {
    let arguments: Vec<Value> = serde_json::from_str(packet.strip_prefix("42")?).unwrap();
    assert_eq!((arguments.len(), &arguments[0]), (2, &json!("message")), "{packet}");
    arguments.into_iter().nth(1)
}

#[tokio::test]
async fn a_notification_reaches_its_users_as_often_as_they_are_named() {
    let mut bridge = Bridge::with_events().await;
    bridge.set("s1", "user1");
    bridge.set("s2", "23");
    let mut named = bridge.authenticated("s1", "user1").await;
    let mut numbered = bridge.authenticated("s2", "23").await;
    for (message, first, second) in [
        (
            json!({"users": ["user1", 23], "type": "foo", "payload": {"a": "b"}}),
            vec![json!({"type": "foo", "payload": {"a": "b"}})],
            vec![json!({"type": "foo", "payload": {"a": "b"}})],
        ),
        (
            json!({"users": [23], "type": "foo", "payload": {"a": 1}, "extra": [1]}),
            vec![],
            vec![json!({"type": "foo", "payload": {"a": 1}, "extra": [1]})],
        ),
        (
            json!({"users": ["23", "23", 23], "payload": {"dup": 1}}),
            vec![],
            vec![json!({"payload": {"dup": 1}}); 3],
        ),
        (json!({"users": ["user1"], "payload": null}), vec![json!({"payload": null})], vec![]),
        // The documented form, and that of old releases.
        (json!({"users": ["user1"], "data": {"x": 1}}), vec![json!({"x": 1})], vec![]),
        (json!({"users": "user1", "payload": {}}), vec![], vec![]),
        (json!({"users": ["user1"]}), vec![], vec![]),
        (json!(null), vec![], vec![]),
    ] {
        bridge.publish(&message);
        assert_eq!(bridge.received(&mut named).await, first, "{message}");
        assert_eq!(bridge.received(&mut numbered).await, second, "{message}");
    }
    bridge.publish_text("not json");
    assert!(bridge.hears(&mut named, &json!("user1")).await);
}

#[tokio::test]
async fn clients_follow_the_key_of_their_session() {
    let mut bridge = Bridge::with_events().await;
    // The session may be named before it exists, as a text or as a number.
    let mut early = client(&bridge.gateway).await;
    authenticate(&mut early, &json!({"sessionId": 77})).await;
    assert!(!bridge.hears(&mut early, &json!(23)).await);
    bridge.set("77", "23");
    bridge.expect_hears(&mut early, "23", true).await;
    bridge.redis.command(&["SETEX", &bridge.key("77"), "1000", "user9"]);
    bridge.expect_hears(&mut early, "user9", true).await;
    assert!(!bridge.hears(&mut early, &json!("23")).await, "it has moved");
    // Another session takes the place of the former one.
    bridge.set("s2", "user2");
    authenticate(&mut early, &json!({"sessionId": "s2"})).await;
    bridge.expect_hears(&mut early, "user2", true).await;
    assert!(!bridge.hears(&mut early, &json!("user9")).await);
    bridge.set("77", "user3");
    assert!(!bridge.hears(&mut early, &json!("user3")).await);
}

#[tokio::test]
async fn a_deleted_or_expired_session_is_forgotten() {
    let mut bridge = Bridge::with_events().await;
    bridge.set("s1", "user1");
    bridge.set("s2", "user2");
    let mut deleted = bridge.authenticated("s1", "user1").await;
    let mut expired = bridge.authenticated("s2", "user2").await;
    bridge.redis.command(&["DEL", &bridge.key("s1")]);
    bridge.redis.command(&["PEXPIRE", &bridge.key("s2"), "200"]);
    bridge.expect_hears(&mut deleted, "user1", false).await;
    bridge.expect_hears(&mut expired, "user2", false).await;
    // A later value means nothing until the client names the session again.
    bridge.set("s1", "user1");
    bridge.set("s2", "user2");
    let mut other = bridge.authenticated("s1", "user1").await;
    assert!(!bridge.hears(&mut deleted, &json!("user1")).await);
    assert!(!bridge.hears(&mut expired, &json!("user2")).await);
    authenticate(&mut deleted, &json!({"sessionId": "s1"})).await;
    bridge.expect_hears(&mut deleted, "user1", true).await;
    assert!(bridge.hears(&mut other, &json!("user1")).await);
}

#[tokio::test]
async fn what_is_no_session_id_is_ignored() {
    let mut bridge = Bridge::with_events().await;
    let mut client = client(&bridge.gateway).await;
    for argument in [
        json!(null),
        json!("s1"),
        json!({}),
        json!({"sessionId": null}),
        json!({"sessionId": ""}),
        json!({"sessionId": "a*"}),
        json!({"sessionId": {"a": 1}}),
        json!({"sessionId": "x".repeat(129)}),
    ] {
        authenticate(&mut client, &argument).await;
    }
    client.send_text("42[\"authenticate\"]").await;
    bridge.set("s1", "user1");
    authenticate(&mut client, &json!({"sessionId": "s1", "more": 1})).await;
    bridge.expect_hears(&mut client, "user1", true).await;
}

#[tokio::test]
async fn without_events_sessions_are_read_again_periodically() {
    let settings = [("socketio.yunity.recheck_seconds", "1")];
    // It publishes no events of plain writes.
    let mut bridge = Bridge::start(RedisServer::with_keyspace_events(), &settings).await;
    bridge.set("s1", "user1");
    let mut client = bridge.authenticated("s1", "user1").await;
    bridge.set("s1", "user2");
    bridge.expect_hears(&mut client, "user2", true).await;
    bridge.redis.command(&["DEL", &bridge.key("s1")]);
    bridge.expect_hears(&mut client, "user2", false).await;
    bridge.set("s1", "user2");
    let mut other = bridge.authenticated("s1", "user2").await;
    bridge.set("s1", "user3");
    bridge.expect_hears(&mut other, "user3", true).await;
    assert!(!bridge.hears(&mut client, &json!("user3")).await, "the session was forgotten");
}

#[tokio::test]
async fn clients_need_no_identity_to_connect_and_a_key_is_watched_only_while_it_is_used() {
    let settings = [("socketio.anonymous", "false"), ("redis.unsubscribe_linger_seconds", "0")];
    let redis = RedisServer::with_all_events();
    let mut bridge = Bridge::start(redis, &settings).await;
    bridge.set("s1", "user1");
    let watched =
        |bridge: &Bridge<'_>| bridge.redis.channels(&format!("__keyspace@0__:{}", bridge.key("s1"))).len();
    let (mut modern, _) = open(bridge.gateway.request(&PATH.replace("EIO=3", "EIO=4"))).await;
    join(&mut modern, "/").await;
    authenticate(&mut modern, &json!({"sessionId": "s1"})).await;
    let client = bridge.authenticated("s1", "user1").await;
    assert_eq!(watched(&bridge), 1);
    drop((client, modern));
    let deadline = Instant::now() + Duration::from_secs(10);
    while watched(&bridge) > 0 {
        assert!(Instant::now() < deadline, "the key is still watched");
        sleep(Duration::from_millis(20)).await;
    }
}

/// The command-line client, whose output is read line by line.
struct Listening {
    child: Child,
    lines: Receiver<String>,
}

impl Listening {
    fn start(url: &str, arguments: &[&str]) -> Self {
        let mut command = binary();
        command.args(["listen", "--socketio", url, "--session", "cli"]).args(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let also = sender.clone();
        std::thread::spawn(move || {
            BufReader::new(out).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        std::thread::spawn(move || {
            BufReader::new(err).lines().map_while(Result::ok).try_for_each(|line| also.send(line))
        });
        Self { child, lines }
    }

    fn next(&self) -> String {
        self.lines.recv_timeout(DEADLINE).unwrap()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn the_command_line_client_prints_the_notifications_of_its_session() {
    let bridge = Bridge::with_events().await;
    bridge.set("cli", "user1");
    for engine in ["3", "4"] {
        let url = format!("http://{}/socket/", bridge.gateway.address());
        let listening = Listening::start(&url, &["--engine", engine]);
        let hint =
            "ws4redis: connected as session cli; a session id that the site does not know hears nothing";
        assert_eq!(listening.next(), hint);
        let deadline = Instant::now() + DEADLINE;
        let first = loop {
            bridge.publish(&json!({"users": ["user1"], "payload": "ready"}));
            if let Ok(line) = listening.lines.recv_timeout(Duration::from_millis(20)) {
                break line;
            }
            assert!(Instant::now() < deadline, "it prints nothing");
        };
        assert_eq!(first, r#"{"payload":"ready"}"#);
        bridge.publish_text("{\"users\": [\"user1\"], \"type\": \"ż\", \"payload\": {\"a\": [1, null]}}");
        let mut line = listening.next();
        while line == first {
            line = listening.next();
        }
        assert_eq!(line, r#"{"type":"ż","payload":{"a":[1,null]}}"#);
    }
}

#[tokio::test]
async fn the_command_line_client_reconnects_and_names_what_cannot_help() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/socket/", listener.local_addr().unwrap());
    let listening = Listening::start(&url, &[]);
    for _ in 0..2 {
        drop(listener.accept().unwrap());
        let line = listening.next();
        assert!(line.contains("connecting again in"), "{line}");
    }
    let bridge = Bridge::with_events().await;
    let mut wrong = Listening::start(&format!("http://{}/none/", bridge.gateway.address()), &[]);
    let line = wrong.next();
    assert!(line.contains("404"), "{line}");
    assert_eq!(wrong.child.wait().unwrap().code(), Some(69));
    let mut tls = Listening::start("https://127.0.0.1/", &[]);
    assert!(tls.next().contains("TLS is not supported"));
    assert_eq!(tls.child.wait().unwrap().code(), Some(64));
}

mod redis_only {
    use super::*;

    #[tokio::test]
    async fn a_renamed_session_means_nothing() {
        let mut bridge = Bridge::with_events().await;
        bridge.set("s3", "u3");
        let mut client = bridge.authenticated("s3", "u3").await;
        bridge.redis.command(&["RENAME", &bridge.key("s3"), &bridge.key("s4")]);
        // An event behind it, whose effect shows that the one before was handled.
        bridge.set("s5", "u5");
        let mut other = bridge.authenticated("s5", "u5").await;
        bridge.redis.command(&["DEL", &bridge.key("s5")]);
        bridge.expect_hears(&mut other, "u5", false).await;
        assert!(bridge.hears(&mut client, &json!("u3")).await);
    }
}
