//! `[[history]]`: what clients publish is kept in streams, and published a second time with its id.

use std::process::Command;

use crate::support::client::frame;
use crate::support::gateway::binary;
use crate::support::redis::{RedisClient, RedisReply};
use crate::support::{RedisServer, TestGateway, eventually, unique};

const RULES: &str = r#"
[[history]]
facility = ["chat-*"]
messages = 1000
seconds = 60

[[history]]
facility = ["news"]
messages = 5
"#;

async fn start() -> TestGateway {
    TestGateway::builder().rules(RULES).set("expire", "100").start().await
}

/// Returns the ids and messages of a stream.
pub fn entries(redis: &mut RedisClient, key: &str) -> Vec<(String, String)> {
    let RedisReply::Array(entries) = redis.command(&["XRANGE", key, "-", "+"]) else { panic!("no array") };
    let text = |reply: &RedisReply| {
        let RedisReply::Bulk(Some(text)) = reply else { panic!("{reply:?}") };
        String::from_utf8(text.clone()).unwrap()
    };
    let entry = |entry: &RedisReply| {
        let RedisReply::Array(parts) = entry else { panic!("{entry:?}") };
        let RedisReply::Array(fields) = &parts[1] else { panic!("{entry:?}") };
        assert_eq!((text(&fields[0]).as_str(), fields.len()), ("d", 2));
        (text(&parts[0]), text(&fields[1]))
    };
    entries.iter().map(entry).collect()
}

/// Subscribes to channels.
pub fn subscriber(redis: &RedisServer, channels: &[&str]) -> RedisClient {
    let mut client = redis.connection();
    for channel in channels {
        client.command(&["SUBSCRIBE", channel]);
    }
    client
}

/// Returns channel and payload of the next message.
pub fn next_message(client: &mut RedisClient) -> (String, String) {
    let RedisReply::Array(parts) = client.reply() else { panic!("no array") };
    let text = |reply: &RedisReply| match reply {
        RedisReply::Bulk(Some(text)) => String::from_utf8(text.clone()).unwrap(),
        other => panic!("{other:?}"),
    };
    (text(&parts[1]), text(&parts[2]))
}

#[tokio::test]
async fn a_message_is_kept_persisted_and_published_with_its_id_before_it_is_published_plainly() {
    let gateway = start().await;
    let plain = gateway.channel("broadcast:chat-5");
    let live = gateway.channel("ws4redis:live:broadcast:chat-5");
    let stream = gateway.channel("ws4redis:history:broadcast:chat-5");
    let mut reader = subscriber(RedisServer::shared(), &[&plain, &live]);
    let mut witness = gateway.connect("/ws/chat-5?subscribe-broadcast").await;
    let mut client = gateway.connect("/ws/chat-5?publish-broadcast").await;
    client.send_text("Grüße").await;
    witness.expect_text("Grüße").await;
    let mut redis = RedisServer::shared().connection();
    let kept = entries(&mut redis, &stream);
    let [(id, text)] = &kept[..] else { panic!("{kept:?}") };
    assert_eq!(text, "Grüße");
    assert_eq!(next_message(&mut reader), (live, format!("{id} Grüße")));
    assert_eq!(next_message(&mut reader), (plain.clone(), "Grüße".to_owned()));
    assert_eq!(RedisServer::shared().get(&plain).as_deref(), Some("Grüße".as_bytes()));
    let ttl = |redis: &mut RedisClient, key: &str| redis.command(&["TTL", key]).integer();
    assert!((50..=60).contains(&ttl(&mut redis, &stream)) && (90..=100).contains(&ttl(&mut redis, &plain)));
    gateway.connect("/ws/chat-5?subscribe-broadcast").await.expect_text("Grüße").await;
}

#[tokio::test]
async fn messages_of_many_clients_have_ids_in_the_order_of_publication() {
    let gateway = start().await;
    let stream = gateway.channel("ws4redis:history:broadcast:chat-6");
    let mut witness = gateway.connect("/ws/chat-6?subscribe-broadcast").await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(gateway.connect("/ws/chat-6?publish-broadcast").await);
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let texts = (0..200).map(|text| format!("{number} {text}"));
        let frames: Vec<u8> = texts.flat_map(|text| frame(0x81, text.as_bytes())).collect();
        client.send_raw(&frames).await;
    }
    let mut received = Vec::new();
    for _ in 0..800 {
        received.push(String::from_utf8(witness.next_message().await.payload).unwrap());
    }
    let kept = entries(&mut RedisServer::shared().connection(), &stream);
    assert_eq!(kept.iter().map(|(_, text)| text.clone()).collect::<Vec<_>>(), received);
    let id = |text: &str| {
        let (ms, number) = text.split_once('-').unwrap();
        (ms.parse::<u64>().unwrap(), number.parse::<u64>().unwrap())
    };
    assert!(kept.is_sorted_by(|(one, _), (other, _)| id(one) < id(other)));
    for number in 0..4 {
        let own: Vec<_> = received.iter().filter(|text| text.starts_with(&format!("{number} "))).collect();
        assert_eq!(own.len(), 200);
        assert!(own.iter().enumerate().all(|(at, text)| **text == format!("{number} {at}")), "{own:?}");
    }
}

