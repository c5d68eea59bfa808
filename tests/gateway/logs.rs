//! The log: its formats, its contents, and secrets that never appear.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::support::client::Request;
use crate::support::gateway::{GatewayBuilder, address_in, binary};
use crate::support::sessions::{connect, john, mary, session_key};
use crate::support::{RedisServer, TestGateway, eventually, signal, unique, within_deadline};

const SESSION: &str = "0123456789abcdefghijklmnopqrstuv";

/// Sends secrets and control characters through a gateway and returns its log.
async fn log_of_hostile_input(builder: GatewayBuilder) -> Vec<String> {
    let gateway = builder.variable("RUST_LOG", "ws4redis=trace").start().await;
    let cookie = format!("csrftoken=TOKEN; sessionid={SESSION}");
    let target = "/ws/l?subscribe-broadcast&publish-broadcast&subscribe-session&publish-session&echo";
    let mut client = gateway.request(target).header("Cookie", &cookie).connect().await;
    client.send_text("PAYLOAD of a client").await;
    client.expect_text("PAYLOAD of a client").await;
    gateway.publish("broadcast:l", "PAYLOAD of Django");
    client.expect_text("PAYLOAD of Django").await;
    client.send_close(4000, "bye\r\n\u{1b}[31mforged\u{85}\u{9b}31m").await;
    client.expect_close(4000).await;
    client.expect_end().await;
    let origin = "https://evil.example\u{9b}31m\u{85}forged";
    let request = gateway.request("/ws/l").header("Cookie", &cookie).header("Origin", origin);
    let response = request.expect_status(403).await;
    assert!(!response.body.contains('\u{9b}'), "{response:?}");
    gateway.request("/ws/a%1B[31mb%0Aforged").expect_status(400).await;
    gateway.expect_log(&["connection ended", "4000"]).await;
    gateway.expect_log(&["request refused", "403"]).await;
    gateway.expect_log(&["request refused", "400"]).await;
    gateway.signal("TERM");
    gateway.expect_log(&["counts"]).await;
    gateway.log()
}

fn assert_no_leaks(log: &[String]) {
    for line in log {
        for secret in ["PAYLOAD", "TOKEN", "sessionid=", SESSION] {
            assert!(!line.contains(secret), "{secret} in {line:?}");
        }
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(!line.starts_with("forged"), "{line:?}");
    }
}

#[tokio::test]
async fn no_cookie_session_key_or_payload_is_logged_and_control_characters_are_escaped() {
    let log = log_of_hostile_input(TestGateway::builder()).await;
    assert_no_leaks(&log);
    assert!(log.iter().any(|line| line.contains(r"bye\r\n\u{1b}[31mforged\u{85}\u{9b}31m")), "{log:#?}");
}

