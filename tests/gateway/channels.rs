//! Groups of Django Channels with the pubsub layer: what pages hear of them.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::events::SseClient;
use crate::support::sessions::{connect, log_in, session_key};
use crate::support::{RedisServer, TestGateway, eventually, unique, within_deadline};

/// After this time a message that did not arrive is sent again.
const AGAIN: Duration = Duration::from_millis(200);

const MESSAGES: &str = include_str!("../fixtures/channels/messages.json");

/// A gateway with a layer of its own, and the server of that layer.
struct ChannelsGateway {
    gateway: TestGateway,
    prefix: String,
}

impl ChannelsGateway {
    /// Starts a gateway. `settings` stands behind `enabled`, `rules` are the tables.
    async fn start(settings: &str, rules: &str) -> Self {
        let prefix = unique("layer");
        let text = format!("[channels]\nenabled = true\nprefix = \"{prefix}\"\n{settings}\n{rules}");
        let gateway = TestGateway::builder().rules(&text).start().await;
        Self { gateway, prefix }
    }

    async fn open(&self, target: &str) -> crate::support::client::TestClient {
        self.gateway.connect(target).await
    }

    /// Publishes as the pubsub layer does. Returns the number of receivers.
    fn send(&self, group: &str, message: impl AsRef<[u8]>) -> i64 {
        RedisServer::shared().publish(&format!("{}__group__{group}", self.prefix), message)
    }
}

/// Returns a `[[channels.groups]]` table for one facility.
fn rule(facility: &str, audience: &str, group: &str, more: &str) -> String {
    format!(
        "[[channels.groups]]\nfacility = [\"{facility}\"]\naudience = \"{audience}\"\ngroup = \"{group}\"\n{more}\n"
    )
}

/// Returns the captured message of `channels_redis`.
fn captured(name: &str) -> Vec<u8> {
    let messages: Value = serde_json::from_str(MESSAGES).unwrap();
    BASE64_STANDARD.decode(messages[name]["payload_b64"].as_str().unwrap()).unwrap()
}

