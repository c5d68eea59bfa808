//! The callback: its request, the meaning of its responses, caching, and a site that is slow, down or hostile.

use std::collections::HashSet;

use tokio::net::TcpListener;

use crate::support::client::{Request, Response, TestClient};
use crate::support::gateway::{GatewayBuilder, binary};
use crate::support::site::SiteRequest;
use crate::support::{RedisServer, SiteReply, TestGateway, TestSite, within_deadline};

const ALL: &str = "subscribe-broadcast&subscribe-group&subscribe-user&subscribe-session";
const KEY: &str = "aonhk897c0q74kqva7rtv278kgdpr276";

/// Configures a gateway with a callback to the site. One shard, so that the content of the cache is predictable.
fn gateway_builder(site: &TestSite) -> GatewayBuilder {
    let builder = TestGateway::builder().set("auth.callback_url", &site.url());
    builder.set("server.shards", "1").set("auth.callback_timeout_seconds", "9")
}

async fn gateway(site: &TestSite) -> TestGateway {
    gateway_builder(site).start().await
}

fn with_cookie(gateway: &TestGateway, path: &str, cookie: &str) -> Request {
    gateway.request(path).header("Cookie", cookie)
}

async fn connect(gateway: &TestGateway, path: &str, cookie: &str) -> TestClient {
    with_cookie(gateway, path, cookie).connect().await
}

fn channels(gateway: &TestGateway) -> Vec<String> {
    let prefix = gateway.channel("");
    let mut channels = RedisServer::shared().channels(&prefix);
    channels.sort();
    channels.into_iter().map(|name| name[prefix.len()..].to_owned()).collect()
}

