//! Messages that arrive while a subscription of version 2 joins its channels.

use serde_json::json;

use crate::support::live::LiveClient;
use crate::support::{Proxy, RedisServer, Side, TestGateway, eventually};

const RULES: &str = "[[history]]\nfacility = [\"h\"]\nmessages = 100\n";
const FLAGS: &[&str] = &["subscribe-broadcast"];

#[tokio::test]
async fn a_message_that_arrives_before_its_channel_with_ids_is_subscribed_comes_once() {
    let redis = RedisServer::start();
    let proxy = Proxy::to(&redis);
    let builder = TestGateway::builder().redis(&redis).set("redis.url", &proxy.url()).rules(RULES);
    let gateway = builder.start().await;
    let mut plain = gateway.connect("/ws/h?subscribe-broadcast").await;
    gateway.post("/ws/h?publish-broadcast", "before").expect_status(204).await;
    plain.expect_text("before").await;
    let mut client = gateway.live("/ws/").await;
    // Redis publishes it to the plain channel alone, and the gateway gets it when both are wanted.
    proxy.hold_replies(Side::Subscriber);
    gateway.post("/ws/h?publish-broadcast", "meanwhile").expect_status(204).await;
    client.send(json!({"t": "sub", "f": "h", "flags": FLAGS, "since": "1-0"})).await;
    let live = gateway.channel("ws4redis:live:broadcast:h");
    eventually("the subscription", || redis.channels(&live).contains(&live).then_some(())).await;
    proxy.release();
    assert_eq!(client.next().await["t"], "sub");
    client.expect(json!({"t": "gap", "f": "h"})).await;
    for text in ["before", "meanwhile"] {
        let message = client.next().await;
        assert_eq!(message["d"], text, "{message}");
        assert!(message["id"].is_string(), "{message}");
    }
    gateway.post("/ws/h?publish-broadcast", "after").expect_status(204).await;
    assert_eq!(client.next().await["d"], "after");
    client.expect_nothing().await;
}

#[tokio::test]
async fn what_a_slow_client_loses_while_a_facility_reads_on_is_told_as_a_gap() {
    let redis = RedisServer::start();
    let proxy = Proxy::to(&redis);
    let builder = TestGateway::builder().redis(&redis).set("redis.url", &proxy.url()).rules(RULES);
    let builder = builder.set("messages.when_slow", "drop-oldest").set("messages.outbox_bytes", "65536");
    let builder = builder
        .set("redis.command_timeout_seconds", "10")
        .set("messages.outbox_seconds", "0")
        .set("server.send_buffer_bytes", "4096");
    let gateway = builder.set("server.shards", "1").start().await;
    let mut client = LiveClient::open(gateway.live_request("/ws/").receive_buffer(4096)).await;
    client.subscribe("h", FLAGS).await;
    client.subscribe("x", FLAGS).await;
    let mut plain = gateway.connect("/ws/x?subscribe-broadcast").await;
    let text = |name: &str| format!("{name} {}", "x".repeat(15_000));
    // They wait in the outbox.
    for name in ["a", "b", "c", "d"] {
        gateway.post("/ws/h?publish-broadcast", text(name)).expect_status(204).await;
    }
    proxy.hold_replies(Side::Store);
    proxy.cut(Side::Subscriber);
    let channel = gateway.channel("broadcast:x");
    let is_back = || (gateway.count_log(&["INFO", "redis connected"]) == 2).then_some(());
    eventually("the next connection", is_back).await;
    let flood: Vec<_> = (0..40).map(|number| text(&number.to_string())).collect();
    redis.publish_pipelined(&channel, &flood);
    for text in &flood {
        plain.expect_text(text).await;
    }
    proxy.release();
    let mut received = Vec::new();
    loop {
        let object = client.next().await;
        let is_last = object["d"].as_str().is_some_and(|text| text.starts_with("e "));
        if object["f"] == "h" {
            let text = object["d"].as_str().and_then(|text| text.split(' ').next());
            received.push(text.unwrap_or_else(|| object["t"].as_str().unwrap()).to_owned());
        }
        if is_last {
            break;
        }
        if object["f"] == "x" && object["t"] == "gap" {
            gateway.post("/ws/h?publish-broadcast", text("e")).expect_status(204).await;
        }
    }
    assert!(!received.contains(&"b".to_owned()), "nothing was dropped: {received:?}");
    assert!(received.contains(&"gap".to_owned()), "{received:?}");
}
