//! Engine.IO by polling, and the upgrade to a WebSocket.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::client::TestClient;
use crate::support::sessions::{john, session_key};
use crate::support::socket_io::{POLL_V3, POLL_V4, SocketIoGateway, open, text};
use crate::support::within_deadline;

/// Returns the packets that answer a poll.
async fn body(waiting: &mut TestClient) -> String {
    let answer = within_deadline("the answer to a poll", waiting.read_response()).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

#[tokio::test]
async fn packets_travel_both_ways_on_any_connection() {
    let server = SocketIoGateway::start_with(&[("server.shards", "4")]).await;
    for _ in 0..4 {
        let (client, sid) = server.connect_polling().await;
        let mut waiting = client.begin_poll().await;
        server.emit("/", &format!("{sid:?}"), "\"ż\"");
        assert_eq!(body(&mut waiting).await, "42[\"e\",\"ż\"]");
        server.emit("/", &format!("{sid:?}"), "1");
        server.publish(format!(
            r#"{{"method": "emit", "event": "f", "data": [[{{"_placeholder": true, "num": 0}}], "AAH/"], "binary": true, "room": {sid:?}}}"#
        ));
        let mut packets = client.poll().await;
        while !packets.contains("AAH/") {
            packets = format!("{packets}\u{1e}{}", client.poll().await);
        }
        assert_eq!(packets, "42[\"e\",1]\u{1e}451-[\"f\",{\"_placeholder\":true,\"num\":0}]\u{1e}bAAH/");
        let answer = client.post("451-[\"f\",{\"_placeholder\":true,\"num\":0}]").expect_status(200).await;
        assert_eq!((answer.body.as_str(), answer.header("content-type")), ("ok", Some("text/html")));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        client.post("bAAH/\u{1e}40/chat,\u{1e}3").expect_status(200).await;
        let answer = client.get().expect_status(200).await;
        assert!(answer.body.starts_with("40/chat,{"), "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=UTF-8"));
    }
}

#[tokio::test]
async fn clients_of_protocol_3_get_ascii_with_lengths_and_base64_or_binary() {
    let server = SocketIoGateway::start().await;
    let (client, rest) = server.open_polling(&format!("{POLL_V3}&b64=1")).await;
    let rest = if rest.is_empty() { client.poll().await } else { rest };
    assert_eq!(rest, "2:40");
    server.emit("/", "null", "\"ż€\"");
    let expected = r#"42["e","\u017c\u20ac"]"#;
    assert_eq!(client.poll().await, format!("{}:{expected}", expected.len()));
    let binary = r#"{"method": "emit", "event": "f", "data": [[{"_placeholder": true, "num": 0}], "AAEC"], "binary": true}"#;
    server.publish(binary);
    let event = r#"451-["f",{"_placeholder":true,"num":0}]"#;
    assert_eq!(client.poll().await, format!("{}:{event}6:b4AAEC", event.len()));
    client.post("1:2").expect_status(200).await;
    assert_eq!(client.poll().await, "1:3");
    client.post("11:42[\"ż\",\"€\"]").expect_status(200).await;
    let (client, _) = server.open_polling(POLL_V3).await;
    server.publish(binary);
    let answer = loop {
        let answer = client.get().expect_status(200).await;
        if answer.body.contains("451-") {
            break answer;
        }
    };
    assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
    let body = [b"\x00\x03\x09\xff", event.as_bytes(), b"\x01\x04\xff\x04\x00\x01\x02"].concat();
    assert_eq!(answer.body, String::from_utf8_lossy(&body));
}

#[tokio::test]
async fn a_poll_takes_a_megabyte_of_messages_and_the_next_one_goes_on() {
    let server = SocketIoGateway::start_with(&[("server.shards", "1")]).await;
    let (client, _) = server.connect_polling().await;
    let (mut witness, _) = server.connect("/").await;
    for number in 0..5 {
        server.emit("/", "null", &format!("\"{number}{}\"", "x".repeat(400_000)));
    }
    for _ in 0..5 {
        text(&mut witness).await;
    }
    let mut numbers = Vec::new();
    for _ in 0..3 {
        let packets = client.poll().await;
        let number = |packet: &str| packet.strip_prefix("42[\"e\",\"").unwrap()[..1].to_owned();
        numbers.push(packets.split('\u{1e}').map(number).collect::<String>());
    }
    assert_eq!(numbers, ["01", "23", "4"]);
}