#[tokio::test]
async fn without_the_flag_echo_a_client_does_not_get_its_own_message() {
    let gateway = start().await;
    let flags = "subscribe-broadcast&publish-broadcast";
    let mut client = gateway.connect(&format!("/ws/chat-7?{flags}")).await;
    let mut other = gateway.connect(&format!("/ws/chat-7?{flags}&echo")).await;
    client.send_text("mine").await;
    other.expect_text("mine").await;
    other.send_text("ours").await;
    other.expect_text("ours").await;
    client.expect_text("ours").await;
}

#[tokio::test]
async fn posts_and_the_command_line_are_kept_and_other_facilities_are_not() {
    let gateway = start().await;
    gateway.post("/ws/news?publish-broadcast", "post").expect_status(204).await;
    gateway.post("/ws/other?publish-broadcast", "post").expect_status(204).await;
    let file = std::env::temp_dir().join(unique("ws4redis-history"));
    std::fs::write(&file, RULES).unwrap();
    let mut command: Command = binary();
    let url = format!("redis.url={}", RedisServer::shared().url());
    let prefix = format!("prefix={}", gateway.namespace());
    command.arg("--settings").arg(&file).args(["--set", &url, "--set", &prefix]);
    let output =
        command.args(["publish", "--broadcast", "--user", "john", "news", "typed"]).output().unwrap();
    std::fs::remove_file(file).unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with("published to 2 channels, 0 subscribed"), "{said}");
    let mut redis = RedisServer::shared().connection();
    let mut texts = |name: &str| {
        let kept = entries(&mut redis, &gateway.channel(&format!("ws4redis:history:{name}")));
        kept.into_iter().map(|(_, text)| text).collect::<Vec<_>>()
    };
    assert_eq!(texts("broadcast:news"), ["post", "typed"]);
    assert_eq!(texts("user:john:news"), ["typed"]);
    assert_eq!(texts("broadcast:other"), [""; 0]);
}

#[tokio::test]
async fn a_stream_keeps_the_last_messages_only() {
    let gateway = start().await;
    let stream = gateway.channel("ws4redis:history:broadcast:news");
    let mut client = gateway.connect("/ws/news?publish-broadcast").await;
    for number in 0..300 {
        client.send_text(&number.to_string()).await;
    }
    client.send_close(1000, "").await;
    client.expect_close(1000).await;
    let kept = entries(&mut RedisServer::shared().connection(), &stream);
    // Redis trims whole nodes, of at most 100 entries.
    assert!((5..=105).contains(&kept.len()), "{}", kept.len());
    assert_eq!(kept.last().unwrap().1, "299");
}

#[tokio::test]
async fn a_facility_that_is_named_like_a_history_is_a_facility() {
    let gateway = start().await;
    let name = "ws4redis:live:broadcast:chat-8";
    let mut client = gateway.connect(&format!("/ws/{name}?subscribe-broadcast&publish-broadcast&echo")).await;
    let mut witness = gateway.connect("/ws/chat-8?subscribe-broadcast").await;
    client.send_text("here").await;
    client.expect_text("here").await;
    let live = gateway.channel("ws4redis:live:broadcast:chat-8");
    assert_eq!(RedisServer::shared().publish(&live, "1-0 there"), 0, "no one subscribes to it");
    gateway.publish("broadcast:chat-8", "there");
    witness.expect_text("there").await;
    client.expect_nothing().await;
    let channel = gateway.channel(&format!("broadcast:{name}"));
    eventually("its own channel", || (!RedisServer::shared().channels(&channel).is_empty()).then_some(()))
        .await;
}

#[test]
fn check_says_what_a_history_costs() {
    let file = std::env::temp_dir().join(unique("ws4redis-history"));
    std::fs::write(&file, RULES).unwrap();
    let url = format!("redis.url={}", RedisServer::shared().url());
    let output = binary().arg("--settings").arg(&file).args(["--set", &url, "check"]).output().unwrap();
    std::fs::remove_file(file).unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    for part in [
        "history: chat-*, 1000 messages for 60 s; a channel with messages of 500 bytes takes up to 630 KiB",
        "history: news, 5 messages for 3600 s; ",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
}
