//! Groups of Django Channels in version 2: sockets of several facilities, and streams.

use serde_json::{Value, json};

use crate::support::events::SseClient;
use crate::support::live::LiveClient;
use crate::support::sessions::{hint, log_in, session_key};
use crate::support::tokens::{key_file, path, token};
use crate::support::{RedisServer, TestGateway, eventually, unique};

const BROADCAST: &[&str] = &["subscribe-broadcast"];

/// A gateway, and the prefix of the layer whose groups it delivers.
struct LayerGateway {
    gateway: TestGateway,
    prefix: String,
}

impl LayerGateway {
    async fn start(rules: &str) -> Self {
        let prefix = unique("live-layer");
        let text = format!("[channels]\nenabled = true\nprefix = \"{prefix}\"\n{rules}");
        let gateway = TestGateway::builder().rules(&text).start().await;
        Self { gateway, prefix }
    }

    fn channel(&self, group: &str) -> String {
        format!("{}__group__{group}", self.prefix)
    }

    /// Publishes `{"n": …}` as the pubsub layer does.
    fn send(&self, group: &str, text: &str) {
        let length = u8::try_from(text.len()).unwrap();
        let packed = [&[0x81, 0xa1, b'n', 0xa0 + length], text.as_bytes()].concat();
        RedisServer::shared().publish(&self.channel(group), packed);
    }

    /// Waits until a group is subscribed.
    async fn expect_subscribed(&self, group: &str) {
        let channel = self.channel(group);
        let subscribed = || RedisServer::shared().channels(&channel).contains(&channel).then_some(());
        eventually("the group is subscribed", subscribed).await;
    }
}

fn rule(facility: &str, audience: &str, more: &str) -> String {
    format!("[[channels.groups]]\nfacility = [\"{facility}\"]\naudience = \"{audience}\"\n{more}\n")
}

/// Returns a message of a group.
fn heard(facility: &str, audience: &str, text: &str) -> Value {
    json!({"t": "msg", "f": facility, "a": audience, "d": json!({"n": text}).to_string()})
}

