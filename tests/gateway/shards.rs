//! Delivery by one or several shards: every message once and in order.

use crate::support::client::{TEXT, TestClient};
use crate::support::{RedisServer, TestGateway, within_deadline};

async fn gateway(shards: &str) -> TestGateway {
    TestGateway::start_with(&[("server.shards", shards), ("anonymous_publish", "false")]).await
}

/// Expects these messages, in this order.
async fn expect_all(client: &mut TestClient, messages: impl Iterator<Item = String>) {
    for message in messages {
        let frame = client.next_message().await;
        assert!(
            frame.opcode == TEXT && frame.payload == message.as_bytes(),
            "{} instead of {message}",
            String::from_utf8_lossy(&frame.payload)
        );
    }
}

#[tokio::test]
async fn clients_are_distributed_evenly() {
    const CLIENTS: usize = 120;
    let gateway = gateway("3").await;
    let before = gateway.epoll_registrations();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(gateway.connect("/ws/even?subscribe-broadcast").await);
    }
    let more = gateway
        .epoll_registrations()
        .into_iter()
        .map(|(poller, now)| now - before.get(&poller).unwrap_or(&0).min(&now));
    let more: Vec<_> = more.filter(|more| *more > 0).collect();
    // The readiness probes of the start may have closed meanwhile.
    let even = CLIENTS / 3 - 2..=CLIENTS / 3 + 2;
    assert!(!more.is_empty() && more.iter().all(|more| even.contains(more)), "{more:?} of {CLIENTS}");
}

/// 1,000 clients on one channel and 1,000 on separate channels, under load at the same time.
async fn check_many_clients(shards: &str) {
    const CLIENTS: usize = 1000;
    const COMMON: usize = 100;
    const OWN: usize = 5;
    let gateway = gateway(shards).await;
    let (mut together, mut alone) = (Vec::new(), Vec::new());
    for number in 0..CLIENTS {
        together.push(gateway.connect("/ws/common?subscribe-broadcast").await);
        alone.push(gateway.connect(&format!("/ws/own-{number}?subscribe-broadcast")).await);
    }
    let namespace = gateway.namespace().to_owned();
    let publishing = std::thread::spawn(move || {
        let redis = RedisServer::shared();
        for round in 0..OWN {
            let common = (0..COMMON / OWN).map(|index| format!("common {}", round * (COMMON / OWN) + index));
            redis.publish_pipelined(&format!("{namespace}:broadcast:common"), common);
            for number in 0..CLIENTS {
                let channel = format!("{namespace}:broadcast:own-{number}");
                redis.publish(&channel, format!("own {number} {round}"));
            }
        }
    });
    for client in &mut together {
        expect_all(client, (0..COMMON).map(|index| format!("common {index}"))).await;
    }
    for (number, client) in alone.iter_mut().enumerate() {
        expect_all(client, (0..OWN).map(|round| format!("own {number} {round}"))).await;
    }
    publishing.join().unwrap();
    for client in together.iter_mut().take(3).chain(alone.iter_mut().take(3)) {
        client.expect_nothing().await;
    }
    assert_eq!(gateway.count_log(&["WARN"]), 0);
}

#[tokio::test]
async fn shared_and_separate_facilities_with_a_thousand_clients_each_work_with_one_shard() {
    check_many_clients("1").await;
}

#[tokio::test]
async fn shared_and_separate_facilities_with_a_thousand_clients_each_work_with_three_shards() {
    check_many_clients("3").await;
}

/// Publishes 100,000 messages in one pipeline to clients on every shard.
async fn check_burst(shards: &str) {
    const MESSAGES: usize = 100_000;
    let gateway = gateway(shards).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(gateway.connect("/ws/chat?subscribe-broadcast").await);
    }
    let channel = gateway.channel("broadcast:chat");
    let publishing = std::thread::spawn(move || {
        let messages = (0..MESSAGES).map(|number| number.to_string());
        RedisServer::shared().publish_pipelined(&channel, messages);
    });
    let mut reading = tokio::task::JoinSet::new();
    for mut client in clients {
        reading.spawn(async move {
            for number in 0..MESSAGES {
                let frame = client.next_message().await;
                assert_eq!(frame.payload, number.to_string().as_bytes(), "at message {number}");
            }
            client.expect_nothing().await;
        });
    }
    while let Some(read) = within_deadline("all messages", reading.join_next()).await {
        read.unwrap();
    }
    publishing.join().unwrap();
    assert_eq!(gateway.count_log(&["WARN"]), 0);
}

#[tokio::test]
async fn a_burst_of_100_000_messages_arrives_complete_and_in_order_from_one_shard() {
    check_burst("1").await;
}

#[tokio::test]
async fn a_burst_of_100_000_messages_arrives_complete_and_in_order_from_two_shards() {
    check_burst("2").await;
}
