//! Server-sent events, and publishing by POST, on the same paths as WebSockets.

use crate::support::events::SseClient;
use crate::support::sessions::{hint, john, log_in, session_key};
use crate::support::{RedisServer, TestGateway, eventually};

#[tokio::test]
async fn a_stream_has_the_same_replay_and_messages_as_a_websocket() {
    let gateway = TestGateway::start().await;
    let redis = RedisServer::shared();
    redis.persist(&gateway.channel("broadcast:x"), "kept");
    let mut events = SseClient::open(gateway.stream("/ws/x?subscribe-broadcast")).await;
    for (name, value) in [
        ("content-type", "text/event-stream; charset=utf-8"),
        ("cache-control", "no-store"),
        ("x-accel-buffering", "no"),
    ] {
        assert_eq!(events.head.header(name), Some(value), "{:?}", events.head);
    }
    let mut socket = gateway.connect("/ws/x?subscribe-broadcast&publish-broadcast").await;
    events.expect("kept").await;
    socket.expect_text("kept").await;
    for text in ["one", "two\nlines", "data: x", "é"] {
        gateway.publish("broadcast:x", text);
        events.expect(text).await;
        socket.expect_text(text).await;
    }
    gateway.publish("broadcast:x", b"\xff\x00");
    assert_eq!(events.next().await, ("binary".to_owned(), "/wA=".to_owned()));
    socket.send_text("from a socket").await;
    events.expect("from a socket").await;
}

#[tokio::test]
async fn a_post_is_answered_after_redis_has_published_and_stored_its_message() {
    let gateway = TestGateway::start().await;
    let mut events = SseClient::open(gateway.stream("/ws/x?subscribe-broadcast")).await;
    let mut socket = gateway.connect("/ws/x?subscribe-broadcast").await;
    for message in ["by post", "again\r\n"] {
        gateway.post("/ws/x?publish-broadcast", message).expect_status(204).await;
        let kept = RedisServer::shared().get(&gateway.channel("broadcast:x"));
        assert_eq!(kept.as_deref(), Some(message.as_bytes()));
        socket.expect_text(message).await;
        // An event stream transmits every line ending as a line feed.
        events.expect(&message.replace("\r\n", "\n")).await;
    }
    gateway.post("/ws/x?publish-broadcast", "").expect_status(204).await;
    socket.expect_nothing().await;
}

#[tokio::test]
async fn a_post_without_the_custom_header_or_without_a_publish_flag_is_refused() {
    let gateway = TestGateway::builder().set("messages.max_message_bytes", "10").start().await;
    let plain = gateway.post("/ws/x?publish-broadcast", "x").without("X-WS4Redis");
    let plain = plain.expect_status(400).await;
    assert!(plain.body.contains("GET") && plain.body.contains("X-WS4Redis: 1"), "{plain:?}");
    let mute = gateway.post("/ws/x?subscribe-broadcast&publish-user", "x").expect_status(403).await;
    assert!(mute.body.contains("publish-broadcast"), "{mute:?}");
    gateway.post("/ws/x?publish-broadcast", "12345678901").expect_status(413).await;
    gateway.post("/other?publish-broadcast", "x").expect_status(404).await;
    gateway.post("/ws/%FF?publish-broadcast", "x").expect_status(400).await;
}

#[tokio::test]
async fn streams_identify_visitors_like_websockets_and_require_the_origin_to_match_the_host() {
    let gateway = TestGateway::start().await;
    let cookie = john(&session_key());
    let path = "/ws/x?subscribe-user&subscribe-group&subscribe-session";
    let mut johns = SseClient::open(gateway.stream(path).header("Cookie", &cookie)).await;
    gateway.publish("user:john:x", "to john");
    johns.expect("to john").await;
    gateway.publish("group:staff:x", "to staff");
    johns.expect("to staff").await;
    let post = |origin: &str| {
        let post = gateway.post("/ws/x?publish-user", "from john").header("Cookie", &cookie);
        post.header("Origin", origin)
    };
    post("https://evil.example").expect_status(403).await;
    post(&format!("http://{}", gateway.address())).expect_status(204).await;
    johns.expect("from john").await;
    let foreign = |path: &str| gateway.stream(path).header("Origin", "https://evil.example");
    let refused = foreign(path).header("Cookie", &cookie).expect_status(403).await;
    // The page may read this refusal, so that its client stops retrying, and no other response.
    assert_eq!(refused.header("access-control-allow-origin"), Some("https://evil.example"));
    assert_eq!(refused.header("access-control-allow-credentials"), Some("true"));
    let other = foreign("/ws/%FF?subscribe-user").expect_status(400).await;
    assert_eq!(other.header("access-control-allow-origin"), None);
    // An anonymous visitor cannot publish as john.
    gateway.post("/ws/x?publish-user", "from nobody").expect_status(403).await;
}

