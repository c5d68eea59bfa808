//! Groups of Django Channels with the core layer, kept messages, and messages of pages for Django.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::support::redis::RedisReply;
use crate::support::sessions::{connect, log_in, session_key};
use crate::support::{RedisServer, TestGateway, eventually, unique};

const MESSAGES: &str = include_str!("../fixtures/channels/messages.json");

const RULES: &str = "[[channels.groups]]\nfacility = [\"x\"]\naudience = \"broadcast\"\ngroup = \"chat_5\"\n";

/// A gateway with a layer of its own on the shared Redis.
struct CoreGateway {
    gateway: TestGateway,
    prefix: String,
}

impl CoreGateway {
    async fn start(settings: &str, rules: &str) -> Self {
        let prefix = unique("core");
        let text = format!("[channels]\nenabled = true\nprefix = \"{prefix}\"\n{settings}\n{rules}");
        Self { gateway: TestGateway::builder().rules(&text).start().await, prefix }
    }

    /// Returns the members of a group.
    fn members(&self, group: &str) -> Vec<String> {
        let key = format!("{}:group:{group}", self.prefix);
        let RedisReply::Array(members) = RedisServer::shared().command(&["ZRANGE", &key, "0", "-1"]) else {
            panic!("no members");
        };
        members.into_iter().map(|member| String::from_utf8(member.bulk().unwrap()).unwrap()).collect()
    }

    /// Puts a message into the mailbox of a member, as Channels does.
    fn put(&self, member: &str, stored: &[u8]) {
        self.put_at(member, stored, now());
    }

    fn put_at(&self, member: &str, stored: &[u8], time: f64) {
        let mailbox = member.split_inclusive('!').next().unwrap();
        let key = [&self.prefix, mailbox].concat();
        let redis = RedisServer::shared();
        redis.command(&[b"ZADD", key.as_bytes(), time.to_string().as_bytes(), stored]);
        redis.command(&["EXPIRE", &key, "60"]);
    }