/// Identifies the visitor with `Cookie: NAME` as the user of that name.
fn user_from_cookie(asked: &SiteRequest) -> SiteReply {
    match asked.all("cookie").first() {
        Some(name) => SiteReply::json(format!(r#"{{"user": "{name}"}}"#)),
        None => SiteReply::json("null"),
    }
}

mod what_is_asked {
    use super::*;

    #[tokio::test]
    async fn the_callback_receives_facility_flags_cookie_authorization_secret_and_address() {
        let site = TestSite::always_returning("null").await;
        let gateway = gateway_builder(&site).set("auth.callback_secret", "geheim").start().await;
        let path = "/ws/a%2Fb%20c%C3%A9+%26?subscribe-user&echo&publish-broadcast&other=1";
        let request = gateway.request(path).header("Cookie", "a=1").header("cookie", "b=2; c=3");
        let request = request.header("Authorization", "Bearer x").header("X-Forwarded-For", "6.6.6.6");
        let request = request.header("X-WS4Redis-Secret", "guess").header("Accept-Language", "de");
        request.connect().await;
        let asked = site.expect_requests(1).await.remove(0);
        let expected = "/identity/?facility=a%2Fb%20c%C3%A9%2B%26&flag=publish-broadcast&flag=subscribe-user";
        assert_eq!(asked.target, expected);
        let host = site.address().to_string();
        let expected = [
            ("cookie", "a=1; b=2; c=3"),
            ("authorization", "Bearer x"),
            ("x-forwarded-for", "127.0.0.1"),
            ("accept", "application/json"),
            ("user-agent", concat!("ws4redis/", env!("CARGO_PKG_VERSION"))),
            ("x-ws4redis-secret", "geheim"),
            ("host", &host),
        ];
        let got: Vec<_> = asked.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(got, expected);
        for secret in ["geheim", "Bearer", "a=1"] {
            assert_eq!(gateway.count_log(&[secret]), 0, "{secret}");
        }
    }

    #[tokio::test]
    async fn configured_headers_are_forwarded_with_all_values_and_fixed_headers_win() {
        let site = TestSite::always_returning("null").await;
        let gateway = gateway_builder(&site)
            .set("auth.callback_url", &format!("{}?site=1", site.url()))
            .set("auth.callback_forward", "X-Forwarded-For, X-Tenant, X-Forwarded-Proto, Accept")
            .set("auth.callback_headers", "Host: www.example.com, X-Forwarded-Proto: https")
            .start()
            .await;
        let request =
            gateway.request("/ws/x").header("X-Forwarded-For", "1.1.1.1").header("x-tenant", b"\xe9 1");
        let request = request.header("X-Tenant", "2").header("X-Forwarded-For", "2.2.2.2");
        request.header("X-Forwarded-Proto", "http").header("Accept", "a/b").connect().await;
        let asked = site.expect_requests(1).await.remove(0);
        assert_eq!(asked.target, "/identity/?site=1&facility=x");
        assert_eq!(asked.all("x-forwarded-for"), ["1.1.1.1", "2.2.2.2"]);
        assert_eq!(asked.all("x-tenant"), ["\u{fffd} 1", "2"]);
        assert_eq!(asked.all("x-forwarded-proto"), ["https"]);
        assert_eq!(asked.all("host"), ["www.example.com"]);
        assert_eq!(asked.all("accept"), ["a/b"]);
        assert_eq!((asked.all("cookie").len(), asked.all("authorization").len()), (0, 0));
    }

    /// A page of another origin must not use a visitor's credentials, whatever header carries them.
    #[tokio::test]
    async fn any_forwarded_credential_requires_the_origin_to_match_the_host() {
        let site = TestSite::always_returning("null").await;
        let gateway = gateway_builder(&site).set("auth.callback_forward", "X-Client-DN").start().await;
        for (name, value, foreign) in [
            ("Cookie", "other=1", 403),
            ("Authorization", "Basic abc", 403),
            ("X-Client-DN", "CN=john", 403),
            ("X-Other", "1", 101),
        ] {
            let request = gateway.request("/ws/x").header(name, value);
            let evil = request.clone().header("Origin", "https://evil.example").expect_status(foreign).await;
            assert_eq!(foreign == 403, evil.body.contains("origin.allowed"), "{name}: {evil:?}");
            let own = format!("http://{}", gateway.address());
            request.clone().header("Origin", own).connect().await;
            request.connect().await;
        }
        assert_eq!(site.requests().len(), 4, "{:?}", site.requests());
        let plain = TestGateway::start().await;
        let request = plain.request("/ws/x").header("Cookie", "other=1").header("Authorization", "Basic abc");
        request.header("Origin", "https://evil.example").connect().await;
    }

    #[tokio::test]
    async fn with_a_callback_sessions_are_not_read() {
        let site = TestSite::always_returning("null").await;
        let gateway = gateway(&site).await;
        let session = r#"{"_auth_user_id": "7", "ws4redis:username": "john"}"#;
        let key = format!(":1:django.contrib.sessions.cache{KEY}");
        RedisServer::shared().command(&["SET", &key, session, "EX", "1000"]);
        let _client = connect(&gateway, &format!("/ws/x?{ALL}"), &format!("sessionid={KEY}")).await;
        assert_eq!(channels(&gateway), ["broadcast:x"]);
    }
}

mod what_is_answered {
    use super::*;

    #[tokio::test]
    async fn the_callback_identifies_the_visitor() {
        let site = TestSite::start(|asked| {
            SiteReply::json(match asked.all("cookie")[..] {
                ["sessionid=johns"] => {
                    r#"{"user": "john", "id": 7, "groups": ["staff", "red team"], "session": "aonhk897c0q74kqva7rtv278kgdpr276", "x": {}}"#
                }
                _ => r#"{"user": "mary", "groups": ["blue"], "session": null}"#,
            })
        })
        .await;
        let gateway = gateway(&site).await;
        let path = format!("/ws/x?{ALL}&publish-user");
        let mut john = connect(&gateway, &path, "sessionid=johns").await;
        let mut mary = connect(&gateway, &path, "sessionid=marys").await;
        let session = format!("session:{KEY}:x");
        for name in ["broadcast:x", "group:staff:x", "group:red team:x", "user:john:x", &session] {
            gateway.publish(name, name);
            john.expect_text(name).await;
        }
        mary.expect_text("broadcast:x").await;
        mary.send_text("to mary").await;
        let mut other = connect(&gateway, "/ws/x?subscribe-user", "sessionid=marys").await;
        other.expect_text("to mary").await;
        mary.expect_nothing().await;
        john.expect_nothing().await;
        assert_eq!(gateway.count_log(&[KEY]), 0, "a session key is a secret");
    }

    #[tokio::test]
    async fn null_means_anonymous_and_a_session_may_have_no_user() {
        let site = TestSite::always_returning("null").await;
        let gateway = gateway(&site).await;
        for (json, expected) in [
            ("null", vec!["broadcast:a"]),
            (r#"{"user": null, "groups": ["staff"]}"#, vec!["broadcast:b"]),
            (
                r#"{"user": null, "session": "aonhk897c0q74kqva7rtv278kgdpr276"}"#,
                vec!["broadcast:c", "session:aonhk897c0q74kqva7rtv278kgdpr276:c"],
            ),
            (r#"{"user": "john", "session": "../../x:y"}"#, vec!["broadcast:d", "user:john:d"]),
            (
                r#"{"user": "john", "session": "AONHK897C0Q74KQVA7RTV278KGDPR276"}"#,
                vec!["broadcast:e", "user:john:e"],
            ),
        ] {
            site.answer(move |_| SiteReply::json(json));
            let facility = expected[0].rsplit(':').next().unwrap();
            let _client = connect(&gateway, &format!("/ws/{facility}?{ALL}"), "a=1").await;
            let subscribed: Vec<_> =
                channels(&gateway).into_iter().filter(|name| name.ends_with(facility)).collect();
            assert_eq!(subscribed, expected, "{json}");
        }
    }

    #[tokio::test]
    async fn a_session_key_must_match_the_configured_pattern() {
        let site = TestSite::always_returning(r#"{"user": null, "session": "S_1234567"}"#).await;
        let gateway = gateway_builder(&site).set("session.key_pattern", "S_[0-9]{7}").start().await;
        let _client = connect(&gateway, "/ws/x?subscribe-session", "a=1").await;
        assert_eq!(channels(&gateway), ["session:S_1234567:x"]);
    }

    #[tokio::test]
    async fn allow_removes_flags_and_grants_none_that_the_rules_deny() {
        let text = r#"
            [[access]]
            facility = "strict"
            users = ["subscribe-*"]
            refused = "403"

            [[access]]
            facility = ["x?", ""]
            anonymous = ["subscribe-broadcast"]
            users = ["subscribe-*"]
        "#;
        let site = TestSite::always_returning("null").await;
        let gateway = gateway_builder(&site).rules(text).start().await;
        for (number, (json, expected)) in [
            (r#"{"user": "j"}"#, vec!["broadcast:", "user:j:"]),
            (r#"{"user": "j", "allow": null}"#, vec!["broadcast:", "user:j:"]),
            (r#"{"user": "j", "allow": ["subscribe-user", "nonsense"]}"#, vec!["user:j:"]),
            (r#"{"user": "j", "allow": []}"#, vec![]),
            (r#"{"user": null, "allow": ["subscribe-broadcast", "subscribe-user"]}"#, vec!["broadcast:"]),
            (r#"{"user": "j", "allow": ["publish-broadcast", "subscribe-group"]}"#, vec![]),
        ]
        .into_iter()
        .enumerate()
        {
            site.answer(move |_| SiteReply::json(json));
            let path = format!("/ws/x{number}?{ALL}&publish-broadcast&publish-user");
            let _client = connect(&gateway, &path, "a=1").await;
            let facility = format!("x{number}");
            let subscribed: Vec<_> = channels(&gateway)
                .into_iter()
                .filter_map(|name| Some(name.strip_suffix(&facility)?.to_owned()))
                .collect();
            assert_eq!(subscribed, expected, "{json}");
            gateway.expect_log(&[&format!("facility={facility:?}"), "publishes=0"]).await;
        }
        // An access rule that denies wins over the callback.
        site.answer(|_| SiteReply::json(r#"{"user": "j", "allow": ["publish-broadcast"]}"#));
        with_cookie(&gateway, "/ws/strict?publish-broadcast", "a=1").expect_status(403).await;
        with_cookie(&gateway, "/ws/none?subscribe-user", "a=1").expect_status(403).await;
    }

    #[tokio::test]
    async fn a_refusal_by_the_callback_is_403_and_not_cached() {
        let site =
            TestSite::start(|_| SiteReply::new(403, &[("Set-Cookie", "a=b")], "wrong or missing secret"))
                .await;
        let gateway = gateway(&site).await;
        for _ in 0..3 {
            let response = with_cookie(&gateway, "/ws/x", "a=1").expect_status(403).await;
            assert!(response.body.contains("the site refuses access here"), "{response:?}");
            assert_eq!(response.header("set-cookie"), None);
            assert!(!response.body.contains("secret"), "what the site says is for us alone: {response:?}");
        }
        site.answer(|_| SiteReply::new(401, &[("WWW-Authenticate", "Basic")], ""));
        let response = with_cookie(&gateway, "/ws/x", "a=1").expect_status(403).await;
        assert_eq!(response.header("www-authenticate"), None);
        assert_eq!(site.requests().len(), 4);
        gateway.expect_log(&["403", "auth.callback_secret", "WS4REDIS_CALLBACK_SECRET"]).await;
        assert_eq!(gateway.count_log(&["the callback refuses"]), 1);
        site.answer(|_| SiteReply::json("null"));
        connect(&gateway, "/ws/x", "a=1").await;
    }

    #[tokio::test]
    async fn cookies_set_by_the_callback_are_not_forwarded_to_any_client() {
        let site = TestSite::start(|_| {
            SiteReply::new(200, &[("Set-Cookie", "sessionid=evil"), ("X-Site", "1")], "null")
        })
        .await;
        let gateway = gateway(&site).await;
        let (response, _client) = with_cookie(&gateway, "/ws/x", "a=1").send().await;
        assert_eq!(
            (response.status, response.header("set-cookie"), response.header("x-site")),
            (101, None, None)
        );
        connect(&gateway, "/ws/y", "a=1").await;
        assert_eq!(site.expect_requests(2).await[1].all("cookie"), ["a=1"]);
    }
}

mod hostile {
    use super::*;

    async fn expect_503(request: Request, what: &str) -> Response {
        let response = request.send().await.0;
        assert_eq!(response.status, 503, "{what}: {response:?}");
        assert!(response.body.contains("the site cannot identify you"), "{what}: {response:?}");
        assert_eq!(response.header("retry-after"), Some("2"), "{what}: {response:?}");
        response
    }

    #[tokio::test]
    async fn any_other_status_of_the_callback_is_503_and_the_log_names_the_cure() {
        let site = TestSite::always_returning("null").await;
        for (status, headers, log) in [
            (500, vec![], "the site's log"),
            (400, vec![], "ALLOWED_HOSTS"),
            (404, vec![], "auth.callback_url"),
            (201, vec![], "201"),
            (206, vec![], "206"),
            (301, vec![("Location", "https://x/identity/?geheim")], "X-Forwarded-Proto: https"),
            (302, vec![("Location", "/login/?next=geheim")], "points to /login/; redirects are not followed"),
            (304, vec![], "redirects are not followed"),
        ] {
            // Warnings are throttled to one per second, so each case starts a new gateway.
            let gateway = gateway(&site).await;
            site.answer(move |_| SiteReply::new(status, &headers, r#"{"user": "john"}"#));
            expect_503(with_cookie(&gateway, "/ws/x?subscribe-user", "a=1"), &status.to_string()).await;
            gateway.expect_log(&["WARN", "the callback identifies no visitors", log]).await;
            assert_eq!(gateway.count_log(&["geheim"]), 0);
        }
    }

    #[tokio::test]
    async fn redirects_of_the_callback_are_never_followed() {
        let elsewhere = TestSite::always_returning(r#"{"user": "john"}"#).await;
        let site = TestSite::always_returning("null").await;
        let gateway = gateway(&site).await;
        let targets = [elsewhere.url(), "/identity2/".to_owned(), site.url(), "//127.0.0.1/".to_owned()];
        for (number, status) in [301, 302, 303, 307, 308].into_iter().enumerate() {
            for target in &targets {
                let to = target.clone();
                site.answer(move |_| SiteReply::new(status, &[("Location", &to)], ""));
                let before = site.requests().len();
                expect_503(with_cookie(&gateway, &format!("/ws/{number}"), "a=1"), target).await;
                assert_eq!(site.requests().len(), before + 1, "{status} {target}");
            }
        }
        assert_eq!(elsewhere.requests().len(), 0);
    }

    #[tokio::test]
    async fn an_invalid_callback_response_is_503() {
        let site = TestSite::always_returning("null").await;
        let gateway = gateway(&site).await;
        let long = format!(r#"{{"user": "{}"}}"#, "j".repeat(70_000));
        let long_name = format!(r#"{{"user": "{}"}}"#, "j".repeat(1025));
        let bodies: &[&[u8]] = &[
            b"",
            b"<html><form action=login>",
            b"[]",
            b"{}",
            b"\"john\"",
            b"{\"user\": 7}",
            b"{\"user\": \"\xff\"}",
            b"{\"user\": \"john\"",
            b"{\"user\": \"john\"} {\"user\": \"mary\"}",
            b"{\"user\": \"john\", \"groups\": \"staff\"}",
            b"{\"user\": \"john\", \"expires_in\": -1}",
            b"\x1f\x8b\x08\x00",
            long.as_bytes(),
            long_name.as_bytes(),
        ];
        for body in bodies {
            let reply = SiteReply::json(body);
            site.answer(move |_| reply.clone());
            let what = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
            expect_503(with_cookie(&gateway, "/ws/x?subscribe-user", "a=1"), &what).await;
        }
        gateway.expect_log(&["WARN", "the callback identifies no visitors", "expected {"]).await;
        assert_eq!(gateway.count_log(&["john"]), 0, "what a site answers is not logged");
    }

    #[tokio::test]
    async fn an_empty_name_from_the_callback_grants_no_user_channel_and_is_no_error() {
        let site = TestSite::always_returning(r#"{"user": "", "id": 7, "groups": ["staff"]}"#).await;
        let gateway = gateway_builder(&site).set("server.shards", "1").start().await;
        let path = "/ws/x?subscribe-user&subscribe-group&publish-user";
        for cookie in ["a=1", "a=2"] {
            let _client = connect(&gateway, path, cookie).await;
            assert_eq!(channels(&gateway), ["group:staff:x"]);
        }
        gateway.expect_log(&["INFO", "empty name", "no user channel"]).await;
        assert_eq!(gateway.count_log(&["empty name"]), 1);
    }

    #[tokio::test]
    async fn a_callback_response_that_is_not_http_or_never_ends_is_503_within_the_deadline() {
        let site = TestSite::always_returning("null").await;
        let gateway = gateway_builder(&site).set("auth.callback_timeout_seconds", "1").start().await;
        let ok = "HTTP/1.1 200 OK\r\n";
        let bytes = |text: String| SiteReply::LastBytes(text.into_bytes());
        let endless = |first: String, again: &str| {
            SiteReply::Endless(first.into_bytes(), again.repeat(1000).into_bytes())
        };
        for reply in [
            SiteReply::Silence,
            bytes(String::new()),
            bytes("SSH-2.0-OpenSSH\r\n".to_owned()),
            bytes("\0\0\0\r\n\r\n".to_owned()),
            bytes(ok.to_owned()),
            bytes(format!("{ok}Content-Length: 100\r\n\r\nnull")),
            bytes(format!("{ok}Content-Length: 4\r\nContent-Length: 5\r\n\r\nnull")),
            bytes(format!("{ok}Content-Length: x\r\n\r\nnull")),
            bytes(format!("{ok}Transfer-Encoding: chunked\r\n\r\nzz\r\nnull\r\n0\r\n\r\n")),
            bytes(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nnull"
                    .to_owned(),
            ),
            bytes(format!("{ok}{}\r\n", "X: y\r\n".repeat(200))),
            SiteReply::Bytes(format!("{ok}Content-Length: 100\r\n\r\n{{").into_bytes()),
            endless(ok.to_owned(), "X: y\r\n"),
            endless(ok.to_owned(), "X"),
            endless(String::new(), "HTTP/1.1 100 Continue\r\n\r\n"),
            endless(format!("{ok}\r\n"), " "),
            endless(format!("{ok}Transfer-Encoding: chunked\r\n\r\n"), "1\r\n \r\n"),
            endless(format!("{ok}Transfer-Encoding: chunked\r\n\r\n1"), ";x"),
            endless(format!("{ok}Transfer-Encoding: chunked\r\n\r\n4\r\nnull\r\n0\r\n"), "X: y\r\n"),
        ] {
            let what = format!("{reply:?}").chars().take(80).collect::<String>();
            site.answer(move |_| reply.clone());
            expect_503(with_cookie(&gateway, "/ws/x?subscribe-user", "a=1"), &what).await;
        }
        site.answer(user_from_cookie);
        connect(&gateway, "/ws/x", "john").await;
        assert!(gateway.resident_bytes() < 100 << 20, "{}", gateway.resident_bytes());
    }

    #[tokio::test]
    async fn a_slow_or_silent_callback_is_503_and_affects_no_other_client() {
        let site = TestSite::start(user_from_cookie).await;
        let gateway = gateway_builder(&site).set("auth.callback_timeout_seconds", "2").start().await;
        let mut john = connect(&gateway, "/ws/x?subscribe-broadcast", "john").await;
        site.hold();
        let waiting: Vec<_> = ["a", "b", "c", "d", "e"]
            .map(|name| tokio::spawn(with_cookie(&gateway, "/ws/x", name).send()))
            .into();
        site.expect_requests(6).await;
        // Connected clients and visitors with a cached response are not affected.
        for number in 0..20 {
            gateway.publish("broadcast:x", number.to_string());
            john.expect_text(&number.to_string()).await;
        }
        let mut again = connect(&gateway, "/ws/x?subscribe-broadcast", "john").await;
        again.expect_nothing().await;
        assert!(waiting.iter().all(|asking| !asking.is_finished()), "the site was too fast for this test");
        for asking in waiting {
            assert_eq!(asking.await.unwrap().0.status, 503);
        }
        gateway.expect_log(&["WARN", "no answer within 2 s"]).await;
        john.expect_nothing().await;
        site.release();
        connect(&gateway, "/ws/x", "a").await;
    }

    #[tokio::test]
    async fn a_callback_that_is_down_is_503_until_it_is_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let builder = TestGateway::builder().set("auth.callback_url", &format!("http://{address}/identity/"));
        let gateway = builder.without_redis().start().await;
        let response = within_deadline("the gateway reaches Redis", async {
            loop {
                let response = with_cookie(&gateway, "/ws/x", "john").send().await.0;
                if !response.body.contains("redis") {
                    break response;
                }
            }
        });
        let response = response.await;
        assert!(
            response.status == 503 && response.body.contains("the site cannot identify you"),
            "{response:?}"
        );
        gateway.expect_log(&["WARN", "cannot be reached", "refused", "auth.callback_url"]).await;
        let site = TestSite::start_on(&address, user_from_cookie).await;
        let _client = connect(&gateway, "/ws/x?subscribe-user", "john").await;
        assert_eq!(channels(&gateway), ["user:john:x"]);
        drop(site);
        expect_503(with_cookie(&gateway, "/ws/x", "mary"), "down again").await;
    }

    #[tokio::test]
    async fn callback_failures_are_counted_and_their_warnings_are_throttled() {
        let site = TestSite::start(|_| SiteReply::new(500, &[], "")).await;
        let mut gateway = gateway(&site).await;
        for number in 0..30 {
            expect_503(with_cookie(&gateway, "/ws/x", &number.to_string()), "500").await;
        }
        assert!(gateway.count_log(&["WARN", "the callback identifies no visitors"]) < 30);
        gateway.signal("TERM");
        gateway.expect_exit().await;
        gateway.expect_log(&["counts:", "failed_callbacks=30"]).await;
    }
}

mod bounds {
    use super::*;

    #[tokio::test]
    async fn concurrent_callback_requests_are_limited_over_all_shards() {
        let site = TestSite::start(user_from_cookie).await;
        let gateway = gateway_builder(&site)
            .set("server.shards", "3")
            .set("auth.callback_max_calls", "2")
            .start()
            .await;
        site.hold();
        let names: Vec<_> = (0..12).map(|number| format!("n{number}")).collect();
        let waiting: Vec<_> =
            names.iter().map(|name| tokio::spawn(with_cookie(&gateway, "/ws/x", name).send())).collect();
        for more in 2..=names.len() {
            site.expect_requests(more).await;
            site.answer_first(more - 1);
        }
        site.release();
        for asking in waiting {
            assert_eq!(asking.await.unwrap().0.status, 101);
        }
        assert_eq!(site.max_concurrent(), 2);
    }

    #[tokio::test]
    async fn waiting_too_long_for_a_callback_permit_is_503_and_releases_the_permit() {
        let site = TestSite::start(user_from_cookie).await;
        let builder = gateway_builder(&site).set("auth.callback_max_calls", "1");
        let gateway = builder.set("auth.callback_timeout_seconds", "1").start().await;
        site.hold();
        let waiting: Vec<_> =
            ["a", "b", "c"].map(|name| tokio::spawn(with_cookie(&gateway, "/ws/x", name).send())).into();
        for asking in waiting {
            assert_eq!(asking.await.unwrap().0.status, 503);
        }
        gateway.expect_log(&["WARN", "the callback identifies no visitors"]).await;
        site.release();
        for name in ["a", "b", "c"] {
            connect(&gateway, "/ws/x", name).await;
        }
    }

    #[tokio::test]
    async fn identical_concurrent_callback_requests_are_coalesced() {
        let site = TestSite::start(user_from_cookie).await;
        let gateway = gateway_builder(&site).set("auth.callback_cache_seconds", "0").start().await;
        site.hold();
        let ask = || tokio::spawn(with_cookie(&gateway, "/ws/x?subscribe-user", "john").send());
        let mut waiting: Vec<_> = (0..10).map(|_| ask()).collect();
        site.expect_requests(1).await;
        // The gateway has one thread: a later callback request proves that it has read all earlier handshakes.
        let other = tokio::spawn(with_cookie(&gateway, "/ws/x", "mary").send());
        site.expect_requests(2).await;
        waiting.extend((0..5).map(|_| ask()));
        let another = tokio::spawn(with_cookie(&gateway, "/ws/y", "mary").send());
        site.expect_requests(3).await;
        site.release();
        for asking in waiting.into_iter().chain([other, another]) {
            assert_eq!(asking.await.unwrap().0.status, 101);
        }
        assert_eq!(site.requests().len(), 3);
        connect(&gateway, "/ws/x?subscribe-user", "john").await;
        assert_eq!(site.requests().len(), 4, "what is over is not shared");
    }

    #[tokio::test]
    async fn coalesced_callback_requests_are_answered_when_the_first_client_disconnects() {
        let site = TestSite::start(user_from_cookie).await;
        let gateway = gateway(&site).await;
        site.hold();
        let request = with_cookie(&gateway, "/ws/x?subscribe-broadcast", "john");
        let mut first = request.open().await;
        first.send_raw(&request.bytes()).await;
        site.expect_requests(1).await;
        let others: Vec<_> = (0..3).map(|_| tokio::spawn(request.clone().send())).collect();
        let mary = tokio::spawn(with_cookie(&gateway, "/ws/x", "mary").send());
        site.expect_requests(2).await;
        drop(first);
        // The request of the disconnected client is cancelled, and another one is sent.
        site.expect_requests(3).await;
        site.release();
        for asking in others.into_iter().chain([mary]) {
            assert_eq!(asking.await.unwrap().0.status, 101);
        }
        assert_eq!(site.requests().len(), 3);
    }

    #[tokio::test]
    async fn a_callback_response_is_cached_for_identical_requests_only() {
        let site = TestSite::start(user_from_cookie).await;
        let builder = gateway_builder(&site).set("auth.callback_cache_seconds", "600");
        let gateway = builder.set("auth.callback_forward", "X-Tenant").start().await;
        let base = || with_cookie(&gateway, "/ws/x?subscribe-user", "john");
        let other = |path: &str| with_cookie(&gateway, path, "john");
        base().connect().await;
        for same in [
            base(),
            other("/ws/x?subscribe-user&echo"),
            other("/ws/x?other&SUBSCRIBE-USER=1"),
            base().header("Accept-Language", "de"),
            base().header("X-Forwarded-For", "1.1.1.1"),
        ] {
            same.connect().await;
            assert_eq!(site.requests().len(), 1);
        }
        for (number, another) in [
            base().with("Cookie", "mary"),
            base().with("Cookie", "john; x=1"),
            gateway.request("/ws/x?subscribe-user"),
            base().header("Authorization", "Bearer 1"),
            base().header("X-Tenant", "1"),
            base().header("X-Tenant", "2"),
            base().header("X-Tenant", ""),
            other("/ws/y?subscribe-user"),
            other("/ws/x/?subscribe-user"),
            other("/ws/x?subscribe-user&publish-user"),
            other("/ws/x?subscribe-group"),
            other("/ws/x"),
        ]
        .into_iter()
        .enumerate()
        {
            another.clone().connect().await;
            another.connect().await;
            assert_eq!(site.requests().len(), number + 2);
        }
    }

    #[tokio::test]
    async fn only_200_responses_are_cached_and_not_beyond_their_expiry() {
        let site = TestSite::start(|_| SiteReply::new(500, &[], "")).await;
        let gateway = gateway_builder(&site).set("auth.callback_cache_seconds", "600").start().await;
        let request = || with_cookie(&gateway, "/ws/x?subscribe-user", "a=1");
        request().expect_status(503).await;
        site.answer(|_| SiteReply::new(403, &[], ""));
        request().expect_status(403).await;
        site.answer(|_| SiteReply::json("nonsense"));
        request().expect_status(503).await;
        site.answer(|_| SiteReply::json(r#"{"user": "john", "expires_in": 0.1}"#));
        request().connect().await;
        assert_eq!(site.requests().len(), 4);
        // The response expires long before auth.callback_cache_seconds.
        within_deadline("a new question", async {
            while site.requests().len() < 6 {
                request().connect().await;
            }
        })
        .await;
        site.answer(|_| SiteReply::json(r#"{"user": "john", "expires_in": 1000}"#));
        within_deadline("a new question", async {
            while site.requests().len() < 7 {
                request().connect().await;
            }
        })
        .await;
        request().connect().await;
        assert_eq!(site.requests().len(), 7);
    }
}

mod connections {
    use super::*;

    fn connection_count(site: &TestSite) -> usize {
        site.requests().iter().map(|asked| asked.connection).collect::<HashSet<_>>().len()
    }

    #[tokio::test]
    async fn a_connection_to_the_callback_is_reused() {
        let site = TestSite::start(user_from_cookie).await;
        let gateway = gateway(&site).await;
        for number in 0..20 {
            connect(&gateway, "/ws/x", &number.to_string()).await;
        }
        assert_eq!((site.requests().len(), connection_count(&site)), (20, 1));
    }

    #[tokio::test]
    async fn a_callback_server_that_closes_each_connection_is_called_on_new_ones() {
        let site = TestSite::start(|asked| user_from_cookie(asked).last()).await;
        let gateway = gateway(&site).await;
        for number in 0..50 {
            connect(&gateway, "/ws/x", &number.to_string()).await;
        }
        assert!(connection_count(&site) >= 50, "{}", connection_count(&site));
    }

    #[tokio::test]
    async fn a_connection_that_the_callback_server_closes_during_reuse_is_retried() {
        let site = TestSite::start(|asked| {
            if asked.earlier > 0 { SiteReply::LastBytes(Vec::new()) } else { user_from_cookie(asked) }
        })
        .await;
        let gateway = gateway(&site).await;
        for number in 0..20 {
            connect(&gateway, "/ws/x", &number.to_string()).await;
        }
        assert!(site.requests().iter().any(|asked| asked.earlier > 0), "no connection was used again");
    }

    #[tokio::test]
    async fn a_callback_server_that_closes_without_a_response_is_called_at_most_twice() {
        let site = TestSite::start(|_| SiteReply::LastBytes(Vec::new())).await;
        let gateway = gateway(&site).await;
        with_cookie(&gateway, "/ws/x", "a=1").expect_status(503).await;
        assert_eq!(site.requests().len(), 2);
        // A request whose response has begun is not retried.
        site.answer(|_| SiteReply::LastBytes(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnull".to_vec()));
        with_cookie(&gateway, "/ws/x", "a=1").expect_status(503).await;
        assert_eq!(site.requests().len(), 3);
    }
}

/// Runs `check` on another thread: `TestSite` runs on this one.
async fn check(settings: Vec<String>) -> (Option<i32>, String) {
    let running = tokio::task::spawn_blocking(move || {
        let mut command = binary();
        command.args(["check", "--set", &format!("redis.url={}", RedisServer::shared().url())]);
        for setting in settings {
            command.args(["--set", &setting]);
        }
        command.output().unwrap()
    });
    let output = within_deadline("check ends", running).await.unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn check_reports_whether_the_callback_responds() {
    let site = TestSite::start(|_| SiteReply::json("null")).await;
    let url = format!("auth.callback_url={}", site.url());
    let line = |said: &str| said.lines().find(|line| line.starts_with("callback: ")).unwrap().to_owned();
    let (code, said) = check(vec![url.clone(), "auth.callback_secret=geheim".to_owned()]).await;
    assert_eq!((code, line(&said)), (Some(0), format!("callback: {} answered 200", site.url())));
    assert!(!said.contains("geheim"), "{said}");
}

#[tokio::test]
async fn check_names_a_fault_of_the_callback_and_its_cure_and_exits_with_1() {
    let closed = "auth.callback_url=http://127.0.0.1:1/".to_owned();
    let (code, said) = check(vec![closed]).await;
    assert!(
        code == Some(1) && said.contains("cannot be reached") && said.contains("start the site"),
        "{said}"
    );
    let (_, said) = check(Vec::new()).await;
    assert!(!said.contains("callback"), "{said}");
}
