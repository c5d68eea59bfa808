//! Reverse proxies: which peers' forwarded headers are trusted.

use crate::support::client::Request;
use crate::support::{SiteReply, TestGateway, TestSite};

const COOKIE: &str = "sessionid=aonhk897c0q74kqva7rtv278kgdpr276";

/// A header as (name, value).
type HeaderLine = (&'static str, &'static [u8]);

/// Starts a gateway that trusts these proxies, with a callback to the returned site.
async fn gateway_behind_proxy(trusted: &str) -> (TestGateway, TestSite) {
    let site = TestSite::start(|_| SiteReply::json("null")).await;
    let gateway = TestGateway::builder().set("auth.callback_url", &site.url());
    (gateway.set("server.trusted_proxies", trusted).start().await, site)
}

/// Returns the client address that the callback receives for this request.
async fn reported_address(site: &TestSite, number: usize, request: Request) -> Vec<String> {
    request.connect().await;
    let asked = site.expect_requests(number).await.pop().unwrap();
    asked.all("x-forwarded-for").into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_client_address_is_the_last_untrusted_one() {
    let (gateway, site) = gateway_behind_proxy("127.0.0.1, 10.0.0.0/8").await;
    let cases: &[(&[HeaderLine], &str)] = &[
        (&[("X-Forwarded-For", b"203.0.113.7")], "203.0.113.7"),
        (&[("X-Forwarded-For", b"198.51.100.1, 203.0.113.7, 10.1.2.3")], "203.0.113.7"),
        (&[("X-Forwarded-For", b"198.51.100.1"), ("x-forwarded-for", b"[2001:db8::1]:4711")], "2001:db8::1"),
        (&[("Forwarded", b"for=198.51.100.1, for=\"[2001:db8::1]:4711\";proto=https")], "2001:db8::1"),
        (&[("Forwarded", b"for=198.51.100.1"), ("X-Forwarded-For", b"203.0.113.7")], "203.0.113.7"),
        (&[("X-Forwarded-For", b"203.0.113.7, unknown, 10.1.2.3")], "10.1.2.3"),
        (&[("X-Forwarded-For", b"\xff\xfe")], "127.0.0.1"),
        (&[("X-Forwarded-For", b"")], "127.0.0.1"),
        (&[("Forwarded", b"for=\"")], "127.0.0.1"),
        (&[], "127.0.0.1"),
    ];
    for (number, (headers, expected)) in cases.iter().enumerate() {
        let request = gateway.request(&format!("/ws/{number}")).header("Cookie", "a=1");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        assert_eq!(reported_address(&site, number + 1, request).await, [*expected], "{headers:?}");
    }
    let hops = format!("203.0.113.7{}", ", 10.1.2.3".repeat(100));
    let request = gateway.request("/ws/hops").header("Cookie", "a=1").header("X-Forwarded-For", hops);
    assert_eq!(reported_address(&site, 11, request).await, ["203.0.113.7"]);
}

#[tokio::test]
async fn forwarded_headers_from_untrusted_peers_are_ignored() {
    for trusted in ["", "10.0.0.0/8, ::1, unix"] {
        let (gateway, site) = gateway_behind_proxy(trusted).await;
        let request = gateway.request("/ws/x").header("Cookie", COOKIE);
        let spoofed = request.header("X-Forwarded-For", "127.0.0.2").header("Forwarded", "for=127.0.0.2");
        let spoofed = spoofed.header("X-Forwarded-Host", "evil.example");
        assert_eq!(reported_address(&site, 1, spoofed.clone()).await, ["127.0.0.1"], "{trusted}");
        let foreign = spoofed.header("Origin", "https://evil.example").expect_status(403).await;
        assert!(foreign.body.contains("127.0.0.1"), "{foreign:?}");
    }
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_origin_is_compared_with_the_forwarded_host() {
    let gateway = TestGateway::start_with(&[("server.trusted_proxies", "127.0.0.1")]).await;
    let cases: [(&[&str], bool); 8] = [
        (&["www.example.com"], true),
        (&["www.example.com:443"], true),
        (&["evil.example, www.example.com"], true),
        (&["evil.example", "www.example.com"], true),
        (&["www.example.com, evil.example"], false),
        (&["www.example.com,"], false),
        (&[""], false),
        (&[], false),
    ];
    for (hosts, allowed) in cases {
        let request = gateway.request("/ws/x").with("Host", "127.0.0.1:8000").header("Cookie", COOKIE);
        let request = request.header("Origin", "https://www.example.com");
        let request = hosts.iter().fold(request, |request, host| request.header("X-Forwarded-Host", host));
        let status = if allowed { 101 } else { 403 };
        assert_eq!(request.send().await.0.status, status, "{hosts:?}");
    }
    // A proxy that forwards Host needs no X-Forwarded-Host.
    let request = gateway.request("/ws/x").with("Host", "www.example.com").header("Cookie", COOKIE);
    request.header("Origin", "https://www.example.com").connect().await;
}

#[tokio::test]
async fn with_a_stripped_path_prefix_the_whole_path_is_the_facility() {
    let gateway = TestGateway::builder().set("server.websocket_url_stripped", "true");
    let gateway = gateway.start().await;
    let paths = [
        ("/foobar", "foobar"),
        ("/a/b%20c", "a/b c"),
        ("//x", "/x"),
        ("/static/ws4redis.js", "static/ws4redis.js"),
        ("/whoami/x", "whoami/x"),
        ("/ws/x", "ws/x"),
        ("/", ""),
    ];
    for (path, facility) in paths {
        let mut client = gateway.connect(&format!("{path}?subscribe-broadcast")).await;
        gateway.publish(&format!("broadcast:{facility}"), path);
        client.expect_text(path).await;
    }
    let page = gateway.request("/").without("Upgrade").expect_status(400).await;
    assert!(page.body.contains("upgrade to a websocket"), "{page:?}");
    gateway.request("/%FF").expect_status(400).await;
}

#[tokio::test]
async fn post_rate_limits_apply_per_client_address_behind_a_trusted_proxy() {
    let text = "[[access]]\nfacility = \"*\"\nanonymous = [\"subscribe-broadcast\", \"publish-broadcast\"]\n\
                publish_messages_per_second = 1\npublish_burst_seconds = 1\n";
    let builder = TestGateway::builder().rules(text);
    let builder = builder.set("server.shards", "1").set("server.trusted_proxies", "127.0.0.1");
    let gateway = builder.start().await;
    let post = |from: &str| gateway.post("/ws/x?publish-broadcast", "x").header("X-Forwarded-For", from);
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(post("203.0.113.7").send().await.0.status);
    }
    assert!(statuses.contains(&429), "{statuses:?}");
    post("203.0.113.8").expect_status(204).await;
}
