//! Concurrent joins and leaves: no message is missed and nothing leaks.

use crate::support::client::TestClient;
use crate::support::{Fault, Proxy, RedisServer, Side, TestGateway, eventually, within_deadline};

async fn wait_until_unsubscribed(redis: &RedisServer, gateway: &TestGateway) {
    eventually("no channel is left", || {
        redis.channels(&gateway.channel("broadcast:")).is_empty().then_some(())
    })
    .await;
}

/// The last client of a channel leaves while the next one joins, repeatedly: every client that joined gets its message.
async fn check_joins_and_leaves(linger: &str, shards: &str) {
    let redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis);
    let gateway = gateway.set("redis.unsubscribe_linger_seconds", linger).set("server.shards", shards);
    let gateway = gateway.start().await;
    let channel = gateway.channel("broadcast:chat");
    let mut last: Option<TestClient> = None;
    for round in 0..300 {
        let request = gateway.request("/ws/chat?subscribe-broadcast");
        let mut client = request.open().await;
        client.send_raw(&request.bytes()).await;
        // Disconnects during the handshake of the next client.
        drop(last.take());
        let response = within_deadline("an answer", client.read_response()).await.unwrap();
        assert_eq!(response.status, 101, "round {round}: {response:?}");
        let message = format!("round {round}");
        assert_eq!(redis.publish(&channel, &message), 1, "round {round}: nobody is subscribed");
        client.expect_text(&message).await;
        last = Some(client);
    }
    drop(last);
    wait_until_unsubscribed(&redis, &gateway).await;
}

#[tokio::test]
async fn a_client_that_joins_while_the_last_one_leaves_misses_nothing() {
    check_joins_and_leaves("2", "1").await;
    check_joins_and_leaves("2", "2").await;
}

#[tokio::test]
async fn a_client_that_joins_while_the_last_one_leaves_misses_nothing_without_linger() {
    check_joins_and_leaves("0", "1").await;
    check_joins_and_leaves("0", "3").await;
}

#[tokio::test]
async fn a_page_reload_within_the_linger_causes_no_unsubscribe() {
    let redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis).start().await;
    let mut monitor = redis.monitor();
    for _ in 0..5 {
        let client = gateway.connect("/ws/chat?subscribe-broadcast").await;
        drop(client);
    }
    let mut commands = Vec::new();
    eventually("the unsubscribe after the linger", || {
        commands.extend(monitor.commands("SUBSCRIBE"));
        commands.iter().any(|command| command.contains("\"UNSUBSCRIBE\"")).then_some(())
    })
    .await;
    assert_eq!(commands.len(), 2, "{commands:?}");
    assert!(commands[0].starts_with("\"SUBSCRIBE\""), "{commands:?}");
}

#[tokio::test]
async fn after_500_connects_and_disconnects_no_files_subscriptions_or_memory_leak() {
    let redis = RedisServer::start();
    let gateway = TestGateway::builder().redis(&redis).set("expire", "0").start().await;
    let storm = || async {
        for round in 0..10 {
            let mut clients = Vec::new();
            for number in 0..50 {
                let target = format!("/ws/room-{number}-{round}?subscribe-broadcast&publish-broadcast");
                clients.push(gateway.connect(&target).await);
            }
            for client in &mut clients {
                client.send_text("hello").await;
            }
            // Half of them disconnect during the handshake or without a close frame.
            for (number, mut client) in clients.into_iter().enumerate() {
                if number % 2 == 0 {
                    client.send_close(1000, "").await;
                    client.expect_close(1000).await;
                }
            }
        }
        wait_until_unsubscribed(&redis, &gateway).await;
    };
    let files = gateway.open_files();
    // The first round fills the allocator's caches; later rounds must not grow the memory.
    storm().await;
    let memory = gateway.resident_bytes();
    storm().await;
    storm().await;
    eventually("the files are closed", || (gateway.open_files() <= files).then_some(())).await;
    let after = gateway.resident_bytes();
    assert!(after < memory + (2 << 20), "{memory} bytes became {after}");
}

#[tokio::test]
async fn messages_of_an_old_subscription_are_not_delivered_after_a_newer_value() {
    let redis = RedisServer::start();
    let proxy = Proxy::to(&redis);
    let gateway = TestGateway::builder().redis(&redis).set("redis.url", &proxy.url());
    let gateway = gateway.set("redis.unsubscribe_linger_seconds", "0").set("server.shards", "1");
    let gateway = gateway.start().await;
    let channel = gateway.channel("broadcast:chat");
    let last = gateway.connect("/ws/chat?subscribe-broadcast").await;
    // The UNSUBSCRIBE is in flight when the next client connects; its SUBSCRIBE has to wait.
    proxy.inject("UNSUBSCRIBE", Fault::HoldCommands);
    drop(last);
    proxy.expect_hit("UNSUBSCRIBE").await;
    let request = gateway.request("/ws/chat?subscribe-broadcast");
    let mut client = request.open().await;
    client.send_raw(&request.bytes()).await;
    gateway.connect("/ws/other").await;
    assert_eq!(redis.publish(&channel, "1"), 1);
    proxy.release();
    proxy.inject("\nSUBSCRIBE", Fault::HoldCommands);
    // The old subscription has ended, the new one has not started.
    eventually("the unsubscribe", || redis.channels(&channel).is_empty().then_some(())).await;
    redis.persist(&channel, "2");
    redis.publish(&channel, "2");
    proxy.release_side(Side::Subscriber);
    proxy.release();
    let response = within_deadline("an answer", client.read_response()).await.unwrap();
    assert_eq!(response.status, 101, "{response:?}");
    client.expect_text("2").await;
    client.expect_nothing().await;
}
