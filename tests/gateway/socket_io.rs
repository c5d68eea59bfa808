//! Socket.IO over WebSockets: sessions, namespaces, and what clients may not do.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::support::RedisServer;
use crate::support::sessions::{hint, john, log_in, redis_key, session_key};
use crate::support::socket_io::{POLL_V4, SocketIoGateway, V3, V4, builder, join, open, text};
use crate::support::tokens::{key_file, path, token};

#[tokio::test]
async fn the_open_packet_has_five_keys_and_secret_and_public_ids_differ() {
    let server = SocketIoGateway::start().await;
    for target in [V4, V3, "/socket.io?q=1&EIO=4&transport=websocket&t=abc"] {
        let (_, open) = open(server.gateway.request(target)).await;
        let sid = open["sid"].as_str().unwrap();
        assert!(sid.len() >= 20 && sid.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b)));
        let expected = serde_json::json!({
            "sid": sid, "upgrades": [], "pingInterval": 25000, "pingTimeout": 20000, "maxPayload": 1_000_000
        });
        assert_eq!(open, expected, "{target}");
    }
    let (mut client, open) = open(server.gateway.request(V4)).await;
    let main = join(&mut client, "/").await;
    let chat = join(&mut client, "/chat").await;
    assert!(main != chat && main != open["sid"] && chat != open["sid"]);
}

#[tokio::test]
async fn faults_are_answered_with_the_codes_of_engine_io() {
    let (builder, _) = builder();
    let gateway = builder.set("socketio.engine", "4").start().await;
    let query = |query: &str| gateway.request(&format!("/socket.io/?{query}"));
    for (request, status, code) in [
        (query("transport=websocket"), 400, 5),
        (query("EIO=3&transport=websocket"), 400, 5),
        (query("EIO=04&transport=websocket"), 400, 5),
        (query("EIO=4&EIO=4&transport=websocket"), 400, 3),
        (query("EIO=4"), 400, 0),
        (query("EIO=4&transport=webtransport"), 400, 0),
        (query("EIO=4&transport=websocket&j=1"), 400, 0),
        (query("EIO=4&transport=websocket&sid=abc"), 400, 1),
        (query("EIO=4&transport=websocket").method("POST"), 400, 2),
        (query("EIO=4&transport=websocket").method("HEAD"), 400, 2),
        (query("EIO=4&transport=websocket").without("Upgrade"), 400, 3),
        (query("EIO=4&transport=websocket").with("Sec-WebSocket-Version", "12"), 400, 3),
        (query("EIO=4&transport=websocket").header("Origin", b"http://\xff"), 400, 3),
    ] {
        let head = request.clone().bytes();
        let is_head = head.starts_with(b"HEAD");
        let response = request.expect_status(status).await;
        assert_eq!(response.header("content-type"), Some("application/json"), "{response:?}");
        if is_head {
            continue;
        }
        let body: Value = serde_json::from_str(&response.body).unwrap();
        assert_eq!(body["code"], code, "{} {body}", String::from_utf8_lossy(&head));
        assert!(body["message"].is_string());
    }
    gateway.request("/socket.io/below?EIO=4&transport=websocket").expect_status(404).await;
    gateway.request("/socket.io/?EIO=4&transport=websocket").expect_status(101).await;
}

