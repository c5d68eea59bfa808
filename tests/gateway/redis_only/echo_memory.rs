//! Echo suppression when Redis delivers own messages late or never: no echo, and no message of others suppressed.

use super::connect_order::behind_proxy;
use crate::support::{Fault, Side, eventually};

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
    // The answer to this close proves that the first publication is acknowledged as well.
    let mut later = gateway.connect("/ws/other?publish-broadcast").await;
    later.send_text("later").await;
    later.send_close(1000, "").await;
    later.expect_close(1000).await;
    // The echo is lost; the recovery reads the value again.
    proxy.cut(Side::Subscriber);
    other.expect_text("mine").await;
    client.expect_nothing().await;
    // The echo that never arrived must not suppress an equal message of another client.
    redis.publish(&key, "mine");
    client.expect_text("mine").await;
}

#[tokio::test]
async fn own_messages_that_waited_for_redis_are_suppressed() {
    let (redis, proxy, gateway) = behind_proxy().await;
    let mut client = gateway.connect("/ws/chat?subscribe-broadcast&publish-broadcast").await;
    let mut monitor = redis.monitor();
    // Commands are held while the subscription is lost: the publication is sent after the reconnect.
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
