//! Handshakes: paths, flags, statuses, limits, Origin, subprotocols.

use std::time::Duration;

use crate::support::client::{CONTINUATION, TEXT, frame};
use crate::support::gateway::binary;
use crate::support::{RedisServer, TestGateway, eventually, within_deadline};

/// Paths with `?subscribe-broadcast`, and their channel without the prefix.
const PATHS: &[(&str, &str)] = &[
    ("/ws/foobar", "broadcast:foobar"),
    ("/ws/foobar/", "broadcast:foobar/"),
    ("/ws/a/b/c", "broadcast:a/b/c"),
    ("/ws/", "broadcast:"),
    ("/ws//x", "broadcast:/x"),
    ("/ws/ws/x", "broadcast:ws/x"),
    ("/ws/a%2Fb", "broadcast:a/b"),
    ("/ws/a%2fc", "broadcast:a/c"),
    ("/ws/%C3%A9", "broadcast:é"),
    ("/ws/%F0%9F%90%98", "broadcast:🐘"),
    ("/ws/a+b", "broadcast:a+b"),
    ("/ws/a%20b", "broadcast:a b"),
    ("/ws/a:b", "broadcast:a:b"),
    ("/ws/a%3Ac", "broadcast:a:c"),
    ("/ws/a:user:admin", "broadcast:a:user:admin"),
    ("/ws/{facility}", "broadcast:{facility}"),
    ("/ws/*", "broadcast:*"),
    ("/ws/[ab]", "broadcast:[ab]"),
    ("/ws/a%3Fb", "broadcast:a?b"),
    ("/ws/a%23b", "broadcast:a#b"),
    ("/ws/a%5Cb", "broadcast:a\\b"),
    ("/ws/../x", "broadcast:../x"),
    ("/ws/%2e%2e%2fy", "broadcast:../y"),
    ("/ws/./z", "broadcast:./z"),
    ("/ws/%zz", "broadcast:%zz"),
    ("/ws/100%", "broadcast:100%"),
    ("/ws/%2525", "broadcast:%25"),
    ("/%77s/percent", "broadcast:percent"),
    ("/ws/UPPER", "broadcast:UPPER"),
];

/// Refused paths, with status and a part of the reason.
const REFUSED_PATHS: &[(&str, u16, &str)] = &[
    ("/ws", 404, "/ws/"),
    ("/", 404, "/ws/"),
    ("/other", 404, "/ws/"),
    ("/WS/x", 404, "/ws/"),
    ("//ws/x", 404, "/ws/"),
    ("/xws/x", 404, "/ws/"),
    ("/%FF", 404, "/ws/"),
    ("/ws/%FF", 400, "UTF-8"),
    ("/ws/%C0%AF", 400, "UTF-8"),
    ("/ws/%ED%A0%80", 400, "UTF-8"),
    ("/ws/a%00b", 400, "control"),
    ("/ws/a%0Ab", 400, "control"),
    ("/ws/a%0D%0Ab", 400, "control"),
    ("/ws/a%1Cb", 400, "control"),
    ("/ws/a%7F", 400, "control"),
    ("/ws/a%C2%85", 400, "control"),
];

/// Queries that subscribe to the broadcast channel.
const FLAGS: &[&str] = &[
    "subscribe-broadcast",
    "subscribe-broadcast=",
    "subscribe-broadcast=1",
    "subscribe-broadcast=0",
    "subscribe-broadcast=%zz",
    "SUBSCRIBE-Broadcast",
    "%20subscribe-broadcast+",
    "%1Csubscribe-broadcast",
    "subscribe%2Dbroadcast",
    "foo&subscribe-broadcast&bar=1",
    "&&subscribe-broadcast&",
    "subscribe-broadcast&subscribe-broadcast",
    "subscribe-broadcast&subscribe-nonsense&publish-nothing",
    "subscribe-broadcast&subscribe-user=admin&subscribe-group=staff",
];