#[tokio::test]
async fn a_foreign_page_cannot_use_a_session_and_cors_names_allowed_origins_only() {
    let (builder, _) = builder();
    let gateway = builder.set("origin.allowed", "https://good.example").start().await;
    let request = |origin: &str| gateway.request(V4).header("Origin", origin);
    let cookie = john(&session_key());
    let refused = request("https://evil.example").header("Cookie", &cookie).expect_status(403).await;
    assert!(refused.body.contains(r#""code":4"#), "{refused:?}");
    assert_eq!(refused.header("access-control-allow-origin"), None);
    request("https://good.example").header("Cookie", &cookie).expect_status(101).await;
    // Without a credential there is nothing to steal.
    request("https://evil.example").expect_status(101).await;
    let preflight = |origin: &str| {
        let request = gateway.request("/socket.io/?EIO=4&transport=polling").method("OPTIONS");
        request.header("Origin", origin).header("Access-Control-Request-Method", "POST")
    };
    let allowed = preflight("https://good.example").expect_status(204).await;
    for (name, value) in [
        ("access-control-allow-origin", "https://good.example"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "GET, POST"),
        ("access-control-allow-headers", "content-type, authorization"),
        ("access-control-max-age", "600"),
    ] {
        assert_eq!(allowed.header(name), Some(value));
    }
    let foreign = preflight("https://evil.example").expect_status(204).await;
    assert_eq!(foreign.header("access-control-allow-methods"), None);
    let error = gateway.request("/socket.io/?EIO=9").header("Origin", "https://good.example");
    let error = error.expect_status(400).await;
    assert_eq!(error.header("access-control-allow-origin"), Some("https://good.example"));
    assert!(error.header("vary").is_some_and(|vary| vary.eq_ignore_ascii_case("origin")));
}

#[tokio::test]
async fn without_the_setting_the_path_is_not_served() {
    let gateway = crate::support::TestGateway::start().await;
    gateway.request(V4).expect_status(404).await;
}

#[tokio::test]
async fn namespaces_are_joined_refused_and_left() {
    let server = SocketIoGateway::start().await;
    let mut client = server.open().await;
    client.send_text("40/none,").await;
    client.expect_text(r#"44/none,{"message":"Invalid namespace"}"#).await;
    let sid = join(&mut client, "/room-1").await;
    server.emit("/room-1", &format!("{sid:?}"), "1");
    client.expect_text(r#"42/room-1,["e",1]"#).await;
    client.send_text("41/room-1,").await;
    client.expect_nothing().await;
    server.emit("/room-1", "null", "2");
    join(&mut client, "/").await;
    server.emit("/room-1", "null", "3");
    server.emit("/", "null", "4");
    client.expect_text(r#"42["e",4]"#).await;
    // An acknowledgement that nobody asked for is ignored; one without an id is a breach.
    client.send_text("437[1]").await;
    client.expect_nothing().await;
    client.send_text("43[1]").await;
    client.expect_close(1002).await;
}

#[tokio::test]
async fn events_of_clients_reach_no_other_client_and_are_counted() {
    let server = SocketIoGateway::start().await;
    let (mut one, _) = server.connect("/").await;
    let (mut two, _) = server.connect("/").await;
    one.send_text(r#"427["event",{"a":1}]"#).await;
    one.send_text(r#"451-["f",{"_placeholder":true,"num":0}]"#).await;
    one.send_binary(b"\xff").await;
    one.send_text("437[1]").await;
    one.expect_nothing().await;
    two.expect_nothing().await;
    server.gateway.expect_log(&["an event of a Socket.IO client"]).await;
}

#[tokio::test]
async fn a_breach_of_the_protocol_ends_the_session() {
    let server = SocketIoGateway::start().await;
    for packet in [
        "",
        "x",
        "0",
        "2",
        "2probe",
        "5",
        "6",
        "4",
        "49",
        r#"42["a"]"#,
        "41",
        "40[]",
        "44{}",
        "40/a\u{1},",
        "4{}",
        r#"40{"a":}"#,
    ] {
        let mut client = server.open().await;
        client.send_text(packet).await;
        client.expect_close(1002).await;
    }
    for packet in
        ["40", r#"42["connect"]"#, "42{}", "42[]", "41{}", r#"42/chat,["a"]"#, "45[]", r#"4511-["a"]"#]
    {
        let (mut client, _) = server.connect("/").await;
        client.send_text(packet).await;
        let reason = client.expect_close(1002).await;
        assert!(!reason.is_empty(), "{packet}");
    }
    let (mut client, _) = server.connect("/").await;
    client.send_binary(b"x").await;
    client.expect_close(1002).await;
    let (mut client, _) = server.connect("/").await;
    client.send_text(r#"451-["f",{"_placeholder":true,"num":0}]"#).await;
    client.send_text(r#"42["g"]"#).await;
    client.expect_close(1002).await;
    let (mut client, _) = server.connect("/").await;
    client.send_text("1").await;
    client.expect_close(1000).await;
    let (mut client, _) = server.connect("/").await;
    client.send_close(1000, "").await;
    client.expect_close(1000).await;
}

#[tokio::test]
async fn clients_of_protocol_3_are_in_the_main_namespace_and_ping_by_themselves() {
    let server = SocketIoGateway::start().await;
    let (mut client, sid) = server.connect_v3().await;
    client.send_text("2").await;
    client.expect_text("3").await;
    client.send_text("2x").await;
    client.expect_text("3x").await;
    client.send_text("40").await;
    client.send_text("40/chat?token=abc&uid=1").await;
    client.expect_text("40/chat,").await;
    client.send_text("40/none").await;
    client.expect_text(r#"44/none,"Invalid namespace""#).await;
    // Its page knows the id of the session only, in these two forms.
    server.emit("/", &format!("{sid:?}"), "1");
    client.expect_text(r#"42["e",1]"#).await;
    server.emit("/chat", &format!("\"/chat#{sid}\""), "2");
    client.expect_text(r#"42/chat,["e",2]"#).await;
    server.publish(
        r#"{"method": "emit", "event": "f", "data": [[{"_placeholder": true, "num": 0}], "AAH/"], "binary": true}"#,
    );
    client.expect_text(r#"451-["f",{"_placeholder":true,"num":0}]"#).await;
    client.expect_binary(b"\x04\x00\x01\xff").await;
    client.send_text(r#"451-["f",{"_placeholder":true,"num":0}]"#).await;
    client.send_binary(b"\x04x").await;
    client.expect_nothing().await;
    client.send_text("3").await;
    client.expect_close(1002).await;
    // It has nothing to fall back to.
    let (mut client, _) = server.connect_v3().await;
    client.send_text("41").await;
    client.expect_close(1000).await;
}

#[tokio::test]
async fn the_server_pings_clients_of_protocol_4_and_closes_silent_ones() {
    let settings = [("socketio.ping_interval_ms", "300"), ("socketio.ping_timeout_ms", "200")];
    let server = SocketIoGateway::start_with(&settings).await;
    let (mut client, _) = server.connect("/").await;
    for _ in 0..4 {
        let since = Instant::now();
        client.expect_text("2").await;
        client.send_text("3").await;
        assert!(since.elapsed() < Duration::from_millis(1_500), "{:?}", since.elapsed());
    }
    let reason = loop {
        let frame = client.next_message().await;
        if frame.opcode == 8 {
            break frame.payload;
        }
    };
    assert_eq!(reason[..2], 1011_u16.to_be_bytes());
    let (mut client, _) = server.connect_v3().await;
    client.expect_close(1011).await;
}

#[tokio::test]
async fn a_session_without_a_namespace_ends() {
    let server = SocketIoGateway::start_with(&[("socketio.connect_seconds", "1")]).await;
    let mut client = server.open().await;
    client.expect_close(1008).await;
    let (mut client, _) = server.connect("/").await;
    client.send_text("41").await;
    client.expect_close(1008).await;
}

#[tokio::test]
async fn messages_are_bounded_in_bytes_and_attachments() {
    let settings = [("socketio.max_payload_bytes", "1024"), ("socketio.max_attachments", "5")];
    let server = SocketIoGateway::start_with(&settings).await;
    let (mut client, _) = server.connect("/").await;
    client.send_text(&format!(r#"42["{}"]"#, "x".repeat(1024))).await;
    client.expect_close(1009).await;
    let (mut client, _) = server.connect("/").await;
    client.send_text(r#"456-["f"]"#).await;
    client.expect_close(1002).await;
    let (mut client, _) = server.connect("/").await;
    client.send_text(r#"455-["f"]"#).await;
    for _ in 0..4 {
        client.send_binary(&[0xff; 1024]).await;
    }
    client.expect_close(1009).await;
    let server = SocketIoGateway::start_with(&[("messages.message_seconds", "1")]).await;
    let (mut client, _) = server.connect("/").await;
    client.send_text(r#"451-["f"]"#).await;
    client.expect_close(1008).await;
}

#[tokio::test]
async fn anonymous_visitors_can_be_refused() {
    let server = SocketIoGateway::start_with(&[("socketio.anonymous", "false")]).await;
    let mut client = server.open().await;
    client.send_text("40").await;
    client.expect_text(r#"44{"message":"Unauthorized"}"#).await;
    let (mut client, _) = open(server.gateway.request(V3)).await;
    client.expect_text(r#"44"Unauthorized""#).await;
    client.expect_close(1000).await;
    let cookie = john(&session_key());
    let (mut client, _) = open(server.gateway.request(V4).header("Cookie", cookie)).await;
    join(&mut client, "/").await;
}

#[tokio::test]
async fn rooms_of_users_and_groups_follow_the_identity() {
    let settings =
        [("socketio.user_room", "ws4redis:user:{user}"), ("socketio.group_room", "ws4redis:group:{group}")];
    let server = SocketIoGateway::start_with(&settings).await;
    let (redis, key) = (RedisServer::shared(), session_key());
    let cookie = log_in(redis, &key, "7", "john", &["old"]);
    let (mut client, _) = open(server.gateway.request(V4).header("Cookie", &cookie)).await;
    let sid = join(&mut client, "/").await;
    let (mut other, other_sid) = server.connect("/").await;
    // Nobody else can be put into such a room.
    server.call("enter_room", "/", &other_sid, "ws4redis:user:john");
    server.call("leave_room", "/", &sid, "ws4redis:user:john");
    server.call("close_room", "/", &sid, "ws4redis:group:old");
    server.emit("/", "\"ws4redis:user:john\"", "1");
    server.emit("/", "\"ws4redis:group:old\"", "2");
    client.expect_text(r#"42["e",1]"#).await;
    client.expect_text(r#"42["e",2]"#).await;
    log_in(redis, &key, "7", "john", &["new"]);
    hint(&server.gateway, "7", "groups");
    crate::support::within_deadline("the new group", async {
        let mut number = 10;
        loop {
            number += 1;
            server.emit("/", "\"ws4redis:group:new\"", &number.to_string());
            server.emit("/", "\"ws4redis:user:john\"", "99");
            if text(&mut client).await != r#"42["e",99]"# {
                break client.expect_text(r#"42["e",99]"#).await;
            }
        }
    })
    .await;
    server.emit("/", "\"ws4redis:group:old\"", "3");
    server.emit("/", "null", "4");
    client.expect_text(r#"42["e",4]"#).await;
    other.expect_text(r#"42["e",4]"#).await;
}

#[tokio::test]
async fn the_end_of_a_session_closes_the_transport() {
    let server = SocketIoGateway::start().await;
    let key = session_key();
    let cookie = john(&key);
    let (mut client, _) = open(server.gateway.request(V4).header("Cookie", &cookie)).await;
    join(&mut client, "/").await;
    RedisServer::shared().command(&["DEL", &redis_key(&key)]);
    hint(&server.gateway, "7", "logout");
    client.expect_close(4401).await;
}

#[tokio::test]
async fn the_end_of_a_session_disconnects_where_the_site_wants_that() {
    let server = SocketIoGateway::start_with(&[("socketio.on_session_end", "disconnect")]).await;
    let key = session_key();
    let cookie = john(&key);
    let (mut client, _) = open(server.gateway.request(V4).header("Cookie", &cookie)).await;
    join(&mut client, "/").await;
    join(&mut client, "/chat").await;
    let request = |target: &str| server.gateway.stream(target).without("Accept").with("Cookie", &cookie);
    let opened = request(POLL_V4).expect_status(200).await.body;
    let polling = request(&format!("{POLL_V4}&sid={}", opened.split('"').nth(3).unwrap()));
    let post = polling.clone().method("POST").with("Content-Length", "2").followed_by(b"40");
    post.expect_status(200).await;
    assert!(polling.clone().expect_status(200).await.body.starts_with("40{"));
    RedisServer::shared().command(&["DEL", &redis_key(&key)]);
    hint(&server.gateway, "7", "logout");
    assert_eq!(polling.expect_status(200).await.body, "41\u{1e}1");
    client.expect_text("41").await;
    client.expect_text("41/chat,").await;
    client.expect_close(4401).await;
}

#[tokio::test]
async fn a_token_in_connect_identifies_the_client_in_that_namespace() {
    let key = path(&key_file("HS256"));
    let server = SocketIoGateway::start_with(&[
        ("auth.jwt.algorithm", "HS256"),
        ("auth.jwt.key_file", key.to_str().unwrap()),
        ("socketio.anonymous", "false"),
        ("socketio.user_room", "ws4redis:user:{user}"),
    ])
    .await;
    let token = token("HS256", r#"{"sub":"john"}"#);
    let mut client = server.open().await;
    client.send_text(r#"40/chat,{"token":"invalid"}"#).await;
    client.expect_text(r#"44/chat,{"message":"Unauthorized"}"#).await;
    server.gateway.expect_log(&["INFO", "a token was refused (auth.jwt)", "reason="]).await;
    client.send_text(&format!(r#"40/chat,{{"token":"{token}"}}"#)).await;
    assert!(text(&mut client).await.starts_with("40/chat,{"));
    server.gateway.expect_log(&["DEBUG", "namespace joined", "connection{id=", "sid=Some(", "john"]).await;
    client.send_text("40").await;
    client.expect_text(r#"44{"message":"Unauthorized"}"#).await;
    server.gateway.expect_log(&["DEBUG", "namespace refused", "Unauthorized"]).await;
    server.emit("/chat", "\"ws4redis:user:john\"", "1");
    client.expect_text(r#"42/chat,["e",1]"#).await;
    let target = format!("{V4}&access_token={token}");
    let (mut client, _) = open(server.gateway.request(&target)).await;
    join(&mut client, "/").await;
    server.gateway.request(&format!("{V4}&access_token=x")).expect_status(403).await;
}

/// Starts a gateway that reads tokens. The function signs those of a user for some seconds.
async fn start_with_tokens() -> (SocketIoGateway, impl Fn(&str, u64) -> String) {
    let key = path(&key_file("HS256"));
    let settings = [
        ("auth.jwt.algorithm", "HS256"),
        ("auth.jwt.key_file", key.to_str().unwrap()),
        // Clients of one shard share the lease of a token.
        ("server.shards", "1"),
    ];
    let sign = |user: &str, seconds| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        token("HS256", &format!(r#"{{"sub":"{user}","exp":{}}}"#, now.as_secs() + seconds))
    };
    (SocketIoGateway::start_with(&settings).await, sign)
}

#[tokio::test]
async fn a_token_that_is_no_text_is_refused_and_of_two_the_last_counts() {
    let (server, sign) = start_with_tokens().await;
    let valid = sign("john", 60);
    for (auth, is_refused) in [
        (r#"{"token":7}"#.to_owned(), true),
        (r#"{"token":{"a":1}}"#.to_owned(), true),
        (format!(r#"{{"token":"{valid}","token":"x"}}"#), true),
        (format!(r#"{{"token":"x","token":"{valid}"}}"#), false),
        (r#"{"token":null}"#.to_owned(), false),
    ] {
        let mut client = server.open().await;
        client.send_text(&format!("40{auth}")).await;
        let answer = text(&mut client).await;
        assert_eq!(answer == r#"44{"message":"Unauthorized"}"#, is_refused, "{auth}: {answer}");
    }
    // Without auth.jwt the member is the site's own.
    let server = SocketIoGateway::start().await;
    let mut client = server.open().await;
    client.send_text(r#"40{"token":7}"#).await;
    assert!(text(&mut client).await.starts_with(r#"40{"sid""#));
}

#[tokio::test]
async fn a_token_of_a_namespace_that_was_left_does_not_end_the_client() {
    let (server, sign) = start_with_tokens().await;
    let token = sign("john", 3);
    let join_chat = format!(r#"40/chat,{{"token":"{token}"}}"#);
    let mut other = server.open().await;
    let (mut client, _) = server.connect("/").await;
    for client in [&mut other, &mut client] {
        client.send_text(&join_chat).await;
        assert!(text(client).await.starts_with("40/chat,{"));
    }
    client.send_text("41/chat,").await;
    other.expect_close(4401).await;
    server.emit("/", "null", "1");
    client.expect_text(r#"42["e",1]"#).await;
}

#[tokio::test]
async fn a_client_that_is_refused_too_often_is_closed() {
    let server = SocketIoGateway::start().await;
    let refused = r#"44/none,{"message":"Invalid namespace"}"#;
    let (mut client, _) = server.connect("/").await;
    for _ in 0..16 {
        client.send_text("40/none,").await;
        client.expect_text(refused).await;
    }
    client.expect_close(1008).await;
    let (polling, _) = server.connect_polling().await;
    polling.post(vec!["40/none,"; 15].join("\u{1e}")).expect_status(200).await;
    assert_eq!(polling.poll().await, vec![refused; 15].join("\u{1e}"));
    polling.post("40/none,").expect_status(400).await;
}

#[tokio::test]
async fn a_client_that_sends_without_a_pause_leaves_others_their_turn() {
    let server = SocketIoGateway::start_with(&[("server.shards", "1")]).await;
    let plain = server.gateway.connect("/ws/flood?subscribe-broadcast").await;
    let (joined, _) = server.connect("/").await;
    for (mut client, text) in [(plain, "x"), (joined, "3")] {
        let frames = crate::support::client::frame(0x81, text.as_bytes()).repeat(1 << 15);
        let flood = tokio::spawn(async move { while client.try_send_raw(&frames).await.is_ok() {} });
        for _ in 0..3 {
            let since = Instant::now();
            server.gateway.stream("/health").without("Accept").expect_status(200).await;
            assert!(since.elapsed() < Duration::from_secs(2), "{:?} beside {text}", since.elapsed());
        }
        flood.abort();
    }
}

#[tokio::test]
async fn clients_are_closed_with_1012_when_the_server_stops() {
    let mut server = SocketIoGateway::start().await;
    let (mut joined, _) = server.connect("/").await;
    let mut open = server.open().await;
    server.gateway.signal("TERM");
    joined.expect_close(1012).await;
    open.expect_close(1012).await;
    assert!(server.gateway.expect_exit().await.success());
}