    /// Takes the oldest message of a mailbox that a worker reads.
    async fn worker_takes(&self, channel: &str) -> Vec<u8> {
        let key = [&self.prefix, channel].concat();
        eventually("a message for the worker", || {
            let RedisReply::Array(parts) = RedisServer::shared().command(&["ZPOPMIN", &key]) else {
                return None;
            };
            parts.into_iter().next()?.bulk()
        })
        .await
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Returns a message as the core layer stores it for a member: its map in msgpack behind random bytes.
fn stored_for(member: &str, text: &str) -> Vec<u8> {
    let short = |text: &str| [&[0xd9, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let random = unique("random12bytes");
    let mut bytes = random.as_bytes()[random.len() - 12..].to_vec();
    bytes.extend(
        [&[0x82], &short("text")[..], &short(text), &short("__asgi_channel__"), &[0x91], &short(member)]
            .concat(),
    );
    bytes
}

const PUBLISH: &str = "[[channels.publish]]\nfacility = [\"x\"]\nto = \"channel:incoming\"\ntype = \"page.message\"\n\
    [[channels.publish]]\nfacility = [\"g\"]\nto = \"group:room\"\ntype = \"page.message\"\n";

#[tokio::test]
async fn a_kept_message_is_sent_to_a_page_that_opens_later() {
    let prefix = unique("layer");
    let text = format!("[channels]\nenabled = true\nprefix = \"{prefix}\"\nkeep_seconds = 60\n{RULES}");
    let gateway = TestGateway::builder().rules(&text).start().await;
    let mut early = gateway.connect("/ws/x?subscribe-broadcast").await;
    let send = |payload: &[u8]| RedisServer::shared().publish(&format!("{prefix}__group__chat_5"), payload);
    send(b"\x81\xa1n\x01");
    send(b"\x81\xa1n\x02");
    early.expect_text(r#"{"n":1}"#).await;
    early.expect_text(r#"{"n":2}"#).await;
    let key = gateway.channel("ws4redis:channels:chat_5");
    let kept = || RedisServer::shared().get(&key).filter(|kept| kept == b"\x81\xa1n\x02");
    eventually("the last message is kept", kept).await;
    let mut late = gateway.connect("/ws/x?subscribe-broadcast").await;
    late.expect_text(r#"{"n":2}"#).await;
    send(b"\x81\xa1n\x03");
    late.expect_text(r#"{"n":3}"#).await;
}

#[tokio::test]
async fn the_pubsub_layer_publishes_to_a_channel_without_a_prefix() {
    let prefix = unique("layer");
    let channel = unique("incoming");
    let rules = PUBLISH.replace("incoming", &channel);
    let text = format!("[channels]\nenabled = true\nprefix = \"{prefix}\"\n{rules}{RULES}");
    let gateway = TestGateway::builder().rules(&text).start().await;
    let mut subscriber = RedisServer::shared().connection();
    subscriber.command(&["SUBSCRIBE", &channel]);
    gateway.post("/ws/x?publish-broadcast", "hi").expect_status(204).await;
    let RedisReply::Array(parts) = subscriber.reply() else { panic!("no message") };
    let payload = parts.into_iter().nth(2).unwrap().bulk().unwrap();
    assert_eq!(
        payload,
        b"\x85\xa4type\xacpage.message\xa4text\xa2hi\xa4user\xc0\xa7session\xc0\xa8facility\xa1x"
    );
}

/// The embedded store has no sorted sets.
mod redis_only {
    use super::*;

    #[tokio::test]
    async fn the_process_is_a_member_of_a_group_while_a_page_hears_it() {
        let redis_linger = "[redis]\nunsubscribe_linger_seconds = 0\n";
        let mut server = CoreGateway::start("layer = \"core\"\n", &format!("{RULES}{redis_linger}")).await;
        assert!(server.members("chat_5").is_empty());
        let mut client = server.gateway.connect("/ws/x?subscribe-broadcast").await;
        let [member] = &server.members("chat_5")[..] else { panic!("one member") };
        let (mailbox, group) = member.split_once('!').unwrap();
        assert_eq!((mailbox.len(), &mailbox[..3], group), (35, "gw.", "chat_5"));
        let key = format!("{}:group:chat_5", server.prefix);
        assert!(RedisServer::shared().command(&["TTL", &key]).integer() > 86_000);
        for number in 0..150 {
            server.put(member, &stored_for(member, &number.to_string()));
            if number == 0 {
                client.expect_text(r#"{"text":"0"}"#).await;
            }
        }
        for number in 1..150 {
            client.expect_text(&format!(r#"{{"text":"{number}"}}"#)).await;
        }
        drop(client);
        eventually("the group is left", || server.members("chat_5").is_empty().then_some(())).await;
        let _client = server.gateway.connect("/ws/x?subscribe-broadcast").await;
        assert_eq!(server.members("chat_5").len(), 1);
        server.gateway.signal("TERM");
        server.gateway.expect_exit().await;
        assert!(server.members("chat_5").is_empty(), "the process leaves its groups at the end");
    }

    #[tokio::test]
    async fn a_message_that_django_stored_is_delivered_without_its_receivers() {
        let server = CoreGateway::start("layer = \"core\"\n", RULES).await;
        let mut client = server.gateway.connect("/ws/x?subscribe-broadcast").await;
        let member = server.members("chat_5").remove(0);
        let messages: Value = serde_json::from_str(MESSAGES).unwrap();
        let stored =
            BASE64_STANDARD.decode(messages["core-foreign-join"]["stored_b64"].as_str().unwrap()).unwrap();
        // The captured message is for another gateway: its receiver is not a member of this one.
        server.put(&member, &stored);
        server.put(&member, b"garbage");
        server.put(&member, &stored_for(&member, "own"));
        client.expect_text(r#"{"text":"own"}"#).await;
        server.gateway.expect_log(&["message of a Channels group not delivered", "malformed"]).await;
    }

    #[tokio::test]
    async fn a_missing_right_to_count_members_loses_none() {
        let (redis, user) = (RedisServer::shared(), unique("uncounted"));
        redis.command(&["ACL", "SETUSER", &user, "on", ">x", "+@all", "-zcard", "~*", "&*"]);
        let hosts = format!("layer = \"core\"\nhosts = [\"redis://{user}:x@127.0.0.1:{}\"]\n", redis.port());
        let server = CoreGateway::start(&hosts, RULES).await;
        let mut client = server.gateway.connect("/ws/x?subscribe-broadcast").await;
        let member = server.members("chat_5").remove(0);
        for number in 0..20 {
            server.put(&member, &stored_for(&member, &number.to_string()));
        }
        for number in 0..20 {
            client.expect_text(&format!(r#"{{"text":"{number}"}}"#)).await;
        }
    }

    #[tokio::test]
    async fn an_oversize_member_of_a_mailbox_is_skipped_and_counted() {
        let limit = "[messages]\nmax_delivery_bytes = 65536\n";
        let mut server = CoreGateway::start("layer = \"core\"\n", &format!("{RULES}{limit}")).await;
        let mut client = server.gateway.connect("/ws/x?subscribe-broadcast").await;
        let member = server.members("chat_5").remove(0);
        server.gateway.signal("STOP");
        for number in 0..6 {
            if number % 3 == 1 {
                server.put(&member, &vec![b'x'; 100_000 + number]);
            } else {
                server.put(&member, &stored_for(&member, &number.to_string()));
            }
        }
        server.gateway.signal("CONT");
        for number in [0, 2, 3, 5] {
            client.expect_text(&format!(r#"{{"text":"{number}"}}"#)).await;
        }
        server.gateway.expect_log(&["message of a Channels group too big", "max_delivery_bytes"]).await;
        server.gateway.signal("TERM");
        server.gateway.expect_exit().await;
        server.gateway.expect_log(&["oversized_deliveries=2"]).await;
        assert_eq!(server.gateway.count_log(&["redis lost for Channels groups"]), 0);
    }

    #[tokio::test]
    async fn mailboxes_with_many_large_messages_are_emptied_in_order() {
        let server = CoreGateway::start("layer = \"core\"\n", RULES).await;
        let mut client = server.gateway.connect("/ws/x?subscribe-broadcast").await;
        let member = server.members("chat_5").remove(0);
        let text = |number: usize| format!("{number:03}{}", "x".repeat(200));
        let large = |number: usize| {
            let mut stored = stored_for(&member, &text(number));
            // One more member of the map: a text of 100 KiB.
            stored[12] += 1;
            stored.extend(b"\xa3big\xdb\x00\x01\x90\x00");
            stored.extend(vec![b'y'; 102_400]);
            stored
        };
        server.gateway.signal("STOP");
        for number in 0..100 {
            server.put(&member, &large(number));
        }
        server.gateway.signal("CONT");
        for number in 0..100 {
            let frame = client.next_message().await;
            assert!(frame.payload.starts_with(format!(r#"{{"text":"{}"#, text(number)).as_bytes()));
            assert_eq!(frame.payload.len(), 102_623);
        }
    }

    #[tokio::test]
    async fn a_mailbox_that_is_nearly_full_is_a_warning() {
        let server = CoreGateway::start("layer = \"core\"\n", RULES).await;
        let mut client = server.gateway.connect("/ws/x?subscribe-broadcast").await;
        let member = server.members("chat_5").remove(0);
        server.gateway.signal("STOP");
        for number in 0..96 {
            server.put(&member, &stored_for(&member, &number.to_string()));
        }
        server.gateway.signal("CONT");
        client.expect_text(r#"{"text":"0"}"#).await;
        server.gateway.expect_log(&["mailbox", "nearly full", "channel_capacity"]).await;
    }

    #[tokio::test]
    async fn mailboxes_are_measured_against_the_capacity_and_the_expiry_that_django_has() {
        let server = CoreGateway::start("layer = \"core\"\ncapacity = 1000\n", RULES).await;
        let mut client = server.gateway.connect("/ws/x?subscribe-broadcast").await;
        let member = server.members("chat_5").remove(0);
        server.gateway.signal("STOP");
        for number in 0..96 {
            server.put(&member, &stored_for(&member, &number.to_string()));
        }
        server.gateway.signal("CONT");
        for number in 0..96 {
            client.expect_text(&format!(r#"{{"text":"{number}"}}"#)).await;
        }
        assert_eq!(
            server.gateway.count_log(&["nearly full"]) + server.gateway.count_log(&["waited long"]),
            0
        );
        server.put_at(&member, &stored_for(&member, "old"), now() - 57.0);
        client.expect_text(r#"{"text":"old"}"#).await;
        server.gateway.expect_log(&["waited long in a mailbox", "Django drops them after 60 s"]).await;
    }

    /// Returns a message of the group as version 2 has it.
    fn heard(text: &str) -> Value {
        json!({"t": "msg", "f": "x", "a": "broadcast", "d": format!(r#"{{"text":"{text}"}}"#)})
    }

    #[tokio::test]
    async fn a_membership_that_redis_has_lost_is_noticed_within_seconds_and_leaves_a_gap() {
        let server = CoreGateway::start("layer = \"core\"\n", RULES).await;
        let mut client = server.gateway.live("/ws/x?subscribe-broadcast").await;
        client.next().await;
        let member = server.members("chat_5").remove(0);
        // As `flush` of the layer does.
        RedisServer::shared().command(&["DEL", &format!("{}:group:chat_5", server.prefix)]);
        client.expect(json!({"t": "gap", "f": "x"})).await;
        assert_eq!(server.members("chat_5"), std::slice::from_ref(&member));
        server.put(&member, &stored_for(&member, "after"));
        client.expect(heard("after")).await;
        client.expect_nothing().await;
    }

    #[tokio::test]
    async fn a_group_that_was_joined_stays_so_when_redis_refuses_to_renew_that() {
        let layer = RedisServer::start();
        let hosts = format!("layer = \"core\"\nhosts = [\"{}\"]\n", layer.url());
        let server = CoreGateway::start(&hosts, RULES).await;
        let _early = server.gateway.connect("/ws/x?subscribe-broadcast").await;
        layer.command(&["CONFIG", "SET", "maxmemory", "1"]);
        server.gateway.expect_log(&["redis refuses to join a Channels group", "OOM"]).await;
        let _late = server.gateway.connect("/ws/x?subscribe-broadcast").await;
    }

    #[tokio::test]
    async fn a_mailbox_that_was_full_leaves_a_gap_behind_its_messages() {
        let server = CoreGateway::start("layer = \"core\"\n", RULES).await;
        let mut client = server.gateway.live("/ws/x?subscribe-broadcast").await;
        client.next().await;
        let member = server.members("chat_5").remove(0);
        for (count, is_full) in [(99, false), (100, true)] {
            server.gateway.signal("STOP");
            for number in 0..count {
                server.put(&member, &stored_for(&member, &number.to_string()));
            }
            server.gateway.signal("CONT");
            for number in 0..count {
                client.expect(heard(&number.to_string())).await;
            }
            if is_full {
                client.expect(json!({"t": "gap", "f": "x"})).await;
            }
            client.expect_nothing().await;
        }
    }

    #[tokio::test]
    async fn a_pages_messages_reach_django_only_by_a_rule_and_with_its_type() {
        let json = "layer = \"core\"\nserializer = \"json\"\n";
        let server = CoreGateway::start(json, PUBLISH).await;
        let key = session_key();
        let cookie = log_in(RedisServer::shared(), &key, "7", "john", &[]);
        let mut john = connect(&server.gateway, "/ws/x?publish-user", &cookie).await;
        john.send_text(r#"{"type":"evil","user":"root"}"#).await;
        let stored = server.worker_takes("incoming").await;
        let message: Value = serde_json::from_slice(&stored[12..]).unwrap();
        assert_eq!(message["type"], "page.message");
        assert_eq!(message["text"], r#"{"type":"evil","user":"root"}"#);
        assert_eq!((&message["user"], &message["facility"]), (&"john".into(), &"x".into()));
        let session = message["session"].as_str().unwrap();
        assert!(session.len() == 64 && !session.contains(&key), "{session}");
        assert_eq!(message.as_object().unwrap().len(), 5);
        let mut mute = server.gateway.connect("/ws/x?subscribe-broadcast").await;
        let mut elsewhere = server.gateway.connect("/ws/other?publish-broadcast").await;
        let mut anonymous = server.gateway.connect("/ws/x?publish-broadcast").await;
        mute.send_text("mute").await;
        elsewhere.send_text("elsewhere").await;
        anonymous.send_binary(b"\xff").await;
        anonymous.send_text("hello").await;
        let stored = server.worker_takes("incoming").await;
        let message: Value = serde_json::from_slice(&stored[12..]).unwrap();
        let expected = serde_json::json!({"type": "page.message", "text": "hello", "user": null, "session": null, "facility": "x"});
        assert_eq!(message, expected);
    }

    #[tokio::test]
    async fn a_pages_message_reaches_all_members_of_a_group() {
        let server = CoreGateway::start("layer = \"core\"\n", PUBLISH).await;
        let redis = RedisServer::shared();
        let group = format!("{}:group:room", server.prefix);
        for member in ["specific.aa!1", "specific.aa!2", "specific.bb!3"] {
            redis.command(&["ZADD", &group, &now().to_string(), member]);
        }
        redis.command(&["ZADD", &group, "1", "specific.old!4"]);
        let mut client = server.gateway.connect("/ws/g?publish-broadcast").await;
        client.send_text("hi").await;
        let stored = server.worker_takes("specific.aa!").await;
        for part in [&b"page.message"[..], b"\xa2hi", b"__asgi_channel__", b"specific.aa!1", b"specific.aa!2"]
        {
            assert!(stored.windows(part.len()).any(|window| window == part), "{part:?}");
        }
        server.worker_takes("specific.bb!").await;
        let old = redis.command(&["EXISTS", &[&server.prefix, "specific.old!"].concat()]);
        assert_eq!(old, RedisReply::Integer(0), "its membership has expired");
    }
}
