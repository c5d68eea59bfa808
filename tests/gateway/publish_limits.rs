//! Rate limits on publishing: one token bucket per visitor, across all sockets and requests.

use crate::support::client::{Request, TestClient};
use crate::support::sessions::{log_in, session_key};
use crate::support::{RedisServer, SiteReply, TestGateway, TestSite, within_deadline};

/// Every visitor may publish ten messages in a burst; the bucket hardly refills during a test.
const RULES: &str = "[[access]]\nfacility = \"*\"\nanonymous = [\"*-broadcast\"]\nusers = [\"*-broadcast\"]\n\
                     publish_messages_per_second = 1\npublish_burst_seconds = 10\n";

async fn gateway(trusted: &str) -> TestGateway {
    let builder = TestGateway::builder().rules(RULES).set("server.trusted_proxies", trusted);
    builder.set("server.shards", "3").start().await
}

/// Publishes a few messages on each of several successive sockets. Returns the number of messages before the first
/// socket was closed, if one was.
async fn messages_until_refused(request: impl Fn() -> Request, sockets: usize) -> Option<usize> {
    let mut sent = 0;
    for _ in 0..sockets {
        let mut client = request().connect().await;
        for _ in 0..4 {
            client.send_text("x").await;
        }
        sent += 4;
        client.send_ping(b"").await;
        loop {
            let frame = within_deadline("an answer", client.read_frame()).await;
            match frame {
                Ok(Some(frame)) if frame.opcode == crate::support::client::PONG => break,
                Ok(Some(frame)) if frame.opcode == crate::support::client::CLOSE => {
                    assert_eq!(frame.payload[..2], 1008_u16.to_be_bytes());
                    return Some(sent);
                }
                Ok(Some(_)) => {}
                end => panic!("{end:?}"),
            }
        }
        client.send_close(1000, "").await;
    }
    None
}

#[tokio::test]
async fn a_users_rate_limit_covers_all_sockets_sessions_and_posts() {
    let gateway = gateway("").await;
    let cookies: Vec<_> = (0..2)
        .map(|_| {
            let key = session_key();
            log_in(RedisServer::shared(), &key, "7", "john", &[]);
            format!("sessionid={key}")
        })
        .collect();
    let host = gateway.address().to_string();
    let socket = |cookie: &str| {
        let request = gateway.request("/ws/chat?publish-broadcast").header("Cookie", cookie);
        request.header("Origin", format!("http://{host}"))
    };
    let refused = messages_until_refused(|| socket(&cookies[0]), 20).await;
    assert!(refused.is_some_and(|sent| sent <= 20), "{refused:?}");
    // Another session of the same user and a POST share the bucket.
    assert_eq!(messages_until_refused(|| socket(&cookies[1]), 2).await.map(|sent| sent <= 8), Some(true));
    let mut statuses = Vec::new();
    for _ in 0..6 {
        let post = gateway.post("/ws/chat?publish-broadcast", "x").header("Cookie", &cookies[0]);
        statuses.push(post.header("Origin", format!("http://{host}")).send().await.0.status);
    }
    assert!(statuses.contains(&429), "{statuses:?}");
    // Another user has a separate bucket.
    let key = session_key();
    log_in(RedisServer::shared(), &key, "8", "paul", &[]);
    assert_eq!(messages_until_refused(|| socket(&format!("sessionid={key}")), 2).await, None);
}

#[tokio::test]
async fn the_rate_limit_of_posts_covers_all_shards() {
    let gateway = gateway("127.0.0.1").await;
    let post = || gateway.post("/ws/x?publish-broadcast", "x").header("X-Forwarded-For", "203.0.113.7");
    let mut taken = 0;
    for _ in 0..30 {
        taken += usize::from(post().send().await.0.status == 204);
    }
    assert!((10..18).contains(&taken), "{taken} were taken");
}

#[tokio::test]
async fn anonymous_visitors_are_limited_by_address_and_network() {
    let gateway = gateway("127.0.0.1").await;
    let from = |address: &str| {
        let address = address.to_owned();
        let gateway = &gateway;
        move || gateway.request("/ws/x?publish-broadcast").header("X-Forwarded-For", &address)
    };
    assert!(messages_until_refused(from("203.0.113.7"), 20).await.is_some());
    assert_eq!(messages_until_refused(from("203.0.113.8"), 2).await, None);
    // Addresses in the same IPv6 network share a bucket: one visitor can use all of them.
    assert!(messages_until_refused(from("2001:db8:1:2::1"), 20).await.is_some());
    assert!(messages_until_refused(from("2001:db8:1:2:3::4"), 2).await.is_some());
    assert_eq!(messages_until_refused(from("2001:db8:1:3::1"), 2).await, None);
}

