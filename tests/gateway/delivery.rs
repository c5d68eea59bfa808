//! Delivery from Redis to clients: content, frame type and order.

use crate::support::client::{BINARY, TEXT};
use crate::support::{RedisServer, TestGateway};

#[tokio::test]
async fn valid_utf8_goes_out_as_text_and_everything_else_as_binary() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.connect("/ws/d?subscribe-broadcast").await;
    for text in ["Hello", "é", "\u{0}\u{7f}", "🐘", " ", "\u{feff}x", "\u{10ffff}", "--heartbeat--"] {
        gateway.publish("broadcast:d", text);
        client.expect_text(text).await;
    }
    for payload in
        [&b"\xff"[..], b"\xc3", b"\xc0\xaf", b"\xed\xa0\x80", b"text\x80", b"\xf4\x90\x80\x80", b"\x00\xff"]
    {
        gateway.publish("broadcast:d", payload);
        client.expect_binary(payload).await;
    }
}

#[tokio::test]
async fn messages_of_every_frame_size_arrive_complete() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.connect("/ws/d?subscribe-broadcast").await;
    for length in [1, 125, 126, 127, 65_535, 65_536, 65_537, 300_000, 3_000_000] {
        let text = "0123456789".repeat(length / 10 + 1)[..length].to_owned();
        gateway.publish("broadcast:d", &text);
        client.expect_text(&text).await;
        let binary = vec![0xee; length];
        gateway.publish("broadcast:d", &binary);
        client.expect_binary(&binary).await;
    }
}

#[tokio::test]
async fn empty_messages_are_neither_relayed_nor_replayed() {
    let gateway = TestGateway::start().await;
    RedisServer::shared().persist(&gateway.channel("broadcast:d"), "");
    let mut client = gateway.connect("/ws/d?subscribe-broadcast").await;
    client.expect_nothing().await;
    gateway.publish("broadcast:d", "");
    gateway.publish("broadcast:d", "next");
    client.expect_text("next").await;
    client.expect_nothing().await;
}

#[tokio::test]
async fn the_persisted_message_comes_first_and_once_to_each_new_client() {
    let gateway = TestGateway::start().await;
    RedisServer::shared().persist(&gateway.channel("broadcast:d"), "kept");
    RedisServer::shared().persist(&gateway.channel("broadcast:b"), b"\xff\x00");
    for _ in 0..3 {
        let mut client = gateway.connect("/ws/d?subscribe-broadcast").await;
        client.expect_text("kept").await;
        client.expect_nothing().await;
    }
    let mut client = gateway.connect("/ws/b?subscribe-broadcast").await;
    client.expect_binary(b"\xff\x00").await;
    let mut only_publishing = gateway.connect("/ws/d?publish-broadcast").await;
    only_publishing.expect_nothing().await;
}

#[tokio::test]
async fn channels_do_not_leak_into_each_other() {
    let gateway = TestGateway::start().await;
    let other = TestGateway::start().await;
    let mut client = gateway.connect("/ws/a?subscribe-broadcast").await;
    let mut similar = gateway.connect("/ws/a/?subscribe-broadcast").await;
    let mut longer = gateway.connect("/ws/ab?subscribe-broadcast").await;
    let mut elsewhere = other.connect("/ws/a?subscribe-broadcast").await;
    let mut silent = gateway.connect("/ws/a?publish-broadcast").await;
    let mut pattern = gateway.connect("/ws/*?subscribe-broadcast").await;
    gateway.publish("broadcast:a", "for a only");
    client.expect_text("for a only").await;
    for other in [&mut similar, &mut longer, &mut elsewhere, &mut silent, &mut pattern] {
        other.expect_nothing().await;
    }
}