#[tokio::test]
async fn a_session_ends_by_a_second_poll_a_breach_or_its_client() {
    let server = SocketIoGateway::start().await;
    let gone = |client: &crate::support::socket_io::PollingClient| client.get();
    // A second poll.
    let (client, _) = server.connect_polling().await;
    let mut first = client.begin_poll().await;
    let second = client.get().expect_status(400).await;
    assert_eq!(body(&mut first).await, "1", "{second:?}");
    gone(&client).expect_status(400).await;
    // Its client.
    let (client, _) = server.connect_polling().await;
    let mut waiting = client.begin_poll().await;
    client.post("1").expect_status(200).await;
    assert_eq!(body(&mut waiting).await, "6");
    let answer = gone(&client).expect_status(400).await;
    assert!(answer.body.contains(r#""code":1"#), "{answer:?}");
    // A poll that crosses the end of its session is answered.
    let (client, _) = server.connect_polling().await;
    client.post("1").expect_status(200).await;
    client.post("3").expect_status(400).await;
    assert_eq!(client.poll().await, "6");
    gone(&client).expect_status(400).await;
    // A breach.
    for body in [&b"x"[..], b"", b"\xff", b"42", b"4", b"2", b"3\x1e", b"bx"] {
        let (client, _) = server.connect_polling().await;
        client.post(body).expect_status(400).await;
        gone(&client).expect_status(400).await;
    }
    let (client, _) = server.connect_polling().await;
    client.post("3").with("Content-Type", "application/octet-stream").expect_status(400).await;
    gone(&client).expect_status(400).await;
    // A client that breaks off its poll.
    let (client, _) = server.connect_polling().await;
    drop(client.begin_poll().await);
    within_deadline("the end of the session", async {
        while client.post("3").send().await.0.status != 400 {}
    })
    .await;
    assert!(gone(&client).expect_status(400).await.body.contains(r#""code":1"#));
    let (client, _) = server.connect_polling().await;
    client.get().method("PUT").expect_status(400).await;
    let other = server.gateway.stream(&format!("{POLL_V3}&sid={}", client.sid)).without("Accept");
    assert!(other.expect_status(400).await.body.contains(r#""code":3"#));
}

#[tokio::test]
async fn a_second_post_at_a_time_ends_the_session_and_so_does_one_that_is_cut_off() {
    let server = SocketIoGateway::start_with(&[("server.shards", "4")]).await;
    let unfinished = |client: &crate::support::socket_io::PollingClient| {
        client.get().method("POST").with("Content-Length", "9").followed_by(b"42[")
    };
    for _ in 0..4 {
        let (client, _) = server.connect_polling().await;
        let request = unfinished(&client);
        let mut first = request.open().await;
        first.send_raw(&request.bytes()).await;
        // Nothing tells when the head of the first one has been read.
        let refused = within_deadline("the refusal of the second post", async {
            loop {
                let answer = client.post("3").send().await.0;
                if answer.status == 400 {
                    break answer;
                }
            }
        })
        .await;
        assert!(refused.body.contains(r#""code":3"#), "{refused:?}");
        assert!(client.get().expect_status(400).await.body.contains(r#""code":1"#));

        let (client, _) = server.connect_polling().await;
        let request = unfinished(&client);
        let mut connection = request.open().await;
        connection.send_raw(&request.bytes()).await;
        drop(connection);
        // The answer to a poll that comes before the end says so.
        within_deadline("the end of the session", async {
            while client.get().send().await.0.status != 400 {}
        })
        .await;
    }
}

#[tokio::test]
async fn a_large_post_is_413_and_silent_sessions_end() {
    let server = SocketIoGateway::start_with(&[
        ("socketio.max_payload_bytes", "1024"),
        ("socketio.ping_interval_ms", "300"),
        ("socketio.ping_timeout_ms", "200"),
    ])
    .await;
    let (client, _) = server.open_polling(POLL_V4).await;
    client.post("x".repeat(1025)).expect_status(413).await;
    client.get().expect_status(400).await;
    let (client, _) = server.open_polling(POLL_V4).await;
    for _ in 0..3 {
        assert_eq!(client.poll().await, "2");
        client.post("3").expect_status(200).await;
    }
    // A poll of another protocol is refused before the session's silence is considered.
    let other = server.gateway.stream(&format!("{POLL_V3}&sid={}", client.sid)).without("Accept");
    within_deadline("the end of the silent session", async {
        while !other.clone().expect_status(400).await.body.contains(r#""code":1"#) {}
    })
    .await;
    let answer = client.get().expect_status(400).await;
    assert!(answer.body.contains(r#""code":1"#), "{answer:?}");
}

#[tokio::test]
async fn the_session_cookie_of_the_handshake_is_needed_and_foreign_pages_are_refused() {
    let server = SocketIoGateway::start().await;
    let cookie = john(&session_key());
    let request = server.gateway.stream(POLL_V4).without("Accept").with("Cookie", &cookie);
    let foreign = request.clone().with("Sec-Fetch-Site", "cross-site");
    assert!(foreign.expect_status(403).await.body.contains(r#""code":4"#));
    request.clone().with("Origin", "https://evil.example").expect_status(403).await;
    let answer = request.clone().with("Sec-Fetch-Site", "same-origin").expect_status(200).await;
    let sid = answer.body.split('"').nth(3).unwrap().to_owned();
    let target = format!("{POLL_V4}&sid={sid}");
    let with = |cookie: &str| {
        let request = server.gateway.stream(&target).without("Accept").method("POST");
        request.with("Cookie", cookie).with("Content-Length", "1").followed_by(b"3")
    };
    for other in ["x=y", &john(&session_key())] {
        assert!(with(other).expect_status(400).await.body.contains(r#""code":1"#));
    }
    with(&cookie).expect_status(200).await;
}

#[tokio::test]
async fn an_upgrade_loses_nothing_and_keeps_the_order() {
    let server = SocketIoGateway::start_with(&[("server.shards", "4")]).await;
    for round in 0..6 {
        let (client, sid) = server.connect_polling().await;
        let room = format!("{sid:?}");
        server.emit("/", &room, "0");
        assert_eq!(client.poll().await, "42[\"e\",0]");
        let waiting = client.get().send();
        let upgraded = async {
            let mut socket = client.upgrade(&server).connect().await;
            client.upgrade(&server).expect_status(400).await;
            socket.send_text("2probe").await;
            socket.expect_text("3probe").await;
            socket
        };
        let ((answer, _), mut socket) = tokio::join!(waiting, upgraded);
        assert_eq!(answer.body, "6");
        for number in 1..50 {
            server.emit("/", &room, &number.to_string());
        }
        // What is taken by a last poll is not sent again.
        let mut next = 1;
        if round % 2 == 0 {
            let body = client.poll().await;
            if body != "6" {
                for packet in body.split('\u{1e}') {
                    assert_eq!(packet, format!("42[\"e\",{next}]"));
                    next += 1;
                }
            }
        }
        socket
            .send_raw(
                &[
                    crate::support::client::frame(0x81, b"5"),
                    crate::support::client::frame(0x81, b"40/chat,"),
                ]
                .concat(),
            )
            .await;
        for number in 50..60 {
            server.emit("/", &room, &number.to_string());
        }
        let mut joined = false;
        while next < 60 || !joined {
            let text = text(&mut socket).await;
            if text.starts_with("40/chat,") {
                joined = true;
            } else {
                assert_eq!(text, format!("42[\"e\",{next}]"));
                next += 1;
            }
        }
        client.get().expect_status(400).await;
        client.post("3").expect_status(400).await;
        client.upgrade(&server).expect_status(400).await;
        socket.send_text("41").await;
        socket.send_close(1000, "").await;
        socket.expect_close(1000).await;
    }
}

#[tokio::test]
async fn a_failed_upgrade_leaves_the_session_to_polling() {
    let server = SocketIoGateway::start_with(&[("socketio.upgrade_seconds", "1")]).await;
    let (client, sid) = server.connect_polling().await;
    let mut socket = client.upgrade(&server).connect().await;
    socket.send_text("40").await;
    socket.expect_close(1002).await;
    let mut socket = within_deadline("another upgrade", async {
        loop {
            let (answer, socket) = client.upgrade(&server).send().await;
            if answer.status == 101 {
                break socket;
            }
        }
    })
    .await;
    socket.send_text("2probe").await;
    socket.expect_text("3probe").await;
    socket.expect_close(1008).await;
    server.emit("/", &format!("{sid:?}"), "1");
    let mut answer = client.poll().await;
    while answer == "6" {
        answer = client.poll().await;
    }
    assert_eq!(answer, "42[\"e\",1]");
}

#[tokio::test]
async fn a_client_whose_probe_gets_no_answer_polls_at_most_ten_times_a_second() {
    let server = SocketIoGateway::start().await;
    let (client, _) = server.connect_polling().await;
    let mut socket = client.upgrade(&server).connect().await;
    socket.send_text("2probe").await;
    let since = Instant::now();
    let mut polls = 0;
    while since.elapsed() < Duration::from_millis(500) {
        assert_eq!(client.poll().await, "6");
        polls += 1;
    }
    assert!(polls <= 7, "{polls}");
}

#[tokio::test]
async fn a_poll_of_an_unknown_session_is_no_refused_handshake() {
    let mut server = SocketIoGateway::start().await;
    // Those that came before Redis was connected.
    let refused = server.gateway.count_log(&["request refused", "status=503"]);
    let (client, _) = server.connect_polling().await;
    client.post("1").expect_status(200).await;
    assert_eq!(client.poll().await, "6");
    client.get().expect_status(400).await;
    server.gateway.signal("TERM");
    assert!(server.gateway.expect_exit().await.success());
    let counted = server.gateway.count_log(&[&format!("refused_handshakes={refused}")]);
    let others = server.gateway.count_log(&["refused_handshakes"]) - counted;
    assert_eq!((counted, others), (usize::from(refused > 0), 0));
}

#[tokio::test]
async fn sessions_that_end_by_the_server_say_so_and_count_as_connections() {
    let mut server = SocketIoGateway::start().await;
    let (client, sid) = server.connect_polling().await;
    server.call("disconnect", "/", &sid, "");
    assert_eq!(client.poll().await, "41");
    assert_eq!(client.poll().await, "1");
    client.get().expect_status(400).await;
    let (client, _) = server.connect_polling().await;
    let mut waiting = client.begin_poll().await;
    server.gateway.signal("TERM");
    assert_eq!(body(&mut waiting).await, "1");
    assert!(server.gateway.expect_exit().await.success());
    let server = SocketIoGateway::start_with(&[("server.max_connections", "3")]).await;
    // Each answer is a session more.
    let full = within_deadline("the limit", async {
        loop {
            let answer = server.gateway.stream(POLL_V4).without("Accept").send().await.0;
            if answer.status == 503 {
                break answer;
            }
        }
    })
    .await;
    assert!(full.header("retry-after").is_some());
}

#[tokio::test]
async fn transports_can_be_switched_off() {
    let server = SocketIoGateway::start_with(&[("socketio.transports", "polling")]).await;
    let answer = server.gateway.stream(POLL_V4).without("Accept").expect_status(200).await;
    assert!(answer.body.contains(r#""upgrades":[]"#), "{answer:?}");
    let refused = server.gateway.request("/socket.io/?EIO=4&transport=websocket").expect_status(400).await;
    assert!(refused.body.contains(r#""code":0"#));
    let server = SocketIoGateway::start_with(&[("socketio.transports", "websocket")]).await;
    server.gateway.stream(POLL_V4).without("Accept").expect_status(400).await;
    let (_, packet) = open(server.gateway.request("/socket.io/?EIO=4&transport=websocket")).await;
    assert_eq!(packet["upgrades"], serde_json::json!([]));
}
