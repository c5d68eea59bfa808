//! How sessions of Engine.IO end, what they may not do afterwards, and what they may not hold.

use std::time::Duration;

use crate::support::RedisServer;
use crate::support::client::{TEXT, frame};
use crate::support::sessions::{hint, john, redis_key, session_key};
use crate::support::socket_io::{POLL_V3, POLL_V4, SocketIoGateway, V4, join, open};
use crate::support::within_deadline;

#[tokio::test]
async fn websockets_of_failed_upgrades_count_as_connections() {
    let server = SocketIoGateway::start_with(&[("server.max_connections", "20")]).await;
    let (client, _) = server.connect_polling().await;
    let mut sockets = Vec::new();
    let refused = within_deadline("the limit of connections", async {
        loop {
            let (answer, mut socket) = client.upgrade(&server).send().await;
            match answer.status {
                101 => {
                    socket.send_text("x").await;
                    sockets.push(socket);
                    assert!(sockets.len() < 40, "each of them is open");
                }
                503 => break answer,
                // The previous one has not failed yet.
                status => assert_eq!(status, 400, "{answer:?}"),
            }
        }
    })
    .await;
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
}

#[tokio::test]
async fn a_silent_session_cannot_be_continued_by_its_upgrade() {
    let settings = [("socketio.ping_interval_ms", "300"), ("socketio.ping_timeout_ms", "200")];
    let server = SocketIoGateway::start_with(&settings).await;
    let (client, _) = server.open_polling(POLL_V4).await;
    let mut socket = client.upgrade(&server).connect().await;
    socket.send_text("2probe").await;
    socket.expect_text("3probe").await;
    // The request comes before the tick that would end the session.
    tokio::time::sleep(Duration::from_millis(510)).await;
    client.get().expect_status(400).await;
    let _ = socket.try_send_raw(&[frame(0x80 | TEXT, b"5"), frame(0x80 | TEXT, b"40")].concat()).await;
    socket.expect_close(1011).await;
}

#[tokio::test]
async fn a_poll_that_waits_does_not_keep_the_upgraded_session_from_ending() {
    let server = SocketIoGateway::start().await;
    let (client, sid) = server.connect_polling().await;
    // The poll has to wait before the upgrade.
    let mut waiting = client.begin_poll().await;
    let mut socket = client.upgrade(&server).connect().await;
    socket.send_raw(&[frame(0x80 | TEXT, b"2probe"), frame(0x80 | TEXT, b"5")].concat()).await;
    socket.expect_text("3probe").await;
    let answer = within_deadline("the answer to the poll", waiting.read_response()).await.unwrap();
    assert_eq!(answer.body, "6");
    server.emit("/", &format!("{sid:?}"), "1");
    socket.expect_text("42[\"e\",1]").await;
    server.call("disconnect", "/", &sid, "");
    socket.expect_text("41").await;
    socket.expect_close(1000).await;
}

#[tokio::test]
async fn a_session_that_has_ended_takes_no_packets() {
    // Each shard notices the end at a time of its own.
    let server = SocketIoGateway::start_with(&[("server.shards", "1")]).await;
    let key = session_key();
    let cookie = john(&key);
    let (mut socket, _) = open(server.gateway.request(V4).header("Cookie", &cookie)).await;
    join(&mut socket, "/").await;
    let request = |target: &str| server.gateway.stream(target).without("Accept").with("Cookie", &cookie);
    let opened = request(POLL_V4).expect_status(200).await.body;
    let polling = request(&format!("{POLL_V4}&sid={}", opened.split('"').nth(3).unwrap()));
    let post = |body: &str| {
        let request = polling.clone().method("POST").with("Content-Length", body.len().to_string());
        request.followed_by(body.as_bytes())
    };
    post("40").expect_status(200).await;
    assert!(polling.clone().expect_status(200).await.body.starts_with("40{"));
    RedisServer::shared().command(&["DEL", &redis_key(&key)]);
    hint(&server.gateway, "7", "logout");
    // Both belong to the same session.
    socket.expect_close(4401).await;
    let refused = post("40/chat,").expect_status(400).await;
    assert!(refused.body.contains(r#""code":1"#), "{refused:?}");
    assert_eq!(polling.clone().expect_status(200).await.body, "1");
    polling.expect_status(400).await;
}

#[tokio::test]
async fn handshakes_alone_do_not_keep_other_clients_out() {
    let server =
        SocketIoGateway::start_with(&[("server.max_connections", "20"), ("socketio.connect_seconds", "1")])
            .await;
    for target in [POLL_V3, POLL_V4] {
        let handshake = || server.gateway.stream(target).without("Accept").send();
        let mut sessions = 0;
        within_deadline("the share of new sessions", async {
            while handshake().await.0.status == 200 {
                sessions += 1;
            }
        })
        .await;
        assert!(sessions <= 10, "{sessions}");
        // A WebSocket costs its client a socket.
        let mut socket = server.open().await;
        join(&mut socket, "/").await;
    }
    let server =
        SocketIoGateway::start_with(&[("server.max_connections", "20"), ("socketio.connect_seconds", "1")])
            .await;
    let handshake = || server.gateway.stream(POLL_V4).without("Accept").send();
    for expected in [503, 200] {
        within_deadline("the end of sessions without a namespace", async {
            while handshake().await.0.status != expected {}
        })
        .await;
    }
}

#[tokio::test]
async fn an_upgrade_needs_the_cookie_of_the_handshake_and_an_allowed_origin() {
    let server = SocketIoGateway::start().await;
    let cookie = john(&session_key());
    let request = server.gateway.stream(POLL_V4).without("Accept").with("Cookie", &cookie);
    let opened = request.expect_status(200).await.body;
    let sid = opened.split('"').nth(3).unwrap();
    let upgrade = |cookie: &str| server.gateway.request(&format!("{V4}&sid={sid}")).header("Cookie", cookie);
    for other in ["x=y", &john(&session_key())] {
        let refused = upgrade(other).expect_status(400).await;
        assert!(refused.body.contains(r#""code":1"#), "{refused:?}");
    }
    let foreign = upgrade(&cookie).header("Origin", "https://evil.example").expect_status(403).await;
    assert!(foreign.body.contains(r#""code":4"#), "{foreign:?}");
    upgrade(&cookie).connect().await;
}

#[tokio::test]
async fn an_anonymous_client_of_protocol_3_that_polls_is_refused_in_its_first_payload() {
    let server = SocketIoGateway::start_with(&[("socketio.anonymous", "false")]).await;
    let (client, rest) = server.open_polling(POLL_V3).await;
    assert_eq!(rest, "16:44\"Unauthorized\"1:1");
    client.get().expect_status(400).await;
}
