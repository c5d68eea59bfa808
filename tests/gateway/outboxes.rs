//! Outboxes: limits in bytes and time per client, and in bytes for the whole process.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::client::{TEXT, TestClient};
use crate::support::events::SseClient;
use crate::support::redis::{RedisClient, encode};
use crate::support::socket_io::{SocketIoGateway, V3, V4, join, open, text};
use crate::support::{RedisServer, TestGateway, eventually, within_deadline};

const MEBIBYTE: usize = 1 << 20;

/// Publishes from another thread, so that clients can read concurrently.
fn publish_in_background(
    port: u16,
    gateway: &TestGateway,
    count: usize,
    bytes: usize,
) -> std::thread::JoinHandle<()> {
    let channel = gateway.channel("broadcast:chat");
    std::thread::spawn(move || {
        let (mut redis, mut commands) = (RedisClient::to(port), Vec::new());
        encode(&mut commands, &[b"PUBLISH", channel.as_bytes(), &vec![b'x'; bytes]]);
        for batch in 0..count.div_ceil(100) {
            let in_batch = (count - batch * 100).min(100);
            redis.send(&commands.repeat(in_batch));
            (0..in_batch).for_each(|_| assert!(redis.reply().integer() > 0));
        }
    })
}

/// Connects clients that read only the head of their response.
async fn connect_without_reading(gateway: &TestGateway, target: &str, count: usize) -> Vec<TestClient> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = gateway.request(target).receive_buffer(4096).open().await;
        client.send_raw(&gateway.request(target).bytes()).await;
        assert_eq!(client.read_head().await.status, 101);
        clients.push(client);
    }
    clients
}

#[tokio::test]
async fn a_persisted_value_is_in_memory_once_for_any_number_of_slow_clients() {
    let gateway = TestGateway::start().await;
    RedisServer::shared().persist(&gateway.channel("broadcast:kept"), vec![b'x'; MEBIBYTE]);
    let target = "/ws/kept?subscribe-broadcast";
    drop(gateway.connect(target).await);
    let before = gateway.resident_bytes();
    let clients = connect_without_reading(&gateway, target, 60).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(SseClient::open(gateway.stream(target).receive_buffer(4096)).await);
    }
    let taken = gateway.resident_bytes().saturating_sub(before);
    assert!(taken < 20 * MEBIBYTE, "{taken} bytes for one value of a mebibyte");
    let mut reader = gateway.connect(target).await;
    let frame = reader.next_message().await;
    assert!((frame.opcode, frame.payload.len()) == (TEXT, MEBIBYTE), "the value comes whole");
    drop((clients, streams));
    // A later client gets the current value.
    RedisServer::shared().persist(&gateway.channel("broadcast:kept"), "another");
    gateway.connect(target).await.expect_text("another").await;
}

