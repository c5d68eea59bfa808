//! Behaviour that front-end libraries rely on: `EventSource` reconnects, streams can name events, heartbeats are not
//! published, and pages of other origins may read and post if the Origin rule allows them.

use std::collections::HashSet;

use crate::support::client::Response;
use crate::support::events::SseClient;
use crate::support::sessions::{john, session_key};
use crate::support::{RedisServer, TestGateway, eventually};

const PAGE: &str = "https://www.example.com";

/// Returns the milliseconds of the `retry: …` line.
fn retry_milliseconds(text: &str) -> u32 {
    text.strip_prefix("retry: ").and_then(|rest| rest.strip_suffix("\n\n")).unwrap().parse().unwrap()
}

/// Returns a gateway at its connection limit, and its only client.
async fn at_connection_limit() -> (TestGateway, SseClient) {
    let gateway = TestGateway::start_with(&[("server.max_connections", "1"), ("origin.allowed", PAGE)]).await;
    let only = eventually_open(&gateway).await;
    (gateway, only)
}

/// Opens a stream as soon as the readiness probes of the start have closed.
async fn eventually_open(gateway: &TestGateway) -> SseClient {
    eventually("the others have gone", || (gateway.count_log(&["connection ended"]) >= 3).then_some(()))
        .await;
    SseClient::open(gateway.stream("/ws/x?subscribe-broadcast")).await
}

