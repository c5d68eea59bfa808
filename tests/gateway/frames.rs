//! Frames from clients: what is accepted and which violations close the connection, with which code.

use std::time::Duration;

use crate::support::client::{BINARY, CONTINUATION, PING, PONG, TEXT, frame, head};
use crate::support::{TestGateway, eventually, within_deadline};

const FIN: u8 = 0x80;

/// Returns a frame without a mask.
fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    [head(first, payload.len() as u64, false), payload.to_owned()].concat()
}

/// Returns the head of a frame whose payload is never sent.
fn head_only(first: u8, length: u64) -> Vec<u8> {
    [head(first, length, true), vec![1, 2, 3, 4]].concat()
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(FIN | 8, &[&code.to_be_bytes(), reason].concat())
}

/// Returns violations: description, bytes and expected close code.
fn protocol_violations() -> Vec<(&'static str, Vec<u8>, u16)> {
    let mut breaches = vec![
        ("unmasked text", unmasked(FIN | TEXT, b"x"), 1002),
        ("unmasked ping", unmasked(FIN | PING, b""), 1002),
        ("unmasked close", unmasked(FIN | 8, b"\x03\xe8"), 1002),
        ("first reserved bit", frame(FIN | 0x40 | TEXT, b"x"), 1002),
        ("second reserved bit", frame(FIN | 0x20 | TEXT, b"x"), 1002),
        ("third reserved bit", frame(FIN | 0x10 | TEXT, b"x"), 1002),
        ("reserved bit on a ping", frame(FIN | 0x40 | PING, b"x"), 1002),
        ("continuation of nothing", frame(FIN | CONTINUATION, b"x"), 1002),
        ("open continuation of nothing", frame(CONTINUATION, b"x"), 1002),
        ("text within fragments", [frame(TEXT, b"a"), frame(FIN | TEXT, b"b")].concat(), 1002),
        ("binary within fragments", [frame(BINARY, b"a"), frame(BINARY, b"b")].concat(), 1002),
        ("fragmented ping", frame(PING, b"x"), 1002),
        ("fragmented pong", frame(PONG, b"x"), 1002),
        ("fragmented close", frame(8, b"\x03\xe8"), 1002),
        ("ping of 126 bytes", frame(FIN | PING, &[b'x'; 126]), 1002),
        ("pong of 126 bytes", frame(FIN | PONG, &[b'x'; 126]), 1002),
        ("close of 126 bytes", close(1000, &[b'x'; 124]), 1002),
        ("close of one byte", frame(FIN | 8, b"\x03"), 1002),
        ("close with a reason that is not UTF-8", close(1000, b"\xff\xfe"), 1007),
        ("text that is not UTF-8", frame(FIN | TEXT, b"\xff"), 1007),
        ("text with an overlong slash", frame(FIN | TEXT, b"a\xc0\xafb"), 1007),
        ("text with half a surrogate pair", frame(FIN | TEXT, b"\xed\xa0\x80"), 1007),
        ("text that ends within a character", frame(FIN | TEXT, b"\xc3"), 1007),
        (
            "fragments that are not UTF-8 together",
            [frame(TEXT, b"\xc3"), frame(FIN | CONTINUATION, b"(")].concat(),
            1007,
        ),
        ("one byte more than a mebibyte", head_only(FIN | TEXT, (1 << 20) + 1), 1009),
        ("length 2^40", head_only(FIN | BINARY, 1 << 40), 1009),
        ("length 2^62", head_only(FIN | BINARY, 1 << 62), 1009),
        (
            "fragments of more than a mebibyte together",
            [
                frame(BINARY, &vec![0; 1 << 19]),
                frame(CONTINUATION, &vec![0; 1 << 19]),
                frame(CONTINUATION, b"x"),
            ]
            .concat(),
            1009,
        ),
    ];
    breaches.extend(
        [3, 4, 5, 6, 7, 11, 12, 13, 14, 15].map(|code| ("reserved opcode", frame(FIN | code, b""), 1002)),
    );
    let codes = [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999];
    breaches.extend(codes.map(|code| ("close code that may not be sent", close(code, b""), 1002)));
    breaches
}