/// Queries that do not subscribe to it.
const NO_FLAGS: &[&str] = &[
    "",
    "x=subscribe-broadcast",
    "subscribe_broadcast",
    "subscribe",
    "subscribe-broadcast;subscribe-user",
    "subscribe-broadcast%00",
    "subscribe-user&subscribe-group&subscribe-session",
    "subscribe-user=admin",
    "publish-broadcast&publish-user&echo",
    "%zz=1",
];

fn parsed(path: &str, query: &str) -> Result<(String, bool), ws4redis::wire::HandshakeError> {
    let handshake = ws4redis::wire::Handshake::parse(path, Some(query), "/ws/")?;
    let subscribes = handshake.flags.subscribes(ws4redis::wire::AudienceKind::Broadcast);
    Ok((format!("broadcast:{}", handshake.facility.as_str()), subscribes))
}

#[test]
fn paths_and_queries_are_parsed_as_specified() {
    for (path, channel) in PATHS {
        assert_eq!(parsed(path, "subscribe-broadcast").unwrap(), ((*channel).to_owned(), true), "{path}");
    }
    for (path, _, _) in REFUSED_PATHS {
        assert!(parsed(path, "subscribe-broadcast").is_err(), "{path}");
    }
    for query in FLAGS {
        assert!(parsed("/ws/x", query).unwrap().1, "{query}");
    }
    for query in NO_FLAGS {
        assert!(!parsed("/ws/x", query).unwrap().1, "{query}");
    }
}

#[tokio::test]
async fn every_path_subscribes_exactly_its_channel() {
    let gateway = TestGateway::start().await;
    let mut clients = Vec::new();
    for (path, channel) in PATHS {
        clients.push(gateway.connect(&format!("{path}?subscribe-broadcast")).await);
        let channels = RedisServer::shared().channels(&gateway.channel(""));
        assert!(channels.contains(&gateway.channel(channel)), "{path}: {channels:?}");
    }
    let mut expected: Vec<_> = PATHS.iter().map(|(_, channel)| gateway.channel(channel)).collect();
    expected.sort();
    assert_eq!(RedisServer::shared().channels(&gateway.channel("")), expected);
}

#[tokio::test]
async fn flags_are_parameter_names_and_everything_else_is_ignored() {
    let gateway = TestGateway::start().await;
    let (mut clients, mut expected) = (Vec::new(), Vec::new());
    for (number, query) in FLAGS.iter().enumerate() {
        clients.push(gateway.connect(&format!("/ws/yes{number:02}?{query}")).await);
        expected.push(gateway.channel(&format!("broadcast:yes{number:02}")));
    }
    for (number, query) in NO_FLAGS.iter().enumerate() {
        let mut client = gateway.connect(&format!("/ws/no{number}?{query}")).await;
        client.send_ping(b"still open").await;
        client.expect_pong(b"still open").await;
        clients.push(client);
    }
    clients.push(gateway.connect("/ws/none").await);
    assert_eq!(RedisServer::shared().channels(&gateway.channel("")), expected);
}

#[tokio::test]
async fn a_flag_is_found_among_thousands_of_parameters() {
    let gateway = TestGateway::start_with(&[("server.max_header_bytes", "65536")]).await;
    let many = "&x=1".repeat(10_000);
    let mut client =
        gateway.connect(&format!("/ws/many?a=1{many}&subscribe-broadcast{}", &many[..400])).await;
    client.expect_nothing().await;
}

#[tokio::test]
async fn paths_outside_the_prefix_and_invalid_facilities_are_refused_with_a_reason() {
    let gateway = TestGateway::start().await;
    for (path, status, reason) in REFUSED_PATHS {
        let target = format!("{path}?subscribe-broadcast");
        let response = gateway.request(&target).expect_status(*status).await;
        assert!(response.body.contains(reason), "{path}: {response:?}");
        assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"), "{path}");
        assert_eq!(response.header("connection"), Some("close"), "{path}");
    }
    assert_eq!(RedisServer::shared().channels(&gateway.channel("")), Vec::<String>::new());
}

