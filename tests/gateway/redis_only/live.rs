//! Version 2 when Redis is lost: the client is told that messages may be missing, and never without reason.

use std::time::Duration;

use serde_json::json;

use crate::support::client::{TEXT, frame};
use crate::support::event_log::EventLog;
use crate::support::{RedisServer, TestGateway, eventually};

#[tokio::test]
async fn a_gap_is_sent_once_for_each_facility_after_redis_was_lost() {
    let redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis).start().await;
    let mut client = gateway.live("/ws/").await;
    for facility in ["a", "b"] {
        client.subscribe(facility, &["subscribe-broadcast", "subscribe-session"]).await;
    }
    client.subscribe("only-published", &["publish-broadcast"]).await;
    assert!(redis.kill_clients("pubsub") > 0);
    let mut lost = [client.next().await, client.next().await];
    lost.sort_by_key(|object| object["f"].to_string());
    assert_eq!(lost, [json!({"t": "gap", "f": "a"}), json!({"t": "gap", "f": "b"})]);
    // Sent when the channels are subscribed again: nothing that follows is missed.
    redis.publish(&gateway.channel("broadcast:a"), "after");
    client.expect(json!({"t": "msg", "f": "a", "a": "broadcast", "d": "after"})).await;
    client.expect_nothing().await;
}

#[tokio::test]
async fn without_a_loss_there_is_no_gap() {
    let redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis).start().await;
    let mut before = gateway.live("/ws/a?subscribe-broadcast").await;
    before.next().await;
    assert!(redis.kill_clients("pubsub") > 0);
    before.expect(json!({"t": "gap", "f": "a"})).await;
    let mut after = gateway.live("/ws/a?subscribe-broadcast").await;
    after.next().await;
    // Only the connection for commands is lost: no message is.
    assert!(redis.kill_clients("normal") > 0);
    redis.publish(&gateway.channel("broadcast:a"), "x");
    for client in [&mut before, &mut after] {
        client.expect(json!({"t": "msg", "f": "a", "a": "broadcast", "d": "x"})).await;
        client.expect_nothing().await;
    }
}

#[tokio::test]
async fn while_redis_is_lost_a_subscription_is_refused_and_the_socket_stays_open() {
    let redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis).start().await;
    let mut client = gateway.live("/ws/").await;
    redis.stop();
    eventually("the loss", || (gateway.count_log(&["WARN", "redis lost"]) > 0).then_some(())).await;
    client.send(json!({"t": "sub", "f": "a", "flags": ["subscribe-broadcast"], "r": 1})).await;
    let why = "not available at the moment";
    client.expect(json!({"t": "err", "r": 1, "f": "a", "code": 503, "why": why})).await;
    client.expect_nothing().await;
}

/// Adds a message to a history, as the publishing script does.
fn add(gateway: &TestGateway, redis: &RedisServer, text: &str) {
    let stream = gateway.channel("ws4redis:history:broadcast:h");
    redis.command(&["XADD", &stream, "*", "d", text]);
}

#[tokio::test]
async fn with_a_history_the_gateway_reads_on_after_a_loss_and_sends_no_gap() {
    let redis = RedisServer::start();
    let rules = "[[history]]\nfacility = [\"h\"]\n";
    let gateway = TestGateway::builder().redis(&redis).rules(rules).start().await;
    add(&gateway, &redis, "before");
    let mut client = gateway.live("/ws/h?subscribe-broadcast").await;
    client.next().await;
    for round in ["one", "two"] {
        let stream = gateway.channel("ws4redis:history:broadcast:h");
        redis.pipeline(&[
            &[b"CLIENT", b"KILL", b"TYPE", b"pubsub"],
            &[b"XADD", stream.as_bytes(), b"*", b"d", round.as_bytes()],
        ]);
        let message = client.next().await;
        assert_eq!((&message["t"], &message["d"]), (&json!("msg"), &json!(round)), "{message}");
        assert!(message["id"].is_string());
    }
    gateway.post("/ws/h?publish-broadcast", "live").expect_status(204).await;
    assert_eq!(client.next().await["d"], "live");
    client.expect_nothing().await;
}

#[tokio::test]
async fn a_history_that_does_not_reach_back_to_a_loss_leaves_a_gap() {
    let redis = RedisServer::start();
    let rules = "[[history]]\nfacility = [\"h\"]\n";
    let gateway = TestGateway::builder().redis(&redis).rules(rules).start().await;
    add(&gateway, &redis, "before");
    let mut client = gateway.live("/ws/h?subscribe-broadcast").await;
    client.next().await;
    let stream = gateway.channel("ws4redis:history:broadcast:h");
    redis.pipeline(&[
        &[b"CLIENT", b"KILL", b"TYPE", b"pubsub"],
        &[b"XADD", stream.as_bytes(), b"*", b"d", b"lost"],
        &[b"XADD", stream.as_bytes(), b"*", b"d", b"kept"],
        &[b"XTRIM", stream.as_bytes(), b"MAXLEN", b"1"],
    ]);
    client.expect(json!({"t": "gap", "f": "h"})).await;
    assert_eq!(client.next().await["d"], "kept");
    client.expect_nothing().await;
}

#[tokio::test]
async fn a_client_that_waits_for_redis_to_acknowledge_its_publications_costs_no_processor_time() {
    let redis = RedisServer::start();
    let builder = TestGateway::builder().redis(&redis).set("messages.publish_bytes", "4096");
    let gateway = builder.start().await;
    let mut client = gateway.live("/ws/x?publish-broadcast").await;
    client.next().await;
    redis.command(&["CLIENT", "PAUSE", "2000", "WRITE"]);
    let before = gateway.processor_time();
    client.send(json!({"t": "pub", "f": "x", "d": "x".repeat(6_000), "r": 1})).await;
    client.expect(json!({"t": "ok", "r": 1})).await;
    let used = gateway.processor_time().saturating_sub(before);
    assert!(used < Duration::from_millis(100), "{used:?}");
}

#[tokio::test]
async fn django_is_told_of_a_message_whose_facility_is_left_at_once() {
    let log = EventLog::new();
    let settings = [("events.to", &*log.setting()), ("events.facility", "x")];
    let gateway = TestGateway::start_with(&settings).await;
    let mut client = gateway.live("/ws/").await;
    client.subscribe("x", &["publish-broadcast"]).await;
    let requests = [json!({"t": "pub", "f": "x", "d": "bye"}), json!({"t": "unsub", "f": "x"})];
    let requests = requests.map(|request| frame(0x80 | TEXT, request.to_string().as_bytes()));
    client.client.send_raw(&requests.concat()).await;
    let left = log.expect("disconnect", 1).await;
    assert_eq!(left[0]["reason"], "client namespace disconnect");
    let kinds: Vec<_> = log.all().into_iter().map(|event| event["type"].clone()).collect();
    assert_eq!(kinds, ["node", "connect", "message", "disconnect"]);
}
