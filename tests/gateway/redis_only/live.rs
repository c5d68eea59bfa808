//! Version 2 when Redis is lost: the client is told that messages may be missing, and never without reason.

use serde_json::json;

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