#[tokio::test]
async fn heartbeats_and_close_reasons_are_separate_events() {
    let gateway = TestGateway::builder().set("heartbeat", "--beat--").start().await;
    let key = session_key();
    let cookie = john(&key);
    let mut events = SseClient::open(gateway.stream("/ws/x?subscribe-user").header("Cookie", &cookie)).await;
    assert_eq!(events.next().await, ("heartbeat".to_owned(), "--beat--".to_owned()));
    RedisServer::shared().command(&["DEL", &crate::support::sessions::redis_key(&key)]);
    hint(&gateway, "7", "logout");
    let close = loop {
        let (name, data) = events.next().await;
        if name != "heartbeat" {
            break (name, data);
        }
    };
    assert_eq!(close, ("close".to_owned(), r#"{"code":4401,"reason":"session ended"}"#.to_owned()));
    events.client.expect_end().await;
}

#[tokio::test]
async fn an_idle_stream_gets_keepalives_and_is_not_closed_as_dead() {
    let gateway = TestGateway::builder()
        .set("ping.interval_seconds", "1")
        .set("ping.timeout_seconds", "1")
        .start()
        .await;
    let mut events = SseClient::open(gateway.stream("/ws/x?subscribe-broadcast")).await;
    for _ in 0..3 {
        events.client.read_until(":\n\n").await.unwrap();
    }
    gateway.publish("broadcast:x", "still here");
    events.expect("still here").await;
}

#[tokio::test]
async fn changed_groups_change_the_channels_of_an_open_stream() {
    let gateway = TestGateway::start().await;
    let (redis, key) = (RedisServer::shared(), session_key());
    let cookie = log_in(redis, &key, "7", "john", &["old"]);
    let mut events = SseClient::open(gateway.stream("/ws/x?subscribe-group").header("Cookie", &cookie)).await;
    redis.persist(&gateway.channel("group:new:x"), "welcome");
    log_in(redis, &key, "7", "john", &["new"]);
    hint(&gateway, "7", "groups");
    events.expect("welcome").await;
    gateway.publish("group:new:x", "to the new");
    events.expect("to the new").await;
}

#[tokio::test]
async fn access_rules_apply_to_posts_and_posts_above_the_rate_limit_are_refused() {
    let text = r#"
        [[access]]
        facility = "chat"
        anonymous = ["subscribe-broadcast", "publish-broadcast"]
        publish_messages_per_second = 1
        publish_burst_seconds = 3

        [[access]]
        facility = [""]
    "#;
    let gateway = TestGateway::builder().rules(text).set("server.trusted_proxies", "127.0.0.1").start().await;
    gateway.stream("/ws/other?subscribe-broadcast").expect_status(403).await;
    gateway.post("/ws/other?publish-broadcast", "x").expect_status(403).await;
    let mut statuses = Vec::new();
    for _ in 0..6 {
        let post = gateway.post("/ws/chat?publish-broadcast", "x").header("X-Forwarded-For", "203.0.113.7");
        statuses.push(post.send().await.0.status);
    }
    assert_eq!(statuses[..3], [204; 3]);
    assert!(statuses[3..].contains(&429), "{statuses:?}");
}

#[tokio::test]
async fn an_unread_stream_is_closed_and_an_ended_one_frees_its_subscription() {
    let gateway =
        TestGateway::start_with(&[("messages.outbox_bytes", "4096"), ("messages.outbox_seconds", "1")]).await;
    let slow = gateway.stream("/ws/x?subscribe-broadcast").receive_buffer(4096);
    let slow = SseClient::open(slow).await;
    let gone = SseClient::open(gateway.stream("/ws/y?subscribe-broadcast")).await;
    drop(gone);
    let large = "x".repeat(100_000);
    // Events sent together count as one run, and the first run does not count towards the limit.
    eventually("the slow one is closed", || {
        RedisServer::shared().publish(&gateway.channel("broadcast:x"), &large);
        (gateway.count_log(&["reading too slowly"]) > 0).then_some(())
    })
    .await;
    eventually("all channels are unsubscribed", || {
        RedisServer::shared().channels(&gateway.channel("broadcast:")).is_empty().then_some(())
    })
    .await;
    drop(slow);
}
