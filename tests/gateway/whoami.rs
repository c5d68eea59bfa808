//! The whoami endpoint of the demo page.

use crate::support::client::{Request, Response};
use crate::support::sessions::{john, redis_key, session_key, write_session};
use crate::support::site::{SiteReply, TestSite};
use crate::support::{RedisServer, TestGateway};

const ANONYMOUS: &str =
    r#"{"expires_in":null,"groups":[],"known_by":null,"logged_in":false,"session":false,"user":null}"#;

async fn gateway() -> TestGateway {
    TestGateway::start_with(&[("demo.enabled", "on")]).await
}

fn whoami_request(gateway: &TestGateway) -> Request {
    let request = gateway.request("/whoami/x?subscribe-user").without("Upgrade").without("Connection");
    request.without("Sec-WebSocket-Key").without("Sec-WebSocket-Version")
}

/// Sends the request of the demo page.
async fn whoami(gateway: &TestGateway, cookie: &str) -> Response {
    let asked = whoami_request(gateway).header("Sec-Fetch-Site", "same-origin").header("Cookie", cookie);
    asked.expect_status(200).await
}

#[tokio::test]
async fn whoami_reports_anonymous_visitors_uncached() {
    let gateway = gateway().await;
    let answer = whoami_request(&gateway).expect_status(200).await;
    assert_eq!(answer.body, ANONYMOUS);
    for (name, value) in [
        ("content-type", Some("application/json")),
        ("cache-control", Some("no-store")),
        ("x-content-type-options", Some("nosniff")),
        ("cross-origin-resource-policy", Some("same-origin")),
        ("access-control-allow-origin", None),
    ] {
        assert_eq!(answer.header(name), value, "{answer:?}");
    }
    for cookie in ["sessionid=", "sessionid=x", &format!("sessionid={}", session_key())] {
        assert_eq!(whoami(&gateway, cookie).await.body, ANONYMOUS, "{cookie}");
    }
}

