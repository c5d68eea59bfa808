//! Messages that arrive while a subscription of version 2 joins its channels.

use serde_json::json;

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
