//! JSON Web Tokens: identification, precedence, expiry, and secrecy.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::client::{Request, Response, TestClient};
use crate::support::events::SseClient;
use crate::support::gateway::GatewayBuilder;
use crate::support::sessions::{hint, mary, redis_key, session_key};
use crate::support::tokens::{ALGORITHMS, hmac_token, key_file, path, read, token, token_with};
use crate::support::{RedisServer, TestGateway, TestSite, within_deadline};

const ALL: &str = "subscribe-broadcast&subscribe-group&subscribe-user&subscribe-session";
const JOHN: &str = r#"{"sub":"john","groups":["staff","red team"]}"#;

/// Configures a gateway for tokens of this algorithm.
fn builder(algorithm: &str) -> GatewayBuilder {
    let key = path(&key_file(algorithm));
    let builder = TestGateway::builder().set("auth.jwt.algorithm", algorithm);
    builder.set("auth.jwt.key_file", key.to_str().unwrap())
}

/// Returns a handshake with a token in the query.
fn by_query(gateway: &TestGateway, target: &str, token: &str) -> Request {
    gateway.request(&format!("{target}&access_token={token}"))
}

/// Returns a handshake with a token among the subprotocols.
fn by_protocol(gateway: &TestGateway, target: &str, token: &str) -> Request {
    gateway.request(target).header("Sec-WebSocket-Protocol", format!("bearer.{token}, chat"))
}

/// Returns the Unix time in this many seconds, rounded up.
fn in_seconds(seconds: u64) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 1 + seconds
}

/// Returns the subscribed audiences of a facility: their channels without prefix and facility.
fn subscribed_audiences(gateway: &TestGateway, facility: &str) -> Vec<String> {
    let (prefix, suffix) = (gateway.channel(""), format!(":{facility}"));
    let channels = RedisServer::shared().channels(&prefix);
    let own = channels.iter().filter_map(|name| name[prefix.len()..].strip_suffix(&suffix));
    let mut audiences: Vec<_> = own.map(str::to_owned).collect();
    audiences.sort();
    audiences
}

#[tokio::test]
async fn a_token_of_each_algorithm_is_accepted_in_the_query_and_as_a_subprotocol() {
    for algorithm in ALGORITHMS {
        let gateway = builder(algorithm).start().await;
        let token = token(algorithm, JOHN);
        for (facility, by) in [("q", by_query as fn(&_, &_, &_) -> _), ("p", by_protocol)] {
            let mut client = by(&gateway, &format!("/ws/{facility}?{ALL}"), &token).connect().await;
            let expected = ["broadcast", "group:red team", "group:staff", "user:john"];
            assert_eq!(subscribed_audiences(&gateway, facility), expected, "{algorithm}");
            gateway.publish(&format!("user:john:{facility}"), "to john");
            client.expect_text("to john").await;
            gateway.publish(&format!("group:red team:{facility}"), "to the team");
            client.expect_text("to the team").await;
        }
    }
}

