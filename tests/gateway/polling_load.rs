//! Many sessions that poll, and sessions that poll too slowly.

use crate::support::RedisServer;
use crate::support::client::{Request, TestClient};
use crate::support::redis::RedisReply;
use crate::support::socket_io::{POLL_V4, SocketIoGateway, text};
use crate::support::within_deadline;

/// Clients that open and close their sessions at the same time, each over one connection.
const CLIENTS: usize = 20;

async fn send(connection: &mut TestClient, request: Request) -> String {
    connection.send_raw(&request.bytes()).await;
    let answer = within_deadline("an answer", connection.read_response()).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

fn post(target: &Request, body: &str) -> Request {
    let request = target.clone().method("POST").with("Content-Length", body.len().to_string());
    request.followed_by(body.as_bytes())
}

/// Opens sessions over one connection, joins the main namespace with each, and returns the connection and their requests.
async fn open_sessions(server: &SocketIoGateway, count: usize) -> (TestClient, Vec<Request>) {
    let handshake = server.gateway.stream(POLL_V4).without("Accept");
    let mut connection = handshake.open().await;
    let mut sessions = Vec::new();
    for _ in 0..count {
        let opened = send(&mut connection, handshake.clone()).await;
        let target = format!("{POLL_V4}&sid={}", opened.split('"').nth(3).unwrap());
        let session = server.gateway.stream(&target).without("Accept");
        assert_eq!(send(&mut connection, post(&session, "40")).await, "ok");
        assert!(send(&mut connection, session.clone()).await.starts_with("40{"));
        sessions.push(session);
    }
    (connection, sessions)
}

/// 5,000 with `WS4REDIS_TESTS_LONG`.
#[tokio::test]
async fn sessions_that_come_and_go_leave_nothing_behind() {
    let sessions = if std::env::var("WS4REDIS_TESTS_LONG").is_ok() { 5_000 } else { 1_000 };
    let server = SocketIoGateway::start_with(&[("server.max_connections", "20000")]).await;
    let mut resident = Vec::new();
    for _ in 0..3 {
        let before = server.gateway.open_files();
        let opening = (0..CLIENTS).map(|_| open_sessions(&server, sessions / CLIENTS));
        let mut clients = Vec::new();
        for opened in opening {
            clients.push(opened.await);
        }
        // All of them are there.
        server.emit("/", "null", "1");
        for (connection, sessions) in &mut clients {
            for session in sessions {
                assert_eq!(send(connection, session.clone()).await, "42[\"e\",1]");
                assert_eq!(send(connection, post(session, "1")).await, "ok");
                // A closed session waits for a poll that may be on its way.
                assert_eq!(send(connection, session.clone()).await, "6");
            }
        }
        drop(clients);
        within_deadline("the end of the connections", async {
            while server.gateway.open_files() > before {
                tokio::task::yield_now().await;
            }
        })
        .await;
        resident.push(server.gateway.resident_bytes());
    }
    // The first round allocates what the later ones use again.
    assert!(resident[2] < resident[0] + 100 * sessions + (1 << 19), "{resident:?}");
    let namespace = format!("{}*", server.gateway.namespace());
    assert_eq!(RedisServer::shared().command(&["KEYS", &namespace]), RedisReply::Array(Vec::new()));
}

#[tokio::test]
async fn a_session_that_polls_too_slowly_ends_and_others_miss_nothing() {
    let server =
        SocketIoGateway::start_with(&[("messages.outbox_bytes", "20000"), ("messages.outbox_seconds", "0")])
            .await;
    let (slow, _) = server.connect_polling().await;
    let (mut other, _) = server.connect("/").await;
    let padding = "x".repeat(2_000);
    for number in 0..30 {
        server.emit("/", "null", &format!("[{number},\"{padding}\"]"));
        assert_eq!(text(&mut other).await, format!("42[\"e\",[{number},\"{padding}\"]]"));
    }
    // What was queued before is not lost, and its end is said.
    let mut packets = Vec::new();
    while packets.last().is_none_or(|last| last != "1") {
        packets.extend(slow.poll().await.split('\u{1e}').map(str::to_owned));
    }
    packets.pop();
    assert!((5..20).contains(&packets.len()), "{}", packets.len());
    for (number, packet) in packets.iter().enumerate() {
        assert_eq!(packet, &format!("42[\"e\",[{number},\"{padding}\"]]"));
    }
    slow.get().expect_status(400).await;
    server.emit("/", "null", "1");
    other.expect_text("42[\"e\",1]").await;
}