/// Returns msgpack of a map of short texts.
fn packed(pairs: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[0xa0 + u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let mut bytes = vec![0x80 + u8::try_from(pairs.len()).unwrap()];
    for (key, value) in pairs {
        bytes.extend([text(key), text(value)].concat());
    }
    bytes
}

const NEW_MESSAGE: &str = r#"{"type":"new_message","message":{"text":"héllo","n":1,"big":1099511627776,"f":1.5,"t":true,"none":null,"list":[1,"a","AP8="]}}"#;

#[tokio::test]
async fn a_page_hears_the_group_of_its_audience_as_event_field_or_template() {
    let template = r#"deliver = '{"type": "chat_message", "message": {message}}'"#;
    let rules = [
        rule("event", "broadcast", "chat_5", ""),
        rule("field", "broadcast", "chat_5", "deliver = \"message\""),
        rule("template", "broadcast", "chat_5", template),
        rule("types", "broadcast", "chat_5", "types = [\"other\"]"),
    ];
    let server = ChannelsGateway::start("", &rules.concat()).await;
    let mut clients = Vec::new();
    for facility in ["event", "field", "template", "types", "without-a-rule"] {
        clients.push(server.open(&format!("/ws/{facility}?subscribe-broadcast")).await);
    }
    assert_eq!(server.send("chat_5", captured("pubsub-group_send")), 1, "one subscription for all forms");
    server.send("chat_5", packed(&[("type", "other"), ("message", "ü")]));
    let message = NEW_MESSAGE.strip_prefix(r#"{"type":"new_message","message":"#).unwrap();
    let message = message.strip_suffix('}').unwrap();
    clients[0].expect_text(NEW_MESSAGE).await;
    clients[0].expect_text(r#"{"type":"other","message":"ü"}"#).await;
    clients[1].expect_text(message).await;
    clients[1].expect_text("ü").await;
    clients[2].expect_text(&format!(r#"{{"type": "chat_message", "message": {message}}}"#)).await;
    clients[2].expect_text(r#"{"type": "chat_message", "message": "ü"}"#).await;
    clients[3].expect_text(r#"{"type":"other","message":"ü"}"#).await;
    server.gateway.publish("broadcast:without-a-rule", "end");
    clients[4].expect_text("end").await;
}

#[tokio::test]
async fn a_group_is_subscribed_only_while_a_page_hears_it() {
    let server = ChannelsGateway::start("", &rule("x", "broadcast", "only", "")).await;
    let pattern = format!("{}__group__", server.prefix);
    assert!(RedisServer::shared().channels(&pattern).is_empty());
    let client = server.open("/ws/x?subscribe-broadcast").await;
    assert_eq!(RedisServer::shared().channels(&pattern), [format!("{pattern}only")]);
    let other = server.open("/ws/x?subscribe-user").await;
    drop((client, other));
    eventually("the group is left", || RedisServer::shared().channels(&pattern).is_empty().then_some(()))
        .await;
}

#[tokio::test]
async fn a_socket_whose_audiences_map_to_one_group_gets_a_message_once() {
    let rules = [
        rule("x", "broadcast", "same", ""),
        rule("x", "user", "same", "deliver = \"message\""),
        rule("x", "group", "team_{group}", ""),
    ];
    let server = ChannelsGateway::start("", &rules.concat()).await;
    let key = session_key();
    let cookie = log_in(RedisServer::shared(), &key, "7", "john", &["red", "blue"]);
    let target = "/ws/x?subscribe-broadcast&subscribe-user&subscribe-group";
    let mut client = connect(&server.gateway, target, &cookie).await;
    server.send("same", packed(&[("message", "a")]));
    server.send("team_blue", packed(&[("message", "b")]));
    client.expect_text(r#"{"message":"a"}"#).await;
    client.expect_text(r#"{"message":"b"}"#).await;
}

#[tokio::test]
async fn a_group_of_a_user_needs_that_user() {
    let rules = [
        rule("x", "user", "user_{user_id}", ""),
        rule("x", "broadcast", "name_{user}", ""),
        rule("*", "session", "any", ""),
    ];
    let server = ChannelsGateway::start("", &rules.concat()).await;
    let key = session_key();
    let cookie = log_in(RedisServer::shared(), &key, "7", "john", &[]);
    let mut john = connect(&server.gateway, "/ws/x?subscribe-broadcast&subscribe-user", &cookie).await;
    let mut anonymous = server.open("/ws/x?subscribe-broadcast&subscribe-user&subscribe-session").await;
    for group in ["user_7", "name_john", "name_", "user_", "any"] {
        server.send(group, packed(&[("to", group)]));
    }
    john.expect_text(r#"{"to":"user_7"}"#).await;
    john.expect_text(r#"{"to":"name_john"}"#).await;
    server.gateway.publish("broadcast:x", "end");
    john.expect_text("end").await;
    anonymous.expect_text("end").await;
}

#[tokio::test]
async fn a_group_is_never_wider_open_than_its_facility() {
    let rules = rule("chat-*", "broadcast", "{facility}", "");
    let access = "[server]\nshards = 1\n[[access]]\nfacility = [\"chat-*\", \"\"]\nanonymous = [\"subscribe-user\"]\nusers = [\"subscribe-*\"]\n";
    let server = ChannelsGateway::start("", &format!("{rules}{access}")).await;
    let key = session_key();
    let cookie = log_in(RedisServer::shared(), &key, "7", "john", &[]);
    let mut john = connect(&server.gateway, "/ws/chat-1?subscribe-broadcast", &cookie).await;
    let mut anonymous = server.open("/ws/chat-1?subscribe-broadcast").await;
    assert_eq!(server.send("chat-1", packed(&[("a", "b")])), 1);
    john.expect_text(r#"{"a":"b"}"#).await;
    anonymous.send_ping(b"end").await;
    anonymous.expect_pong(b"end").await;
}

#[tokio::test]
async fn messages_that_cannot_be_read_are_dropped_and_counted() {
    let mut server = ChannelsGateway::start("bytes = \"refuse\"\n", &rule("x", "broadcast", "g", "")).await;
    let mut client = server.open("/ws/x?subscribe-broadcast").await;
    for wrong in [&b"\xc0"[..], b"\x81", b"\x80\xc0", b"\x81\xa1a\xd4\x05\x00", b"{}", b"\x81\xa1a\xc4\x00"] {
        server.send("g", wrong);
    }
    server.send("g", packed(&[("a", "b")]));
    client.expect_text(r#"{"a":"b"}"#).await;
    server.gateway.expect_log(&["message of a Channels group not delivered", "malformed"]).await;
    server.gateway.signal("TERM");
    server.gateway.expect_exit().await;
    server.gateway.expect_log(&["undelivered_groups=6"]).await;
}

#[tokio::test]
async fn encrypted_messages_are_read_with_any_key() {
    let keys = "symmetric_encryption_keys = [\"newer\", \"s3cret-key\"]\n";
    let server = ChannelsGateway::start(keys, &rule("x", "broadcast", "chat_5", "")).await;
    let mut client = server.open("/ws/x?subscribe-broadcast").await;
    server.send("chat_5", captured("pubsub-group_send"));
    server.send("chat_5", captured("pubsub-encrypted-group_send"));
    client.expect_text(NEW_MESSAGE).await;
    server.gateway.expect_log(&["no key decrypts it"]).await;
}

#[tokio::test]
async fn the_json_serializer_is_read_as_it_is() {
    let server = ChannelsGateway::start("serializer = \"json\"\n", &rule("x", "broadcast", "g", "")).await;
    let mut client = server.open("/ws/x?subscribe-broadcast").await;
    server.send("g", captured("pubsub-json-prefix-group_send"));
    client.expect_text(r#"{"type":"new_message","message":{"body":"hi"}}"#).await;
    server.send("g", r#"{"a": 1.50, "b": NaN, "c": "\u00fc"}"#);
    client.expect_text(r#"{"a":1.50,"b":null,"c":"\u00fc"}"#).await;
}

#[tokio::test]
async fn bytes_of_a_field_are_a_binary_message() {
    let rules = rule("x", "broadcast", "g", "deliver = \"data\"");
    let server = ChannelsGateway::start("", &rules).await;
    let mut client = server.open("/ws/x?subscribe-broadcast").await;
    server.send("g", b"\x81\xa4data\xc4\x02\x00\xff");
    client.expect_binary(b"\x00\xff").await;
}

#[tokio::test]
async fn groups_are_delivered_as_events_too() {
    let server = ChannelsGateway::start("", &rule("x", "broadcast", "g", "")).await;
    let mut stream = SseClient::open(server.gateway.stream("/ws/x?subscribe-broadcast")).await;
    server.send("g", packed(&[("a", "b")]));
    stream.expect(r#"{"a":"b"}"#).await;
}

#[tokio::test]
async fn hosts_of_allowed_hosts_may_connect_with_a_session_and_malformed_origins_never() {
    let redis = RedisServer::shared();
    let gateway = TestGateway::start_with(&[("origin.allowed_hosts", ".wild.example,[::1]")]).await;
    let cookie = log_in(redis, &session_key(), "7", "john", &[]);
    for (origin, status) in [
        (Some("https://a.wild.example:8443"), 101),
        (Some("http://[::1]:8000"), 101),
        (Some("http://evilwild.example"), 403),
        (Some("null"), 403),
        (Some(""), 403),
        (Some("http://wild.example/path"), 403),
        (Some("http://evil.example\\@wild.example"), 403),
        (Some("http://[bad"), 403),
        (Some("http://wild.example:abc"), 403),
        (Some("wild.example"), 403),
        (None, 403),
    ] {
        let mut request = gateway.request("/ws/x?subscribe-broadcast").header("Cookie", &cookie);
        if let Some(origin) = origin {
            request = request.without("Origin").with("Origin", origin);
        } else {
            request = request.without("Origin");
        }
        let answered = request.try_send().await;
        assert_eq!(answered, Some(status), "{origin:?}");
    }
}

/// The embedded store has neither sets nor sorted sets.
mod redis_only {
    use super::*;

    #[tokio::test]
    async fn groups_that_django_joins_a_user_to_reach_open_sockets_at_once() {
        let rules = [
            rule("x", "broadcast", "all", "joined = true"),
            "[[channels.groups]]\nfacility = [\"y\"]\naudience = \"user\"\njoined = true\n".to_owned(),
            // With one shard, both sockets join a group with the same subscription.
            "[server]\nshards = 1\n".to_owned(),
        ];
        let server = ChannelsGateway::start("", &rules.concat()).await;
        let (redis, gateway) = (RedisServer::shared(), &server.gateway);
        let set = gateway.channel("ws4redis:groups:7");
        redis.command(&["SADD", &set, "chat_1"]);
        let key = session_key();
        let cookie = log_in(redis, &key, "7", "john", &[]);
        let mut clients = vec![
            connect(gateway, "/ws/x?subscribe-broadcast", &cookie).await,
            connect(gateway, "/ws/y?subscribe-user", &cookie).await,
        ];
        let mut anonymous = server.open("/ws/x?subscribe-broadcast").await;
        let hint = |kind: &str, group: &str| {
            redis.command(&[kind, &set, group]);
            gateway.publish("ws4redis:control", json!({"v": 1, "groups": "7"}).to_string());
        };
        // Each socket joins a group for itself, and Redis shows only the first: what comes too early is sent again.
        let mut reach = async |group: &str, text: &str| {
            let expected = format!(r#"{{"n":"{text}"}}"#);
            for client in &mut clients {
                let reached = async {
                    loop {
                        server.send(group, packed(&[("n", text)]));
                        let Ok(frame) = timeout(AGAIN, client.next_message()).await else { continue };
                        assert_ne!(frame.payload, br#"{"n":"old"}"#);
                        if frame.payload == expected.as_bytes() {
                            break;
                        }
                    }
                };
                within_deadline("a message of a group", reached).await;
            }
        };
        reach("chat_1", "1").await;
        hint("SADD", "chat_2");
        reach("chat_2", "2").await;
        hint("SREM", "chat_1");
        hint("SADD", "chat_3");
        reach("chat_3", "3").await;
        server.send("chat_1", packed(&[("n", "old")]));
        reach("chat_3", "4").await;
        server.send("all", packed(&[("n", "all")]));
        anonymous.expect_text(r#"{"n":"all"}"#).await;
    }

    async fn check_with(text: &str) -> String {
        let file = std::env::temp_dir().join(unique("ws4redis-check"));
        std::fs::write(&file, text).unwrap();
        let mut command = tokio::process::Command::from(crate::support::gateway::binary());
        command.args(["--settings", file.to_str().unwrap(), "check", "--set", "server.listen=127.0.0.1:0"]);
        command.args(["--set", &format!("redis.url={}", RedisServer::shared().url())]);
        let output = command.kill_on_drop(true).output().await.unwrap();
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    }

    #[tokio::test]
    async fn check_says_which_groups_reach_pages_and_warns_of_the_other_layer() {
        let prefix = unique("check");
        let section = format!("[channels]\nenabled = true\nprefix = \"{prefix}\"\n");
        let without = check_with(&section).await;
        assert!(without.contains("no [[channels.groups]] table, so no group reaches a page"), "{without}");
        let text = format!("{section}{}", rule("x", "broadcast", "g", ""));
        let with = check_with(&text).await;
        assert!(with.contains("layer pubsub") && with.contains("groups can be subscribed"), "{with}");
        assert!(!with.contains("warning"), "{with}");
        let by_name = check_with(&text.replace("\"g\"", "\"{user}\"")).await;
        assert!(by_name.contains("warning: Channels: group = \"{user}\""), "{by_name}");
        RedisServer::shared().command(&["ZADD", &format!("{prefix}:group:g"), "1", "specific.a!b"]);
        let warned = check_with(&text).await;
        assert!(warned.contains("warning: Channels:") && warned.contains("layer = \"core\""), "{warned}");
    }
}
