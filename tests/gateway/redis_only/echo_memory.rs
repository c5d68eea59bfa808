//! Own messages that come late, or never, because Redis was lost: none comes back, and none of others is swallowed.

use crate::support::{Fault, Proxy, RedisServer, Side, TestGateway, eventually};

async fn behind_proxy() -> (RedisServer, Proxy, TestGateway) {
    let redis = RedisServer::start();
    let proxy = Proxy::to(&redis);
    let gateway = TestGateway::builder().redis(&redis).set("redis.url", &proxy.url());
    let gateway = gateway.set("server.shards", "1").start().await;
    (redis, proxy, gateway)
}

#[tokio::test]
async fn a_late_own_message_is_suppressed_and_an_equal_one_of_others_is_delivered() {
    let (redis, proxy, gateway) = behind_proxy().await;
    let mut client = gateway.connect("/ws/chat?subscribe-broadcast&publish-broadcast").await;
    proxy.hold_replies(Side::Subscriber);
    client.send_text("same").await;
    let key = gateway.channel("broadcast:chat");
    eventually("the publication", || redis.get(&key)).await;
    redis.publish(&key, "same");
    redis.publish(&key, "other");
    proxy.release();
    client.expect_text("same").await;
    client.expect_text("other").await;
    client.expect_nothing().await;
}

#[tokio::test]
async fn an_own_message_read_again_after_a_connection_loss_is_suppressed() {
    let (redis, proxy, gateway) = behind_proxy().await;
    let mut client = gateway.connect("/ws/chat?subscribe-broadcast&publish-broadcast").await;
    let mut other = gateway.connect("/ws/chat?subscribe-broadcast").await;
    proxy.hold_replies(Side::Subscriber);
    client.send_text("mine").await;
    let key = gateway.channel("broadcast:chat");
    eventually("the publication", || redis.get(&key)).await;
    // A close is answered after the acknowledgements before it: the first message has its own, too.
    let mut later = gateway.connect("/ws/other?publish-broadcast").await;
    later.send_text("later").await;
    later.send_close(1000, "").await;
    later.expect_close(1000).await;
    // Its echo is lost on the way; its value is read again.
    proxy.cut(Side::Subscriber);
    other.expect_text("mine").await;
    client.expect_nothing().await;
    // What was waited for in vain does not swallow what somebody else says.
    redis.publish(&key, "mine");
    client.expect_text("mine").await;
}

#[tokio::test]
async fn own_messages_that_waited_for_redis_are_suppressed() {
    let (redis, proxy, gateway) = behind_proxy().await;
    let mut client = gateway.connect("/ws/chat?subscribe-broadcast&publish-broadcast").await;
    let mut monitor = redis.monitor();
    // The store is held while the subscription is lost: what is published now goes out after the reconnect.
    proxy.inject("SETEX", Fault::HoldCommands);
    client.send_text("waited").await;
    proxy.expect_hit("SETEX").await;
    proxy.cut(Side::Subscriber);
    eventually("redis is connected again", || (gateway.count_log(&["redis connected"]) == 2).then_some(()))
        .await;
    proxy.release();
    let mut published = Vec::new();
    eventually("the publication", || {
        published.extend(monitor.commands("\"PUBLISH\""));
        (!published.is_empty()).then_some(())
    })
    .await;
    client.expect_nothing().await;
}
