//! Clients that read slowly or not at all: their memory is bounded, they get a reason, and no other client waits.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use crate::support::client::{CLOSE, TEXT, TestClient, head};
use crate::support::events::SseClient;
use crate::support::{TestGateway, eventually, within_deadline};

const MEBIBYTE: usize = 1 << 20;

/// Returns a message of this size that starts with its number.
fn numbered(number: usize, bytes: usize) -> String {
    format!("{number:08}{}", "x".repeat(bytes - 8))
}

/// Returns the same message as a frame from the server.
fn framed(number: usize, bytes: usize) -> Vec<u8> {
    let mut frame = head(0x80 | TEXT, bytes as u64, false);
    frame.extend_from_slice(numbered(number, bytes).as_bytes());
    frame
}

fn number_of(payload: &[u8]) -> usize {
    std::str::from_utf8(&payload[..8]).unwrap().parse().unwrap()
}

/// Publishes messages and expects them, in order, at these clients.
async fn publish_to(
    gateway: &TestGateway,
    readers: &mut [TestClient],
    numbers: std::ops::Range<usize>,
    bytes: usize,
) {
    let messages: Vec<_> = numbers.clone().map(|number| numbered(number, bytes)).collect();
    crate::support::RedisServer::shared().publish_pipelined(&gateway.channel("broadcast:chat"), &messages);
    for reader in readers {
        for message in &messages {
            reader.expect_text(message).await;
        }
    }
}

/// Reads until a close frame or EOF. Returns the payloads and the close code, if any.
async fn read_to_the_end(client: &mut TestClient) -> (Vec<Vec<u8>>, Option<u16>) {
    let mut payloads = Vec::new();
    loop {
        match within_deadline("the end", client.read_frame()).await {
            Ok(Some(frame)) if frame.opcode == TEXT => payloads.push(frame.payload),
            Ok(Some(frame)) => {
                assert_eq!(frame.opcode, CLOSE);
                let code = u16::from_be_bytes([frame.payload[0], frame.payload[1]]);
                // Only EOF may follow a close frame.
                assert!(!matches!(within_deadline("the end", client.read_frame()).await, Ok(Some(_))));
                return (payloads, Some(code));
            }
            Ok(None) | Err(_) => return (payloads, None),
        }
    }
}

/// Connects a client that does not read until told to. Its receive buffer exceeds the largest loopback segment: with a
/// smaller one the sender waits for TCP timers, and reading later takes very long.
async fn connect_paused_reader(gateway: &TestGateway) -> TestClient {
    gateway.request("/ws/chat?subscribe-broadcast").receive_buffer(128 * 1024).connect().await
}

#[tokio::test]
async fn a_client_that_never_reads_is_closed_while_others_get_200_megabytes_and_memory_stays_bounded() {
    const BYTES: usize = 64 * 1024;
    let gateway = TestGateway::start_with(&[("messages.outbox_hard_bytes", "8388608")]).await;
    let mut readers = Vec::new();
    for _ in 0..3 {
        readers.push(gateway.connect("/ws/chat?subscribe-broadcast").await);
    }
    publish_to(&gateway, &mut readers, 0..8, BYTES).await;
    let (memory, files) = (gateway.resident_bytes(), gateway.open_files());
    let mut slow = connect_paused_reader(&gateway).await;
    let mut most = 0;
    for window in 1..400 {
        publish_to(&gateway, &mut readers, window * 8..(window + 1) * 8, BYTES).await;
        most = most.max(gateway.resident_bytes());
    }
    assert!(most < memory + 24 * MEBIBYTE, "{memory} bytes became {most}");
    gateway.expect_log(&["connection ended", "close_code=1013", "reading too slowly"]).await;
    eventually("its socket is dropped", || (gateway.open_files() <= files).then_some(())).await;
    // The kernel still holds the start of the published messages, possibly followed by the close frame.
    let mut bytes = Vec::new();
    let mut part = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = within_deadline("the end", slow.stream.read(&mut part)).await {
        bytes.extend_from_slice(&part[..count]);
    }
    let published: Vec<u8> = (8..40).flat_map(|number| framed(number, BYTES)).collect();
    let messages = bytes.strip_suffix(b"\x88\x14\x03\xf5reading too slowly").unwrap_or(&bytes);
    assert!(published.starts_with(messages), "{} bytes that are no whole frames in order", bytes.len());
}

#[tokio::test]
async fn a_slow_client_that_resumes_gets_the_rest_of_the_current_frame_and_then_1013() {
    let gateway = TestGateway::start_with(&[("messages.outbox_hard_bytes", "8388608")]).await;
    let mut readers = [gateway.connect("/ws/chat?subscribe-broadcast").await];
    let mut slow = connect_paused_reader(&gateway).await;
    for number in 0..4 {
        publish_to(&gateway, &mut readers, number..number + 1, 5 * MEBIBYTE).await;
    }
    let (payloads, code) = read_to_the_end(&mut slow).await;
    assert_eq!(code, Some(1013));
    assert_eq!(payloads.len(), 1, "what was queued behind the first is discarded");
    assert_eq!(payloads[0], numbered(0, 5 * MEBIBYTE).into_bytes());
}

