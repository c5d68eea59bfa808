//! Who is answered: hosts, web pages, the token, paths and methods.

use serde_json::Value;

use super::{Admin, TOKEN, refused, thread_names};
use crate::support::TestGateway;
use crate::support::client::Request;
use crate::support::unique;

#[tokio::test]
async fn without_its_setting_there_is_no_admin_listener() {
    let gateway = TestGateway::start().await;
    assert_eq!(gateway.count_log(&["admin listener"]), 0);
    assert!(!thread_names(&gateway).iter().any(|name| name.trim() == "admin"));
    for path in ["/connections", "/health/live", "/health/ready"] {
        gateway.stream(path).without("Accept").expect_status(404).await;
    }
    // Nor does the public listener serve it when it is on.
    let admin = Admin::start(&[]).await;
    for path in ["/connections", "/health/live", "/health/ready"] {
        admin.gateway.stream(path).without("Accept").expect_status(404).await;
    }
    assert!(thread_names(&admin.gateway).iter().any(|name| name.trim() == "admin"));
}

#[tokio::test]
async fn only_loopback_and_listed_hosts_are_answered() {
    let admin = Admin::start(&[("admin.hosts", "gateway.internal, 10.0.0.5:9000")]).await;
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1:80", "127.3.4.5", "[::1]:9000", "gateway.internal:7"]
    {
        admin.get("/health/live").with("Host", host).expect_status(200).await;
    }
    // A page of evil.example whose name was pointed at 127.0.0.1 after it had been loaded sends these.
    for host in [
        "evil.example",
        "evil.example:9000",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "10.0.0.5:9001",
        "0.0.0.0",
        "127.0.0.1@evil.example",
        "",
        "loc\u{e4}lhost",
    ] {
        refused(admin.get("/health/live").with("Host", host), 403, "admin.hosts").await;
        refused(admin.get("/nowhere").with("Host", host), 403, "admin.hosts").await;
    }
    refused(admin.get("/health/live").without("Host"), 403, "admin.hosts").await;
    refused(admin.get("/health/live").header("Host", "localhost"), 403, "admin.hosts").await;
    refused(admin.get("http://evil.example/health/live"), 403, "admin.hosts").await;
    admin.get("http://localhost/health/live").expect_status(200).await;
}

#[tokio::test]
async fn requests_of_web_pages_are_refused() {
    let admin = Admin::start(&[]).await;
    admin.get("/health/live").header("Sec-Fetch-Site", "none").expect_status(200).await;
    for site in ["cross-site", "same-site", "same-origin", "", "None"] {
        refused(admin.get("/connections").header("Sec-Fetch-Site", site), 403, "web pages").await;
    }
    let twice = admin.get("/connections").header("Sec-Fetch-Site", "none");
    refused(twice.header("Sec-Fetch-Site", "cross-site"), 403, "web pages").await;
    let own = format!("http://{}", admin.address);
    for origin in ["https://evil.example", "null", "http://localhost", own.as_str(), ""] {
        refused(admin.get("/connections").header("Origin", origin), 403, "web pages").await;
    }
    // A preflight gets no permission either.
    let preflight = admin.get("/connections").method("OPTIONS").header("Origin", "https://evil.example");
    let answer = preflight.header("Access-Control-Request-Method", "GET").expect_status(403).await;
    assert!(answer.headers.iter().all(|(name, _)| !name.to_lowercase().starts_with("access-control")));
}

#[tokio::test]
async fn without_a_token_only_reading_is_answered() {
    let admin = Admin::start(&[]).await;
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
        refused(admin.get("/connections").method(method), 403, "admin.token_file").await;
    }
    let head = admin.get("/health/live").method("HEAD");
    let mut client = head.open().await;
    client.send_raw(&head.bytes()).await;
    let answer = client.read_head().await;
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("18")), "{answer:?}");
    client.expect_end().await;
}

#[tokio::test]
async fn the_token_is_required_for_changes_and_has_to_be_right() {
    let file = std::env::temp_dir().join(unique("ws4redis-token"));
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    for (key, value) in [("admin.token", TOKEN), ("admin.token_file", file.to_str().unwrap())] {
        let admin = Admin::start(&[(key, value)]).await;
        let post = || admin.get("/connections").method("POST");
        admin.get("/connections").expect_status(200).await;
        refused(post(), 401, "Authorization: Bearer").await;
        for sent in [
            format!("Bearer {TOKEN}x"),
            format!("Bearer {}", &TOKEN[1..]),
            format!("Basic {TOKEN}"),
            TOKEN.to_owned(),
            "Bearer ".to_owned(),
            "Bearer".to_owned(),
            String::new(),
        ] {
            let answer = post().header("Authorization", &sent).expect_status(401).await;
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{sent}");
            // A wrong token is no anonymous request.
            admin.get("/connections").header("Authorization", &sent).expect_status(401).await;
        }
        let right = |request: Request| request.header("Authorization", format!("bearer {TOKEN}"));
        right(admin.get("/connections")).expect_status(200).await;
        let answer = right(post()).expect_status(405).await;
        assert_eq!(answer.header("allow"), Some("GET, HEAD, DELETE"));
        right(right(post())).expect_status(401).await;
        assert_eq!(admin.gateway.count_log(&[TOKEN]), 0);
    }
    std::fs::remove_file(file).unwrap();
}

#[tokio::test]
async fn an_address_that_is_not_loopback_needs_the_token_for_everything() {
    let builder = TestGateway::builder().set("admin.listen", "0.0.0.0:0").set("admin.token", TOKEN);
    let mut admin = Admin::of(builder.set("admin.hosts", "gateway.internal")).await;
    admin.address.set_ip([127, 0, 0, 1].into());
    for path in ["/health/live", "/health/ready", "/connections", "/nowhere"] {
        refused(admin.get(path), 401, "Authorization: Bearer").await;
    }
    let authorized = admin.get("/health/ready").header("Authorization", format!("Bearer {TOKEN}"));
    authorized.clone().expect_status(200).await;
    authorized.clone().with("Host", "gateway.internal").expect_status(200).await;
    refused(authorized.with("Host", "evil.example"), 403, "admin.hosts").await;
}

#[tokio::test]
async fn wrong_parameters_paths_and_methods_are_explained() {
    let admin = Admin::start(&[("admin.token", TOKEN)]).await;
    for query in ["limit=0", "limit=1001", "limit=x"] {
        refused(admin.get(&format!("/connections?{query}")), 400, "1 to 1000").await;
    }
    refused(admin.get("/connections?after=x"), 400, "value of next").await;
    // A cursor behind the end gives an empty page.
    for after in ["0.99999999", "99.0", "18446744073709551615.18446744073709551615"] {
        let page = admin.json(&format!("/connections?after={after}")).await;
        assert_eq!(page["next"], Value::Null, "{after}: {page}");
    }
    for path in ["/", "/health", "/health/", "/connections/", "/nothing", "/health/live/../ready"] {
        refused(admin.get(path), 404, "/connections").await;
    }
}