#[tokio::test]
async fn visitors_with_an_unknown_address_share_no_limit() {
    // A visitor on the same machine.
    let local = gateway("").await;
    assert_eq!(messages_until_refused(|| local.request("/ws/x?publish-broadcast"), 10).await, None);
    assert_eq!(local.count_log(&["trusted_proxies"]), 0);
    // A visitor behind a proxy that is not configured as trusted.
    let forwarded = |gateway: &TestGateway| {
        gateway.request("/ws/x?publish-broadcast").header("X-Forwarded-For", "203.0.113.7")
    };
    assert_eq!(messages_until_refused(|| forwarded(&local), 10).await, None);
    local.expect_log(&["WARN", "X-Forwarded-For", "server.trusted_proxies"]).await;
    assert_eq!(local.count_log(&["server.trusted_proxies"]), 1, "said once");
    // A loopback address reported by a trusted proxy.
    let trusting = gateway("127.0.0.1").await;
    let here = || trusting.request("/ws/x?publish-broadcast").header("X-Forwarded-For", "::1");
    assert_eq!(messages_until_refused(here, 10).await, None);
    // A single socket is still limited.
    let mut client = local.connect("/ws/x?publish-broadcast").await;
    for _ in 0..12 {
        client.send_text("x").await;
    }
    assert_eq!(client.expect_close(1008).await, "publishing too fast");
}

/// Publishes until the bucket is empty. From then on the site answers with an anonymous visitor, who may subscribe, too; a
/// persisted message shows that the answer has been applied.
async fn empty_bucket_and_become_anonymous(client: &mut TestClient, site: &TestSite, gateway: &TestGateway) {
    for _ in 0..60 {
        client.send_text("x").await;
    }
    client.send_ping(b"").await;
    client.expect_pong(b"").await;
    site.answer(|_| {
        SiteReply::json(r#"{"user": null, "allow": ["subscribe-broadcast", "publish-broadcast"]}"#)
    });
    RedisServer::shared().persist(&gateway.channel("broadcast:x"), "welcome");
}

#[tokio::test]
async fn a_user_who_becomes_anonymous_leaves_the_users_bucket() {
    let site =
        TestSite::always_returning(r#"{"user": "john", "id": 7, "allow": ["publish-broadcast"]}"#).await;
    let rules = RULES.replace("publish_burst_seconds = 10", "publish_burst_seconds = 60");
    let builder = TestGateway::builder().rules(&rules).set("auth.callback_url", &site.url());
    let gateway = builder.set("expire", "0").start().await;
    let request = gateway.request("/ws/x?subscribe-broadcast&publish-broadcast");
    let mut client = request.header("Cookie", "a=1").connect().await;
    empty_bucket_and_become_anonymous(&mut client, &site, &gateway).await;
    let hint = r#"{"v":1,"user":"7","reason":"groups"}"#;
    RedisServer::shared().publish(&gateway.channel("ws4redis:control"), hint);
    client.expect_text("welcome").await;
    // The user's bucket is empty.
    for _ in 0..50 {
        client.send_text("x").await;
    }
    let end = loop {
        let frame = client.next_message().await;
        if frame.opcode == crate::support::client::CLOSE {
            break frame;
        }
    };
    assert_eq!(end.payload[..2], 4401_u16.to_be_bytes(), "the end of the session, not that of the bucket");
}

#[tokio::test]
async fn an_anonymous_visitor_keeps_its_limit_when_its_flags_change() {
    let site =
        TestSite::always_returning(r#"{"user": null, "allow": ["publish-broadcast"], "expires_in": 2}"#)
            .await;
    let rules = RULES.replace("publish_burst_seconds = 10", "publish_burst_seconds = 60");
    let builder = TestGateway::builder().rules(&rules).set("server.trusted_proxies", "127.0.0.1");
    // Without persistence, no publication that is still in flight replaces the value below.
    let builder = builder.set("auth.callback_url", &site.url()).set("expire", "0");
    let gateway = builder.start().await;
    let request = gateway.request("/ws/x?subscribe-broadcast&publish-broadcast");
    let mut client = request.header("Cookie", "a=1").header("X-Forwarded-For", "203.0.113.7").connect().await;
    empty_bucket_and_become_anonymous(&mut client, &site, &gateway).await;
    client.expect_text("welcome").await;
    // The bucket was empty and has refilled by one message for each second since.
    for _ in 0..50 {
        client.send_text("x").await;
    }
    // A publication from before may still be in flight; those since are suppressed as echoes.
    let end = loop {
        let frame = client.next_message().await;
        if frame.opcode == crate::support::client::CLOSE {
            break frame;
        }
        assert_eq!(frame.payload, b"x");
    };
    assert_eq!(end.payload[..2], 1008_u16.to_be_bytes());
}