/// Publishes messages in one pipeline while clients read, and expects all of them, in order, at each client.
async fn burst(gateway: &TestGateway, clients: usize, count: usize, payload: fn(usize) -> Vec<u8>) {
    let mut readers = Vec::new();
    for _ in 0..clients {
        let mut client = gateway.connect("/ws/burst?subscribe-broadcast").await;
        readers.push(tokio::spawn(async move {
            for number in 0..count {
                let message = client.next_message().await;
                let expected = payload(number);
                assert!(message.payload == expected && message.flags == 0x80, "number {number}: {message:?}");
                assert!(message.opcode == TEXT || message.opcode == BINARY, "{message:?}");
            }
            client.expect_nothing().await;
        }));
    }
    let channel = gateway.channel("broadcast:burst");
    let publishing = tokio::task::spawn_blocking(move || {
        RedisServer::shared().publish_pipelined(&channel, (0..count).map(payload));
    });
    for reader in readers {
        reader.await.unwrap();
    }
    publishing.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_100_000_pipelined_messages_arrives_complete_and_in_order_at_three_clients() {
    let gateway = TestGateway::start_with(&[("anonymous_publish", "false")]).await;
    burst(&gateway, 3, 100_000, |number| format!("message {number}").into_bytes()).await;
    assert_eq!(gateway.count_log(&["WARN"]), 0, "{:#?}", gateway.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_and_binary_of_many_sizes_keep_their_order_in_a_burst() {
    let gateway = TestGateway::start().await;
    burst(&gateway, 2, 3_000, |number| {
        let mut payload = format!("{number} ").into_bytes();
        payload.resize(payload.len() + number % 700, if number % 3 == 0 { 0xff } else { b'x' });
        payload
    })
    .await;
}

#[tokio::test]
async fn bursts_on_several_channels_keep_the_order_of_each() {
    let gateway = TestGateway::start().await;
    let mut first = gateway.connect("/ws/1?subscribe-broadcast").await;
    let mut second = gateway.connect("/ws/2?subscribe-broadcast").await;
    let channels = [gateway.channel("broadcast:1"), gateway.channel("broadcast:2")];
    let texts: Vec<_> = (0..2000).map(|number| number.to_string()).collect();
    let commands: Vec<[&[u8]; 3]> = texts
        .iter()
        .enumerate()
        .map(|(number, text)| [&b"PUBLISH"[..], channels[number / 3 % 2].as_bytes(), text.as_bytes()])
        .collect();
    RedisServer::shared().pipeline(&commands.iter().map(<[&[u8]; 3]>::as_slice).collect::<Vec<_>>());
    for (number, text) in texts.iter().enumerate() {
        if number / 3 % 2 == 0 { &mut first } else { &mut second }.expect_text(text).await;
    }
    first.expect_nothing().await;
    second.expect_nothing().await;
}

#[tokio::test]
async fn a_message_above_max_delivery_bytes_is_dropped_counted_and_logged() {
    let gateway = TestGateway::start_with(&[("messages.max_delivery_bytes", "1000")]).await;
    RedisServer::shared().persist(&gateway.channel("broadcast:kept"), "k".repeat(1001));
    let mut client = gateway.connect("/ws/d?subscribe-broadcast").await;
    let exactly = "x".repeat(1000);
    gateway.publish("broadcast:d", &exactly);
    gateway.publish("broadcast:d", "y".repeat(1001));
    gateway.publish("broadcast:d", "next");
    client.expect_text(&exactly).await;
    client.expect_text("next").await;
    gateway.expect_log(&["WARN", "broadcast:d", "1001"]).await;
    let mut late = gateway.connect("/ws/kept?subscribe-broadcast").await;
    late.expect_nothing().await;
    gateway.expect_log(&["WARN", "broadcast:kept"]).await;
    assert_eq!(gateway.count_log(&["yyyy"]) + gateway.count_log(&["kkkk"]), 0, "no payloads in logs");
    gateway.signal("TERM");
    gateway.expect_log(&["counts", "oversized_deliveries=2"]).await;
}

#[tokio::test]
async fn one_large_message_does_not_close_a_client_that_reads() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.connect("/ws/d?subscribe-broadcast").await;
    let large = "x".repeat(16 << 20);
    gateway.publish("broadcast:d", &large);
    client.expect_text(&large).await;
    client.expect_nothing().await;
}