#[tokio::test]
async fn every_protocol_violation_is_closed_with_its_code() {
    // A client cannot send a close frame in the middle of another frame.
    let gateway = TestGateway::start_with(&[("server.linger_seconds", "1")]).await;
    let memory = gateway.resident_bytes();
    for (number, (what, bytes, code)) in protocol_violations().into_iter().enumerate() {
        let mut client = gateway.connect("/ws/breach?publish-broadcast").await;
        client.send_raw(&bytes).await;
        within_deadline(&format!("{number} {what}"), async {
            client.expect_close(code).await;
            client.expect_end().await;
        })
        .await;
    }
    let grown = gateway.resident_bytes().saturating_sub(memory);
    assert!(grown < 16 << 20, "grown by {grown} bytes");
}

#[tokio::test]
async fn a_length_with_the_top_bit_set_is_refused_at_once() {
    let gateway = TestGateway::start().await;
    for length in [1 << 63, u64::MAX] {
        let mut client = gateway.connect("/ws/x").await;
        client.send_raw(&head_only(FIN | BINARY, length)).await;
        let message = client.next_message().await;
        let code = message.payload.first_chunk().map(|code| u16::from_be_bytes(*code));
        assert!(message.opcode == 8 && matches!(code, Some(1002 | 1009)), "{message:?}");
        client.expect_end().await;
    }
}

#[tokio::test]
async fn a_length_that_is_not_minimal_is_a_protocol_violation() {
    /// Returns a frame whose length takes `length_bytes` bytes after the second one, masked with zeros.
    fn non_minimal(first: u8, payload: usize, length_bytes: usize) -> Vec<u8> {
        let length = (payload as u64).to_be_bytes();
        let second = if length_bytes == 2 { 126 } else { 127 };
        [&[first, 0x80 | second], &length[8 - length_bytes..], &[0; 4], &vec![b'x'; payload]].concat()
    }
    let gateway = TestGateway::start().await;
    let mut witness = gateway.connect("/ws/long?subscribe-broadcast").await;
    for (first, payload, length_bytes) in [
        (FIN | TEXT, 0, 2),
        (FIN | TEXT, 5, 2),
        (FIN | BINARY, 125, 2),
        (FIN | TEXT, 5, 8),
        (FIN | TEXT, 126, 8),
        (FIN | BINARY, 65_535, 8),
        (FIN | PING, 5, 2),
        (FIN | PONG, 5, 8),
        (FIN | 8, 0, 2),
        (TEXT, 5, 2),
    ] {
        let what = format!("{first:x} with {payload} bytes, written in {length_bytes}");
        // Earlier messages are published, whether or not the violation arrives in the same read.
        let breach = [frame(FIN | TEXT, what.as_bytes()), non_minimal(first, payload, length_bytes)].concat();
        for piece in [breach.len(), 1] {
            if piece == 1 && breach.len() > 1000 {
                continue;
            }
            let mut client = gateway.connect("/ws/long?publish-broadcast").await;
            for piece in breach.chunks(piece) {
                // The server may have closed the socket before the rest of the frame is written.
                let _ = client.try_send_raw(piece).await;
                tokio::task::yield_now().await;
            }
            let reason = client.expect_close(1002).await;
            assert!(reason.contains("minimal"), "{what}: {reason}");
            client.expect_end().await;
            witness.expect_text(&what).await;
        }
    }
    let mut client = gateway.connect("/ws/long?publish-broadcast").await;
    for (payload, length_bytes) in [(126, 2), (65_535, 2), (65_536, 8)] {
        client.send_raw(&non_minimal(FIN | BINARY, payload, length_bytes)).await;
        assert_eq!(witness.next_message().await.payload.len(), payload);
    }
    witness.expect_nothing().await;
}

#[tokio::test]
async fn a_protocol_violation_is_detected_however_its_bytes_are_split() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.connect("/ws/x").await;
    for byte in
        [frame(FIN | TEXT, b"sound"), frame(TEXT, b"\xe2\x82"), frame(FIN | CONTINUATION, b"(")].concat()
    {
        client.send_raw(&[byte]).await;
        tokio::task::yield_now().await;
    }
    client.expect_close(1007).await;
    client.expect_end().await;
}

#[tokio::test]
async fn a_close_frame_is_answered_with_its_code_and_reason() {
    let gateway = TestGateway::start().await;
    let codes = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999];
    for code in codes {
        let mut client = gateway.connect("/ws/x?subscribe-broadcast").await;
        client.send_close(code, "bye, é").await;
        assert_eq!(client.expect_close(code).await, "bye, é");
        client.expect_end().await;
    }
    let mut client = gateway.connect("/ws/x").await;
    client.send_raw(&close(1000, &[b'r'; 123])).await;
    assert_eq!(client.expect_close(1000).await, "r".repeat(123));
    let mut client = gateway.connect("/ws/x").await;
    client.send_raw(&frame(FIN | 8, b"")).await;
    assert_eq!(client.expect_close(1000).await, "");
    client.expect_end().await;
}