#[tokio::test]
async fn each_facility_of_a_socket_hears_its_group_under_its_name_and_audience() {
    let rules = [
        rule("a", "broadcast", "group = \"everybody\""),
        rule("b", "user", "group = \"everybody\""),
        rule("c", "group", "group = \"team_{group}\""),
    ];
    let server = LayerGateway::start(&rules.concat()).await;
    let cookie = log_in(RedisServer::shared(), &session_key(), "7", "john", &["red"]);
    let mut plain = server.gateway.connect("/ws/a?subscribe-broadcast").await;
    let mut client = LiveClient::open(server.gateway.live_request("/ws/").header("Cookie", &cookie)).await;
    client.subscribe("a", BROADCAST).await;
    client.subscribe("b", &["subscribe-user"]).await;
    client.subscribe("c", &["subscribe-group"]).await;
    client.subscribe("without-a-rule", BROADCAST).await;
    server.send("everybody", "1");
    plain.expect_text(r#"{"n":"1"}"#).await;
    let mut both = [client.next().await, client.next().await];
    both.sort_by_key(|object| object["f"].to_string());
    assert_eq!(both, [heard("a", "broadcast", "1"), heard("b", "user", "1")]);
    server.send("team_red", "2");
    client.expect(heard("c", "group:red", "2")).await;
    client.send(json!({"t": "unsub", "f": "a", "r": 1})).await;
    client.expect(json!({"t": "ok", "r": 1})).await;
    server.send("everybody", "3");
    client.expect(heard("b", "user", "3")).await;
    client.subscribe("b", BROADCAST).await;
    server.send("everybody", "not granted any more");
    client.expect_nothing().await;
}

#[tokio::test]
async fn a_stream_of_version_2_hears_the_group_of_its_audience() {
    let server = LayerGateway::start(&rule("x", "broadcast", "group = \"everybody\"")).await;
    let mut stream = SseClient::open(server.gateway.stream("/ws/x?v=2&subscribe-broadcast")).await;
    let mut next = async || serde_json::from_str::<Value>(&stream.next().await.1).unwrap();
    assert_eq!(next().await["t"], "hello");
    assert_eq!(next().await["t"], "sub");
    server.send("everybody", "1");
    assert_eq!(next().await, heard("x", "broadcast", "1"));
}

#[tokio::test]
async fn a_changed_identity_changes_the_groups_of_an_open_socket() {
    let server = LayerGateway::start(&rule("*", "group", "group = \"team_{group}\"")).await;
    let (redis, key) = (RedisServer::shared(), session_key());
    let cookie = log_in(redis, &key, "7", "john", &["red"]);
    let mut client = LiveClient::open(server.gateway.live_request("/ws/").header("Cookie", &cookie)).await;
    for facility in ["a", "b"] {
        client.subscribe(facility, &["subscribe-group"]).await;
    }
    log_in(redis, &key, "7", "john", &["blue"]);
    hint(&server.gateway, "7", "change");
    client.expect(json!({"t": "user", "user": "john"})).await;
    server.expect_subscribed("team_blue").await;
    server.send("team_red", "old");
    server.send("team_blue", "new");
    let mut both = [client.next().await, client.next().await];
    both.sort_by_key(|object| object["f"].to_string());
    assert_eq!(both, [heard("a", "group:blue", "new"), heard("b", "group:blue", "new")]);
}

#[tokio::test]
async fn a_publication_reaches_django_by_a_rule() {
    let incoming = unique("incoming");
    let publish = format!(
        "[[channels.publish]]\nfacility = [\"x\"]\nto = \"channel:{incoming}\"\ntype = \"page.message\"\n"
    );
    let server = LayerGateway::start(&publish).await;
    let mut subscriber = RedisServer::shared().connection();
    subscriber.command(&["SUBSCRIBE", &incoming]);
    let mut client = server.gateway.live("/ws/").await;
    client.subscribe("other", &["publish-broadcast"]).await;
    client.subscribe("x", &["publish-broadcast"]).await;
    client.send(json!({"t": "pub", "f": "other", "d": "elsewhere", "r": 1})).await;
    client.send(json!({"t": "pub", "f": "x", "d": "hi", "r": 2})).await;
    client.expect(json!({"t": "ok", "r": 1})).await;
    client.expect(json!({"t": "ok", "r": 2})).await;
    let crate::support::redis::RedisReply::Array(parts) = subscriber.reply() else { panic!("no message") };
    let payload = parts.into_iter().nth(2).unwrap().bulk().unwrap();
    assert_eq!(
        payload,
        b"\x85\xa4type\xacpage.message\xa4text\xa2hi\xa4user\xc0\xa7session\xc0\xa8facility\xa1x"
    );
}

#[tokio::test]
async fn a_kept_message_is_marked_as_the_last_one() {
    let rules = format!("keep_seconds = 60\n{}", rule("x", "broadcast", "group = \"g\""));
    let server = LayerGateway::start(&rules).await;
    let mut early = server.gateway.live("/ws/x?subscribe-broadcast").await;
    early.next().await;
    server.send("g", "1");
    early.expect(heard("x", "broadcast", "1")).await;
    let key = server.gateway.channel("ws4redis:channels:g");
    eventually("the message is kept", || RedisServer::shared().get(&key)).await;
    let mut late = server.gateway.live("/ws/").await;
    late.subscribe("x", BROADCAST).await;
    let mut kept = heard("x", "broadcast", "1");
    kept["last"] = true.into();
    late.expect(kept).await;
}

/// The embedded store has no sets, and cannot be cut off.
mod redis_only {
    use super::*;

    #[tokio::test]
    async fn groups_that_django_joins_a_user_to_reach_open_sockets_of_version_2_at_once() {
        let rules =
            [rule("x", "broadcast", "group = \"all\"\njoined = true"), rule("y", "user", "joined = true")];
        let server = LayerGateway::start(&rules.concat()).await;
        let (redis, gateway) = (RedisServer::shared(), &server.gateway);
        let set = gateway.channel("ws4redis:groups:7");
        redis.command(&["SADD", &set, "chat_1"]);
        let cookie = log_in(redis, &session_key(), "7", "john", &[]);
        let request = gateway.live_request("/ws/y?subscribe-user");
        let mut client = LiveClient::open(request.header("Cookie", &cookie)).await;
        assert_eq!(client.next().await["t"], "sub");
        client.subscribe("x", BROADCAST).await;
        let both = async |client: &mut LiveClient, text: &str| {
            let mut both = [client.next().await, client.next().await];
            both.sort_by_key(|object| object["f"].to_string());
            assert_eq!(both, [heard("x", "broadcast", text), heard("y", "user", text)]);
        };
        server.send("chat_1", "1");
        both(&mut client, "1").await;
        let change = |kind: &str, group: &str| {
            redis.command(&[kind, &set, group]);
            gateway.publish("ws4redis:control", json!({"v": 1, "groups": "7"}).to_string());
        };
        change("SADD", "chat_2");
        server.expect_subscribed("chat_2").await;
        server.send("chat_2", "2");
        both(&mut client, "2").await;
        change("SREM", "chat_1");
        change("SADD", "chat_3");
        server.expect_subscribed("chat_3").await;
        server.send("chat_1", "old");
        server.send("chat_3", "3");
        both(&mut client, "3").await;
        server.send("all", "4");
        client.expect(heard("x", "broadcast", "4")).await;
    }

    #[tokio::test]
    async fn a_redis_that_is_busy_takes_no_group_from_a_user() {
        let redis = RedisServer::start_with(&["--lua-time-limit", "20"]);
        let (layer, prefix) = (RedisServer::shared(), unique("live-layer"));
        let text = format!(
            "[channels]\nenabled = true\nprefix = \"{prefix}\"\nhosts = [\"{}\"]\n{}",
            layer.url(),
            rule("x", "broadcast", "joined = true")
        );
        let gateway = TestGateway::builder().redis(&redis).rules(&text).start().await;
        let server = LayerGateway { gateway, prefix };
        redis.command(&["SADD", &server.gateway.channel("ws4redis:groups:7"), "chat_1"]);
        let cookie = log_in(&redis, &session_key(), "7", "john", &[]);
        let request = server.gateway.live_request("/ws/x?subscribe-broadcast").header("Cookie", &cookie);
        let mut client = LiveClient::open(request).await;
        assert_eq!(client.next().await["t"], "sub");
        server.expect_subscribed("chat_1").await;
        // The gateway reads the groups while the script runs.
        let control = server.gateway.channel("ws4redis:control");
        let script = "local from = redis.call('TIME') repeat local now = redis.call('TIME') \
            until (now[1] - from[1]) * 1000000 + now[2] - from[2] > 1000000";
        let hint = json!({"v": 1, "groups": "7"}).to_string();
        redis.pipeline(&[
            &[b"PUBLISH", control.as_bytes(), hint.as_bytes()],
            &[b"EVAL", script.as_bytes(), b"0"],
        ]);
        server.send("chat_1", "a");
        client.expect(heard("x", "broadcast", "a")).await;
    }

    #[tokio::test]
    async fn a_change_of_the_groups_does_not_disturb_a_subscription_that_is_being_replaced() {
        let server = LayerGateway::start(&rule("x", "broadcast", "group = \"all\"\njoined = true")).await;
        let (redis, gateway) = (RedisServer::shared(), &server.gateway);
        let cookie = log_in(redis, &session_key(), "7", "john", &[]);
        let request = gateway.live_request("/ws/x?subscribe-broadcast").header("Cookie", &cookie);
        let mut client = LiveClient::open(request).await;
        client.next().await;
        for number in 0..20 {
            redis.command(&["SADD", &gateway.channel("ws4redis:groups:7"), &format!("chat_{number}")]);
            gateway.publish("ws4redis:control", json!({"v": 1, "groups": "7"}).to_string());
            client.send(json!({"t": "sub", "f": "x", "flags": BROADCAST, "r": number})).await;
            client.expect(json!({"t": "sub", "f": "x", "r": number, "ok": ["broadcast"], "no": []})).await;
        }
        server.expect_subscribed("chat_19").await;
        client.expect_nothing().await;
    }

    #[tokio::test]
    async fn a_login_by_a_message_in_the_open_socket_joins_the_groups_of_the_user() {
        let rules = rule("chat", "broadcast", "group = \"everybody\"\njoined = true");
        let prefix = unique("live-layer");
        let text = format!("[channels]\nenabled = true\nprefix = \"{prefix}\"\n{rules}");
        let key = path(&key_file("HS256"));
        let gateway = TestGateway::builder().rules(&text).set("auth.jwt.algorithm", "HS256");
        let gateway = gateway.set("auth.jwt.key_file", key.to_str().unwrap()).start().await;
        let server = LayerGateway { gateway, prefix };
        let redis = RedisServer::shared();
        redis.command(&["SADD", &server.gateway.channel("ws4redis:groups:7"), "chat_5"]);
        let mut client = server.gateway.live("/ws/").await;
        client.subscribe("chat", BROADCAST).await;
        server.send("everybody", "before");
        client.expect(heard("chat", "broadcast", "before")).await;
        client.send(json!({"t": "auth", "token": token("HS256", r#"{"sub":"7"}"#), "r": 1})).await;
        client.expect(json!({"t": "user", "user": "7"})).await;
        client.expect(json!({"t": "ok", "r": 1})).await;
        server.expect_subscribed("chat_5").await;
        server.send("chat_5", "to the chat");
        client.expect(heard("chat", "broadcast", "to the chat")).await;
        server.send("everybody", "after");
        client.expect(heard("chat", "broadcast", "after")).await;
    }

    #[tokio::test]
    async fn a_loss_of_the_layers_server_is_a_gap_of_the_facilities_that_hear_groups() {
        let redis = RedisServer::start();
        let text = format!(
            "[channels]\nenabled = true\nhosts = [\"{}\"]\n{}",
            redis.url(),
            rule("x", "broadcast", "group = \"g\"")
        );
        let gateway = TestGateway::builder().rules(&text).start().await;
        let mut client = gateway.live("/ws/").await;
        client.subscribe("without", BROADCAST).await;
        client.subscribe("x", BROADCAST).await;
        assert!(redis.kill_clients("pubsub") > 0);
        client.expect(json!({"t": "gap", "f": "x"})).await;
        redis.publish("asgi__group__g", b"\x81\xa1n\xa1a");
        client.expect(heard("x", "broadcast", "a")).await;
        client.expect_nothing().await;
    }

    #[tokio::test]
    async fn a_client_that_resumes_may_have_missed_messages_of_groups() {
        let history = "[[history]]\nfacility = [\"*\"]\nmessages = 10\n";
        let rules = rule("x", "broadcast", "group = \"g\"") + history;
        let server = LayerGateway::start(&rules).await;
        let mut client = server.gateway.live("/ws/").await;
        for (facility, recovered) in [("x", false), ("y", true)] {
            server.gateway.post(&format!("/ws/{facility}?publish-broadcast"), "a").expect_status(204).await;
            let request = json!({"t": "sub", "f": facility, "flags": BROADCAST, "last": 1});
            client.send(request).await;
            assert_eq!(client.next().await["t"], "sub");
            let id = client.next().await["id"].clone();
            let resume = json!({"t": "sub", "f": facility, "flags": BROADCAST, "since": id});
            // Nothing can be missed between two subscriptions of one socket.
            client.send(resume.clone()).await;
            assert_eq!(client.next().await["recovered"], true, "{facility}");
            let mut other = server.gateway.live("/ws/").await;
            other.send(resume).await;
            assert_eq!(other.next().await["recovered"], recovered, "{facility}");
            if !recovered {
                other.expect(json!({"t": "gap", "f": facility})).await;
            }
        }
    }

    #[tokio::test]
    async fn a_loss_of_the_channels_loses_no_group_and_repeats_no_message() {
        let (redis, layer) = (RedisServer::start(), RedisServer::start());
        let text = format!(
            "[channels]\nenabled = true\nhosts = [\"{}\"]\n{}[[history]]\nfacility = [\"x\"]\nmessages = 10\n",
            layer.url(),
            rule("x", "broadcast", "group = \"g\"")
        );
        let gateway = TestGateway::builder().rules(&text).redis(&redis).start().await;
        let mut client = gateway.live("/ws/").await;
        client.subscribe("x", BROADCAST).await;
        layer.publish("asgi__group__g", b"\x81\xa1n\xa1a");
        client.expect(heard("x", "broadcast", "a")).await;
        assert!(redis.kill_clients("pubsub") > 0);
        layer.publish("asgi__group__g", b"\x81\xa1n\xa1b");
        client.expect(heard("x", "broadcast", "b")).await;
        let channel = gateway.channel("broadcast:x");
        eventually("the channel is subscribed again", || {
            redis.channels(&channel).contains(&channel).then_some(())
        })
        .await;
        layer.publish("asgi__group__g", b"\x81\xa1n\xa1c");
        client.expect(heard("x", "broadcast", "c")).await;
    }
}
