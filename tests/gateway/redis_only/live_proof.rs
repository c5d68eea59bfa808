//! What proves that nothing is missing, on a Redis that is restarted, loses connections, or refuses reads.

use serde_json::{Value, json};

use crate::support::{RedisServer, TestGateway, eventually};

const RULES: &str = "[[history]]\nfacility = [\"h\"]\n";
const FLAGS: &[&str] = &["subscribe-broadcast"];

#[tokio::test]
async fn a_redis_that_was_restarted_without_its_data_leaves_a_gap_and_a_lost_connection_none() {
    let mut redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis).rules(RULES).start().await;
    let mut client = gateway.live("/ws/").await;
    let ids = client.subscribe("h", FLAGS).await["ids"].clone();
    // Of a room in which nothing has been said the time tells that nothing was missed.
    assert!(redis.kill_clients("pubsub") > 0);
    gateway.expect_log(&["WARN", "redis lost"]).await;
    let channel = gateway.channel("ws4redis:live:broadcast:h");
    eventually("the channel", || redis.channels(gateway.namespace()).contains(&channel).then_some(())).await;
    eventually("the uptime", || {
        let uptime: u64 = redis.info("uptime_in_seconds").parse().unwrap();
        (uptime >= 4).then_some(())
    })
    .await;
    client.expect_nothing().await;
    redis.kill();
    redis.restart();
    // The position before is of no use any more.
    let moved = client.next().await;
    assert!(moved["ids"]["broadcast"].is_string() && moved["ids"] != ids, "{moved}");
    client.expect(json!({"t": "gap", "f": "h"})).await;
    client.send(json!({"t": "sub", "f": "h", "flags": FLAGS, "since": ids})).await;
    assert_eq!(client.next().await["recovered"], false);
    client.expect(json!({"t": "gap", "f": "h"})).await;
}

#[tokio::test]
async fn a_history_that_redis_refuses_to_read_is_a_gap_and_has_no_position() {
    let redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis).rules(RULES).start().await;
    let mut client = gateway.live("/ws/").await;
    let ids = client.subscribe("h", FLAGS).await["ids"].clone();
    assert!(ids["broadcast"].is_string(), "{ids}");
    redis.command(&["ACL", "SETUSER", "default", "-xrange"]);
    assert_eq!(client.subscribe("h", FLAGS).await["ids"], Value::Null);
    client.send(json!({"t": "sub", "f": "h", "flags": FLAGS, "since": ids})).await;
    assert_eq!(client.next().await["recovered"], false);
    client.expect(json!({"t": "gap", "f": "h"})).await;
    redis.command(&["ACL", "SETUSER", "default", "+xrange"]);
    client.send(json!({"t": "sub", "f": "h", "flags": FLAGS, "since": ids})).await;
    assert_eq!(client.next().await["recovered"], true);
}
