//! HTTP connections: deadlines, closing, and requests that are not handshakes.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::support::client::TestClient;
use crate::support::events::SseClient;
use crate::support::{DEADLINE, TestGateway, eventually, within_deadline};

/// Sends bytes of a request on an open connection and returns the status of the response.
async fn send_request(client: &mut TestClient, bytes: &[u8]) -> u16 {
    client.send_raw(bytes).await;
    within_deadline("an answer", client.read_response()).await.unwrap().status
}

/// Sends bytes at this rate. On failure, returns how many were sent, and the error.
async fn send_slowly(
    client: &mut TestClient,
    bytes: usize,
    bytes_per_second: u32,
) -> Result<(), (usize, String)> {
    const PIECE: usize = 16 * 1024;
    let begun = Instant::now();
    for sent in (0..bytes).step_by(PIECE) {
        let due = Duration::from_secs(1) * u32::try_from(sent).unwrap() / bytes_per_second;
        tokio::time::sleep_until(begun + due).await;
        client
            .try_send_raw(&[b'x'; PIECE][..PIECE.min(bytes - sent)])
            .await
            .map_err(|error| (sent, error.to_string()))?;
    }
    Ok(())
}

#[tokio::test]
async fn deadlines_apply_to_each_request_and_not_to_the_connection() {
    let gateway = TestGateway::start_with(&[("server.handshake_seconds", "1")]).await;
    let mut witness = gateway.connect("/ws/x?subscribe-broadcast").await;
    let post = gateway.post("/ws/x?publish-broadcast", "a message");
    let bytes = post.bytes();
    let mut client = post.open().await;
    let begun = Instant::now();
    // Longer than three times server.handshake_seconds, the limit of a connection in earlier versions.
    while begun.elapsed() < Duration::from_millis(4500) {
        let (head, body) = bytes.split_at(bytes.len() - 4);
        client.send_raw(head).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(send_request(&mut client, body).await, 204);
        witness.expect_text("a message").await;
        // An idle connection may pause longer than server.handshake_seconds.
        tokio::time::sleep(Duration::from_millis(1200)).await;
    }
    client.send_raw(&gateway.request("/ws/x?subscribe-broadcast").bytes()).await;
    assert_eq!(client.read_head().await.status, 101);
    client.expect_text("a message").await;
    gateway.publish("broadcast:x", "to both");
    client.expect_text("to both").await;
}

#[tokio::test]
async fn an_idle_http_connection_is_closed_gracefully_after_its_timeout() {
    let gateway = TestGateway::start_with(&[("server.keepalive_seconds", "1")]).await;
    let files = gateway.open_files();
    let mut client = gateway.post("/ws/x?publish-broadcast", "").open().await;
    assert_eq!(send_request(&mut client, &gateway.post("/ws/x?publish-broadcast", "x").bytes()).await, 204);
    let begun = Instant::now();
    client.expect_end().await;
    let waited = begun.elapsed();
    assert!((Duration::from_millis(800)..Duration::from_secs(5)).contains(&waited), "{waited:?}");
    // A request that crosses the FIN must not cause a reset.
    client.send_raw(&gateway.post("/ws/x?publish-broadcast", "too late").bytes()).await;
    client.expect_end().await;
    drop(client);
    eventually("the socket is closed", || (gateway.open_files() <= files).then_some(())).await;
}

