//! The demo page and its static files.

use crate::support::TestGateway;
use crate::support::client::{Request, Response};

fn plain(gateway: &TestGateway, target: &str) -> Request {
    let request = gateway.request(target).without("Upgrade").without("Connection");
    request.without("Sec-WebSocket-Key").without("Sec-WebSocket-Version")
}

#[tokio::test]
async fn the_demo_page_and_its_files_have_content_type_and_security_policy() {
    let gateway = TestGateway::start_with(&[("demo.enabled", "on")]).await;
    for (path, kind, part) in [
        ("/", "text/html", "<!doctype html>"),
        ("/static/demo/demo.css", "text/css", "{"),
        ("/static/demo/tour.js", "text/javascript", "import"),
        ("/static/ws4redis.js", "text/javascript", "WebSocket"),
        ("/static/ws4redis.mjs", "text/javascript", "export"),
    ] {
        let response: Response = plain(&gateway, path).expect_status(200).await;
        assert_eq!(
            response.header("content-type"),
            Some(format!("{kind}; charset=utf-8").as_str()),
            "{path}"
        );
        assert!(response.body.contains(part), "{path}: {}", response.body);
        assert!(response.header("content-security-policy").is_some_and(|p| p.contains("default-src 'self'")));
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(response.header("connection"), Some("close"), "{path}");
    }
}

#[tokio::test]
async fn the_page_contains_prefix_and_heartbeat_escaped() {
    let gateway =
        TestGateway::builder().set("demo.enabled", "on").namespace("a\"<b>").set("heartbeat", "--&--");
    let page = plain(&gateway.start().await, "/").expect_status(200).await.body;
    assert!(page.contains("a&quot;&lt;b&gt;") && page.contains("--&amp;--"), "{page}");
    assert!(!page.contains("{{") && !page.contains("a\"<b>"), "{page}");
}

#[tokio::test]
async fn the_page_contains_the_path_of_socket_io_if_it_is_on() {
    for (enabled, path) in [("false", ""), ("true", "/io/")] {
        let settings = [("demo.enabled", "on"), ("socketio.enabled", enabled), ("socketio.path", "/io/")];
        let page = plain(&TestGateway::start_with(&settings).await, "/").expect_status(200).await.body;
        let meta = format!("<meta name=\"socketio-path\" content=\"{path}\">");
        assert!(page.contains(&meta), "{enabled}: {page}");
    }
}

#[tokio::test]
async fn a_page_allows_only_get_and_head_and_head_has_no_body() {
    let gateway = TestGateway::start_with(&[("demo.enabled", "on")]).await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"] {
        let response = plain(&gateway, "/").method(method).expect_status(405).await;
        assert_eq!(response.header("allow"), Some("GET, HEAD"), "{method}: {response:?}");
        assert!(response.body.contains("GET"), "{method}: {response:?}");
    }
    let mut client = plain(&gateway, "/").open().await;
    client.send_raw(&plain(&gateway, "/").method("HEAD").bytes()).await;
    let head = client.read_head().await;
    assert_eq!(head.status, 200, "{head:?}");
    assert!(head.header("content-length").is_some_and(|length| length.parse::<u32>().unwrap() > 500));
    client.expect_end().await;
}

#[tokio::test]
async fn no_other_file_is_served_and_a_disabled_demo_serves_none() {
    let gateway = TestGateway::start_with(&[("demo.enabled", "on")]).await;
    for path in [
        "/static/",
        "/static/../Cargo.toml",
        "/static/%2e%2e/Cargo.toml",
        "/static/demo/",
        "/static/demo/tour.js/",
        "/index.html",
    ] {
        plain(&gateway, path).expect_status(404).await;
    }
    let gateway = TestGateway::start().await;
    for path in ["/", "/static/ws4redis.js"] {
        let response = plain(&gateway, path).expect_status(404).await;
        assert!(response.body.contains("/ws/"), "{path}: {response:?}");
        plain(&gateway, path).method("POST").expect_status(404).await;
    }
}