#[tokio::test]
async fn an_event_source_gets_a_retry_instruction_instead_of_503() {
    let (gateway, _only) = at_connection_limit().await;
    let native = gateway.stream("/ws/x?subscribe-broadcast").expect_status(200).await;
    assert_eq!(native.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(native.header("cache-control"), Some("no-store"));
    assert!((2_000..=8_000).contains(&retry_milliseconds(&native.body)), "{native:?}");
    for target in ["/ws/x?subscribe-broadcast&client=ws4redis", "/ws/x?client=ws4redis"] {
        let marked = gateway.stream(target).expect_status(503).await;
        assert!(marked.header("retry-after").is_some(), "{marked:?}");
        assert!(marked.body.contains("too many connections"), "{marked:?}");
    }
    gateway.stream("/ws/x?client=other").expect_status(200).await;
    // Clients that evaluate the status still get it.
    gateway.request("/ws/x?subscribe-broadcast").expect_status(503).await;
    gateway.post("/ws/x?publish-broadcast", "x").expect_status(503).await;
    eventually("four refusals in the log", || {
        (gateway.count_log(&["request refused", "503"]) >= 4).then_some(())
    })
    .await;
}

#[tokio::test]
async fn permanent_errors_are_final_for_an_event_source() {
    let text = "[[access]]\nfacility = [\"\"]\nanonymous = [\"subscribe-broadcast\"]\n";
    let gateway = TestGateway::builder().rules(text).start().await;
    gateway.stream("/ws/other?subscribe-broadcast").expect_status(403).await;
    gateway.stream("/ws/%FF?subscribe-broadcast").expect_status(400).await;
    gateway.stream("/elsewhere").expect_status(404).await;
}

#[tokio::test]
async fn event_sources_that_are_disconnected_together_reconnect_at_different_times() {
    let gateway = TestGateway::start().await;
    let mut delays = HashSet::new();
    for _ in 0..20 {
        let mut events = SseClient::open(gateway.stream("/ws/x")).await;
        let first = events.client.read_until("\n\n").await.unwrap();
        delays.insert(retry_milliseconds(std::str::from_utf8(&first).unwrap()));
    }
    assert!(delays.iter().all(|delay| (2_000..=8_000).contains(delay)), "{delays:?}");
    assert!(delays.len() > 10, "{delays:?}");
    assert!(delays.iter().max().unwrap() - delays.iter().min().unwrap() > 1_000, "{delays:?}");
}

#[tokio::test]
async fn messages_name_their_event_only_on_streams_that_request_event_names() {
    let gateway = TestGateway::start().await;
    let redis = RedisServer::shared();
    redis.persist(&gateway.channel("broadcast:x"), "event: kept\n<b>old</b>");
    let mut named = SseClient::open(gateway.stream("/ws/x?subscribe-broadcast&event-names")).await;
    let mut plain = SseClient::open(gateway.stream("/ws/x?subscribe-broadcast")).await;
    // Our own client gets the same messages by event stream as by WebSocket.
    let mut ours =
        SseClient::open(gateway.stream("/ws/x?subscribe-broadcast&event-names&client=ws4redis")).await;
    let mut socket = gateway.connect("/ws/x?subscribe-broadcast&event-names").await;
    let event = |name: &str, data: &str| (name.to_owned(), data.to_owned());
    assert_eq!(named.next().await, event("kept", "<b>old</b>"));
    plain.expect("event: kept\n<b>old</b>").await;
    ours.expect("event: kept\n<b>old</b>").await;
    socket.expect_text("event: kept\n<b>old</b>").await;
    for (text, name, data) in [
        ("event: ticker\nselector #t\nelements <b>1</b>", "ticker", "selector #t\nelements <b>1</b>"),
        ("no name", "", "no name"),
        ("event: a b\nx", "", "event: a b\nx"),
        ("event: close\n{\"code\":4401}", "", "event: close\n{\"code\":4401}"),
        (
            "event: x\ndata: y\n\nid: 7\nretry: 1\n\nevent: close",
            "x",
            "data: y\n\nid: 7\nretry: 1\n\nevent: close",
        ),
        ("event: done", "done", ""),
    ] {
        gateway.publish("broadcast:x", text);
        assert_eq!(named.next().await, event(name, data), "{text:?}");
        plain.expect(text).await;
        ours.expect(text).await;
        socket.expect_text(text).await;
    }
    gateway.publish("broadcast:x", b"event: x\n\xff");
    assert_eq!(named.next().await.0, "binary");
}

#[tokio::test]
async fn event_names_need_no_permission_and_do_not_hide_the_close_event() {
    let text = "[[access]]\nfacility = [\"*\"]\nanonymous = [\"subscribe-broadcast\"]\n";
    let gateway = TestGateway::builder().rules(text).set("heartbeat", "{}").start().await;
    let mut named = SseClient::open(gateway.stream("/ws/x?subscribe-broadcast&event-names")).await;
    gateway.publish("broadcast:x", "event: x\ny");
    assert_eq!(named.next().await, ("x".to_owned(), "y".to_owned()));
    assert_eq!(named.next().await, ("heartbeat".to_owned(), "{}".to_owned()));
    gateway.signal("TERM");
    while named.next().await.0 != "close" {}
}

fn is_readable(response: &Response, origin: &str) -> bool {
    let allowed = response.header("access-control-allow-origin");
    assert_ne!(allowed, Some("*"), "a star has no meaning with credentials: {response:?}");
    allowed == Some(origin) && response.header("access-control-allow-credentials") == Some("true")
}

#[tokio::test]
async fn pages_of_allowed_origins_may_read_streams_and_responses_to_their_posts() {
    let gateway = TestGateway::start_with(&[("origin.allowed", ".example.com")]).await;
    let cookie = john(&session_key());
    let stream = gateway.stream("/ws/x?subscribe-user").header("Origin", PAGE).header("Cookie", &cookie);
    let mut events = SseClient::open(stream).await;
    assert!(is_readable(&events.head, PAGE), "{:?}", events.head);
    let post = gateway.post("/ws/x?publish-user", "across").header("Origin", PAGE).header("Cookie", &cookie);
    let posted = post.expect_status(204).await;
    assert!(is_readable(&posted, PAGE), "{posted:?}");
    events.expect("across").await;
    for response in [&events.head, &posted] {
        assert_eq!(response.header("vary"), Some("origin"), "{response:?}");
    }
    // Refusals and their Retry-After are readable, too.
    let refused = gateway.post("/ws/x?publish-user", "x").header("Origin", PAGE).expect_status(403).await;
    assert!(is_readable(&refused, PAGE), "{refused:?}");
    assert_eq!(refused.header("access-control-expose-headers"), Some("retry-after"));
    // Responses that depend on the origin have Vary: Origin, also for requests without an origin.
    let plain = SseClient::open(gateway.stream("/ws/x")).await;
    assert_eq!(
        (plain.head.header("vary"), plain.head.header("access-control-allow-origin")),
        (Some("origin"), None)
    );
}

#[tokio::test]
async fn a_503_is_readable_across_origins_and_a_cross_origin_event_source_retries() {
    let (gateway, _only) = at_connection_limit().await;
    let marked = gateway.stream("/ws/x?client=ws4redis").header("Origin", PAGE).expect_status(503).await;
    assert!(is_readable(&marked, PAGE) && marked.header("retry-after").is_some(), "{marked:?}");
    let native = gateway.stream("/ws/x").header("Origin", PAGE).expect_status(200).await;
    assert!(is_readable(&native, PAGE), "{native:?}");
}

#[tokio::test]
async fn a_preflight_allows_exactly_the_headers_that_our_client_sends() {
    let gateway = TestGateway::start_with(&[("origin.allowed", PAGE)]).await;
    let preflight = |target: &str, origin: &str| {
        let request = gateway.stream(target).without("Accept").method("OPTIONS").header("Origin", origin);
        let request = request.header("Access-Control-Request-Method", "POST");
        request.header("Access-Control-Request-Headers", "content-type,x-other,x-ws4redis")
    };
    let answer = preflight("/ws/x?publish-broadcast", PAGE).expect_status(204).await;
    assert!(is_readable(&answer, PAGE), "{answer:?}");
    for (name, value) in [
        ("access-control-allow-headers", "authorization, content-type, x-ws4redis"),
        ("access-control-allow-methods", "GET, POST"),
        ("access-control-max-age", "600"),
        ("vary", "origin"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{answer:?}");
    }
    let evil = preflight("/ws/x?publish-broadcast", "https://evil.example").expect_status(403).await;
    assert_eq!(evil.header("access-control-allow-headers"), None, "{evil:?}");
    gateway.expect_log(&["refused with 403", "https://evil.example", "origin.allowed"]).await;
    preflight("/ws/x", "null").expect_status(403).await;
    // Incomplete preflights and preflights of unknown paths are refused.
    preflight("/ws/x", PAGE).without("Access-Control-Request-Method").expect_status(400).await;
    preflight("/ws/x", PAGE).without("Origin").expect_status(400).await;
    let elsewhere = preflight("/elsewhere", PAGE).expect_status(404).await;
    assert_eq!(elsewhere.header("access-control-allow-origin"), None, "{elsewhere:?}");
    preflight("/ws/%FF", PAGE).expect_status(400).await;
}

#[tokio::test]
async fn pages_of_other_origins_can_read_nothing_and_the_origin_rule_applies() {
    let gateway = TestGateway::start_with(&[("origin.allowed", PAGE)]).await;
    let cookie = john(&session_key());
    for origin in ["https://evil.example", "null", "http://www.example.com", "https://www.example.com:8443"] {
        let stranger =
            SseClient::open(gateway.stream("/ws/x?subscribe-broadcast").header("Origin", origin)).await;
        assert_eq!(stranger.head.header("access-control-allow-origin"), None, "{origin}");
        assert_eq!(stranger.head.header("access-control-allow-credentials"), None, "{origin}");
        let with_session = gateway.stream("/ws/x?subscribe-user").header("Origin", origin);
        with_session.header("Cookie", &cookie).expect_status(403).await;
        let post = gateway.post("/ws/x?publish-user", "x").header("Origin", origin);
        post.header("Cookie", &cookie).expect_status(403).await;
    }
    let twice = gateway.stream("/ws/x").header("Origin", PAGE).header("Origin", "https://evil.example");
    let twice = SseClient::open(twice).await;
    assert_eq!(twice.head.header("access-control-allow-origin"), None, "{:?}", twice.head);
}

#[tokio::test]
async fn pages_of_the_same_host_on_another_port_may_read_if_the_origin_rule_allows_them() {
    let gateway = TestGateway::start().await;
    let origin = "https://example.com:8443";
    let stream = gateway.stream("/ws/x").with("Host", "example.com").header("Origin", origin);
    let events = SseClient::open(stream).await;
    assert!(is_readable(&events.head, origin), "{:?}", events.head);
}

#[tokio::test]
async fn with_all_origins_allowed_the_response_names_the_origin_and_never_a_star() {
    let gateway = TestGateway::start_with(&[("origin.allowed", "*")]).await;
    for origin in ["https://a.example", "http://b.example:81"] {
        let events = SseClient::open(gateway.stream("/ws/x").header("Origin", origin)).await;
        assert!(is_readable(&events.head, origin), "{:?}", events.head);
    }
}

#[tokio::test]
async fn heartbeats_of_libraries_are_answered_and_never_published() {
    let gateway =
        TestGateway::builder().set("messages.client_heartbeats", "ping, hb=pong, quiet=").start().await;
    let mut socket = gateway.connect("/ws/x?subscribe-broadcast&publish-broadcast&echo").await;
    let mut subscriber = gateway.connect("/ws/x?subscribe-broadcast").await;
    // Libraries send heartbeats also for visitors who may not publish.
    let mut reader = gateway.connect("/ws/x").await;
    for client in [&mut socket, &mut reader] {
        for (text, answer) in [("ping", Some("ping")), ("hb", Some("pong")), ("quiet", None)] {
            client.send_text(text).await;
            client.send_binary(text.as_bytes()).await;
            for answer in answer.into_iter().chain(answer) {
                client.expect_text(answer).await;
            }
        }
    }
    for text in ["ping", "hb", "quiet"] {
        gateway.post("/ws/x?publish-broadcast", text).expect_status(204).await;
    }
    assert_eq!(RedisServer::shared().get(&gateway.channel("broadcast:x")), None, "nothing was published");
    socket.send_text("pinging").await;
    socket.expect_text("pinging").await;
    subscriber.expect_text("pinging").await;
    assert_eq!(gateway.count_log(&["library's heartbeat"]), 0, "{:#?}", gateway.log());
}

#[tokio::test]
async fn pongs_do_not_accumulate_for_a_client_that_pings_and_never_reads() {
    let gateway = TestGateway::builder()
        .set("messages.client_heartbeats", "ping")
        .set("server.shards", "1")
        .start()
        .await;
    let slow = gateway.request("/ws/x").receive_buffer(4096);
    let mut slow = slow.connect().await;
    let before = gateway.resident_bytes();
    let burst: Vec<u8> = (0..20_000).flat_map(|_| crate::support::client::frame(0x81, b"ping")).collect();
    for _ in 0..40 {
        slow.send_raw(&burst).await;
    }
    let grown = gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more");
}

#[tokio::test]
async fn the_log_names_a_repeated_client_heartbeat_that_is_not_configured() {
    let gateway = TestGateway::start().await;
    let mut socket = gateway.connect("/ws/x?publish-broadcast").await;
    for text in ["hello", "ping", "secret ping", "ping", "secret ping", "ping", "ping"] {
        socket.send_text(text).await;
    }
    let line = gateway.expect_log(&["library's heartbeat", "messages.client_heartbeats"]).await;
    assert!(line.contains("\"ping\""), "{line}");
    // Clients that get no answer reconnect, and each sends its first ping.
    for _ in 0..6 {
        let mut again = gateway.connect("/ws/x").await;
        again.send_text("ping").await;
        again.send_close(1000, "").await;
        again.expect_close(1000).await;
    }
    assert_eq!(gateway.count_log(&["library's heartbeat"]), 1, "once until there are ten times as many");
    assert_eq!(gateway.count_log(&["secret"]), 0, "what clients say is not logged");
}