#[tokio::test]
async fn text_logs_have_no_escaped_quotes_and_name_unknown_flags() {
    let gateway = TestGateway::builder().variable("RUST_LOG", "ws4redis=debug").start().await;
    let target = "/ws/a%22b?subscribe-brodcast&subscribe-user&x%22y=SECRET&client=ws4redis&since=1-0";
    let _client = gateway.connect(target).await;
    let line = gateway.expect_log(&["unknown flags are ignored"]).await;
    assert!(line.ends_with(r#"names=["subscribe-brodcast", "x'y"]"#), "{line}");
    gateway.expect_log(&[r#"facility="a'b""#]).await;
    let refused = gateway.request("/ws/x").header("Cookie", "sessionid=x").header("Origin", "a\"b'c");
    refused.expect_status(403).await;
    gateway.expect_log(&["WARN", "request refused with 403: a'b'c is not an origin"]).await;
    assert_eq!(gateway.count_log(&["SECRET"]) + gateway.count_log(&["\\\""]), 0, "{:#?}", gateway.log());
}

#[tokio::test]
async fn json_logs_have_one_object_per_line() {
    let log = log_of_hostile_input(TestGateway::builder().set("log.format", "json")).await;
    assert_no_leaks(&log);
    for line in &log {
        let whole = line.starts_with("{\"timestamp\":") && line.ends_with('}');
        assert!(whole && line.contains("\"level\":") && line.contains("\"message\":"), "{line}");
    }
    let ended = log.iter().find(|line| line.contains("connection ended") && line.contains("4000")).unwrap();
    for field in
        ["\"facility\":", "\"close_code\":4000", "\"delivered\":2", "\"received\":1", "\"elapsed_ms\":"]
    {
        assert!(ended.contains(field), "{field} is not in {ended}");
    }
}

#[tokio::test]
async fn each_ended_connection_is_one_line_at_debug_and_none_at_info() {
    for (filter, expected) in [("ws4redis=debug", 1), ("info", 0)] {
        let gateway = TestGateway::builder().variable("RUST_LOG", filter).start().await;
        let mut client = gateway.connect("/ws/ends?subscribe-broadcast").await;
        client.send_text("ignored").await;
        gateway.publish("broadcast:ends", "delivered");
        client.expect_text("delivered").await;
        client.send_close(1000, "done").await;
        client.expect_close(1000).await;
        client.expect_end().await;
        gateway.signal("TERM");
        gateway.expect_log(&["counts"]).await;
        let parts = [
            "connection ended",
            "facility=\"ends\"",
            "close_code=1000",
            "done",
            "delivered=1",
            "received=1",
            "ignored=1",
        ];
        assert!(expected > 0 || gateway.count_log(&["DEBUG"]) == 0, "{:#?}", gateway.log());
        assert_eq!(gateway.count_log(&parts), expected, "{filter}: {:#?}", gateway.log());
        assert_eq!(
            gateway.count_log(&["connection ended", "facility=\"ends\""]),
            expected,
            "{filter}: {:#?}",
            gateway.log()
        );
    }
}

#[tokio::test]
async fn every_line_about_a_client_has_the_span_of_its_connection_in_both_formats() {
    for (format, user, peer, quote) in [
        ("text", r#"user=""#, "peer=127.0.0.1", "'"),
        ("json", r#""user":"\""#, r#""peer":"127.0.0.1""#, "\\"),
    ] {
        let builder = TestGateway::builder().variable("RUST_LOG", "ws4redis=debug");
        let gateway = builder.set("log.format", format).start().await;
        let keys = [session_key(), session_key()];
        let cookies = [john(&keys[0]), mary(&keys[1])];
        let mut johns = connect(&gateway, "/ws/of-john%22?subscribe-broadcast", &cookies[0]).await;
        let mut marys = connect(&gateway, "/ws/of-mary%22?subscribe-broadcast", &cookies[1]).await;
        for (client, facility) in [(&mut johns, "of-john"), (&mut marys, "of-mary")] {
            client.send_close(1000, "").await;
            client.expect_close(1000).await;
            client.expect_end().await;
            gateway.expect_log(&["connection ended", &format!("{facility}{quote}")]).await;
        }
        let log = gateway.log();
        let spans = ["john", "mary"].map(|name| {
            let facility = format!("of-{name}{quote}");
            let lines: Vec<_> = log.iter().filter(|line| line.contains(&facility)).collect();
            assert_eq!(lines.len(), 2, "opened and ended: {log:#?}");
            for line in &lines {
                assert!(line.contains(&format!("{user}{name}")) && line.contains(peer), "{line}");
                assert!(!keys.iter().any(|key| line.contains(key)), "{line}");
            }
            let ids: Vec<_> = lines.iter().map(|line| span_id(line)).collect();
            assert_eq!(ids[0], ids[1], "{lines:#?}");
            ids[0].clone()
        });
        assert_ne!(spans[0], spans[1]);
    }
}

/// Returns the id in the span of a line.
fn span_id(line: &str) -> String {
    let at = ["connection{id=", "\"id\":"].iter().find_map(|mark| Some(line.find(mark)? + mark.len()));
    let rest = &line[at.unwrap_or_else(|| panic!("no span in {line}"))..];
    rest.trim_start_matches('"')
        .chars()
        .take_while(|letter| letter.is_ascii_hexdigit() || *letter == '-')
        .collect()
}

#[tokio::test]
async fn without_rust_log_the_start_and_the_warning_about_anonymous_publishing_are_logged() {
    let gateway = TestGateway::builder().without_variable("RUST_LOG").start().await;
    gateway.expect_log(&["INFO", "listening on", &gateway.address().to_string()]).await;
    gateway.expect_log(&["WARN", "anonymous visitors may publish"]).await;
    gateway.expect_log(&["INFO", "redis connected"]).await;
    gateway.connect("/ws/x").await.expect_nothing().await;
    assert_eq!(gateway.count_log(&["DEBUG"]), 0, "{:#?}", gateway.log());
    assert_eq!(gateway.count_log(&["anonymous visitors"]), 1, "{:#?}", gateway.log());
}

#[tokio::test]
async fn an_unread_or_closed_log_pipe_blocks_nothing() {
    for closed in [false, true] {
        let namespace = unique("deaf");
        let url = RedisServer::shared().url();
        let mut command = binary();
        command.env("RUST_LOG", "ws4redis=trace").stderr(Stdio::piped());
        for setting in
            ["server.listen=127.0.0.1:0", &format!("redis.url={url}"), &format!("prefix={namespace}")]
        {
            command.args(["--set", setting]);
        }
        let mut gateway = command.spawn().unwrap();
        let mut log = BufReader::new(gateway.stderr.take().unwrap());
        let mut line = String::new();
        while address_in(&line).is_none() {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "ended before it listened");
        }
        let address = address_in(&line).unwrap();
        let unread = (!closed).then_some(log);
        let request = |target| Request::handshake(address, target, &namespace, RedisServer::shared().port());
        within_deadline("Redis is reached", async { while request("/ws/").send().await.0.status != 101 {} })
            .await;
        let mut client = request("/ws/deaf?subscribe-broadcast").connect().await;
        // Each connection logs two lines: together far more than the pipe can hold.
        for _ in 0..1500 {
            request("/ws/deaf").connect().await;
        }
        client.expect_nothing().await;
        drop(unread);
        signal(gateway.id(), "TERM");
        client.expect_close(1012).await;
        drop(client);
        let status = eventually("it ends", || gateway.try_wait().unwrap()).await;
        assert_eq!(status.code(), Some(0));
    }
}