#[tokio::test]
async fn one_large_message_closes_no_client_and_the_limit_applies_from_the_second() {
    let gateway = TestGateway::start().await;
    let mut readers = [gateway.connect("/ws/chat?subscribe-broadcast").await];
    let mut later = connect_paused_reader(&gateway).await;
    publish_to(&gateway, &mut readers, 0..1, 5 * MEBIBYTE).await;
    // Together just below the limit.
    for number in 1..10 {
        publish_to(&gateway, &mut readers, number..number + 1, 100 * 1024).await;
    }
    later.expect_text(&numbered(0, 5 * MEBIBYTE)).await;
    for number in 1..10 {
        later.expect_text(&numbered(number, 100 * 1024)).await;
    }
    later.expect_nothing().await;
}

#[tokio::test]
async fn a_slow_client_that_may_lose_messages_gets_the_newest_in_order_and_stays() {
    const BYTES: usize = 32 * 1024;
    // On one shard: another shard than the readers' could lag, and a lagging shard drops longer runs.
    let settings =
        [("messages.when_slow", "drop-oldest"), ("messages.outbox_seconds", "0"), ("server.shards", "1")];
    let gateway = TestGateway::start_with(&settings).await;
    let mut readers = [gateway.connect("/ws/chat?subscribe-broadcast").await];
    let mut slow = connect_paused_reader(&gateway).await;
    for window in 0..25 {
        publish_to(&gateway, &mut readers, window * 8..(window + 1) * 8, BYTES).await;
    }
    let mut numbers = Vec::new();
    while numbers.last() != Some(&199) {
        let frame = slow.next_message().await;
        assert_eq!((frame.opcode, frame.payload.len()), (TEXT, BYTES));
        numbers.push(number_of(&frame.payload));
    }
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    assert!(numbers.len() < 190, "nothing was dropped, so nothing was tested");
    assert!(
        numbers.iter().rev().take(20).rev().copied().eq(180..200),
        "the newest were dropped: {numbers:?}"
    );
    slow.expect_nothing().await;
    assert_eq!(gateway.count_log(&["close_code=1013"]), 0);
}

#[tokio::test]
async fn a_slow_reader_within_the_limits_gets_everything() {
    let gateway = TestGateway::start().await;
    let mut readers = [gateway.connect("/ws/chat?subscribe-broadcast").await];
    let mut slow = connect_paused_reader(&gateway).await;
    publish_to(&gateway, &mut readers, 0..110, 10 * 1024).await;
    let mut bytes = Vec::new();
    // Reads small pieces, so that writes of the gateway end within frames.
    while bytes.len() < 110 * (10 * 1024 + 4) {
        let mut part = [0; 1000];
        let count = within_deadline("more bytes", slow.stream.read(&mut part)).await.unwrap();
        assert!(count > 0, "closed after {} bytes", bytes.len());
        bytes.extend_from_slice(&part[..count]);
    }
    let expected: Vec<u8> = (0..110).flat_map(|number| framed(number, 10 * 1024)).collect();
    assert!(bytes == expected, "frames are torn, or out of order");
    slow.expect_nothing().await;
}

#[tokio::test]
async fn large_messages_for_clients_that_do_not_read_use_little_memory() {
    let gateway = TestGateway::start().await;
    let mut reader = [gateway.connect("/ws/chat?subscribe-broadcast").await];
    let mut quiet = gateway.connect("/ws/quiet?subscribe-broadcast").await;
    let memory = gateway.resident_bytes();
    let mut slow = Vec::new();
    for _ in 0..500 {
        slow.push(gateway.request("/ws/chat?subscribe-broadcast").receive_buffer(8192).connect().await);
    }
    let mut most = 0;
    for number in 0..20 {
        publish_to(&gateway, &mut reader, number..number + 1, MEBIBYTE).await;
        most = most.max(gateway.resident_bytes());
    }
    assert!(most < memory + 40 * MEBIBYTE, "{memory} bytes became {most}");
    quiet.expect_nothing().await;
    eventually("all slow ones are closed", || (gateway.count_log(&["close_code=1013"]) == 500).then_some(()))
        .await;
}

#[tokio::test]
async fn a_large_event_that_hundreds_do_not_read_delays_no_other_client() {
    let gateway = TestGateway::start_with(&[("server.shards", "1")]).await;
    let mut streams = Vec::new();
    for _ in 0..200 {
        let request = gateway.stream("/ws/large?subscribe-broadcast").receive_buffer(4096);
        streams.push(SseClient::open(request).await);
    }
    let mut other = gateway.connect("/ws/other?subscribe-broadcast").await;
    gateway.publish("broadcast:large", "x".repeat(4 * MEBIBYTE));
    let (begun, mut longest) = (Instant::now(), Duration::ZERO);
    while begun.elapsed() < Duration::from_secs(3) {
        let published = Instant::now();
        gateway.publish("broadcast:other", "hello");
        other.expect_text("hello").await;
        longest = longest.max(published.elapsed());
    }
    assert!(longest < Duration::from_secs(2), "{longest:?}");
    drop(streams);
}