#[tokio::test]
async fn pings_are_answered_with_their_payload_and_pongs_ignored() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.connect("/ws/x?subscribe-broadcast").await;
    for payload in [&b""[..], b"x", b"\x00\xff\x80", &[b'p'; 125]] {
        client.send_ping(payload).await;
        client.expect_pong(payload).await;
    }
    client.send_pong(b"unsolicited").await;
    client.send_pong(b"").await;
    client.expect_nothing().await;
}

#[tokio::test]
async fn fragments_are_joined_with_pings_between_them_and_characters_across_them() {
    let gateway = TestGateway::start().await;
    let mut witness = gateway.connect("/ws/f?subscribe-broadcast").await;
    let mut client = gateway.connect("/ws/f?publish-broadcast").await;
    client.send_raw(&frame(TEXT, b"\xe2\x82")).await;
    client.send_ping(b"between").await;
    client.expect_pong(b"between").await;
    client.send_raw(&frame(CONTINUATION, b"")).await;
    client.send_raw(&frame(CONTINUATION, b"\xac ")).await;
    client.send_raw(&frame(FIN | CONTINUATION, b"5")).await;
    witness.expect_text("€ 5").await;
    client.send_raw(&[frame(BINARY, b"\x00"), frame(FIN | CONTINUATION, b"\xff")].concat()).await;
    witness.expect_binary(b"\x00\xff").await;
    client.send_raw(&[frame(TEXT, b""), frame(FIN | CONTINUATION, b"")].concat()).await;
    witness.expect_nothing().await;
    let mut reassembled = String::new();
    client.send_raw(&frame(TEXT, b"0")).await;
    for _ in 0..1000 {
        client.send_raw(&frame(CONTINUATION, b"1")).await;
        reassembled.push('1');
    }
    client.send_raw(&frame(FIN | CONTINUATION, b"2")).await;
    witness.expect_text(&format!("0{reassembled}2")).await;
}

#[tokio::test]
async fn frames_are_read_however_their_bytes_are_split() {
    let gateway = TestGateway::start().await;
    let mut witness = gateway.connect("/ws/p?subscribe-broadcast").await;
    let mut client = gateway.connect("/ws/p?publish-broadcast").await;
    let texts: Vec<_> = (0..40).map(|number| format!("{number} {}", "é".repeat(number * 7))).collect();
    let stream: Vec<u8> = texts.iter().flat_map(|text| frame(FIN | TEXT, text.as_bytes())).collect();
    for piece in stream.chunks(13) {
        client.send_raw(piece).await;
        tokio::task::yield_now().await;
    }
    client.send_raw(&stream).await;
    for text in texts.iter().chain(&texts) {
        witness.expect_text(text).await;
    }
    witness.expect_nothing().await;
}

#[tokio::test]
async fn a_message_of_exactly_the_maximum_size_is_accepted() {
    let gateway = TestGateway::start_with(&[("messages.max_message_bytes", "1000")]).await;
    let mut witness = gateway.connect("/ws/l?subscribe-broadcast").await;
    let mut client = gateway.connect("/ws/l?publish-broadcast").await;
    let text = "x".repeat(1000);
    client.send_text(&text).await;
    witness.expect_text(&text).await;
    client.send_raw(&[frame(TEXT, &[b'y'; 999]), frame(FIN | CONTINUATION, b"y")].concat()).await;
    witness.expect_text(&"y".repeat(1000)).await;
    client.send_text(&"z".repeat(1001)).await;
    client.expect_close(1009).await;
    client.expect_end().await;
    witness.expect_nothing().await;
}

#[tokio::test]
async fn endless_fragments_close_the_connection() {
    let gateway = TestGateway::start_with(&[("messages.max_message_bytes", "1024")]).await;
    for (what, fragment) in [("empty", frame(CONTINUATION, b"")), ("one byte", frame(CONTINUATION, b"x"))] {
        let mut client = gateway.connect("/ws/x?publish-broadcast").await;
        client.send_raw(&frame(TEXT, b"begin")).await;
        let many = fragment.repeat(4000);
        let mut sent = 0;
        // A few hundred kibibytes are far above the limit; writing them fails on a closed connection.
        while sent < 50 && client.try_send_raw(&many).await.is_ok() {
            sent += 1;
        }
        let message = within_deadline("a close frame", client.read_frame()).await;
        if let Ok(Some(message)) = message {
            let code = message.payload.first_chunk().map(|code| u16::from_be_bytes(*code));
            assert!(message.opcode == 8 && matches!(code, Some(1002 | 1009)), "{what}: {message:?}");
        } else {
            assert!(sent < 50, "{what}: {message:?} after everything was taken");
        }
    }
    gateway.expect_log(&["connection ended", "close_code=1009"]).await;
}