#[tokio::test]
async fn the_channel_prefix_is_prepended_literally_to_every_channel() {
    for (prefix, before) in [("", ""), ("p", "p:"), ("p:", "p::"), ("ü", "ü:")] {
        let gateway = TestGateway::builder().namespace(prefix).start().await;
        let facility = crate::support::unique("prefixed");
        let _client = gateway.connect(&format!("/ws/{facility}?subscribe-broadcast")).await;
        let channels = RedisServer::shared().channels("");
        assert!(channels.contains(&format!("{before}broadcast:{facility}")), "{prefix:?}: {channels:?}");
    }
}

#[tokio::test]
async fn the_path_prefix_is_configurable() {
    let gateway =
        TestGateway::builder().variable("WEBSOCKET_URL", "/live/sockets/").without_redis().start().await;
    let what = "a 101 below the prefix that was set";
    within_deadline(what, async { while gateway.request("/live/sockets/x").send().await.0.status != 101 {} })
        .await;
    let response = gateway.request("/ws/x").expect_status(404).await;
    assert!(response.body.contains("/live/sockets/"), "{response:?}");
}

#[tokio::test]
async fn a_valid_handshake_is_answered_as_the_rfc_requires() {
    let gateway = TestGateway::start().await;
    let offer = "permessage-deflate; client_max_window_bits";
    let request = gateway.request("/ws/x?echo").header("Sec-WebSocket-Extensions", offer);
    let response =
        request.with("Upgrade", "WebSocket").with("Connection", "keep-alive, Upgrade").send().await.0;
    assert_eq!(response.status, 101, "{response:?}");
    assert_eq!(response.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert!(response.header("upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket")));
    assert!(response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("upgrade")));
    assert_eq!(response.header("sec-websocket-extensions"), None, "nothing is compressed");
    assert_eq!(response.header("sec-websocket-protocol"), None);
}

#[tokio::test]
async fn a_request_without_an_upgrade_gets_400_with_the_phrase_of_upstream() {
    let gateway = TestGateway::start().await;
    let sound = || gateway.request("/ws/x?subscribe-broadcast");
    for request in [
        sound().without("Upgrade").without("Connection"),
        sound().without("Upgrade"),
        sound().with("Upgrade", "h2c"),
        sound().with("Upgrade", "foo, websocket/13"),
        sound().without("Connection"),
        sound().with("Connection", "keep-alive"),
        sound().method("POST"),
        sound().method("PUT"),
        sound().method("DELETE"),
        sound().method("OPTIONS"),
        sound().version("HTTP/1.0"),
        sound().version("HTTP/1.0").without("Upgrade").without("Connection"),
    ] {
        let shown = String::from_utf8_lossy(&request.bytes()).into_owned();
        let response = request.expect_status(400).await;
        assert!(response.body.contains("upgrade to a websocket"), "{shown}{response:?}");
        assert_eq!(response.header("connection"), Some("close"), "{shown}");
        assert_eq!(response.header("sec-websocket-accept"), None, "{shown}");
    }
    assert_eq!(RedisServer::shared().channels(&gateway.channel("")), Vec::<String>::new());
}

#[tokio::test]
async fn an_unsupported_websocket_version_gets_426_with_the_supported_one() {
    let gateway = TestGateway::start().await;
    let sound = || gateway.request("/ws/x");
    for request in [
        sound().without("Sec-WebSocket-Version"),
        sound().with("Sec-WebSocket-Version", "8"),
        sound().with("Sec-WebSocket-Version", "12"),
        sound().with("Sec-WebSocket-Version", "014"),
        sound().with("Sec-WebSocket-Version", "13, 8"),
        sound().with("Sec-WebSocket-Version", ""),
        sound().header("Sec-WebSocket-Version", "13"),
    ] {
        let response = request.expect_status(426).await;
        assert_eq!(response.header("sec-websocket-version"), Some("13"), "{response:?}");
        assert!(response.body.contains("version"), "{response:?}");
    }
}