#[tokio::test]
async fn a_stalled_head_on_a_reused_connection_times_out_as_on_a_new_one() {
    let gateway = TestGateway::start_with(&[("server.handshake_seconds", "1")]).await;
    let bytes = gateway.post("/ws/x?publish-broadcast", "x").bytes();
    let mut client = gateway.request("/ws/x").open().await;
    assert_eq!(send_request(&mut client, &bytes).await, 204);
    client.send_raw(&bytes[..20]).await;
    let begun = Instant::now();
    let end = within_deadline("the end", client.stream.read(&mut [0; 1])).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_idle_http_connection_does_not_delay_the_shutdown() {
    let mut gateway = TestGateway::start_with(&[("server.drain_seconds", "60")]).await;
    let mut idle = gateway.request("/ws/x").open().await;
    assert_eq!(send_request(&mut idle, &gateway.post("/ws/x?publish-broadcast", "x").bytes()).await, 204);
    let begun = Instant::now();
    gateway.signal("TERM");
    idle.expect_end().await;
    drop(idle);
    assert_eq!(gateway.expect_exit().await.code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_response_sent_before_the_body_is_complete_arrives() {
    let gateway = TestGateway::start().await;
    let bytes = 1_153_433;
    let post = |target| gateway.post(target, "").with("Content-Length", bytes.to_string());
    let chunked = gateway.post("/ws/x?publish-broadcast", "").without("Content-Length");
    for (request, status) in [
        (post("/ws/x?publish-broadcast"), 413),
        (chunked.header("Transfer-Encoding", "chunked").followed_by(b"200000\r\n"), 413),
        (post("/ws/x?publish-broadcast").without("X-WS4Redis"), 400),
        (post("/nowhere"), 404),
        (post("/health"), 405),
        (gateway.request("/ws/x").header("Content-Length", bytes.to_string()), 400),
        (post("/ws/x").header("X-Long", vec![b'x'; 20_000]), 431),
    ] {
        let mut client = request.open().await;
        client.send_raw(&request.bytes()).await;
        send_slowly(&mut client, bytes, 3_000_000).await.unwrap_or_else(|cut| panic!("{status}: {cut:?}"));
        let answer = within_deadline("an answer", client.read_response()).await;
        assert_eq!(answer.unwrap_or_else(|error| panic!("{status}: {error}")).status, status);
        client.expect_end().await;
    }
}

#[tokio::test]
async fn a_body_announced_as_too_large_is_refused_without_100_continue() {
    let gateway = TestGateway::start().await;
    let post = gateway.post("/ws/x?publish-broadcast", "").with("Content-Length", "2000000");
    // The 413 must not follow a 100 Continue.
    post.header("Expect", "100-continue").expect_status(413).await;
}

#[tokio::test]
async fn paths_of_socket_io_say_why_nothing_is_served() {
    let gateway = TestGateway::start().await;
    let on = TestGateway::start_with(&[("socketio.enabled", "true")]).await;
    for (gateway, path, part) in [
        (&gateway, "/socket.io/?EIO=4&transport=polling", "Socket.IO is off; set socketio.enabled = true"),
        (&gateway, "/socket.io/socket.io.js", "take it from npm or a CDN"),
        (&on, "/socket.io/socket.io.min.js", "take it from npm or a CDN"),
        (&on, "/nowhere", "nothing is served at this path; WebSockets are below /ws/"),
    ] {
        let response =
            gateway.request(path).without("Upgrade").without("Connection").expect_status(404).await;
        assert!(response.body.contains(part), "{path}: {}", response.body);
    }
}

#[tokio::test]
async fn bytes_sent_after_an_early_response_are_read_within_limits() {
    let settings = [("server.handshake_seconds", "2"), ("server.linger_seconds", "1")];
    let gateway = TestGateway::start_with(&settings).await;
    let files = gateway.open_files();
    let early = || async {
        let request = gateway.post("/nowhere", "").with("Content-Length", "1000000000");
        let (response, client) = request.send().await;
        assert_eq!(response.status, 404);
        client
    };
    // A client that sends slowly without end, a silent one that stays, and a fast one.
    let mut slow = early().await;
    let begun = Instant::now();
    let cut = send_slowly(&mut slow, 10 << 20, 200_000).await.unwrap_err();
    let waited = begun.elapsed();
    assert!((Duration::from_millis(1500)..Duration::from_secs(6)).contains(&waited), "{waited:?} {cut:?}");

    let mut fast = early().await;
    let (sent, _) = send_slowly(&mut fast, 512 << 20, 1 << 30).await.unwrap_err();
    assert!(((8 << 20)..(64 << 20)).contains(&sent), "{sent} bytes");

    let mut silent = early().await;
    let begun = Instant::now();
    silent.expect_end().await;
    eventually("the sockets are closed", || (gateway.open_files() <= files).then_some(())).await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    drop((slow, fast, silent));
}

#[tokio::test]
async fn websocket_may_be_one_of_several_protocols_in_the_upgrade_header() {
    let gateway = TestGateway::start().await;
    for offer in ["websocket, h2c", "h2c, websocket", "HTTP/2.0,WebSocket", "foo/2 ,, websocket"] {
        gateway.request("/ws/x").with("Upgrade", offer).connect().await;
    }
    gateway.request("/ws/x").with("Upgrade", "h2c").header("Upgrade", "websocket").connect().await;
    for offer in ["h2c", "websockets", "websocket/13", "web socket", ""] {
        let answer = gateway.request("/ws/x").with("Upgrade", offer).expect_status(400).await;
        assert!(answer.body.contains("upgrade to a websocket"), "{offer}: {answer:?}");
    }
    // curl --http2 offers h2c with each request; a server that does not support it answers with HTTP/1.1.
    let stream = gateway.stream("/ws/x?subscribe-broadcast").with("Connection", "Upgrade, HTTP2-Settings");
    let mut events =
        SseClient::open(stream.header("Upgrade", "h2c").header("HTTP2-Settings", "AAMAAABk")).await;
    let post = gateway.post("/ws/x?publish-broadcast", "by post").with("Connection", "Upgrade");
    post.header("Upgrade", "h2c").expect_status(204).await;
    events.expect("by post").await;
}

#[tokio::test]
async fn the_health_endpoint_reports_only_that_the_process_is_alive() {
    let gateway = TestGateway::builder().set("demo.enabled", "off").start().await;
    let probe = |target: &str| gateway.stream(target).without("Accept");
    let answer = probe("/health").expect_status(200).await;
    assert_eq!(answer.body, "alive\n", "{answer:?}");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let names: Vec<_> = answer.headers.iter().map(|(name, _)| name.to_lowercase()).collect();
    assert_eq!(names, ["content-type", "cache-control", "content-length", "date"], "and nothing else");
    probe("/health?verbose")
        .header("Cookie", "sessionid=x")
        .header("Origin", "null")
        .expect_status(200)
        .await;
    // Simple probes send no Host header.
    probe("/health").version("HTTP/1.0").without("Host").expect_status(200).await;
    let (head, mut client) = {
        let request = probe("/health").method("HEAD");
        let mut client = request.open().await;
        client.send_raw(&request.bytes()).await;
        (client.read_head().await, client)
    };
    assert_eq!((head.status, head.header("content-length")), (200, Some("6")));
    // The connection stays open for the next probe, and HEAD has no body.
    assert_eq!(send_request(&mut client, &probe("/health").bytes()).await, 200);
    let refused = probe("/health").method("POST").header("Content-Length", "0").expect_status(405).await;
    assert_eq!(refused.header("allow"), Some("GET, HEAD"));
    for other in ["/health/", "/healthz", "/Health", "/ws/../health"] {
        let status = probe(other).send().await.0.status;
        assert!(status == 404 || status == 400, "{other}: {status}");
    }
}

#[tokio::test]
async fn probes_are_not_logged_and_need_neither_redis_nor_a_free_connection() {
    let gateway = TestGateway::start_with(&[("server.max_connections", "1")]).await;
    let settled = || gateway.log().len();
    let mut clients = Vec::new();
    while clients.is_empty() {
        let (response, client) = gateway.request("/ws/x").send().await;
        (response.status == 101).then(|| clients.push(client));
    }
    eventually("the connections of the start are gone", || {
        // Log lines arrive late but in order: after the client's own line, all earlier connections are counted.
        let own = gateway.count_log(&["connection opened", "facility=\"x\""]) == 1;
        let others_ended =
            gateway.count_log(&["connection opened"]) == gateway.count_log(&["connection ended"]) + 1;
        (own && others_ended).then_some(())
    })
    .await;
    let before = settled();
    for _ in 0..10 {
        gateway.stream("/health").without("Accept").expect_status(200).await;
    }
    clients[0].expect_nothing().await;
    assert_eq!(gateway.log()[before..], [] as [String; 0]);
}

#[tokio::test]
async fn with_every_path_a_facility_there_is_no_health_endpoint() {
    for setting in [("websocket_url", "/"), ("server.websocket_url_stripped", "true")] {
        let gateway = TestGateway::builder().set(setting.0, setting.1).without_redis().start().await;
        within_deadline("Redis is reached", async {
            while gateway.request("/health").send().await.0.status != 101 {}
        })
        .await;
        let mut client = gateway.request("/health?subscribe-broadcast").connect().await;
        gateway.publish("broadcast:health", "a facility like any other");
        client.expect_text("a facility like any other").await;
        gateway.stream("/health").without("Accept").expect_status(400).await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_its_response_is_disconnected() {
    let gateway = TestGateway::start_with(&[("server.handshake_seconds", "1")]).await;
    let files = gateway.open_files();
    let probe = gateway.stream("/health").without("Accept");
    let mut client = probe.clone().receive_buffer(2048).open().await;
    // Pipelines probes until their responses fill all buffers.
    let many = probe.bytes().repeat(1000);
    let writing = async { while client.stream.write_all(&many).await.is_ok() {} };
    assert!(tokio::time::timeout(DEADLINE, writing).await.is_ok(), "it is still served");
    drop(client);
    eventually("the socket is closed", || (gateway.open_files() <= files).then_some(())).await;
}