#[tokio::test]
async fn keys_may_come_from_a_jwks_by_key_id() {
    let jwks = path("jwks.json");
    let gateway = TestGateway::start_with(&[
        ("auth.jwt.algorithm", "ES256"),
        ("auth.jwt.jwks_file", jwks.to_str().unwrap()),
    ])
    .await;
    for (facility, header) in [("a", r#"{"alg":"ES256","kid":"ES256-1"}"#), ("b", r#"{"alg":"ES256"}"#)] {
        let token = token_with("ES256", header, JOHN);
        let target = format!("/ws/{facility}?subscribe-user");
        let _client = by_protocol(&gateway, &target, &token).connect().await;
        assert_eq!(subscribed_audiences(&gateway, facility), ["user:john"], "{header}");
    }
    let token = token_with("ES256", r#"{"alg":"ES256","kid":"other"}"#, JOHN);
    by_protocol(&gateway, "/ws/x?subscribe-user", &token).expect_status(403).await;
}

#[tokio::test]
async fn a_token_is_never_echoed_as_subprotocol_and_needs_another_one_next_to_it() {
    let gateway = builder("HS256").start().await;
    let token = token("HS256", JOHN);
    let bearer = format!("bearer.{token}");
    for (facility, lines) in [
        ("a", &[format!("{bearer}, chat")][..]),
        ("b", &[format!("chat,{bearer}")]),
        ("c", &[bearer.clone(), "chat".to_owned()]),
        ("d", &["chat, other".to_owned(), bearer.clone()]),
    ] {
        let mut request = gateway.request(&format!("/ws/{facility}?subscribe-user"));
        for line in lines {
            request = request.header("Sec-WebSocket-Protocol", line);
        }
        let (response, _client) = request.send().await;
        assert_eq!(response.status, 101, "{lines:?}");
        assert_eq!(response.header("sec-websocket-protocol"), Some("chat"), "{lines:?}");
        assert_eq!(subscribed_audiences(&gateway, facility), ["user:john"], "{lines:?}");
    }
    gateway.request("/ws/x").header("Sec-WebSocket-Protocol", &bearer).expect_status(400).await;
    let (response, _client) = by_query(&gateway, "/ws/x?subscribe-user", &token).send().await;
    assert_eq!((response.status, response.header("sec-websocket-protocol")), (101, None));
}

#[tokio::test]
async fn with_a_token_the_session_cookie_is_ignored() {
    let gateway = builder("HS256").start().await;
    let cookie = mary(&session_key());
    let (john, anonymous) = (token("HS256", JOHN), token("HS256", r#"{"groups":["staff"]}"#));
    for (facility, token, expected) in [
        ("j", &john, &["broadcast", "group:red team", "group:staff", "user:john"][..]),
        ("n", &anonymous, &["broadcast"]),
    ] {
        let request = by_protocol(&gateway, &format!("/ws/{facility}?{ALL}"), token);
        let _client = request.header("Cookie", &cookie).connect().await;
        assert_eq!(subscribed_audiences(&gateway, facility), expected, "{facility}");
    }
    // A valid session does not rescue an invalid token, and it requires a matching Origin.
    let _mary = gateway.request("/ws/m?subscribe-user").header("Cookie", &cookie).connect().await;
    assert_eq!(subscribed_audiences(&gateway, "m"), ["user:mary"]);
    by_protocol(&gateway, "/ws/x?echo", "bad").header("Cookie", &cookie).expect_status(403).await;
    let foreign = |request: Request| request.header("Origin", "https://other.example");
    foreign(by_protocol(&gateway, "/ws/x?echo", &john)).connect().await;
    let response = foreign(by_protocol(&gateway, "/ws/x?echo", &john))
        .header("Cookie", &cookie)
        .expect_status(403)
        .await;
    assert!(response.body.contains("other.example"), "{response:?}");
}

#[tokio::test]
async fn with_a_token_the_callback_is_not_called() {
    let site = TestSite::always_returning(r#"{"user":"mary","groups":["blue"]}"#).await;
    let gateway = builder("HS256").set("auth.callback_url", &site.url()).start().await;
    let cookie = mary(&session_key());
    let with_cookie = |request: Request| request.header("Cookie", &cookie);
    let john = token("HS256", JOHN);
    let _john = with_cookie(by_protocol(&gateway, &format!("/ws/j?{ALL}"), &john)).connect().await;
    assert_eq!(
        subscribed_audiences(&gateway, "j"),
        ["broadcast", "group:red team", "group:staff", "user:john"]
    );
    with_cookie(by_protocol(&gateway, "/ws/x?echo", "bad")).expect_status(403).await;
    assert_eq!(site.requests().len(), 0);
    // Without a token, the callback is called.
    let _mary = with_cookie(gateway.request(&format!("/ws/m?{ALL}"))).connect().await;
    assert_eq!(subscribed_audiences(&gateway, "m"), ["broadcast", "group:blue", "user:mary"]);
    assert_eq!(site.expect_requests(1).await.len(), 1);
}

#[tokio::test]
async fn an_untrusted_token_gets_403_with_a_generic_reason() {
    let gateway = builder("RS256").start().await;
    let sound = token("RS256", JOHN);
    let public = read("RS256.public.pem");
    let (head, signature) = sound.rsplit_once('.').unwrap();
    let other = if signature.starts_with('A') { "B" } else { "A" };
    let past = in_seconds(0) - 10;
    for (token, reason) in [
        (format!("{head}.{other}{}", &signature[1..]), "signature"),
        (token("ES256", JOHN), "algorithm"),
        (token_with("RS256", r#"{"alg":"RS512"}"#, JOHN), "algorithm"),
        (hmac_token(r#"{"alg":"HS256"}"#, JOHN, &public), "algorithm"),
        (hmac_token(r#"{"alg":"RS256"}"#, JOHN, &public), "signature"),
        (token_with("RS256", r#"{"alg":"none"}"#, JOHN), "malformed"),
        (format!("{head}."), "signature"),
        (head.to_owned(), "malformed"),
        ("x".to_owned(), "malformed"),
        (token("RS256", r#"{"sub":["john"]}"#), "malformed"),
        (token("RS256", &format!(r#"{{"sub":"john","exp":{past}}}"#)), "expired"),
        (token("RS256", &format!(r#"{{"sub":"john","nbf":{}}}"#, in_seconds(100))), "not valid yet"),
    ] {
        for by in [by_query, by_protocol] {
            let response = by(&gateway, "/ws/x?subscribe-broadcast", &token).expect_status(403).await;
            assert!(response.body.contains(reason), "{reason}: {response:?}");
            assert!(!response.body.contains(&token) && !response.body.contains("john"), "{response:?}");
        }
    }
    assert_eq!(subscribed_audiences(&gateway, "x"), Vec::<String>::new());
}

#[tokio::test]
async fn several_tokens_or_an_empty_one_are_refused() {
    let gateway = builder("HS256").start().await;
    let (john, mary) = (token("HS256", JOHN), token("HS256", r#"{"sub":"mary"}"#));
    for (facility, twice) in [
        ("a", by_query(&gateway, "/ws/a?subscribe-user", &format!("{john}&access_token={john}"))),
        ("b", by_query(&gateway, "/ws/b?subscribe-user", &john.replace('.', "%2e"))),
        (
            "c",
            by_query(&gateway, "/ws/c?subscribe-user", &john)
                .header("Sec-WebSocket-Protocol", format!("chat, bearer.{john}")),
        ),
    ] {
        let _client = twice.connect().await;
        assert_eq!(subscribed_audiences(&gateway, facility), ["user:john"]);
    }
    let target = "/ws/x?subscribe-user";
    for unclear in [
        by_query(&gateway, target, &format!("{john}&access_token={mary}")),
        by_query(&gateway, target, &format!("{john}&access_token=")),
        by_query(&gateway, target, ""),
        gateway.request("/ws/x?access_token"),
        by_protocol(&gateway, target, ""),
        by_protocol(&gateway, target, &john).header("Sec-WebSocket-Protocol", format!("bearer.{mary}")),
        by_query(&gateway, target, &john).header("Sec-WebSocket-Protocol", format!("bearer.{mary}, chat")),
    ] {
        let response = unclear.expect_status(403).await;
        assert!(response.body.contains("one token"), "{response:?}");
    }
    // Other parameter names carry no tokens.
    let others = format!("{target}&ACCESS_TOKEN={mary}&access_token%20={mary}&token={mary}");
    let _client =
        gateway.request(&others).header("Sec-WebSocket-Protocol", "Bearer.x, bearer").connect().await;
    assert_eq!(subscribed_audiences(&gateway, "x"), Vec::<String>::new());
}

#[tokio::test]
async fn audience_and_issuer_must_match_the_settings() {
    let gateway =
        builder("EdDSA").set("auth.jwt.audience", "ws, other").set("auth.jwt.issuer", "me").start().await;
    let shown = |facility, claims| {
        by_protocol(&gateway, &format!("/ws/{facility}?subscribe-user"), &token("EdDSA", claims))
    };
    for (facility, claims) in [
        ("a", r#"{"sub":"john","aud":"ws","iss":"me"}"#),
        ("b", r#"{"sub":"john","aud":["x","other"],"iss":"me"}"#),
    ] {
        let _client = shown(facility, claims).connect().await;
        assert_eq!(subscribed_audiences(&gateway, facility), ["user:john"], "{claims}");
    }
    for claims in [
        r#"{"sub":"john","aud":"x","iss":"me"}"#,
        r#"{"sub":"john","iss":"me"}"#,
        r#"{"sub":"john","aud":"ws","iss":"you"}"#,
        r#"{"sub":"john","aud":"ws"}"#,
    ] {
        let response = shown("x", claims).expect_status(403).await;
        assert!(response.body.contains("audience or issuer"), "{response:?}");
    }
}

#[tokio::test]
async fn access_rules_apply_to_users_and_groups_of_tokens() {
    let text = r#"
        [[access]]
        facility = ["", "chat"]
        anonymous = ["subscribe-broadcast"]
        users = ["subscribe-*"]
        groups.staff = ["publish-broadcast"]
    "#;
    let gateway = builder("HS256").rules(text).start().await;
    let target = "/ws/chat?subscribe-broadcast&subscribe-user&publish-broadcast&echo";
    let enter = async |claims: &str| by_query(&gateway, target, &token("HS256", claims)).connect().await;
    let mut john = enter(JOHN).await;
    let mut mary = enter(r#"{"sub":"mary","groups":["blue"]}"#).await;
    let mut anonymous = enter(r#"{"groups":["staff"]}"#).await;
    assert_eq!(subscribed_audiences(&gateway, "chat"), ["broadcast", "user:john", "user:mary"]);
    anonymous.send_text("from nobody").await;
    mary.send_text("from mary").await;
    john.send_text("from john").await;
    for client in [&mut john, &mut mary, &mut anonymous] {
        client.expect_text("from john").await;
        client.expect_nothing().await;
    }
}

#[tokio::test]
async fn without_configured_keys_tokens_are_ignored() {
    let gateway = TestGateway::start().await;
    let token = token("HS256", JOHN);
    for (facility, by) in [("q", by_query as fn(&_, &_, &_) -> _), ("p", by_protocol)] {
        let _client = by(&gateway, &format!("/ws/{facility}?{ALL}"), &token).connect().await;
        assert_eq!(subscribed_audiences(&gateway, facility), ["broadcast"]);
    }
    let several = gateway.request("/ws/x?access_token=a&access_token=&access_token");
    several.header("Sec-WebSocket-Protocol", "bearer., bearer.b, chat").connect().await;
    let bearer = format!("bearer.{token}");
    gateway.request("/ws/x").header("Sec-WebSocket-Protocol", bearer).expect_status(400).await;
}

/// Expects a socket to be closed when its token expires, not earlier and not much later.
async fn expect_end_at(mut client: TestClient, exp: u64) {
    client.expect_nothing().await;
    client.expect_close(4401).await;
    let closed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let late = closed.checked_sub(Duration::from_secs(exp));
    assert!(late.is_some_and(|late| late < Duration::from_secs(2)), "closed at {closed:?}, not {exp}");
}

#[tokio::test]
async fn a_socket_is_closed_with_4401_when_its_token_expires() {
    let gateway = builder("HS256").set("session.recheck_seconds", "1").start().await;
    let exp = in_seconds(2);
    let target = "/ws/x?subscribe-broadcast&subscribe-user";
    let john = token("HS256", &format!(r#"{{"sub":"john","exp":{exp}}}"#));
    let anonymous = token("HS256", &format!(r#"{{"exp":{exp}}}"#));
    let first = by_query(&gateway, target, &john).connect().await;
    let second = by_protocol(&gateway, target, &john).connect().await;
    let third = by_query(&gateway, target, &anonymous).connect().await;
    let mut endless = by_query(&gateway, target, &token("HS256", JOHN)).connect().await;
    within_deadline("all are closed", async {
        tokio::join!(expect_end_at(first, exp), expect_end_at(second, exp), expect_end_at(third, exp));
    })
    .await;
    endless.expect_nothing().await;
    by_query(&gateway, target, &john).expect_status(403).await;
}

#[tokio::test]
async fn a_token_without_or_with_a_distant_expiry_survives_invalidations() {
    let gateway = builder("HS256").set("session.recheck_seconds", "1").start().await;
    let target = "/ws/x?subscribe-broadcast&subscribe-user";
    let mut clients = Vec::new();
    for claims in [JOHN, r#"{"sub":"john","exp":4102444800}"#, r#"{"sub":"john","exp":1e18}"#] {
        clients.push(by_query(&gateway, target, &token("HS256", claims)).connect().await);
    }
    let key = session_key();
    let mut marys = gateway.request(target).header("Cookie", mary(&key)).connect().await;
    hint(&gateway, "john", "logout");
    // An ended session, closed by the same invalidation, proves that the gateway has processed it.
    RedisServer::shared().command(&["DEL", &redis_key(&key)]);
    hint(&gateway, "8", "logout");
    marys.expect_close(4401).await;
    for client in &mut clients {
        client.expect_nothing().await;
    }
}

/// Returns whether a text contains a part of the token: header, claims or signature.
fn contains_part(text: &str, token: &str) -> bool {
    token.split('.').any(|part| part.len() > 8 && text.contains(part))
}

#[tokio::test]
async fn no_token_is_logged_or_returned_valid_or_not() {
    for format in ["text", "json"] {
        let gateway = builder("HS256").variable("RUST_LOG", "trace").set("log.format", format).start().await;
        let (sound, expired) = (token("HS256", JOHN), token("HS256", r#"{"sub":"john","exp":1}"#));
        let forged = format!("{sound}AAAA");
        let cookie = mary(&session_key());
        let mut answers: Vec<Response> = Vec::new();
        for token in [&sound, &expired, &forged] {
            for by in [by_query, by_protocol] {
                let with = |target| by(&gateway, target, token);
                for request in [
                    with("/ws/x?subscribe-user&subscribe-broadcast"),
                    with("/ws/x?").header("Cookie", &cookie).header("Origin", "https://other.example"),
                    with("/ws/%00?"),
                    with("/nowhere?"),
                    with("/?"),
                    with("/ws/x?").method("POST"),
                    with("/ws/x?").without("Upgrade"),
                    with("/ws/x?").without("Host"),
                    with("/ws/x?").with("Sec-WebSocket-Key", "x"),
                    with("/ws/x?").with("Sec-WebSocket-Version", "8"),
                    with("/ws/x?").version("HTTP/1.0"),
                    with("/ws/x?").version("HTTP/3.7"),
                    with("/ws/x?").header("X-Broken", "a\0b"),
                    with(&format!("/ws/x?access_token=other&pad={}", "x".repeat(20_000))),
                ] {
                    answers.push(request.send().await.0);
                }
            }
        }
        let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
        for status in [101, 400, 403, 404, 426] {
            assert!(statuses.contains(&status), "{status} is not among {statuses:?}");
        }
        gateway.signal("TERM");
        gateway.expect_log(&["counts"]).await;
        for token in [&sound, &expired, &forged] {
            for line in gateway.log() {
                assert!(!contains_part(&line, token) && !line.contains("access_token"), "{line}");
            }
            for answer in &answers {
                assert!(!contains_part(&format!("{answer:?}"), token), "{answer:?}");
            }
        }
        assert!(gateway.count_log(&["request refused", "expired"]) > 0, "{:#?}", gateway.log());
    }
}

#[tokio::test]
async fn a_token_may_come_in_the_authorization_header_of_a_plain_request() {
    let gateway = builder("HS256").start().await;
    let token = token("HS256", JOHN);
    let bearer = format!("bearer {token}");
    let stream = gateway.stream("/ws/x?subscribe-user").header("Authorization", &bearer);
    let mut events = SseClient::open(stream).await;
    let post = gateway.post("/ws/x?publish-user", "by post").header("Authorization", &bearer);
    post.expect_status(204).await;
    events.expect("by post").await;
    let damaged = format!("Bearer {}x", &token[..token.len() - 2]);
    gateway.stream("/ws/x").header("Authorization", damaged).expect_status(403).await;
    // In a handshake the header is ignored: pages cannot set it, so it belongs to a proxy.
    gateway.request("/ws/y?subscribe-user").header("Authorization", &bearer).connect().await;
    assert_eq!(subscribed_audiences(&gateway, "y"), Vec::<String>::new());
}

#[tokio::test]
async fn the_user_claim_is_configurable_as_for_simplejwt_tokens() {
    let gateway = builder("HS256").set("auth.jwt.user_claim", "user_id").start().await;
    for (facility, user_id) in [("text", r#""7""#), ("number", "7")] {
        let claims = format!(r#"{{"token_type":"access","jti":"x","user_id":{user_id},"groups":null}}"#);
        let token = token("HS256", &claims);
        let _client = by_protocol(&gateway, &format!("/ws/{facility}?{ALL}"), &token).connect().await;
        assert_eq!(subscribed_audiences(&gateway, facility), ["broadcast", "user:7"]);
    }
    assert_eq!(gateway.count_log(&["a valid token has no claim"]), 0);
}

#[tokio::test]
async fn a_valid_token_without_a_user_is_logged_with_a_cure_and_without_its_values() {
    let gateway = builder("HS256").start().await;
    let geheim = token("HS256", r#"{"token_type":"access","user_id":"geheim"}"#);
    for facility in ["a", "b"] {
        let _client = by_protocol(&gateway, &format!("/ws/{facility}?{ALL}"), &geheim).connect().await;
        assert_eq!(subscribed_audiences(&gateway, facility), ["broadcast"]);
    }
    gateway
        .expect_log(&[
            "INFO",
            "a valid token has no claim sub, but user_id",
            "anonymous",
            "auth.jwt.user_claim",
        ])
        .await;
    assert_eq!(gateway.count_log(&["geheim"]), 0);
}

#[tokio::test]
async fn a_token_with_a_name_above_1024_bytes_is_refused() {
    let gateway = builder("HS256").start().await;
    let longest = token("HS256", &format!(r#"{{"sub":"{}"}}"#, "j".repeat(1024)));
    let _client = by_protocol(&gateway, "/ws/x?subscribe-user", &longest).connect().await;
    assert_eq!(subscribed_audiences(&gateway, "x"), [format!("user:{}", "j".repeat(1024))]);
    let longer = token("HS256", &format!(r#"{{"sub":"{}"}}"#, "j".repeat(1025)));
    by_protocol(&gateway, "/ws/x?subscribe-user", &longer).expect_status(403).await;
}