#[tokio::test]
async fn a_key_that_is_not_sixteen_bytes_is_refused() {
    let gateway = TestGateway::start().await;
    let sound = || gateway.request("/ws/x");
    for request in [
        sound().without("Sec-WebSocket-Key"),
        sound().with("Sec-WebSocket-Key", ""),
        sound().with("Sec-WebSocket-Key", "YWJj"),
        sound().with("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ"),
        sound().with("Sec-WebSocket-Key", "not base64 at all!!!!!!="),
        sound().with("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZSBub25jZQ=="),
        sound().header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ] {
        let response = request.expect_status(400).await;
        assert!(response.body.contains("Sec-WebSocket-Key"), "{response:?}");
    }
}

#[tokio::test]
async fn a_handshake_must_have_exactly_one_host() {
    let gateway = TestGateway::start().await;
    for request in [gateway.request("/ws/x").without("Host"), gateway.request("/ws/x").header("Host", "b")] {
        let response = request.expect_status(400).await;
        assert!(response.body.contains("Host"), "{response:?}");
    }
}

#[tokio::test]
async fn a_handshake_with_a_body_is_refused() {
    let gateway = TestGateway::start().await;
    let sound = || gateway.request("/ws/x?subscribe-broadcast");
    for request in [
        sound().header("Content-Length", "5").followed_by(b"hello"),
        sound().header("Transfer-Encoding", "chunked").followed_by(b"5\r\nhello\r\n0\r\n\r\n"),
        sound()
            .header("Content-Length", "5")
            .header("Transfer-Encoding", "chunked")
            .followed_by(b"0\r\n\r\n"),
        sound()
            .header("Transfer-Encoding", "chunked")
            .header("Content-Length", "0")
            .followed_by(b"0\r\n\r\n"),
        sound().header("Transfer-Encoding", "identity"),
        sound().header("Content-Length", "0").header("Content-Length", "5").followed_by(b"hello"),
        sound().header("Content-Length", "-1"),
        sound().header("Content-Length", "99999999999999999999"),
    ] {
        let shown = String::from_utf8_lossy(&request.bytes()).into_owned();
        let (response, mut client) = request.send().await;
        assert_eq!(response.status, 400, "{shown}{response:?}");
        client.expect_disconnect().await;
    }
    assert_eq!(RedisServer::shared().channels(&gateway.channel("")), Vec::<String>::new());
}

#[tokio::test]
async fn control_bytes_folded_lines_and_spaces_before_a_colon_are_refused() {
    let gateway = TestGateway::start().await;
    let head = String::from_utf8(gateway.request("/ws/x?subscribe-broadcast").bytes()).unwrap();
    let head = head.strip_suffix("\r\n").unwrap();
    for line in [
        &b"X-A: a\x00b\r\n"[..],
        b"X-A: a\x0bb\r\n",
        b"X-A: a\x0cb\r\n",
        b"X-A: a\x1cb\r\n",
        b"X-A: a\x7fb\r\n",
        b"X-A: a\rb\r\n",
        b"X-\x00A: a\r\n",
        b"X-\x85A: a\r\n",
        b"X-A : a\r\n",
        b"X-A: a\r\n folded\r\n",
        b" X-A: a\r\n",
        b"no colon\r\n",
        b": no name\r\n",
    ] {
        let mut client = gateway.request("/ws/x").open().await;
        client.send_raw(&[head.as_bytes(), line, b"\r\n"].concat()).await;
        let response = within_deadline("an answer", client.read_response()).await.unwrap();
        assert_eq!(response.status, 400, "{:?}: {response:?}", String::from_utf8_lossy(line));
    }
    for target in ["/ws/a\x0bb", "/ws/a\x7fb", "/ws/a\tb"] {
        gateway.request(target).expect_status(400).await;
    }
    assert_eq!(RedisServer::shared().channels(&gateway.channel("")), Vec::<String>::new());
}