#[tokio::test]
async fn whoami_reports_name_groups_and_expiry_but_never_the_session_key() {
    let gateway = gateway().await;
    let key = session_key();
    let cookie = john(&key);
    RedisServer::shared().command(&["PERSIST", &redis_key(&key)]);
    let answer = whoami(&gateway, &cookie).await;
    let expected = r#"{"expires_in":null,"groups":["staff","red team"],"known_by":"session","logged_in":true,"session":true,"user":"john"}"#;
    assert_eq!(answer.body, expected);
    assert!(!format!("{answer:?}").contains(&key), "{answer:?}");
    assert_eq!(gateway.count_log(&[&key]), 0);
    RedisServer::shared().command(&["EXPIRE", &redis_key(&key), "1000"]);
    let body = whoami(&gateway, &cookie).await.body;
    assert!([":999,", ":1000,"].iter().any(|seconds| body.contains(seconds)), "{body}");
    write_session(RedisServer::shared(), &key, r#"{"cart": 1}"#);
    let body = whoami(&gateway, &cookie).await.body;
    assert!(body.contains(r#""logged_in":false,"session":true,"user":null"#), "{body}");
    RedisServer::shared().command(&["DEL", &redis_key(&key)]);
    assert_eq!(whoami(&gateway, &cookie).await.body, ANONYMOUS);
}

#[tokio::test]
async fn whoami_is_denied_to_pages_of_other_origins() {
    let gateway = gateway().await;
    let cookie = john(&session_key());
    for site in ["cross-site", "same-site", "x", ""] {
        let asked = whoami_request(&gateway).header("Cookie", &cookie).header("Sec-Fetch-Site", site);
        let refused = asked.expect_status(403).await;
        assert!(
            refused.body.contains("only pages of this server") && !refused.body.contains("john"),
            "{refused:?}"
        );
    }
    for origin in ["https://evil.example", "null"] {
        let refused = whoami_request(&gateway).header("Cookie", &cookie).header("Origin", origin);
        assert!(!refused.expect_status(403).await.body.contains("john"), "{origin}");
    }
    let own = whoami_request(&gateway).header("Cookie", &cookie).header("Sec-Fetch-Site", "none");
    let own = own.header("Origin", format!("http://{}", gateway.address()));
    assert!(own.expect_status(200).await.body.contains("john"));
    whoami_request(&gateway).method("POST").expect_status(405).await;
    for (path, status) in [("/whoami", 404), ("/whoami/%FF", 400)] {
        let asked = gateway.request(path).without("Upgrade").header("Cookie", &cookie);
        assert!(!asked.expect_status(status).await.body.contains("john"), "{path}");
    }
}

#[tokio::test]
async fn whoami_is_unavailable_without_the_demo_page() {
    let gateway = TestGateway::start().await;
    let cookie = john(&session_key());
    let answer = whoami_request(&gateway).header("Cookie", &cookie).expect_status(404).await;
    assert!(!answer.body.contains("john"), "{answer:?}");
}

#[tokio::test]
async fn whoami_uses_the_callback_if_configured() {
    let site = TestSite::always_returning(r#"{"user": "mary", "groups": ["blue"], "expires_in": 60}"#).await;
    let settings = [("demo.enabled", "on"), ("auth.callback_url", &site.url())];
    let gateway = TestGateway::start_with(&settings).await;
    let expected = r#"{"expires_in":60,"groups":["blue"],"known_by":"callback","logged_in":true,"session":false,"user":"mary"}"#;
    assert_eq!(whoami(&gateway, "a=b").await.body, expected);
    assert!(site.requests()[0].target.ends_with("?facility=x&flag=subscribe-user"), "{:?}", site.requests());
    site.answer(|_| SiteReply::new(500, &[], ""));
    let answer = whoami_request(&gateway).header("Cookie", "c=d").expect_status(503).await;
    assert_eq!(answer.header("retry-after"), Some("2"));
}

/// The question of our own client at the address of a handshake.
fn identity_request(gateway: &TestGateway, target: &str) -> Request {
    let request = gateway.request(target).without("Upgrade").without("Connection");
    request.without("Sec-WebSocket-Key").without("Sec-WebSocket-Version").with("Accept", "application/json")
}

#[tokio::test]
async fn a_page_may_ask_for_its_identity_and_the_flags_that_it_is_granted() {
    let gateway = TestGateway::start_with(&[("anonymous_publish", "false")]).await;
    let target = "/ws/x?subscribe-broadcast&subscribe-user&publish-broadcast&client=ws4redis";
    let origin = format!("http://{}", gateway.address());
    let anonymous = identity_request(&gateway, target).header("Origin", &origin).expect_status(200).await;
    let expected = r#"{"advice":["flags not granted: user, publish-broadcast, since the visitor is anonymous or a rule forbids it"],"cookie":false,"expires_in":null,"granted":["broadcast"],"groups":[],"known_by":null,"logged_in":false,"refused":["user","publish-broadcast"],"session":false,"user":null}"#;
    assert_eq!(anonymous.body, expected);
    assert_eq!(anonymous.header("access-control-allow-origin"), Some(&*origin));
    assert_eq!(anonymous.header("cache-control"), Some("no-store"));

    let key = session_key();
    let john = identity_request(&gateway, target).header("Cookie", john(&key)).expect_status(200).await;
    let parts = [
        r#"{"advice":[],"cookie":true"#,
        r#""granted":["broadcast","user","publish-broadcast"],"#,
        r#""refused":[],"#,
    ];
    assert!(parts.iter().all(|part| john.body.contains(part)) && !john.body.contains(&key), "{john:?}");

    let gone = format!("sessionid={}", session_key());
    let gone = identity_request(&gateway, target).header("Cookie", gone).expect_status(200).await;
    assert!(
        gone.body.contains(r#""cookie":true"#) && gone.body.contains("the session is not in Redis"),
        "{gone:?}"
    );
}

#[tokio::test]
async fn a_page_of_another_origin_learns_why_it_is_refused_and_no_identity() {
    let gateway = TestGateway::start().await;
    let target = "/ws/x?subscribe-user&client=ws4redis";
    let asked = identity_request(&gateway, target).header("Cookie", john(&session_key()));
    let refused = asked.header("Origin", "https://evil.example").expect_status(403).await;
    assert!(refused.body.contains("origin.allowed") && !refused.body.contains("john"), "{refused:?}");
    assert_eq!(refused.header("access-control-allow-origin"), Some("https://evil.example"));
    // Only our own client asks; other requests without an upgrade are mistakes, and named as such.
    let foreign = identity_request(&gateway, "/ws/x?subscribe-user").expect_status(400).await;
    assert!(foreign.body.contains("Upgrade"), "{foreign:?}");
    identity_request(&gateway, "/ws/%FF?client=ws4redis").expect_status(400).await;
}

mod redis_only {
    use super::*;

    #[tokio::test]
    async fn whoami_never_reports_anonymous_if_sessions_cannot_be_read() {
        let sessions = RedisServer::start();
        let url = sessions.url();
        let settings = [("demo.enabled", "on"), ("session.redis_url", &*url)];
        let gateway = TestGateway::start_with(&settings).await;
        let key = session_key();
        let cookie = format!("sessionid={key}");
        write_session(&sessions, &key, r#"{"_auth_user_id": "7", "ws4redis:username": "john"}"#);
        assert!(whoami(&gateway, &cookie).await.body.contains("john"));
        sessions.stop();
        let refused = whoami_request(&gateway).header("Cookie", &cookie).expect_status(503).await;
        assert_eq!(refused.header("retry-after"), Some("2"), "{refused:?}");
        // Without credentials no session is read.
        assert_eq!(whoami_request(&gateway).expect_status(200).await.body, ANONYMOUS);
    }
}