#[tokio::test]
async fn total_memory_of_unread_persisted_values_is_bounded_and_handshakes_above_it_get_503() {
    let settings = [("messages.outbox_total_bytes", "20971520"), ("messages.outbox_hard_bytes", "4194304")];
    let gateway = TestGateway::start_with(&settings).await;
    let mut live = gateway.connect("/ws/live?subscribe-broadcast").await;
    live.expect_nothing().await;
    let before = gateway.resident_bytes();
    let (mut clients, mut refused) = (Vec::new(), None);
    for number in 0..60 {
        // Distinct values, which cannot be shared.
        let target = format!("/ws/kept{number}?subscribe-broadcast");
        let value = [format!("{number:08}").as_bytes(), &vec![b'x'; MEBIBYTE]].concat();
        RedisServer::shared().persist(&gateway.channel(&format!("broadcast:kept{number}")), value);
        let mut client = gateway.request(&target).receive_buffer(4096).open().await;
        client.send_raw(&gateway.request(&target).bytes()).await;
        let head = client.read_head().await;
        match head.status {
            101 => clients.push(client),
            503 => refused = refused.or(Some(head)),
            other => panic!("{other}"),
        }
    }
    let taken = gateway.resident_bytes().saturating_sub(before);
    assert!(taken < 48 * MEBIBYTE, "{taken} bytes where 20 MiB are allowed");
    let refused = refused.expect("a handshake is refused");
    assert_eq!(refused.header("Retry-After"), Some("2"));
    gateway.expect_log(&["WARN", "messages.outbox_total_bytes"]).await;
    // Other clients are served, and new ones as soon as memory is free again.
    live.expect_nothing().await;
    drop(clients);
    let target = "/ws/kept0?subscribe-broadcast";
    within_deadline("a handshake is answered with 101 again", async {
        while gateway.request(target).send().await.0.status != 101 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_active_reader_receives_a_burst_of_200_megabytes() {
    // Disables the output limit of Redis, which would disconnect the gateway first.
    let redis = RedisServer::start_with(&["--client-output-buffer-limit", "pubsub 0 0 0"]);
    for (count, bytes) in [(200, MEBIBYTE), (100_000, 2_000)] {
        let builder = TestGateway::builder().redis(&redis).set("redis.max_pending_bytes", "1073741824");
        let gateway = builder.set("redis.receiver_messages", "1000000").start().await;
        let mut reader = gateway.connect("/ws/chat?subscribe-broadcast").await;
        let publishing = publish_in_background(redis.port(), &gateway, count, bytes);
        for number in 0..count {
            let frame = within_deadline("a message", reader.read_frame()).await.unwrap().unwrap();
            assert_eq!((frame.opcode, frame.payload.len()), (TEXT, bytes), "message {number}");
        }
        publishing.join().unwrap();
        assert_eq!(gateway.count_log(&["close_code=1013"]), 0);
    }
}

#[tokio::test]
async fn a_client_that_catches_up_within_the_allowed_time_gets_everything() {
    let gateway = TestGateway::start().await;
    let mut late = gateway.request("/ws/chat?subscribe-broadcast").receive_buffer(64 * 1024).connect().await;
    let mut reader = gateway.connect("/ws/chat?subscribe-broadcast").await;
    let publishing = publish_in_background(RedisServer::shared().port(), &gateway, 24, MEBIBYTE);
    for _ in 0..24 {
        assert_eq!(reader.next_message().await.payload.len(), MEBIBYTE);
    }
    publishing.join().unwrap();
    for _ in 0..24 {
        assert_eq!(late.next_message().await.payload.len(), MEBIBYTE);
    }
    late.expect_nothing().await;
}

#[tokio::test]
async fn a_client_that_is_behind_for_too_long_is_closed_even_without_new_messages() {
    let gateway = TestGateway::start_with(&[("messages.outbox_seconds", "2")]).await;
    let mut reader = gateway.connect("/ws/chat?subscribe-broadcast").await;
    let _slow = gateway.request("/ws/chat?subscribe-broadcast").receive_buffer(8192).connect().await;
    let begun = Instant::now();
    let publishing = publish_in_background(RedisServer::shared().port(), &gateway, 8, MEBIBYTE);
    for _ in 0..8 {
        reader.next_message().await;
    }
    publishing.join().unwrap();
    gateway.expect_log(&["connection ended", "close_code=1013", "reading too slowly"]).await;
    assert!(begun.elapsed() > Duration::from_millis(900), "closed after {:?} already", begun.elapsed());
    reader.expect_nothing().await;
}

#[tokio::test]
async fn above_the_hard_limit_a_client_is_closed_at_once() {
    let settings = [("messages.outbox_seconds", "600"), ("messages.outbox_hard_bytes", "4194304")];
    let gateway = TestGateway::start_with(&settings).await;
    let mut reader = gateway.connect("/ws/chat?subscribe-broadcast").await;
    let _slow = gateway.request("/ws/chat?subscribe-broadcast").receive_buffer(8192).connect().await;
    // One message at a time: eight at once can exceed the hard limit also for an active reader that is not scheduled
    // in time.
    for _ in 0..16 {
        gateway.publish("broadcast:chat", vec![b'x'; MEBIBYTE]);
        reader.next_message().await;
    }
    gateway.expect_log(&["connection ended", "close_code=1013", "reading too slowly"]).await;
    assert_eq!(gateway.count_log(&["close_code=1013"]), 1);
}

#[tokio::test]
async fn a_client_that_pings_and_never_reads_is_closed_and_uses_little_memory() {
    let gateway = TestGateway::start_with(&[("messages.outbox_seconds", "1")]).await;
    let client = gateway.request("/ws/x").receive_buffer(4096).connect().await;
    let before = gateway.resident_bytes();
    let pings = crate::support::client::frame(0x89, &[b'x'; 100]).repeat(1000);
    let (mut most, mut sent) = (0, 0);
    eventually("it is closed", || {
        // A partial write may end within a frame.
        sent = (sent + client.stream.try_write(&pings[sent..]).unwrap_or(0)) % pings.len();
        most = most.max(gateway.resident_bytes());
        (gateway.count_log(&["close_code=1013"]) > 0).then_some(())
    })
    .await;
    assert!(most < before + 12 * MEBIBYTE, "{before} bytes became {most}");
}

#[tokio::test]
async fn total_outbox_memory_is_bounded_and_active_readers_stay_connected() {
    // Separate channels, so that clients share no queued message.
    let settings = [
        ("messages.outbox_total_bytes", "16777216"),
        ("messages.outbox_hard_bytes", "8388608"),
        ("messages.outbox_seconds", "600"),
    ];
    let gateway = TestGateway::start_with(&settings).await;
    let mut reader = gateway.connect("/ws/reader?subscribe-broadcast").await;
    reader.expect_nothing().await;
    let mut slow = Vec::new();
    for number in 0..40 {
        let target = format!("/ws/slow{number}?subscribe-broadcast");
        slow.push(gateway.request(&target).receive_buffer(4096).connect().await);
    }
    let before = gateway.resident_bytes();
    for number in 0..40 {
        gateway.publish(&format!("broadcast:slow{number}"), vec![b'x'; 2 * MEBIBYTE]);
        reader.expect_nothing().await;
    }
    let taken = gateway.resident_bytes().saturating_sub(before);
    assert!(taken < 48 * MEBIBYTE, "{taken} bytes where 16 MiB are allowed");
    gateway.expect_log(&["WARN", "messages.outbox_total_bytes"]).await;
    gateway.expect_log(&["connection ended", "reading too slowly, outboxes full"]).await;
    reader.expect_nothing().await;
}

#[tokio::test]
async fn a_question_is_in_memory_once_for_any_number_of_slow_clients_and_the_memory_goes_back() {
    let settings = [("server.shards", "2"), ("messages.outbox_seconds", "60")];
    let server = SocketIoGateway::start_with(&settings).await;
    let (mut witness, _) = server.connect("/").await;
    let before = server.gateway.resident_bytes();
    let mut clients = Vec::new();
    for number in 0..60 {
        let target = if number % 10 == 0 { V3 } else { V4 };
        let (mut client, _) = open(server.gateway.request(target).receive_buffer(4096)).await;
        if target == V4 {
            join(&mut client, "/").await;
        }
        clients.push(client);
    }
    let data = "x".repeat(MEBIBYTE);
    for number in 1..=20 {
        server.publish(format!(
            r#"{{"method":"emit","event":"q","data":["{data}"],"binary":false,"namespace":"/","room":null,"skip_sid":null,"callback":["x","/",{number}],"host_id":"host"}}"#
        ));
        assert!(text(&mut witness).await.ends_with("x\"]"));
    }
    let taken = server.gateway.resident_bytes().saturating_sub(before);
    assert!(taken < 150 * MEBIBYTE, "{taken} bytes for 20 questions of a mebibyte to 60 clients");
    drop(clients);
    eventually("the memory goes back", || {
        (server.gateway.resident_bytes() < before + 10 * MEBIBYTE).then_some(())
    })
    .await;
}