#[tokio::test]
async fn request_heads_are_limited_in_size_and_number_of_headers() {
    let gateway = TestGateway::start().await;
    let sound = || gateway.request("/ws/x");
    let many =
        |count| (0..count).fold(sound(), |request, number| request.header(&format!("X-{number}"), "x"));
    sound().expect_status_431_or_gone("X-Long", &"x".repeat(100_000)).await;
    sound().expect_status_431_or_gone("Cookie", &"x".repeat(65_536)).await;
    assert_eq!(many(2000).send_to_the_end().await, Some(431));
    assert_eq!(
        many(96).send_to_the_end().await,
        Some(431),
        "one more than 100 with the five of the handshake"
    );
    many(95).connect().await;
    let long = format!("/ws/{}?subscribe-broadcast", "f".repeat(10_000));
    gateway.connect(&long).await.expect_nothing().await;
    let status = gateway.request(&format!("/ws/{}", "f".repeat(100_000))).send_to_the_end().await;
    assert!(matches!(status, Some(414 | 431) | None), "{status:?}");
    let memory = gateway.resident_bytes();
    assert!(memory < 100 << 20, "{memory}");
}

impl crate::support::client::Request {
    /// Sends a request that is too large. The server may close the connection before all of it is written.
    async fn send_to_the_end(self) -> Option<u16> {
        let mut client = self.open().await;
        let _ = client.try_send_raw(&self.bytes()).await;
        within_deadline("an answer or the end", client.read_response())
            .await
            .ok()
            .map(|response| response.status)
    }

    async fn expect_status_431_or_gone(self, header: &str, value: &str) {
        let status = self.header(header, value).send_to_the_end().await;
        assert!(matches!(status, Some(431) | None), "{header}: {status:?}");
    }
}