#[tokio::test]
async fn a_flood_of_pings_with_unread_pongs_costs_no_memory_and_affects_no_other_client() {
    let gateway = TestGateway::start().await;
    let mut other = gateway.connect("/ws/flood?subscribe-broadcast").await;
    let memory = gateway.resident_bytes();
    let mut client = gateway.request("/ws/flood").receive_buffer(4096).connect().await;
    let pings = frame(FIN | PING, &[b'x'; 125]).repeat(1000);
    let flood = async {
        for sent in 0..300 {
            if client.try_send_raw(&pings).await.is_err() {
                return sent;
            }
        }
        300
    };
    let others = async {
        for _ in 0..20 {
            other.expect_nothing().await;
        }
    };
    let (_, ()) = tokio::join!(flood, others);
    let grown = gateway.resident_bytes().saturating_sub(memory);
    assert!(grown < 16 << 20, "grown by {grown} bytes");
    gateway.expect_log(&["connection ended", "close_code=1013"]).await;
    client.expect_disconnect().await;
}

#[tokio::test]
async fn a_flood_of_pings_with_read_pongs_is_answered_one_by_one() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.connect("/ws/x").await;
    for batch in 0..20_u32 {
        let pings: Vec<u8> =
            (0..500_u32).flat_map(|n| frame(FIN | PING, format!("{batch} {n}").as_bytes())).collect();
        client.send_raw(&pings).await;
        for number in 0..500 {
            client.expect_pong(format!("{batch} {number}").as_bytes()).await;
        }
    }
}

#[tokio::test]
async fn data_after_a_close_frame_is_ignored() {
    let gateway = TestGateway::start().await;
    let mut witness = gateway.connect("/ws/after?subscribe-broadcast").await;
    let mut client = gateway.connect("/ws/after?publish-broadcast").await;
    let before = frame(FIN | TEXT, b"before");
    client.send_raw(&[before, close(1000, b""), frame(FIN | TEXT, b"after"), vec![0xff; 100]].concat()).await;
    client.expect_close(1000).await;
    let _ = client.try_send_raw(&frame(FIN | TEXT, b"later")).await;
    client.expect_end().await;
    witness.expect_text("before").await;
    witness.expect_nothing().await;
}

#[tokio::test]
async fn a_half_closed_client_is_disconnected_after_its_messages_are_published() {
    let gateway = TestGateway::start().await;
    let mut witness = gateway.connect("/ws/half?subscribe-broadcast").await;
    let files = gateway.open_files();
    let mut client = gateway.connect("/ws/half?publish-broadcast&subscribe-broadcast").await;
    client.send_text("last words").await;
    client.half_close().await;
    witness.expect_text("last words").await;
    client.expect_end().await;
    eventually("the socket is closed", || (gateway.open_files() <= files).then_some(())).await;
}

#[tokio::test]
async fn the_close_code_arrives_although_the_client_keeps_sending() {
    let gateway = TestGateway::start().await;
    for _ in 0..10 {
        let mut client = gateway.connect("/ws/x").await;
        client.send_raw(&unmasked(FIN | TEXT, b"x")).await;
        client.send_raw(&vec![0x55; 1 << 20]).await;
        client.expect_close(1002).await;
        client.expect_end().await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_close_its_socket_is_disconnected_after_the_linger() {
    let gateway = TestGateway::start_with(&[("server.linger_seconds", "1")]).await;
    // The readiness probes of the start may still be open.
    let _first = gateway.connect("/ws/x").await;
    let files = eventually("only one client is left", || {
        let files = gateway.open_files();
        (gateway.count_log(&["connection ended"]) >= 1).then_some(files)
    })
    .await;
    let mut clients = Vec::new();
    for bytes in [close(1000, b""), frame(FIN | 3, b"")] {
        let mut client = gateway.connect("/ws/x").await;
        client.send_raw(&bytes).await;
        assert_eq!(client.next_message().await.opcode, 8);
        client.expect_end().await;
        clients.push(client);
    }
    let begun = tokio::time::Instant::now();
    eventually("the sockets are closed", || (gateway.open_files() <= files).then_some(())).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
