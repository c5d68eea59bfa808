//! Lists: filters, pages, and one object a line.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Admin, refused};
use crate::support::client::{Request, TestClient};
use crate::support::events::SseClient;
use crate::support::sessions::{john, mary, session_key};
use crate::support::within_deadline;

/// Connections of the long list.
fn many() -> usize {
    if std::env::var("WS4REDIS_TESTS_LONG").is_ok() { 15_000 } else { 5_000 }
}

/// Returns a request for a list with one object a line. With HTTP/1.0 it ends with the connection.
fn lines(admin: &Admin, target: &str) -> Request {
    admin.get(target).header("Accept", "application/x-ndjson").version("HTTP/1.0")
}

/// Returns the objects of a list.
async fn objects(request: Request) -> Vec<Value> {
    let answer = request.expect_status(200).await;
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"), "{answer:?}");
    answer.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns the hash of a session as the Django package computes it.
fn session_hash(key: &str) -> String {
    let whole = ring::digest::digest(&ring::digest::SHA256, format!("ws4redis:session:{key}").as_bytes());
    whole.as_ref().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[tokio::test]
async fn connections_are_selected_by_what_is_known_of_them() {
    let admin = Admin::start(&[("server.shards", "2")]).await;
    let gateway = &admin.gateway;
    let keys = [session_key(), session_key()];
    let cookies = [john(&keys[0]), mary(&keys[1])];
    let mut clients = Vec::new();
    for (path, cookie) in [
        ("/ws/a?subscribe-broadcast&subscribe-user", &cookies[0]),
        ("/ws/b?subscribe-group&subscribe-session", &cookies[0]),
        ("/ws/b?subscribe-broadcast", &cookies[1]),
    ] {
        clients.push(gateway.request(path).header("Cookie", cookie).connect().await);
    }
    let _stream = SseClient::open(gateway.stream("/ws/b?subscribe-broadcast")).await;
    let mut live = gateway.live("/ws/").await;
    live.subscribe("b", &["subscribe-broadcast"]).await;

    let (john, whole) = (&session_hash(&keys[0])[..16], session_hash(&keys[1]));
    let count = async |query: &str| objects(lines(&admin, &format!("/connections?{query}"))).await.len();
    for (query, expected) in [
        ("", 5),
        ("user=john", 2),
        ("user=john&facility=b", 1),
        ("user=jo", 0),
        ("group=red%20team", 2),
        ("group=blue", 1),
        ("facility=b", 4),
        ("facility=b&dialect=live", 1),
        ("form=event-stream", 1),
        ("dialect=socket_io", 0),
        ("address=127.0.0.1", 5),
        ("address=127.0.0.2", 0),
        (&format!("session={john}"), 2),
        (&format!("session={whole}"), 1),
    ] {
        assert_eq!(count(query).await, expected, "{query}");
        // Pages of one connection have the same ones.
        let (mut found, mut after) = (0, String::new());
        loop {
            let page = admin.json(&format!("/connections?limit=1{after}&{query}")).await;
            found += page["connections"].as_array().unwrap().len();
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={next}");
        }
        assert_eq!(found, expected, "{query}, in pages");
    }
    let all = objects(lines(&admin, "/connections?user=john")).await;
    for connection in &all {
        assert_eq!(connection["session"], john, "{connection}");
        assert_eq!(connection["groups"], json!(["staff", "red team"]), "{connection}");
        let audiences = match connection["facility"].as_str().unwrap() {
            "a" => json!(["broadcast", "user:john"]),
            _ => json!(["group:staff", "group:red team", "session"]),
        };
        assert_eq!(connection["audiences"], audiences, "{connection}");
    }
    let live = objects(lines(&admin, "/connections?dialect=live")).await.remove(0);
    assert_eq!(live["audiences"], json!(["broadcast"]), "{live}");
    for (query, part) in [
        ("users=john", "user, group, session, facility"),
        ("user=a&user=b", "once"),
        ("dialect=x", "relay, live or socket_io"),
        ("form=x", "event-stream"),
        ("session=x", "16 hexadecimal digits"),
        ("address=localhost", "IP address"),
    ] {
        refused(admin.get(&format!("/connections?{query}")), 400, part).await;
        refused(lines(&admin, &format!("/connections?{query}")), 400, part).await;
    }
}

#[tokio::test]
async fn a_connection_shows_its_age_its_messages_and_its_bytes() {
    let admin = Admin::start(&[]).await;
    let mut client = admin.gateway.connect("/ws/bytes?subscribe-broadcast&publish-broadcast&echo").await;
    let text = "x".repeat(10_000);
    client.send_text(&text).await;
    client.expect_text(&text).await;
    let listed = admin.expect_connections("bytes", 1).await.remove(0);
    for (field, least, most) in [
        ("received", 1, 1),
        ("delivered", 1, 1),
        ("received_bytes", 10_000, 12_000),
        // An acknowledgement may be on its way.
        ("sent_bytes", 100, 12_000),
        ("idle_seconds", 0, 10),
    ] {
        let value = listed[field].as_u64().unwrap_or_else(|| panic!("{field}: {listed}"));
        assert!((least..=most).contains(&value), "{field}: {listed}");
    }
    let since = listed["since"].as_str().unwrap();
    assert!(since.len() == 24 && since.starts_with("20") && since.ends_with('Z'), "{since}");
    assert_eq!(admin.expect_connections("bytes", 1).await[0]["since"], since, "it stays the same");
    // Without the setting nothing is kept.
    assert_eq!((&listed["address"], &listed["user_agent"]), (&Value::Null, &Value::Null), "{listed}");

    let _stream = SseClient::open(admin.gateway.stream("/ws/stream?subscribe-broadcast")).await;
    let listed = admin.expect_connections("stream", 1).await.remove(0);
    assert_eq!((&listed["idle_seconds"], &listed["received"]), (&Value::Null, &0.into()), "{listed}");
}

#[tokio::test]
async fn details_are_kept_with_their_setting_only() {
    let settings =
        [("admin.details", "true"), ("server.trusted_proxies", "127.0.0.1"), ("socketio.enabled", "true")];
    let admin = Admin::start(&settings).await;
    let request = |path: &str, agent: &str| {
        let request = admin.gateway.request(path).header("X-Forwarded-For", "192.0.2.7");
        request.header("User-Agent", agent.as_bytes())
    };
    let agent = format!("ä{}", "x".repeat(300));
    let _relay = request("/ws/details?subscribe-broadcast", &agent).connect().await;
    let _live = request("/ws/", "live").with("Sec-WebSocket-Protocol", "ws4redis.2").connect().await;
    let _socket_io = request("/socket.io/?EIO=4&transport=websocket", "io").connect().await;
    let polling = request("/socket.io/?EIO=4&transport=polling", "poll");
    ["Upgrade", "Connection"].into_iter().fold(polling, Request::without).expect_status(200).await;
    let found = objects(lines(&admin, "/connections?address=192.0.2.7")).await;
    let agents: BTreeSet<_> = found.iter().map(|it| it["user_agent"].as_str().unwrap_or_default()).collect();
    // A header that is not ASCII is not kept.
    assert_eq!(agents, BTreeSet::from(["", "io", "live", "poll"]), "{found:?}");
    assert!(found.iter().all(|connection| connection["address"] == "192.0.2.7"), "{found:?}");
    let _long = request("/ws/long", &"y".repeat(300)).connect().await;
    let listed = admin.expect_connections("long", 1).await.remove(0);
    assert_eq!(listed["user_agent"], "y".repeat(256), "{listed}");
    assert_eq!(objects(lines(&admin, "/connections?address=127.0.0.1")).await, [Value::Null; 0]);
}

#[tokio::test]
async fn thousands_of_connections_are_streamed_in_constant_memory() {
    let count = many();
    let admin = Admin::start(&[("server.shards", "2"), ("admin.request_seconds", "60")]).await;
    let mut clients: Vec<TestClient> = Vec::new();
    for number in 0..count {
        clients.push(admin.gateway.connect(&format!("/ws/f{number}?subscribe-broadcast")).await);
    }
    objects(lines(&admin, "/connections?facility=f0")).await;
    let before = admin.gateway.resident_bytes();
    // A client that reads slowly has the gateway wait, and not collect.
    let request = lines(&admin, "/connections").receive_buffer(4096);
    let mut reader = request.open().await;
    reader.send_raw(&request.bytes()).await;
    assert_eq!(reader.read_head().await.status, 200);
    let (mut facilities, mut grown) = (BTreeSet::new(), 0);
    within_deadline("all connections", async {
        for number in 0..count {
            let line = reader.read_until("\n").await.unwrap();
            let connection: Value = serde_json::from_slice(&line).unwrap();
            facilities.insert(connection["facility"].as_str().unwrap().to_owned());
            if number % 1_000 == 0 {
                grown = grown.max(admin.gateway.resident_bytes().saturating_sub(before));
            }
        }
        reader.expect_end().await;
    })
    .await;
    assert_eq!(facilities.len(), count, "each once");
    // The whole list has about 500 bytes for each.
    assert!(grown < 2 << 20, "{grown} bytes for {count} connections");
    // One of all is found behind the others.
    let last = objects(lines(&admin, &format!("/connections?facility=f{}", count - 1))).await;
    assert_eq!(last.len(), 1);
    clients[count - 1].expect_nothing().await;
}