#[tokio::test]
async fn an_incomplete_request_head_times_out() {
    let gateway = TestGateway::start_with(&[("server.handshake_seconds", "2")]).await;
    let request = gateway.request("/ws/slow?subscribe-broadcast");
    let files = gateway.open_files();
    let mut silent = request.open().await;
    let mut halting = request.open().await;
    let mut dripping = request.open().await;
    let bytes = request.bytes();
    halting.send_raw(&bytes[..40]).await;
    let begun = tokio::time::Instant::now();
    let drip = async {
        for byte in &bytes {
            if dripping.try_send_raw(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        panic!("a request of {} bytes was let drip in", bytes.len());
    };
    tokio::join!(silent.expect_disconnect(), halting.expect_disconnect(), drip, async {
        gateway.connect("/ws/meanwhile?subscribe-broadcast").await.expect_nothing().await;
        assert!(begun.elapsed() < Duration::from_millis(1800), "{:?}", begun.elapsed());
    });
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    eventually("the sockets are closed", || (gateway.open_files() <= files).then_some(())).await;
}

#[tokio::test]
async fn bytes_that_arrive_with_the_request_are_read_as_frames() {
    let gateway = TestGateway::start().await;
    let mut witness = gateway.connect("/ws/early?subscribe-broadcast").await;
    let mut split = frame(0x80 | TEXT, b"third");
    let tail = split.split_off(4);
    let frames = [frame(0x80 | TEXT, b"first"), frame(0x80 | TEXT, b"second"), split].concat();
    let mut client = gateway.request("/ws/early?publish-broadcast").followed_by(&frames).connect().await;
    witness.expect_text("first").await;
    witness.expect_text("second").await;
    client.send_raw(&tail).await;
    witness.expect_text("third").await;
    client.send_raw(&[frame(TEXT, b"fou"), frame(0x80 | CONTINUATION, b"rth")].concat()).await;
    witness.expect_text("fourth").await;
}

#[tokio::test]
async fn early_bytes_that_are_not_frames_are_a_protocol_violation() {
    let gateway = TestGateway::start().await;
    let second = b"GET /ws/smuggled?subscribe-broadcast HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut client = gateway.request("/ws/x").followed_by(second).connect().await;
    client.expect_close(1002).await;
    client.expect_end().await;
    let channels = RedisServer::shared().channels(&gateway.channel(""));
    assert_eq!(channels, Vec::<String>::new(), "no second request was served");
    let close = frame(0x88, &1000_u16.to_be_bytes());
    let mut client = gateway.request("/ws/x").followed_by(&close).connect().await;
    client.expect_close(1000).await;
    client.expect_end().await;
}

#[tokio::test]
async fn the_first_subprotocol_that_carries_no_token_is_selected() {
    let gateway = TestGateway::start().await;
    for (offered, answered) in [
        ("chat", "chat"),
        ("chat, superchat", "chat"),
        ("superchat,chat", "superchat"),
        ("bearer.abc.def, chat", "chat"),
        ("chat, bearer.abc", "chat"),
        (" , chat", "chat"),
    ] {
        let request = gateway.request("/ws/x").header("Sec-WebSocket-Protocol", offered);
        let response = request.send().await.0;
        assert_eq!(
            (response.status, response.header("sec-websocket-protocol")),
            (101, Some(answered)),
            "{offered}"
        );
    }
    let two = gateway.request("/ws/x").header("Sec-WebSocket-Protocol", "bearer.abc");
    let response = two.header("Sec-WebSocket-Protocol", "chat").send().await.0;
    assert_eq!(response.header("sec-websocket-protocol"), Some("chat"));
    for offered in ["bearer.abc", "bearer.abc, bearer.def"] {
        let request = gateway.request("/ws/x").header("Sec-WebSocket-Protocol", offered);
        let response = request.expect_status(400).await;
        assert!(response.body.contains("subprotocol"), "{response:?}");
        assert!(!response.body.contains("abc"), "the token is not repeated: {response:?}");
    }
}

const COOKIE: &str = "sessionid=0123456789abcdefghijklmnopqrstuv";

/// Origin, Host, and whether they match for a request with a session cookie.
const ORIGINS: &[(&str, &str, bool)] = &[
    ("http://example.com", "example.com", true),
    ("https://example.com", "example.com", true),
    ("https://EXAMPLE.com", "example.COM", true),
    ("https://example.com:8443", "example.com", true),
    ("https://example.com", "example.com:8443", true),
    ("https://example.com:8443", "example.com:8443", true),
    ("https://example.com:8443", "example.com:8444", false),
    ("http://[::1]:8000", "[::1]:8000", true),
    ("http://[::1]:8000", "[::2]:8000", false),
    ("http://127.0.0.1:3000", "127.0.0.1", true),
    ("https://evil.example", "example.com", false),
    ("https://www.example.com", "example.com", false),
    ("https://example.com.evil.example", "example.com", false),
    ("https://evilexample.com", "example.com", false),
    ("https://example.com@evil.example", "example.com", false),
    ("https://evil.example\\example.com", "example.com", false),
    ("https://evil.example#example.com", "example.com", false),
    ("https://evil.example/example.com", "example.com", false),
    ("https://example.com/", "example.com", false),
    ("https://example.com:port", "example.com", false),
    ("https://example.com, https://example.com", "example.com", false),
    ("https://example.com\u{e9}", "example.com", false),
    ("example.com", "example.com", false),
    ("null", "example.com", false),
    ("null", "null", false),
    ("", "example.com", false),
    ("file://", "example.com", false),
];

fn is_origin_of_a_page(origin: &str) -> bool {
    let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    host.is_some_and(|host| {
        host.chars().all(|c| c.is_alphanumeric() || ".:[]".contains(c)) && !host.ends_with("port")
    })
}

#[tokio::test]
async fn with_a_session_cookie_the_origin_must_match_the_host() {
    let gateway = TestGateway::start().await;
    for (number, (origin, host, allowed)) in ORIGINS.iter().enumerate() {
        let target = format!("/ws/origin{number}?subscribe-broadcast");
        let request = gateway.request(&target).with("Host", host).header("Origin", origin);
        let with_cookie = request.clone().header("Cookie", COOKIE);
        if *allowed {
            with_cookie.connect().await;
        } else {
            let response = with_cookie.expect_status(403).await;
            // The suggested setting must work: no setting allows a value that is not an origin.
            let advised = response.body.contains("proxy_set_header Host $http_host;");
            assert_eq!(advised, is_origin_of_a_page(origin), "{origin} {host}: {response:?}");
            assert_eq!(response.body.contains("origin.allowed"), advised, "{origin} {host}: {response:?}");
            assert!(response.body.contains(host), "{origin} {host}: {response:?}");
            assert!(
                origin.contains(['\\', '\u{e9}']) || response.body.contains(origin),
                "{origin}: {response:?}"
            );
            let channels = RedisServer::shared().channels(&gateway.channel("broadcast:origin"));
            let own = gateway.channel(&format!("broadcast:origin{number}"));
            assert!(!channels.contains(&own), "{origin}: refused, but subscribed");
        }
        request.header("Cookie", "other=1; notsessionid=x").connect().await;
    }
    gateway.request("/ws/x").header("Cookie", COOKIE).connect().await;
    let twice = gateway.request("/ws/x").with("Host", "example.com").header("Origin", "https://example.com");
    twice.header("Origin", "https://example.com").header("Cookie", COOKIE).expect_status(403).await;
    let second_line =
        gateway.request("/ws/x").header("Origin", "https://evil.example").header("Cookie", "a=b");
    second_line.header("Cookie", COOKIE).expect_status(403).await;
}

#[tokio::test]
async fn listed_origins_are_allowed_and_a_star_allows_all() {
    let list = "https://a.example, b.example:8443";
    let gateway = TestGateway::start_with(&[("origin.allowed", list)]).await;
    for (origin, status) in [
        ("https://a.example", 101),
        ("http://a.example", 403),
        ("https://b.example:8443", 101),
        ("https://b.example:1", 403),
        ("https://c.example", 403),
        ("null", 403),
        ("http://own.example", 101),
    ] {
        let request = gateway.request("/ws/x").with("Host", "own.example").header("Origin", origin);
        request.header("Cookie", COOKIE).expect_status(status).await;
    }
    let gateway = TestGateway::start_with(&[("origin.allowed", "*")]).await;
    for origin in ["https://c.example", "null"] {
        gateway.request("/ws/x").header("Origin", origin).header("Cookie", COOKIE).connect().await;
    }
}

#[tokio::test]
async fn origins_may_be_listed_in_every_common_notation() {
    let list = ".example.com, https://*.shop.example:8443, https://münchen.example, https://port.example:443, https://slash.example/";
    let gateway = TestGateway::start_with(&[("origin.allowed", list)]).await;
    for (origin, status) in [
        ("https://example.com", 101),
        ("http://a.b.example.com:8000", 101),
        ("https://evilexample.com", 403),
        ("https://www.shop.example:8443", 101),
        ("https://www.shop.example", 403),
        ("https://xn--mnchen-3ya.example", 101),
        ("https://munchen.example", 403),
        ("https://port.example", 101),
        ("https://port.example:8443", 403),
        ("https://slash.example", 101),
    ] {
        let request = gateway.request("/ws/x").with("Host", "own.org").header("Origin", origin);
        let (response, _) = request.header("Cookie", COOKIE).send().await;
        assert_eq!(response.status, status, "{origin}: {response:?}");
    }
}

#[tokio::test]
async fn the_log_suggests_only_origins_that_can_be_listed() {
    let gateway = TestGateway::start().await;
    gateway.request("/ws/x").header("Origin", "null").header("Cookie", COOKIE).expect_status(403).await;
    let line = gateway.expect_log(&["refused with 403", "null"]).await;
    assert!(!line.contains("origin.allowed"), "{line}");
    for (entry, reason) in [
        ("null", "any site can make such a frame"),
        ("wss://www.example.com", "origin of the page"),
        ("https://www.example.com/chat", "browsers send no path"),
        ("www.*.com", "is neither an origin"),
    ] {
        let refused = binary().args(["--set", &format!("origin.allowed={entry}")]).output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(64), "{entry}: {said}");
        assert!(said.contains("origin.allowed") && said.contains(reason), "{entry}: {said}");
    }
}

#[tokio::test]
async fn the_session_cookie_name_is_configurable() {
    let gateway = TestGateway::start_with(&[("session.cookie", "mysession")]).await;
    let request = || gateway.request("/ws/x").header("Origin", "https://evil.example");
    request().header("Cookie", COOKIE).connect().await;
    request().header("Cookie", "mysession=x").expect_status(403).await;
}

#[tokio::test]
async fn above_the_connection_limit_handshakes_get_503_until_one_is_free() {
    let gateway = TestGateway::start_with(&[("server.max_connections", "3")]).await;
    let what = "all places are free";
    let mut clients = Vec::new();
    while clients.len() < 3 {
        // The readiness probes of the start may still be open.
        let (response, client) = within_deadline(what, gateway.request("/ws/x").send()).await;
        if response.status == 101 {
            clients.push(client);
        }
    }
    let response = gateway.request("/ws/x").expect_status(503).await;
    assert!(response.body.contains("too many connections"), "{response:?}");
    assert!(response.header("retry-after").is_some(), "{response:?}");
    clients.pop();
    within_deadline(what, async { while gateway.request("/ws/x").send().await.0.status != 101 {} }).await;
}

mod redis_only {
    use super::*;

    #[tokio::test]
    async fn without_redis_handshakes_get_503_with_retry_after() {
        let redis = RedisServer::start();
        let gateway = TestGateway::builder().redis(&redis).start().await;
        redis.kill();
        let refused = within_deadline("a 503", async {
            loop {
                let response = gateway.request("/ws/x?subscribe-broadcast").send().await.0;
                if response.status != 101 {
                    return response;
                }
            }
        });
        let response = refused.await;
        assert_eq!(response.status, 503, "{response:?}");
        assert!(response.header("retry-after").is_some_and(|seconds| seconds.parse::<u32>().is_ok()));
        assert!(response.body.contains("redis cannot be reached"), "{response:?}");
    }

    #[tokio::test]
    async fn an_unresponsive_redis_means_503_within_the_handshake_timeout() {
        let redis = RedisServer::start();
        let gateway = TestGateway::builder().redis(&redis).set("server.handshake_seconds", "1").start().await;
        redis.pause();
        let begun = tokio::time::Instant::now();
        let response = gateway.request("/ws/hangs?subscribe-broadcast").expect_status(503).await;
        assert!(response.header("retry-after").is_some(), "{response:?}");
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        redis.resume();
        let again =
            async { while gateway.request("/ws/hangs?subscribe-broadcast").send().await.0.status != 101 {} };
        within_deadline("a 101 when Redis answers again", again).await;
    }

    #[tokio::test]
    async fn names_that_look_like_patterns_are_subscribed_literally() {
        let mut monitor = RedisServer::shared().monitor();
        let gateway = TestGateway::start().await;
        let long = "l".repeat(10_000);
        for facility in ["*", "[a-z]", "%3F", "a%20b", "%22quoted%22", "%5C", &long] {
            gateway.connect(&format!("/ws/{facility}?subscribe-broadcast")).await;
        }
        let mut commands = monitor.commands(gateway.namespace());
        commands.retain(|command| !command.contains("ws4redis:control"));
        let count = |verb: &str| {
            let verb = format!("\"{verb}\"");
            commands
                .iter()
                .filter(|c| c.get(..verb.len()).is_some_and(|v| v.eq_ignore_ascii_case(&verb)))
                .count()
        };
        assert_eq!((count("SUBSCRIBE"), count("GET") + count("MGET")), (7, 7), "{commands:#?}");
        assert_eq!(commands.len(), 14, "nothing but SUBSCRIBE and GET: {commands:#?}");
        let literal = format!("\"{}\"", gateway.channel("broadcast:\\\"quoted\\\""));
        assert!(commands.iter().any(|command| command.ends_with(&literal)), "{commands:#?}");
    }
}
