//! Smoke test: one message from Redis to a client, one back.

use crate::support::TestGateway;

#[tokio::test]
async fn a_message_travels_from_redis_to_the_client_and_back() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.connect("/ws/chat?subscribe-broadcast&publish-broadcast&echo").await;
    gateway.publish("broadcast:chat", "Hello");
    client.expect_text("Hello").await;
    client.send_text("back").await;
    client.expect_text("back").await;
    client.expect_nothing().await;
}
