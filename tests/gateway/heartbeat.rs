//! The heartbeat: a text that is not published.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::client::{PONG, TEXT, frame};
use crate::support::{RedisServer, TestGateway};

const HEARTBEAT: &str = "--heartbeat--";

async fn gateway_with_heartbeat() -> TestGateway {
    TestGateway::builder().variable("WS4REDIS_HEARTBEAT", HEARTBEAT).start().await
}

#[tokio::test]
async fn a_client_heartbeat_in_text_or_binary_is_answered_and_not_published() {
    let gateway = gateway_with_heartbeat().await;
    let mut client = gateway.connect("/ws/h?publish-broadcast").await;
    let begun = Instant::now();
    for _ in 0..5 {
        client.send_text(HEARTBEAT).await;
        client.expect_text(HEARTBEAT).await;
        client.send_binary(HEARTBEAT.as_bytes()).await;
        client.expect_text(HEARTBEAT).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    client.send_raw(&[frame(TEXT, b"--heart"), frame(0x80, b"beat--")].concat()).await;
    client.expect_text(HEARTBEAT).await;
    client.send_close(1000, "").await;
    client.expect_close(1000).await;
    assert_eq!(RedisServer::shared().get(&gateway.channel("broadcast:h")), None, "nothing was published");
}

#[tokio::test]
async fn a_message_that_only_resembles_the_heartbeat_is_published() {
    let gateway = gateway_with_heartbeat().await;
    let mut client = gateway.connect("/ws/h?publish-broadcast&subscribe-broadcast&echo").await;
    for text in ["--heartbeat-- ", "--HEARTBEAT--", "--heartbeat", "heartbeat"] {
        client.send_text(text).await;
        loop {
            let message = client.next_message().await;
            if message.payload == text.as_bytes() {
                break;
            }
            assert_eq!(message.payload, HEARTBEAT.as_bytes());
        }
    }
}

#[tokio::test]
async fn a_heartbeat_from_redis_is_relayed_like_any_message() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.connect("/ws/h?subscribe-broadcast").await;
    gateway.publish("broadcast:h", HEARTBEAT);
    client.expect_text(HEARTBEAT).await;
    client.expect_nothing().await;
}

#[tokio::test]
async fn without_a_configured_heartbeat_none_is_sent_and_its_text_is_an_ordinary_message() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.connect("/ws/h?publish-broadcast&subscribe-broadcast&echo").await;
    client.send_text(HEARTBEAT).await;
    client.expect_text(HEARTBEAT).await;
    client.expect_nothing().await;
    let kept = RedisServer::shared().get(&gateway.channel("broadcast:h"));
    assert_eq!(kept.as_deref(), Some(HEARTBEAT.as_bytes()), "published and kept");
}

#[tokio::test]
async fn every_client_gets_a_heartbeat_at_least_every_four_seconds() {
    let gateway = gateway_with_heartbeat().await;
    let mut idle = gateway.connect("/ws/h").await;
    let mut subscribed = gateway.connect("/ws/h?subscribe-broadcast").await;
    let mut last = Instant::now();
    for _ in 0..3 {
        idle.expect_text(HEARTBEAT).await;
        assert!(last.elapsed() < Duration::from_secs(5), "{:?}", last.elapsed());
        assert!(last.elapsed() > Duration::from_millis(1500), "{:?}: more than wanted", last.elapsed());
        last = Instant::now();
        subscribed.expect_text(HEARTBEAT).await;
        assert!(last.elapsed() < Duration::from_secs(2), "{:?}", last.elapsed());
    }
}

#[tokio::test]
async fn at_most_one_heartbeat_answer_is_queued_for_a_client_that_does_not_read() {
    let gateway = TestGateway::builder()
        .set("heartbeat", HEARTBEAT)
        .set("server.send_buffer_bytes", "4096")
        .start()
        .await;
    let mut client = gateway.request("/ws/h?publish-broadcast").receive_buffer(2048).connect().await;
    let mut other = gateway.connect("/ws/h?subscribe-broadcast").await;
    let beats = frame(0x81, HEARTBEAT.as_bytes()).repeat(1000);
    for _ in 0..50 {
        client.send_raw(&beats).await;
    }
    // Reads only after the gateway has processed all of them: answers to later ones would count as well.
    client.send_text("all sent").await;
    while other.next_message().await.payload != b"all sent" {}
    client.send_ping(b"the end").await;
    let mut answers = 0;
    loop {
        let frame = client.next_frame().await;
        if frame.opcode == PONG {
            break;
        }
        assert_eq!(frame.payload, HEARTBEAT.as_bytes());
        answers += 1;
    }
    // The kernel's buffers hold the answers that were sent; at most one more is queued.
    assert!((1..10_000).contains(&answers), "{answers} answers to 50,000 heartbeats");
}
