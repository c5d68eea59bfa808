//! Echo: whether a client receives its own messages.

use crate::support::{RedisServer, TestGateway};

const SILENT: &str = "/ws/e?subscribe-broadcast&publish-broadcast";
const ECHO: &str = "/ws/e?subscribe-broadcast&publish-broadcast&echo";

#[tokio::test]
async fn with_echo_a_client_gets_its_own_messages_back_once() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.connect(ECHO).await;
    for text in ["one", "two", "two", "one"] {
        client.send_text(text).await;
        client.expect_text(text).await;
    }
    client.send_binary(b"\xff").await;
    client.expect_binary(b"\xff").await;
    client.expect_nothing().await;
}

#[tokio::test]
async fn without_echo_a_client_never_gets_its_own_messages_and_others_do() {
    let gateway = TestGateway::start().await;
    let mut witness = gateway.connect("/ws/e?subscribe-broadcast").await;
    let mut client = gateway.connect(SILENT).await;
    for text in ["one", "two", "two", "one", "A", "B", "A"] {
        client.send_text(text).await;
    }
    for text in ["one", "two", "two", "one", "A", "B", "A"] {
        witness.expect_text(text).await;
    }
    client.expect_nothing().await;
}

#[tokio::test]
async fn an_equal_message_from_another_client_is_delivered() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.connect(SILENT).await;
    let mut witness = gateway.connect("/ws/e?subscribe-broadcast").await;
    client.send_text("same").await;
    witness.expect_text("same").await;
    gateway.publish("broadcast:e", "same");
    gateway.publish("broadcast:e", "same");
    client.expect_text("same").await;
    client.expect_text("same").await;
    client.expect_nothing().await;
}

#[tokio::test]
async fn two_clients_that_publish_equal_messages_receive_only_each_others() {
    let gateway = TestGateway::start().await;
    let mut first = gateway.connect(SILENT).await;
    let mut second = gateway.connect(SILENT).await;
    for _ in 0..20 {
        first.send_text("same").await;
        second.send_text("same").await;
    }
    for _ in 0..20 {
        first.expect_text("same").await;
        second.expect_text("same").await;
    }
    first.expect_nothing().await;
    second.expect_nothing().await;
}

#[tokio::test]
async fn echo_suppression_works_across_two_gateways_on_one_redis() {
    let gateway = TestGateway::start().await;
    let other = TestGateway::builder().namespace(gateway.namespace()).start().await;
    let mut here = gateway.connect(SILENT).await;
    let mut there = other.connect(SILENT).await;
    here.send_text("from here").await;
    there.expect_text("from here").await;
    there.send_text("from there").await;
    here.expect_text("from there").await;
    here.send_text("from there").await;
    there.expect_text("from there").await;
    here.expect_nothing().await;
    there.expect_nothing().await;
}

#[tokio::test]
async fn a_replayed_message_is_not_suppressed_as_an_echo() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.connect(SILENT).await;
    let mut witness = gateway.connect("/ws/e?subscribe-broadcast").await;
    client.send_text("mine").await;
    witness.expect_text("mine").await;
    client.expect_nothing().await;
    let mut again = gateway.connect(SILENT).await;
    again.expect_text("mine").await;
    again.expect_nothing().await;
}

#[tokio::test]
async fn own_messages_are_removed_from_a_burst_and_the_order_is_kept() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.connect(SILENT).await;
    let mut witness = gateway.connect("/ws/e?subscribe-broadcast").await;
    let channel = gateway.channel("broadcast:e");
    let mut expected = Vec::new();
    for round in 0..10 {
        for number in 0..30 {
            client.send_text(&format!("own {round} {number}")).await;
        }
        let texts: Vec<_> = (0..50).map(|number| format!("foreign {round} {number}")).collect();
        RedisServer::shared().publish_pipelined(&channel, &texts);
        expected.extend(texts);
    }
    for text in &expected {
        client.expect_text(text).await;
    }
    let mut own = 0;
    for _ in 0..expected.len() + 300 {
        own += usize::from(witness.next_message().await.payload.starts_with(b"own"));
    }
    assert_eq!(own, 300);
    client.expect_nothing().await;
    witness.expect_nothing().await;
}
